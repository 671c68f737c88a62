"""Chunks: a large structure cut into groups of atoms, each a small graph of its own with the neighbours it reads.

Atoms are grouped by recursive bisection in space, so that a group is compact and reads few atoms outside itself.
All chunks of a structure have one padded shape, so that one compiled function serves them all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from flax import struct
from jaxtyping import Int

from ase_deeph.graph import CrystalGraph, ShapeLadder, bucket_size


@struct.dataclass
class Chunk:
    """The pairs that start at some home atoms, as a graph over those atoms and their neighbours (a JAX pytree).

    Attributes
    ----------
    graph : local and padded; its first rows are the home atoms, and `reverse` means nothing here.
    atoms : row of each local atom among the stacked home rows of all chunks.
    """

    graph: CrystalGraph
    atoms: Int[Any, " atoms"]


def compact_groups(positions: np.ndarray, weights: np.ndarray, largest: float) -> list[np.ndarray]:
    """Atoms in compact groups of similar weight, none above `largest` unless it is a single atom.

    Parameters
    ----------
    positions : (n_atoms, 3) Å.
    weights : (n_atoms,) work of each atom (its pairs, say).

    Returns
    -------
    The members of each group, ascending; every atom in exactly one.
    """
    parts = 2 ** max(0, int(np.ceil(np.log2(max(weights.sum() / largest, 1.0)))))
    groups = [np.arange(len(positions))]
    while len(groups) < parts or any(len(g) > 1 and weights[g].sum() > largest for g in groups):
        groups = [half for g in groups for half in _halves(g, positions, weights)]
        parts = len(groups)
    return [np.sort(g) for g in groups]


def _halves(group: np.ndarray, positions: np.ndarray, weights: np.ndarray) -> list[np.ndarray]:
    """A group cut across its longest extent into two of about equal weight."""
    if len(group) < 2:
        return [group]
    axis = int(np.ptp(positions[group], axis=0).argmax())
    group = group[np.argsort(positions[group, axis], kind="stable")]
    share = np.cumsum(weights[group])
    cut = int(np.clip(np.searchsorted(share, share[-1] / 2) + 1, 1, len(group) - 1))
    return [group[:cut], group[cut:]]


class Chunks(Sequence[Chunk]):
    """A structure cut into chunks of one padded shape; chunk n is made when it is asked for.

    Parameters
    ----------
    graph : the whole structure, unpadded, pairs in order of their first atom.
    groups : the home atoms of each chunk.
    ladder : padded shapes in use, so that a structure that moved asks for no new one.
    mine : the chunks that this process runs, all if None; the graph needs the pairs of their atoms alone.
    largest : the sizes that hold every process' chunks, given those of this one's.
    """

    def __init__(
        self,
        graph: CrystalGraph,
        groups: Sequence[np.ndarray],
        ladder: ShapeLadder | None = None,
        *,
        mine: range | None = None,
        largest: Callable[[np.ndarray], np.ndarray] = lambda sizes: sizes,
    ) -> None:
        self.graph, self.groups = graph, tuple(groups)
        self.mine = range(len(self.groups)) if mine is None else mine
        self._first = np.searchsorted(graph.i, np.arange(graph.n_atoms + 1))
        self._near = np.zeros(graph.n_pairs, dtype=bool)
        self._near[graph.near] = True
        self.n_home = bucket_size(max(len(group) for group in self.groups))
        self._row = np.empty(graph.n_atoms, dtype=np.int32)
        self._local = np.empty(graph.n_atoms, dtype=np.int32)
        for n, group in enumerate(self.groups):
            self._row[group] = n * self.n_home + np.arange(len(group))
        sizes = largest(np.max([self._size(n) for n in self.mine], axis=0))
        self.shape = (ladder or ShapeLadder()).fitting((int(sizes[0]) + 1, int(sizes[1]) + 1, int(sizes[2])))

    def __len__(self) -> int:
        return len(self.groups)

    @property
    def rows(self) -> np.ndarray:
        """(n_atoms,) row of each atom among the stacked home rows of all chunks."""
        return self._row

    def pairs(self, n: int) -> np.ndarray:
        """Positions of a chunk's pairs in the structure's list, in the chunk's order."""
        return np.concatenate([np.arange(self._first[a], self._first[a + 1]) for a in self.groups[n]])

    def _halo(self, n: int, pairs: np.ndarray) -> np.ndarray:
        """Atoms that a chunk reads beside its own."""
        return np.setdiff1d(self.graph.j[pairs], self.groups[n])

    def _size(self, n: int) -> tuple[int, int, int]:
        pairs = self.pairs(n)
        return self.n_home + len(self._halo(n, pairs)), len(pairs), int(self._near[pairs].sum())

    def __getitem__(self, n: int) -> Chunk:  # type: ignore[override]
        """The n-th chunk, padded."""
        graph, home, pairs = self.graph, self.groups[n], self.pairs(n)
        halo = self._halo(n, pairs)
        local = self._local
        local[home] = np.arange(len(home))
        local[halo] = self.n_home + np.arange(len(halo))
        species = np.zeros(self.n_home + len(halo), dtype=np.int32)
        species[: len(home)], species[self.n_home :] = graph.species[home], graph.species[halo]
        own = CrystalGraph(
            species=species,
            i=local[graph.i[pairs]],
            j=local[graph.j[pairs]],
            vectors=graph.vectors[pairs],
            reverse=np.arange(len(pairs), dtype=np.int32),
            on_site=graph.on_site[pairs],
            near=np.nonzero(self._near[pairs])[0].astype(np.int32),
            pair_mask=np.ones(len(pairs), dtype=bool),
            atom_mask=np.ones(len(species), dtype=bool),
            near_mask=np.ones(int(self._near[pairs].sum()), dtype=bool),
        )
        atoms = np.zeros(self.shape[0], dtype=np.int32)
        atoms[: len(home)], atoms[self.n_home : len(species)] = self._row[home], self._row[halo]
        return Chunk(own.pad(*self.shape), atoms)
