"""Atom pairs (i, j, R) within a cutoff, on-site pairs included, each with its reverse (j, i, -R).

The displacement of a pair is d = x_j + R·cell - x_i with the positions as given: nothing is wrapped.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from ase import Atoms

from ase_deeph.neighbours import Neighbours, neighbours

_LARGEST_R = 2**30


@dataclass(frozen=True, eq=False)
class AtomPairs:
    """Pairs of atoms (i in the home cell, j in cell R), in lexicographic order of (i, j, R).

    Parameters
    ----------
    i, j : (n_pairs,) atom indices.
    R : (n_pairs, 3) integer cell of atom j.
    n_atoms : number of atoms in the cell.

    Raises
    ------
    ValueError : when an index is out of range, R is absurd, a pair appears twice, or a pair lacks its reverse.
    """

    i: np.ndarray
    j: np.ndarray
    R: np.ndarray
    n_atoms: int

    def __post_init__(self) -> None:
        keys = np.column_stack([self.i, self.j, np.reshape(self.R, (-1, 3))]).astype(np.int64)
        if len(keys) and (keys[:, :2].min() < 0 or keys[:, :2].max() >= self.n_atoms):
            raise ValueError(
                f"atom pairs: expected indices in [0, {self.n_atoms}), received {keys[:, :2].max()}"
            )
        far = keys[np.any((keys[:, 2:] > _LARGEST_R) | (keys[:, 2:] < -_LARGEST_R), axis=1)]
        if len(far):
            raise ValueError(f"atom pairs: {_text(far[0])} names an absurd cell; R is a small integer triple")
        keys = keys[np.lexsort(keys.T[::-1])]
        if np.any(np.all(keys[1:] == keys[:-1], axis=1)):
            twice = keys[1:][np.all(keys[1:] == keys[:-1], axis=1)][0]
            raise ValueError(f"atom pairs: pair {_text(twice)} appears twice")
        for name, value in (("i", keys[:, 0]), ("j", keys[:, 1]), ("R", keys[:, 2:])):
            value = np.ascontiguousarray(value)
            value.setflags(write=False)
            object.__setattr__(self, name, value)

    def __len__(self) -> int:
        return len(self.i)

    def __eq__(self, other: object) -> bool:
        return self is other or (
            isinstance(other, AtomPairs)
            and self.n_atoms == other.n_atoms
            and np.array_equal(self._keys, other._keys)
        )

    def __hash__(self) -> int:
        return hash((self.n_atoms, self._keys.tobytes()))

    def __repr__(self) -> str:
        return f"AtomPairs({len(self)} pairs of {self.n_atoms} atoms)"

    @cached_property
    def _keys(self) -> np.ndarray:
        return np.column_stack([self.i, self.j, self.R])

    @cached_property
    def _reach(self) -> int:
        return int(np.abs(self.R).max(initial=0))

    def _codes(self, keys: np.ndarray, reach: int) -> np.ndarray:
        """One integer per pair that sorts as (i, j, R) does."""
        width = 2 * reach + 1
        if float(self.n_atoms) ** 2 * float(width) ** 3 > 2**62:
            raise ValueError("atom pairs: the cell is too large for its pairs to be numbered in 64 bits")
        code = keys[:, 0] * self.n_atoms + keys[:, 1]
        for axis in range(3):
            code = code * width + (keys[:, 2 + axis] + reach)
        return code

    def positions_of(self, keys: np.ndarray) -> np.ndarray:
        """(n,) position in this list of each key (i, j, R1, R2, R3), an (n, 5) integer array; -1 where absent."""
        reach = max(self._reach, int(np.abs(keys[:, 2:]).max(initial=0)))
        mine, wanted = self._codes(self._keys, reach), self._codes(keys, reach)
        at = np.minimum(np.searchsorted(mine, wanted), max(len(mine) - 1, 0))
        return np.where(mine[at] == wanted, at, -1) if len(mine) else np.full(len(keys), -1)

    @cached_property
    def reverse(self) -> np.ndarray:
        """(n_pairs,) position of (j, i, -R) for each pair (i, j, R)."""
        at = self.positions_of(np.column_stack([self.j, self.i, -self.R]))
        if np.any(at < 0):
            lacking = self._keys[np.nonzero(at < 0)[0][0]]
            raise ValueError(f"atom pairs: {_text(lacking)} has no reverse pair; pass both directions")
        return at

    @cached_property
    def on_site(self) -> np.ndarray:
        """(n_pairs,) True where i = j and R = 0."""
        return (self.i == self.j) & np.all(self.R == 0, axis=1)

    def index(self, i: int, j: int, R: tuple[int, int, int]) -> int:
        """Position of the pair (i, j, R); KeyError when it is absent."""
        at = self.positions_of(np.array([[i, j, *R]], dtype=np.int64))[0]
        if at < 0 or not (0 <= i < self.n_atoms and 0 <= j < self.n_atoms):
            raise KeyError(f"pair ({i}, {j}, R={tuple(R)}) is not among the {len(self)} pairs")
        return int(at)

    def indices_of(self, other: AtomPairs) -> np.ndarray:
        """(len(other),) position in this list of each of other's pairs, -1 where absent."""
        return self.positions_of(other._keys)

    def select(self, mask: np.ndarray) -> AtomPairs:
        """The pairs where mask is True."""
        mask = np.asarray(mask, dtype=bool)
        if "reverse" not in self.__dict__ or not np.array_equal(mask, mask[self.reverse]):
            return AtomPairs(self.i[mask], self.j[mask], self.R[mask], self.n_atoms)
        reverse = (np.cumsum(mask) - 1)[self.reverse[mask]]
        return self._of_neighbours(Neighbours(self._keys[mask], reverse), self.n_atoms)

    def union(self, other: AtomPairs) -> AtomPairs:
        """Every pair that is in this list or in the other."""
        if self.n_atoms != other.n_atoms:
            raise ValueError(f"union of pairs: {self.n_atoms} atoms against {other.n_atoms}")
        extra = other.select(self.indices_of(other) < 0)
        return AtomPairs(
            np.concatenate([self.i, extra.i]),
            np.concatenate([self.j, extra.j]),
            np.concatenate([self.R, extra.R]),
            self.n_atoms,
        )

    def displacements(self, atoms: Atoms) -> np.ndarray:
        """(n_pairs, 3) d = x_j + R·cell - x_i in Å."""
        x = atoms.positions
        return x[self.j] + self.R @ atoms.cell.array - x[self.i]

    @classmethod
    def from_atoms(cls, atoms: Atoms, cutoff: float | Mapping[str, float]) -> AtomPairs:
        """Pairs with |d| < cutoff (a number, Å) or |d| < r_i + r_j (a radius per symbol, Å).

        Linear in the number of atoms. Non-periodic axes carry R = 0 alone.

        Raises
        ------
        ValueError : NaN positions, or a periodic axis without a cell vector.
        KeyError : a symbol without a radius.
        """
        symbols = atoms.get_chemical_symbols()
        radii = None
        if isinstance(cutoff, Mapping):
            missing = sorted(set(symbols) - set(cutoff))
            if missing:
                raise KeyError(
                    f"no radius for {', '.join(missing)}; radii were given for {', '.join(cutoff)}"
                )
            radii = np.array([cutoff[s] for s in symbols])
        reach = float(2 * radii.max()) if radii is not None else float(cutoff)  # type: ignore[arg-type]
        if not np.isfinite(reach) or reach <= 0:
            raise ValueError(f"cutoff: expected a positive length in Å, received {cutoff}")
        found = cls._of_neighbours(neighbours(atoms, reach), len(atoms))
        if radii is None:
            return found
        d = np.linalg.norm(found.displacements(atoms), axis=1)
        return found.select(found.on_site | (d < radii[found.i] + radii[found.j]))

    @classmethod
    def _of_neighbours(cls, found: Neighbours, n_atoms: int) -> AtomPairs:
        """Pairs that are known to be in order, each with its reverse."""
        pairs = object.__new__(cls)
        for name, value in (("i", found.keys[:, 0]), ("j", found.keys[:, 1]), ("R", found.keys[:, 2:])):
            value = np.ascontiguousarray(value)
            value.setflags(write=False)
            object.__setattr__(pairs, name, value)
        object.__setattr__(pairs, "n_atoms", n_atoms)
        pairs.__dict__["reverse"] = found.reverse
        return pairs


def _text(key: np.ndarray) -> str:
    i, j, *R = (int(n) for n in key)
    return f"({i}, {j}, R={tuple(R)})"
