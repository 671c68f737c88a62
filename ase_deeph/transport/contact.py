"""Contact: where a lead meets a device, and the lead's blocks as seen from there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from ase import Atoms

from ase_deeph.transport.cells import CellBlocks, Layer, phase_factors
from ase_deeph.transport.lead import AXES, Lead
from ase_deeph.transport.matching import End, Match, lead_axes, match_end
from ase_deeph.transport.mode_count import ModeCounter
from ase_deeph.transport.problem import LeadAttachment


@dataclass(frozen=True, eq=False)
class Contact:
    """A lead attached to the end of a device.

    Parameters
    ----------
    lead : the lead, its energies on the device's scale.
    axis, sign : the device's axis and end (-1 low, +1 high) that the lead leaves from.
    direction : +1 where the lead's own axis points away from the device, -1 where it points to it.
    atoms : (n_layer_atoms,) device atom of each atom of the principal layer, cell by cell going outward.
    n_cells : primitive cells of the principal layer.
    home : (n_lead_atoms,) outward cell from which each lead atom is taken.
    transverse : (n_layer_atoms, 3) device cell in which each atom of the layer lies.
    axes : {device axis: lead axis} of the transverse directions.
    step : (3,) Å, one principal layer outward, or None.
    distance : largest distance in Å between lead and device atoms that were matched.
    """

    lead: Lead
    axis: int
    sign: int
    direction: int
    atoms: np.ndarray
    n_cells: int
    home: np.ndarray
    transverse: np.ndarray
    axes: Mapping[int, int] = field(default_factory=dict)
    step: np.ndarray | None = None
    distance: float = 0.0

    @property
    def side(self) -> str:
        """Its name: "-a", "+c", ..."""
        return side_name(self.axis, self.sign)

    def shifted(self, shift: float) -> Contact:
        """The contact with its lead moved by H -> H + shift·S (eV)."""
        return replace(self, lead=self.lead.shifted(shift))

    def lead_k(self, kperp: np.ndarray) -> np.ndarray:
        """The lead's fractional k (3,) for a transverse k of the device."""
        k = np.zeros(3)
        for of_device, of_lead in self.axes.items():
            k[of_lead] = kperp[of_device]
        return k

    def counter(self, kperp: np.ndarray, spin: int) -> ModeCounter:
        """Counts the lead's right-moving modes."""
        return self.lead.counter(self.lead_k(kperp), spin)

    def outward_blocks(self, kperp: np.ndarray, spin: int) -> CellBlocks:
        """Blocks between primitive cells counted away from the device, each atom from its home cell."""
        blocks = self.lead.blocks(self.lead_k(kperp), spin)
        outward = blocks if self.direction > 0 else blocks.reversed()
        return outward.rehomed(np.repeat(self.home, self.lead.norbs))

    def layer(self, kperp: np.ndarray, spin: int) -> Layer:
        """The principal layer, counted outward, in the gauge of the device's atoms."""
        layer = self.outward_blocks(kperp, spin).principal_layer(self.n_cells)
        if not np.any(self.transverse):
            return layer
        phases = np.repeat(phase_factors(self.transverse, kperp), np.tile(self.lead.norbs, self.n_cells))
        turn = phases.conj()[:, None] * phases[None, :]
        return Layer(layer.h0 * turn, layer.h1 * turn, layer.s0 * turn, layer.s1 * turn)

    def attachment(self, kperp: np.ndarray, spin: int) -> LeadAttachment:
        """The lead as plain matrices."""
        norbs = np.tile(self.lead.norbs, self.n_cells)
        return LeadAttachment(self.layer(kperp, spin), self.atoms, norbs, self.n_cells, self.side, self.step)


def side_name(axis: int, sign: int) -> str:
    """ "-a", "+a", ..."""
    return f"{'-' if sign < 0 else '+'}{AXES[axis]}"


def parse_sides(boundary: str | Sequence[str], leads: Sequence[Lead]) -> list[tuple[int, int]]:
    """(axis, sign) of each lead: from names such as "-a", or "auto": low end, then high end of the first's axis.

    Raises
    ------
    ValueError : a wrong name, one side twice, or "auto" with more than two leads.
    """
    if not leads:
        raise ValueError("device: expected at least one lead, received none")
    if isinstance(boundary, str):
        if boundary != "auto" or len(leads) > 2:
            raise ValueError(
                f"boundary: expected 'auto' (up to two leads) or a side for each of {len(leads)} leads such as "
                f"['-a', '+a'], received {boundary!r}"
            )
        return [(leads[0].axis, -1), (leads[0].axis, 1)][: len(leads)]
    sides = []
    for name in boundary:
        if not (isinstance(name, str) and len(name) == 2 and name[0] in "+-" and name[1] in AXES):
            raise ValueError(f"boundary: expected sides such as '-a' or '+c', received {name!r}")
        sides.append((AXES.index(name[1]), -1 if name[0] == "-" else 1))
    if len(sides) != len(leads) or len(set(sides)) != len(sides):
        raise ValueError(
            f"boundary: expected {len(leads)} different sides, one for each lead, received {list(boundary)}"
        )
    return sides


def contacts_at(lead: Lead, atoms: Atoms, side: tuple[int, int], tolerance: float) -> list[Contact]:
    """Every contact of a lead with one end of a device that fits best; several only where translations tie.

    Raises
    ------
    ValueError : the lead has no positions, runs across the side, or does not match.
    """
    end = End(atoms, *side)
    if lead.atoms is None:
        raise ValueError(
            "device: a lead from matrices has no positions to be matched; use Device.from_matrices, or pass atoms= "
            "to Lead.from_matrices"
        )
    vector = lead.atoms.cell.array[lead.axis]
    rise = float(vector @ end.outward) / float(np.linalg.norm(vector))
    if abs(rise) < 0.1:
        raise ValueError(
            f"device: the lead runs along {AXES[lead.axis]} of its own cell, across side "
            f"{side_name(*side)} of the device; rotate one of them or choose another side"
        )
    direction = 1 if rise > 0 else -1
    axes = lead_axes(lead.atoms, atoms, lead.axis, side[0])
    step = direction * vector
    place = f"side {side_name(*side)}"
    n_cells = lead.n_cells
    for _ in range(3):
        try:
            matches = match_end(lead.atoms, step, n_cells, end, list(axes), tolerance)
        except ValueError as error:
            raise ValueError(f"{place}: {error}") from None
        found = [_contact(lead, side, direction, m, n_cells, axes, step) for m in matches]
        reach = max(c.outward_blocks(np.zeros(3), 0).reach(lead.tolerance) for c in found)
        if reach <= n_cells:
            return found
        n_cells = reach
    return found


def _contact(
    lead: Lead,
    side: tuple[int, int],
    direction: int,
    match: Match,
    n_cells: int,
    axes: Mapping[int, int],
    step: np.ndarray,
) -> Contact:
    return Contact(
        lead,
        *side,
        direction,
        match.atoms,
        n_cells,
        match.home,
        match.transverse,
        axes,
        step * n_cells,
        match.distance,
    )


def check_disjoint(contacts: Sequence[Contact]) -> None:
    """ValueError when two leads would continue one atom."""
    for n, one in enumerate(contacts):
        for other in contacts[n + 1 :]:
            shared = np.intersect1d(one.atoms, other.atoms)
            if len(shared):
                raise ValueError(
                    f"device is too short: sides {one.side} and {other.side} share atom {shared[0]}; it must hold "
                    "a whole principal layer of each lead"
                )
