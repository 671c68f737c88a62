"""Neighbours within a cutoff as plain arrays; for a moving structure, filtered from a longer list kept meanwhile.

A list of everything closer than cutoff + skin holds every neighbour within the cutoff until an atom has moved by
half the skin.  What is returned is always exact: distances are those of the positions given.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
from ase import Atoms

SKIN = 0.5
_LISTS_KEPT = 8
_MOST_PAIRS = 300_000
_MOST_CELLS = 90_000


@dataclass(frozen=True, eq=False)
class Neighbours:
    """Atoms (i in the home cell, j in cell R) within a cutoff, each atom with itself included.

    Parameters
    ----------
    keys : (n, 5) of (i, j, R1, R2, R3), in lexicographic order.
    reverse : (n,) position of (j, i, -R).
    """

    keys: np.ndarray
    reverse: np.ndarray

    def closer(self, atoms: Atoms, cutoff: float) -> Neighbours:
        """Those within a shorter cutoff (Å) at the positions of `atoms`."""
        i, j = self.keys[:, 0], self.keys[:, 1]
        d = atoms.positions[j] - atoms.positions[i] + self.keys[:, 2:] @ atoms.cell.array
        near = np.einsum("na,na->n", d, d) < cutoff**2
        near &= near[self.reverse]
        return Neighbours(self.keys[near], (np.cumsum(near) - 1)[self.reverse[near]])


@dataclass(frozen=True, eq=False)
class _Seen:
    """A structure that was asked about, how many pairs it had, and its longer list once it was seen to move."""

    positions: np.ndarray
    n_pairs: int
    longer: Neighbours | None = None

    def moved_less_than(self, atoms: Atoms, distance: float) -> bool:
        moved = atoms.positions - self.positions
        return bool(np.einsum("na,na->n", moved, moved).max(initial=0.0) < distance**2)


_seen: OrderedDict[tuple[object, ...], _Seen] = OrderedDict()
_lock = threading.Lock()


def neighbours(atoms: Atoms, cutoff: float) -> Neighbours:
    """Every pair closer than a cutoff (Å); a structure that moves little between calls is not searched again.

    Raises
    ------
    ValueError : NaN positions, or a periodic axis without a cell vector.
    """
    key = (len(atoms), float(cutoff), atoms.pbc.tobytes(), atoms.cell.array.tobytes())
    with _lock:
        seen = _seen.get(key)
    if seen is not None and seen.longer is not None and seen.moved_less_than(atoms, SKIN / 2):
        return seen.longer.closer(atoms, cutoff)
    if seen is not None and seen.n_pairs <= _MOST_PAIRS and seen.moved_less_than(atoms, SKIN):
        longer = search(atoms, cutoff + SKIN)
        _keep(key, _Seen(atoms.positions.copy(), seen.n_pairs, longer))
        return longer.closer(atoms, cutoff)
    found = search(atoms, cutoff)
    _keep(key, _Seen(atoms.positions.copy(), len(found.keys)))
    return found


def _keep(key: tuple[object, ...], seen: _Seen) -> None:
    """Remember a structure, and forget those asked about longest ago."""
    with _lock:
        _seen[key] = seen
        _seen.move_to_end(key)
        while len(_seen) > _LISTS_KEPT:
            _seen.popitem(last=False)


def search(atoms: Atoms, cutoff: float) -> Neighbours:
    """Every pair closer than a cutoff (Å), searched anew: linear in the number of atoms (vesin's cell list)."""
    i, j, R = one_way(atoms, cutoff)
    there = np.column_stack([i, j, R]).astype(np.int64)
    back = np.column_stack([j, i, -R]).astype(np.int64)
    own = np.zeros((len(atoms), 5), dtype=np.int64)
    own[:, 0] = own[:, 1] = np.arange(len(atoms))
    keys = np.concatenate([own, there, back])
    n, m = len(own), len(there)
    reverse = np.concatenate([np.arange(n), n + m + np.arange(m), n + np.arange(m)])
    order = np.lexsort(keys.T[::-1])
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    return Neighbours(keys[order], rank[reverse[order]])


def one_way(atoms: Atoms, cutoff: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """i, j (n,) and R (n, 3) of one of (i, j, R) and (j, i, -R) for every pair closer than a cutoff (Å).

    Raises
    ------
    ValueError : NaN positions, or a periodic axis without a cell vector.
    """
    from vesin import NeighborList

    if not np.all(np.isfinite(atoms.positions)):
        raise ValueError("atoms: expected finite positions, received NaN or infinity")
    if np.any(atoms.pbc & (np.linalg.norm(atoms.cell.array, axis=1) < 1e-8)):
        raise ValueError(
            f"atoms: pbc is {tuple(atoms.pbc)} but the cell is {atoms.cell.array.tolist()}; set a cell"
        )
    box = atoms.cell.complete().array
    i, j, R, d = NeighborList(cutoff=_reach(atoms, box, cutoff), full_list=False).compute(
        points=np.ascontiguousarray(atoms.positions), box=box, periodic=np.array(atoms.pbc), quantities="ijSd"
    )
    near = d < cutoff
    return i[near], j[near], R[near]


def _reach(atoms: Atoms, box: np.ndarray, cutoff: float) -> float:
    """The cutoff, or a longer one for which the cell list needs no more cells than vesin can hold.

    Beyond that number vesin 0.6 rounds the cells along a thin direction down to none and divides by it.
    """
    if not len(atoms):
        return cutoff
    heights = np.abs(np.linalg.det(box)) / np.linalg.norm(
        np.cross(np.roll(box, -1, axis=0), np.roll(box, -2, axis=0)), axis=1
    )
    along = atoms.positions @ np.linalg.inv(box)
    extents = np.where(atoms.pbc, heights, heights * np.ptp(along, axis=0))
    while np.prod(np.maximum(extents // cutoff, 1.0)) > _MOST_CELLS:
        cutoff *= 1.1
    return cutoff
