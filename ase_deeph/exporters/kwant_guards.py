"""Guards around Kwant's calls: E bound to the energy, no atom added in silence, no mode lost in silence."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ase_deeph.exporters.optional import optional_package

if TYPE_CHECKING:
    from kwant import Builder

_NUDGE = 1e-4
_TOLERANCE = 1e6
_LISTED = 5
_CURRENT = 1e-5
_REMEDY = (
    "bands fold on one phase here; ask beside this energy, or use Device.transmission, which steps aside"
)


class SiteAtom(NamedTuple):
    """The atom that a Kwant site stands for: its index, its symbol and the cell it is in."""

    atom: int
    symbol: str
    cell: tuple[int, ...]


def site_atom(site: Any) -> SiteAtom:
    """The atom behind a site of a Builder made here.

    Parameters
    ----------
    site : a kwant.builder.Site; its family is named "index:symbol" and its tag is the cell.

    Raises
    ------
    ValueError : the site belongs to a family that was not made here.
    """
    index, _, symbol = str(getattr(site.family, "name", "")).partition(":")
    if not index.isdigit() or not symbol:
        raise ValueError(
            f"site {site}: expected a family named 'index:symbol' as to_kwant makes them; this one is another's"
        )
    return SiteAtom(int(index), symbol, tuple(int(n) for n in site.tag))


def kwant_package(caller: str) -> Any:
    """Kwant, or an error that says where to get it."""
    return optional_package(
        "kwant", caller, "pip install '.[transport]' ./tools/kwant (in a clone; its release predates NumPy 2)"
    )


def attach_lead(builder: Builder, lead: Builder, **options: Any) -> None:
    """Attach a lead to a device that already contains its whole first layer.

    Kwant's own `attach_lead` adds to the device whatever it lacks of that layer, a vacancy's atom included, and
    says nothing.

    Parameters
    ----------
    builder : the device, without symmetry.
    lead : from `kwant_lead`, or any Builder with one translation.
    options : passed on to `kwant.Builder.attach_lead`.

    Raises
    ------
    ValueError : atoms would have been added; the device is left as it was.
    """
    added = builder.attach_lead(lead, **options)
    if not added:
        return
    builder.leads.pop()
    for site in added:
        del builder[site]
    named = ", ".join(_text(site) for site in sorted(added)[:_LISTED])
    raise ValueError(
        f"attach_lead: Kwant would add {len(added)} atoms to the device: {named}"
        f"{' ...' if len(added) > _LISTED else ''}; the device must end with a whole layer of the lead, "
        "so extend it, or tell kwant_lead(..., first_cell=...) where its layers begin"
    )


def smatrix(
    system: Any,
    energy: float,
    params: Mapping[str, Any] | None = None,
    *,
    check_modes: bool = True,
    **options: Any,
) -> Any:
    """The scattering matrix at an energy (eV), with the parameter E bound to it.

    Modes of Builder leads are taken through singular values of the hopping: Kwant's short cut of inverting it
    loses modes of long-ranged blocks.

    Parameters
    ----------
    system : a finalised system with leads.
    energy : eV, on the scale of H.
    params : other parameters; E may be among them if it equals the energy.
    check_modes : compare the number of modes with those 0.1 meV above and below, and require that current is
        conserved: at energies where several cells per layer fold k on one phase, Kwant's mode solver may lose
        modes, the matrix staying unitary, or return useless ones.
    options : passed on to `kwant.smatrix`.

    Raises
    ------
    ValueError : params["E"] differs from the energy, or modes or current were lost at this energy.
    """
    kwant = kwant_package("smatrix")
    bound = bound_energy(energy, params)
    solved = copy.copy(system)
    solved.leads = [
        kwant.system.PrecalculatedLead(modes=lead_modes(lead, energy, bound))
        if hasattr(lead, "modes")
        else lead
        for lead in system.leads
    ]
    if check_modes:
        for lead, known in zip(system.leads, solved.leads, strict=True):
            if hasattr(lead, "modes"):
                refuse_lost_modes(lead, known.modes(), energy, bound)
    result = kwant.smatrix(solved, energy, params=bound, **options)
    if check_modes:
        _refuse_lost_current(result, energy)
    return result


def _text(site: Any) -> str:
    return f"{site.family.name} in cell {tuple(int(n) for n in site.tag)}"


def bound_energy(energy: float, params: Mapping[str, Any] | None) -> dict[str, Any]:
    """The parameters with E = energy."""
    given = dict(params or {})
    other = given.setdefault("E", energy)
    if abs(other - energy) > 1e-12 * max(1.0, abs(energy)):
        raise ValueError(
            f"energy is {energy} eV but params['E'] is {other} eV; with an overlap matrix the two must be equal: "
            "leave E out of params"
        )
    return given


def lead_modes(lead: Any, energy: float, params: Mapping[str, Any]) -> Any:
    """Propagating and stabilised modes of a lead."""
    import kwant

    if not isinstance(lead, kwant.builder.InfiniteSystem):
        return lead.modes(energy, params=params)
    h = lead.cell_hamiltonian(params=params)
    h = h - energy * np.eye(len(h))
    return kwant.physics.modes(
        h,
        lead.inter_cell_hopping(params=params),
        tol=_TOLERANCE,
        stabilization=(None, False),
        discrete_symmetry=lead.discrete_symmetry(params=params),
    )


def refuse_lost_modes(lead: Any, modes: Any, energy: float, params: Mapping[str, Any]) -> None:
    """Raise where a lead has fewer modes at the energy than on both sides of it."""
    found = len(modes[0].momenta)
    around = [
        len(lead_modes(lead, energy + step, {**params, "E": energy + step})[0].momenta)
        for step in (_NUDGE, -_NUDGE)
    ]
    if found < min(around):
        raise ValueError(
            f"lead: Kwant finds {found // 2} modes at {energy} eV and {min(around) // 2} at "
            f"±{_NUDGE} eV: {_REMEDY}"
        )


def _refuse_lost_current(result: Any, energy: float) -> None:
    """Raise where what comes in does not go out: columns of S that are longer than 1, or shorter in a full S."""
    outgoing = np.sum(np.abs(result.data) ** 2, axis=0)
    full = len(result.out_leads) == len(result.lead_info)
    error = max(
        float(np.abs(outgoing - 1).max() if full else (outgoing - 1).max()) if outgoing.size else 0.0, 0.0
    )
    if error > _CURRENT:
        raise ValueError(
            f"Kwant's scattering matrix loses {error:.1e} of the current at {energy} eV: {_REMEDY}"
        )
