"""Which atoms of a device continue a lead: species and positions, up to a translation and transverse cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from scipy.spatial import cKDTree

_TIE = 1e-3
_CELL = 0.02


@dataclass(frozen=True, eq=False)
class Match:
    """The end of a device as a principal layer of a lead.

    Parameters
    ----------
    atoms : (n_cells * n_lead_atoms,) device atom of each lead atom, cell by cell going outward.
    transverse : (same, 3) R: the lead's atom is the device's one in cell R (device axes).
    home : (n_lead_atoms,) cell, counted outward from the given ones, of each lead atom in the outermost cell.
    distance : largest distance in Å between matched atoms.
    """

    atoms: np.ndarray
    transverse: np.ndarray
    home: np.ndarray
    distance: float


@dataclass(frozen=True, eq=False)
class End:
    """One end of a device: its atoms near a side, found by position.

    Parameters
    ----------
    atoms : the device.
    axis : the device's axis along which the lead leaves.
    sign : -1 for the low end, +1 for the high end.
    """

    atoms: Atoms
    axis: int
    sign: int

    @property
    def outward(self) -> np.ndarray:
        """(3,) unit vector across the transverse plane, pointing out of the device."""
        cell = self.atoms.cell.complete().array
        others, along = [cell[a] for a in range(3) if a != self.axis], cell[self.axis]
        normal = np.cross(*others)
        normal = normal / np.linalg.norm(normal)
        return normal * self.sign * (1.0 if normal @ along >= 0 else -1.0)


def lead_axes(lead: Atoms, device: Atoms, lead_axis: int, device_axis: int) -> dict[int, int]:
    """{device axis: lead axis} of the transverse directions along which both are periodic.

    Raises
    ------
    ValueError : a periodic transverse vector of one has no equal in the other.
    """
    pairs = {}
    free = [a for a in range(3) if a != lead_axis]
    for axis in (a for a in range(3) if a != device_axis):
        wanted = device.cell.array[axis]
        found = [a for a in free if np.linalg.norm(lead.cell.array[a] - wanted) < _CELL]
        if found:
            pairs[axis] = found[0]
            free.remove(found[0])
        elif device.pbc[axis] and np.linalg.norm(wanted) > 1e-8 and len(free) and lead.pbc[free].any():
            lengths = ", ".join(
                f"{np.linalg.norm(lead.cell.array[a]):.3f}" for a in range(3) if a != lead_axis
            )
            raise ValueError(
                f"device: its transverse vector {'abc'[axis]} ({np.linalg.norm(wanted):.3f} Å) is none of the "
                f"lead's ({lengths} Å); build both with one transverse cell"
            )
    return pairs


def match_end(
    lead: Atoms, step: np.ndarray, n_cells: int, end: End, axes: Sequence[int], tolerance: float
) -> list[Match]:
    """Every way in which the device's end continues the lead, best first; several only where they tie.

    Parameters
    ----------
    lead : the primitive cell.
    step : (3,) Å, one primitive cell outward.
    n_cells : primitive cells that must be found.
    end : the device's end.
    axes : the device's transverse axes along which positions are compared modulo the cell.
    tolerance : Å.

    Raises
    ------
    ValueError : no translation brings the lead onto the device's end; the message names the worst atom.
    """
    search = _EndSearch(lead, step, n_cells, end, list(axes), tolerance)
    outermost = int(np.argmax(search.heights))
    symbol = end.atoms.symbols[outermost]
    candidates = [n for n, s in enumerate(lead.symbols) if s == symbol]
    if not candidates:
        raise ValueError(
            f"lead does not match the device: its outermost atom {outermost} is {symbol}, "
            f"the lead has only {', '.join(sorted(set(lead.symbols)))}"
        )
    results = [search.tried(end.atoms.positions[outermost] - lead.positions[n]) for n in candidates]
    matches = [r for r in results if isinstance(r, Match)]
    if not matches:
        distance, what = min((r for r in results if not isinstance(r, Match)), key=lambda r: r[0])
        far = f"{distance:.2f} Å from its place" if np.isfinite(distance) else "missing"
        raise ValueError(
            f"lead does not match the device's end: {what} is {far} (tolerance {tolerance} Å) in the best of "
            f"{len(results)} translations; let the end hold {n_cells} unrelaxed cells of the lead"
        )
    best = min(m.distance for m in matches)
    return sorted((m for m in matches if m.distance < best + _TIE), key=lambda m: m.distance)


class _EndSearch:
    """The device's atoms near one end in a search tree, periodic across the transverse axes."""

    def __init__(
        self, lead: Atoms, step: np.ndarray, n_cells: int, end: End, axes: list[int], tolerance: float
    ) -> None:
        self.lead, self.step, self.n_cells, self.tolerance = lead, step, n_cells, tolerance
        self.axes, self.cell = axes, end.atoms.cell.complete().array
        self.normal = end.outward
        self.heights = end.atoms.positions @ self.normal
        depth = (n_cells + 1) * float(step @ self.normal) + 2.0
        near = np.nonzero(self.heights > self.heights.max() - depth)[0]
        wrapped, shift = self._wrapped(end.atoms.positions[near])
        images = np.array(list(np.ndindex(*(3 if a in axes else 1 for a in range(3)))))
        images = images - [1 if a in axes else 0 for a in range(3)]
        self.owner = np.tile(near, len(images))
        self.image = np.repeat(images, len(near), axis=0) + np.tile(shift, (len(images), 1))
        self.tree = cKDTree(np.concatenate([wrapped + image @ self.cell for image in images]))
        self.numbers = end.atoms.numbers

    def _wrapped(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Positions moved into the transverse cell, and the cells they moved by."""
        shift = np.zeros((len(positions), 3), dtype=int)
        fractional = positions @ np.linalg.inv(self.cell)
        shift[:, self.axes] = -np.floor(fractional[:, self.axes] + 1e-6).astype(int)
        return positions + shift @ self.cell, shift

    def _nearest(self, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Device atom nearest each target, its cell, its distance."""
        wrapped, shift = self._wrapped(targets)
        distance, found = self.tree.query(wrapped)
        return self.owner[found], self.image[found] - shift, distance

    def tried(self, translation: np.ndarray) -> Match | tuple[float, str]:
        """The match under one translation, or the worst distance and what it belongs to."""
        x = self.lead.positions + translation
        rise = float(self.step @ self.normal)
        room = (self.heights.max() - x @ self.normal) / rise
        outer = np.floor(room + self.tolerance / rise).astype(int)
        inner = np.floor(room - self.tolerance / rise).astype(int)
        owner, _, distance = self._nearest(x + outer[:, None] * self.step)
        absent = (distance > self.tolerance) | (self.numbers[owner] != self.lead.numbers)
        home = np.where(absent, inner, outer)
        cells = np.arange(self.n_cells) - (self.n_cells - 1)
        targets = (x[None] + (home[None, :, None] + cells[:, None, None]) * self.step).reshape(-1, 3)
        atoms, image, distance = self._nearest(targets)
        numbers = np.tile(self.lead.numbers, self.n_cells)
        distance = np.where(self.numbers[atoms] == numbers, distance, np.inf)
        worst = int(np.argmax(distance))
        if distance[worst] > self.tolerance or len(np.unique(atoms)) < len(atoms):
            of = worst % len(self.lead)
            return float(distance[worst]), f"atom {of} ({self.lead.symbols[of]}) of the lead's layer"
        return Match(atoms, image, home, float(distance[worst]))
