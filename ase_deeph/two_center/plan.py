"""Which pairs and which third atoms the overlap of a structure needs: index arrays, no integrals.

Only one of (i, j, R) and (j, i, -R) is computed, the "leading" one; the other is its transpose.
A "bond" is an orbital atom i with an atom a in cell R whose projectors its orbitals reach.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
from ase import Atoms

from ase_deeph.basis import OrbitalBasis
from ase_deeph.pairs import AtomPairs
from ase_deeph.two_center.tables import orbital_table, projector_table

_CHUNK_TRIPLES = 60_000
_CHUNK_PAIRS = 20_000


@dataclass(frozen=True, eq=False)
class Bonds:
    """Orbital atoms with the projector atoms they reach, sorted by orbital atom.

    Parameters
    ----------
    i, a : (n_bonds,) orbital atom and projector atom.
    R : (n_bonds, 3) cell of the projector atom.
    kinds : (projector species, orbital species, bonds of that kind).
    slot : (n_bonds,) position of each bond inside its kind.
    """

    i: np.ndarray
    a: np.ndarray
    R: np.ndarray
    kinds: tuple[tuple[str, str, np.ndarray], ...]
    slot: np.ndarray

    @cached_property
    def by_projector(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Bonds sorted by projector atom, the first of each atom, and how many each atom has."""
        counts = np.bincount(self.a)
        return np.argsort(self.a, kind="stable"), np.cumsum(counts) - counts, counts

    def joined(self, first_atom: int, last_atom: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Bonds that meet at a projector atom, for orbital atoms first_atom <= i < last_atom.

        Returns
        -------
        keys (n, 5) of the pairs (i, j, R), and the bonds (n,) of i and (n,) of j.
        """
        order, starts, counts = self.by_projector
        left = np.arange(*np.searchsorted(self.i, [first_atom, last_atom]))
        repeats = counts[self.a[left]]
        within = np.arange(repeats.sum()) - np.repeat(np.cumsum(repeats) - repeats, repeats)
        right = order[np.repeat(starts[self.a[left]], repeats) + within]
        left = np.repeat(left, repeats)
        return np.column_stack([self.i[left], self.i[right], self.R[left] - self.R[right]]), left, right


@dataclass(frozen=True, eq=False)
class ThirdAtoms:
    """Pairs of one kind that share the same number of projector atoms of one species.

    Parameters
    ----------
    symbol : species of the projector atoms.
    rows : (n,) positions in the pair group.
    left, right : (n, n_shared) slots of the bonds of i and of j.
    """

    symbol: str
    rows: np.ndarray
    left: np.ndarray
    right: np.ndarray


@dataclass(frozen=True, eq=False)
class PairGroup:
    """Leading pairs of one (row species, column species): keys (n, 5) of (i, j, R) and their third atoms."""

    row: str
    col: str
    keys: np.ndarray
    thirds: tuple[ThirdAtoms, ...]

    @property
    def on_site(self) -> np.ndarray:
        """(n,) True where i = j and R = 0."""
        return (self.keys[:, 0] == self.keys[:, 1]) & np.all(self.keys[:, 2:] == 0, axis=1)

    def vectors(self, positions: np.ndarray, lattice_vectors: np.ndarray) -> np.ndarray:
        """(n, 3) x_j + R·cell - x_i, given the lattice vectors R·cell."""
        return positions[self.keys[:, 1]] + lattice_vectors - positions[self.keys[:, 0]]


class OverlapPlan:
    """The pairs and bonds of one structure, handed out in chunks of row atoms.

    Parameters
    ----------
    n_first : pairs without one of the first so many atoms are left out; None: all pairs.
    """

    def __init__(self, atoms: Atoms, basis: OrbitalBasis, n_first: int | None = None) -> None:
        self.n_first = len(atoms) if n_first is None else n_first
        symbols = atoms.get_chemical_symbols()
        self.present = sorted(set(symbols))
        self.species = np.searchsorted(self.present, symbols)
        self.direct = self._direct_pairs(atoms, basis)
        self.bonds = self._find_bonds(atoms, basis)

    def _direct_pairs(self, atoms: Atoms, basis: OrbitalBasis) -> np.ndarray:
        """(n, 5) leading pairs whose orbitals overlap directly, sorted by row atom."""
        names = self.present
        limit = np.array([[orbital_table(basis, min(a, b), max(a, b)).reach for b in names] for a in names])
        pairs = AtomPairs.from_atoms(atoms, float(limit.max()))
        distances = np.linalg.norm(pairs.displacements(atoms), axis=1)
        near = distances < limit[self.species[pairs.i], self.species[pairs.j]]
        keys = np.column_stack([pairs.i, pairs.j, pairs.R])[near | pairs.on_site]
        return keys[self._is_leading(keys) & self._is_wanted(keys)]

    def _find_bonds(self, atoms: Atoms, basis: OrbitalBasis) -> Bonds | None:
        """Every orbital atom with the projector atoms it reaches; None without projectors."""
        projecting = [s for s in self.present if basis[s].augmentation is not None]
        if not projecting:
            return None
        limit = np.full((len(self.present), len(self.present)), -1.0)
        for c in projecting:
            limit[self.present.index(c)] = [projector_table(basis, c, s).reach for s in self.present]
        pairs = AtomPairs.from_atoms(atoms, float(limit.max()))
        reach = limit[self.species[pairs.j], self.species[pairs.i]]
        near = (np.linalg.norm(pairs.displacements(atoms), axis=1) < reach) | (pairs.on_site & (reach > 0))
        i, a, R = pairs.i[near], pairs.j[near], pairs.R[near]
        kinds, slot = [], np.zeros(len(i), dtype=np.int64)
        for c in projecting:
            for n, s in enumerate(self.present):
                members = np.nonzero((self.species[a] == self.present.index(c)) & (self.species[i] == n))[0]
                slot[members] = np.arange(len(members))
                kinds.append((c, s, members))
        return Bonds(i, a, R, tuple(kinds), slot)

    def _is_leading(self, keys: np.ndarray) -> np.ndarray:
        """Whether each key (i, j, R) is the one of its two directions that is computed."""
        i, j = keys[:, 0], keys[:, 1]
        difference = np.column_stack([self.species[j] - self.species[i], j - i, keys[:, 2:]])
        first = np.argmax(difference != 0, axis=1)
        return difference[np.arange(len(keys)), first] >= 0

    def _is_wanted(self, keys: np.ndarray) -> np.ndarray:
        """Whether each key (i, j, R) joins one of the first atoms to any other."""
        return keys[:, :2].min(axis=1) < self.n_first

    def chunks(self) -> Iterator[list[PairGroup]]:
        """All leading pairs, a bounded number of pairs and third atoms at a time."""
        n_atoms = len(self.species)
        cost = np.bincount(self.direct[:, 0], minlength=n_atoms) / _CHUNK_PAIRS
        if self.bonds is not None:
            meeting = self.bonds.by_projector[2][self.bonds.a] / _CHUNK_TRIPLES
            cost = cost + np.bincount(self.bonds.i, weights=meeting, minlength=n_atoms)
        chunk_of_atom = np.floor(np.cumsum(cost)).astype(np.int64)
        edges = np.concatenate([[0], np.nonzero(np.diff(chunk_of_atom))[0] + 1, [n_atoms]])
        for first, last in pairwise(edges):
            yield self.groups(int(first), int(last))

    def groups(self, first_atom: int = 0, last_atom: int | None = None) -> list[PairGroup]:
        """The leading pairs of row atoms first_atom <= i < last_atom, by species."""
        last_atom = len(self.species) if last_atom is None else last_atom
        keys = self.direct[slice(*np.searchsorted(self.direct[:, 0], [first_atom, last_atom]))]
        triples = _Triples(*np.zeros((3, 0), dtype=np.int64))
        if self.bonds is not None:
            shared, left, right = self.bonds.joined(first_atom, last_atom)
            leading = self._is_leading(shared) & self._is_wanted(shared)
            n_direct = len(keys)
            keys, where = _unique_keys(np.concatenate([keys, shared[leading]]))
            triples = _Triples(where[n_direct:], left[leading], right[leading])
        kind = self.species[keys[:, 0]] * len(self.present) + self.species[keys[:, 1]]
        groups = []
        for value in np.unique(kind):
            members = np.nonzero(kind == value)[0]
            row, col = divmod(int(value), len(self.present))
            thirds = tuple(self._thirds(members, len(keys), triples))
            groups.append(PairGroup(self.present[row], self.present[col], keys[members], thirds))
        return groups

    def _thirds(self, members: np.ndarray, n_keys: int, triples: _Triples) -> Iterator[ThirdAtoms]:
        """Third atoms of the pairs in members, by species and by how many a pair has."""
        if self.bonds is None:
            return
        row_of_key = np.full(n_keys, -1)
        row_of_key[members] = np.arange(len(members))
        mine = np.nonzero(row_of_key[triples.key] >= 0)[0]
        third = self.species[self.bonds.a[triples.left[mine]]]
        for value in np.unique(third):
            chosen = mine[third == value]
            row = row_of_key[triples.key[chosen]]
            chosen = chosen[np.argsort(row, kind="stable")]
            counts = np.bincount(row, minlength=len(members))
            starts = np.cumsum(counts) - counts
            for count in np.unique(counts[counts > 0]):
                rows = np.nonzero(counts == count)[0]
                at = chosen[starts[rows][:, None] + np.arange(count)]
                slots = (self.bonds.slot[triples.left[at]], self.bonds.slot[triples.right[at]])
                yield ThirdAtoms(self.present[int(value)], rows, *slots)


@dataclass(frozen=True, eq=False)
class _Triples:
    """Third atoms before grouping: which key each belongs to, and its two bonds."""

    key: np.ndarray
    left: np.ndarray
    right: np.ndarray


def _unique_keys(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distinct rows in lexicographic order, and where each given row is among them."""
    if not len(keys):
        return keys, np.zeros(0, dtype=np.int64)
    low = keys.min(axis=0)
    spans = keys.max(axis=0) - low + 1
    code = np.zeros(len(keys), dtype=np.int64)
    for column in range(5):
        code = code * spans[column] + (keys[:, column] - low[column])
    _, first, inverse = np.unique(code, return_index=True, return_inverse=True)
    return keys[first], inverse
