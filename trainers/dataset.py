"""Structures -> batches: a stable split, few padded shapes chosen from the data, a reproducible order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from flax import struct
from jaxtyping import Array, Float, Int

from ase_deeph.graph import CrystalGraph, batch
from ase_deeph.io.dataset import split
from trainers.levels import LevelSample, sample_levels
from trainers.structures import Structure

Shape = tuple[int, int, int]

__all__ = ["Batch", "Batches", "Shape", "choose_shapes", "pad_batch", "split"]


@struct.dataclass
class Batch:
    """A padded disjoint graph of up to n structures with labels (a JAX pytree).

    Attributes
    ----------
    graph : the structures, padded.
    target, overlap : blocks of H (eV) and S, zero on padding.
    structure : structure of each pair, n for padding.
    weight : 1 for each structure that is there, 0 for an empty place.
    levels : states drawn for a loss on levels, None without one.
    """

    graph: CrystalGraph
    target: Float[Array | np.ndarray, "pairs M M"]
    overlap: Float[Array | np.ndarray, "pairs M M"]
    structure: Int[Array | np.ndarray, " pairs"]
    weight: Float[Array | np.ndarray, " n"]
    levels: LevelSample | None = None


def choose_shapes(sizes: Sequence[Shape], max_shapes: int) -> tuple[list[Shape], np.ndarray]:
    """At most max_shapes per-structure shapes that hold all sizes with the fewest padded pairs.

    Structures are sorted by pairs and cut into runs by dynamic programming; a run's shape is its largest
    (atoms, pairs, near pairs).

    Returns
    -------
    shapes, and (n,) which of them each structure takes.
    """
    order = sorted(range(len(sizes)), key=lambda n: (sizes[n][1], sizes[n][2], sizes[n][0]))
    kinds = sorted(set(sizes), key=lambda s: (s[1], s[2], s[0]))
    counts = np.array([sum(1 for s in sizes if s == kind) for kind in kinds], dtype=float)
    kinds, counts = _thinned(kinds, counts)
    pairs = np.array([k[1] for k in kinds], dtype=float)
    above = np.concatenate([[0.0], np.cumsum(counts)])
    n = len(kinds)
    cost = np.full((max_shapes + 1, n + 1), np.inf)
    cost[0, 0] = 0.0
    cut = np.zeros((max_shapes + 1, n + 1), dtype=int)
    for used in range(1, max_shapes + 1):
        for end in range(1, n + 1):
            options = cost[used - 1, :end] + pairs[end - 1] * (above[end] - above[:end])
            cut[used, end] = int(np.argmin(options))
            cost[used, end] = options[cut[used, end]]
    used = int(np.argmin(cost[:, n]))
    ends, end = [], n
    for u in range(used, 0, -1):
        ends.append(kinds[end - 1][1])
        end = cut[u, end]
    ends.sort()
    of = np.searchsorted(ends, [s[1] for s in sizes])
    members = [[sizes[m] for m in order if of[m] == u] for u in range(len(ends))]
    shapes = [(max(s[0] for s in m), max(s[1] for s in m), max(s[2] for s in m)) for m in members]
    return shapes, of


def _thinned(kinds: list[Shape], counts: np.ndarray, limit: int = 400) -> tuple[list[Shape], np.ndarray]:
    """Neighbouring sizes merged into the larger so that the dynamic program stays small."""
    if len(kinds) <= limit:
        return kinds, counts
    groups = np.array_split(np.arange(len(kinds)), limit)
    return [kinds[g[-1]] for g in groups], np.array([counts[g].sum() for g in groups])


@dataclass(frozen=True, eq=False)
class Batches:
    """Structures in padded batches of one of a few shapes.

    Parameters
    ----------
    structures : the set.
    batch_size : structures per batch.
    max_shapes : bound on the number of padded shapes.
    levels_per_step : levels drawn for each structure of a training batch when the structures hold states.
    """

    structures: Sequence[Structure]
    batch_size: int = 1
    max_shapes: int = 4
    levels_per_step: int = 24

    @cached_property
    def _shapes(self) -> tuple[list[Shape], np.ndarray]:
        return choose_shapes([s.size for s in self.structures], self.max_shapes)

    @property
    def shapes(self) -> list[Shape]:
        """(atoms, pairs, near pairs) of the padded batches."""
        return [
            (self.batch_size * a + 1, self.batch_size * p + 1, self.batch_size * n)
            for a, p, n in self._shapes[0]
        ]

    @property
    def waste(self) -> float:
        """Fraction of the padded pairs that are padding (batches full)."""
        shapes, of = self._shapes
        padded = sum(shapes[n][1] for n in of)
        return 1.0 - sum(s.graph.n_pairs for s in self.structures) / padded

    def __len__(self) -> int:
        """Batches of an epoch."""
        return len(self._in_order(None))

    def order(self, seed: int, epoch: int) -> list[list[int]]:
        """The batches of an epoch, as positions of structures: the same for the same (seed, epoch)."""
        return self._in_order(np.random.default_rng([seed, epoch]))

    def _in_order(self, rng: np.random.Generator | None) -> list[list[int]]:
        batches = []
        for shape in range(len(self._shapes[0])):
            members = np.nonzero(self._shapes[1] == shape)[0]
            members = rng.permutation(members) if rng is not None else members
            batches += [
                [int(m) for m in members[n : n + self.batch_size]]
                for n in range(0, len(members), self.batch_size)
            ]
        return [batches[n] for n in rng.permutation(len(batches))] if rng is not None else batches

    def make(self, members: Sequence[int], rng: np.random.Generator | None = None) -> Batch:
        """The padded batch of some structures of one shape, with levels drawn by rng where they have states."""
        chosen = [self.structures[m] for m in members]
        shape = self.shapes[int(self._shapes[1][members[0]])]
        padded = pad_batch(chosen, shape, self.batch_size)
        states = [s.states for s in chosen if s.states is not None]
        if rng is None or len(states) < len(chosen):
            return padded
        drawn = sample_levels(states, shape[:2], self.batch_size, self.levels_per_step, rng)
        return replace(padded, levels=drawn)

    def epoch(self, seed: int, epoch: int) -> Iterator[tuple[list[int], Batch]]:
        """(positions, batch) of an epoch; the next batch is padded while the current one is used."""
        return self._prefetched(self.order(seed, epoch), np.random.default_rng([seed, epoch, 1]))

    def in_order(self) -> Iterator[tuple[list[int], Batch]]:
        """(positions, batch), always in the same order."""
        return self._prefetched(self._in_order(None))

    def _prefetched(
        self, order: Sequence[list[int]], rng: np.random.Generator | None = None
    ) -> Iterator[tuple[list[int], Batch]]:
        with ThreadPoolExecutor(1) as pool:
            coming = pool.submit(self.make, order[0], rng)
            for n, members in enumerate(order):
                ready = coming.result()
                if n + 1 < len(order):
                    coming = pool.submit(self.make, order[n + 1], rng)
                yield members, ready


def pad_batch(structures: Sequence[Structure], shape: Shape, n: int) -> Batch:
    """A batch of exactly this shape with room for n structures."""
    graph = batch([s.graph for s in structures]).pad(*shape)
    pairs, size = graph.n_pairs, structures[0].target.shape[1]
    dtype = structures[0].target.dtype
    target, overlap = np.zeros((2, pairs, size, size), dtype=dtype)
    structure = np.full(pairs, n, dtype=np.int32)
    at = 0
    for position, s in enumerate(structures):
        where = slice(at, at + s.graph.n_pairs)
        target[where], overlap[where], structure[where] = s.target, s.overlap, position
        at = where.stop
    weight = (np.arange(n) < len(structures)).astype(dtype)
    return Batch(graph, target, overlap, structure, weight)
