"""A Builder whose finalised leads refuse an energy that differs from the parameter E, in every Kwant solver.

Imports Kwant; is imported lazily.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import kwant

from ase_deeph.exporters.kwant_guards import bound_energy, lead_modes, refuse_lost_modes


class GuardedBuilder(kwant.Builder):
    """A kwant.Builder for h(E) = H - E·S + E·1; every solver asks its leads at an energy, and they check it."""

    def finalized(self) -> Any:
        """The finalised system, its leads guarded."""
        system = super().finalized()
        for lead in getattr(system, "leads", ()):
            if isinstance(lead, kwant.builder.InfiniteSystem) and "E" in lead.parameters:
                lead.__class__ = _guarded(type(lead))
        return system


_KINDS: dict[type, type] = {}


def _guarded(kind: type) -> type:
    """A finalised lead's class, with modes and self-energies that check the energy."""
    if kind not in _KINDS:
        methods = {"modes": _modes, "selfenergy": _selfenergy}
        _KINDS[kind] = type(f"Guarded{kind.__name__}", (kind,), methods)
    return _KINDS[kind]


def _modes(
    self: Any, energy: float = 0, args: tuple = (), *, params: Mapping[str, Any] | None = None
) -> tuple[Any, Any]:
    """As kwant's, of the generalised problem; ValueError for params["E"] != energy, or where modes were lost."""
    if "E" not in (params or {}):
        raise ValueError(f"kwant: expected params={{'E': energy}} with energy={energy}, received {params}")
    bound = bound_energy(energy, params)
    found = lead_modes(self, energy, bound)
    refuse_lost_modes(self, found, energy, bound)
    return found


def _selfenergy(
    self: Any, energy: float = 0, args: tuple = (), *, params: Mapping[str, Any] | None = None
) -> Any:
    """As kwant's, in eV."""
    return self.modes(energy, params=params)[1].selfenergy()
