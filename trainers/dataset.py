"""Structures -> batches: a stable split, few padded shapes chosen from the data, a reproducible order."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any, Protocol, TypeVar

import jax
import numpy as np
from flax import struct
from jaxtyping import Array, Float, Int

from ase_deeph.graph import CrystalGraph, batch
from ase_deeph.io.dataset import split
from trainers.devices import Devices
from trainers.feed import Feed
from trainers.levels import LevelSample, sample_levels
from trainers.slopes import SlopeBatch, pad_slopes
from trainers.structures import Structure

Shape = tuple[int, int, int]

log = logging.getLogger(__name__)

__all__ = ["Batch", "Batches", "Shape", "choose_shapes", "hold_out", "pad_batch", "split"]


class _Named(Protocol):
    """A structure by its name."""

    @property
    def name(self) -> str:
        """The id, unique in a dataset."""
        ...


S = TypeVar("S", bound=_Named)


def hold_out(structures: list[S], apart: list[S], fraction: float) -> tuple[list[S], list[S]]:
    """Training and validation structures: those kept apart, else a stable fraction of all (see split)."""
    if apart:
        _warn_of_copies(structures, apart)
        return structures, apart
    kept, out = split([s.name for s in structures], fraction)
    if not out:
        log.warning("nothing is held out: errors are those of the training set")
    return [structures[n] for n in kept], [structures[n] for n in out]


def _warn_of_copies(structures: Sequence[Any], apart: Sequence[Any]) -> None:
    """A warning where validation structures are training structures too, by elements, geometry and moments."""

    def geometry(s: Any) -> bytes:
        parts = (s.graph.species, s.graph.vectors, getattr(s, "moments", np.zeros(0)))
        return b"".join(np.ascontiguousarray(part).tobytes() for part in parts)

    known = {geometry(s) for s in structures}
    copies = [s.name for s in apart if geometry(s) in known]
    if copies:
        log.warning(
            "%d of %d validation structures are in the training set too (%s, ...): their errors are those of "
            "training",
            len(copies), len(apart), copies[0],
        )  # fmt: skip


@struct.dataclass
class Batch:
    """A padded disjoint graph of up to n structures with labels (a JAX pytree).

    Attributes
    ----------
    graph : the structures, padded.
    target, overlap : blocks of H (eV) and S, zero on padding.
    structure : structure of each pair, n for padding.
    weight : 1 for each structure that is there, 0 for an empty place.
    total : structures of the whole update that this batch is a part of.
    levels : states drawn for a loss on levels, None without one.
    slopes : labels of dH/dR, None where no structure has one.
    """

    graph: CrystalGraph
    target: Float[Array | np.ndarray, "pairs M M"]
    overlap: Float[Array | np.ndarray, "pairs M M"]
    structure: Int[Array | np.ndarray, " pairs"]
    weight: Float[Array | np.ndarray, " n"]
    total: Float[Array | np.ndarray, ""]
    levels: LevelSample | None = None
    slopes: SlopeBatch | None = None


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


Members = list[int]
Job = tuple[Members, int]
"""Positions of a batch' structures, and how many structures its update has."""


@dataclass(frozen=True, eq=False)
class Batches:
    """Structures in padded batches of one of a few shapes.

    An update takes up to batch_size · accumulate structures of one shape, as batches one after the other; each
    batch is cut into equal parts for the devices.

    Parameters
    ----------
    structures : the set.
    batch_size : structures per batch, over all devices.
    max_shapes : bound on the number of padded shapes.
    levels_per_step : levels drawn for each structure of a training batch when the structures hold states.
    accumulate : batches per update.
    devices : what shares a batch.
    chosen : positions of the structures in use; None for all. The shapes are always those of the whole set.
    pad : (structures, shape, n) -> a batch of that shape with room for n of them; that of H by default.
    """

    structures: Sequence[Any]
    batch_size: int = 1
    max_shapes: int = 4
    levels_per_step: int = 24
    accumulate: int = 1
    devices: Devices = field(default_factory=Devices)
    chosen: tuple[int, ...] | None = None
    pad: Callable[[Sequence[Any], Shape, int], Any] | None = None

    @cached_property
    def _shapes(self) -> tuple[list[Shape], np.ndarray]:
        return choose_shapes([s.size for s in self.structures], self.max_shapes)

    @cached_property
    def _has_slopes(self) -> bool:
        return any(getattr(s, "slope", None) is not None for s in self.structures)

    @property
    def _part(self) -> int:
        """Structures of a batch on each device."""
        return -(-self.batch_size // self.devices.n)

    @property
    def shapes(self) -> list[Shape]:
        """(atoms, pairs, near pairs) of the padded batches on each device."""
        return [(self._part * a + 1, self._part * p + 1, self._part * n) for a, p, n in self._shapes[0]]

    @property
    def waste(self) -> float:
        """Fraction of the padded pairs that are padding (batches full)."""
        shapes, of = self._shapes
        padded = sum(shapes[n][1] for n in of)
        return 1.0 - sum(s.graph.n_pairs for s in self.structures) / padded

    def __len__(self) -> int:
        """Updates of an epoch."""
        return len(self._in_order(None))

    def order(self, seed: int, epoch: int) -> list[Members]:
        """The updates of an epoch, as positions of structures: the same for the same (seed, epoch)."""
        return self._in_order(np.random.default_rng([seed, epoch]))

    def _in_order(self, rng: np.random.Generator | None) -> list[Members]:
        updates, size = [], self.batch_size * self.accumulate
        used = np.arange(len(self.structures)) if self.chosen is None else np.array(self.chosen, dtype=int)
        for shape in range(len(self._shapes[0])):
            members = used[self._shapes[1][used] == shape]
            members = rng.permutation(members) if rng is not None else members
            updates += [[int(m) for m in members[n : n + size]] for n in range(0, len(members), size)]
        return [updates[n] for n in rng.permutation(len(updates))] if rng is not None else updates

    def _jobs(self, updates: Sequence[Members]) -> list[Job]:
        """The batches of some updates."""
        return [
            (members[n : n + self.batch_size], len(members))
            for members in updates
            for n in range(0, len(members), self.batch_size)
        ]

    def make(
        self, members: Sequence[int], seeds: tuple[int, int] | None = None, total: int | None = None
    ) -> Batch:
        """The padded batch of some structures of one shape; with several devices, a leading axis of theirs.

        Parameters
        ----------
        members : positions of the structures, at most batch_size.
        seeds : (seed, epoch), from which levels are drawn where the structures have states; None for none.
        total : structures of the update; None when these are all.
        """
        part = self._part
        parts = [
            self._make(members[n * part : (n + 1) * part], members[0], seeds, total or len(members))
            for n in self.devices.mine
        ]
        if self.devices.mesh is None:
            return parts[0]
        return jax.tree.map(lambda *leaves: np.stack(leaves), *parts)

    def _make(self, members: Sequence[int], like: int, seeds: tuple[int, int] | None, total: int) -> Batch:
        """One device's part, perhaps empty, in the shape of the structure `like`."""
        present = [self.structures[m] for m in members]
        shape = self.shapes_of([like])
        padded = (self.pad or pad_batch)(present or [self.structures[like]], shape, self._part)
        if not present:
            padded = replace(padded, weight=np.zeros_like(padded.weight))
        padded = replace(padded, total=np.asarray(total, dtype=padded.weight.dtype))
        if self._has_slopes:
            shown = present or [self.structures[like]]
            slopes = [s.slope if present else None for s in shown]
            found = pad_slopes(slopes, [s.graph for s in shown], padded.target.shape, self._part)
            padded = replace(padded, slopes=found)
        states = [getattr(s, "states", None) for s in present or [self.structures[like]]]
        if seeds is None or any(s is None for s in states):
            return padded
        rngs = [np.random.default_rng([*seeds, 1, m]) for m in members or [like]]
        drawn = sample_levels(states, shape[:2], self._part, self.levels_per_step, rngs)  # type: ignore[arg-type]
        return replace(padded, levels=drawn)

    def epoch(self, seed: int, epoch: int) -> Feed[Job]:
        """((positions, structures of the update), batch on the device) of an epoch, made ahead by a thread."""
        return self._feed(self.order(seed, epoch), (seed, epoch))

    def in_order(self) -> Feed[Job]:
        """The same for every structure in use, always in the same order, without levels."""
        return self._feed(self._in_order(None), None)

    def _feed(self, updates: Sequence[Members], seeds: tuple[int, int] | None) -> Feed[Job]:
        return Feed(partial(self._on_device, seeds=seeds), self._jobs(updates))

    def _on_device(self, job: Job, seeds: tuple[int, int] | None) -> Any:
        return self.devices.put(self.make(job[0], seeds, job[1]))

    def example(self, members: Members, seed: int) -> Any:
        """The batch of some structures on the device, with levels where they have states."""
        return self._on_device((members, len(members)), (seed, 0))

    def shapes_of(self, members: Members) -> Shape:
        """The padded shape of a batch."""
        return self.shapes[int(self._shapes[1][members[0]])]

    def kinds(self) -> list[tuple[Members, int]]:
        """A full batch of each shape in use, and how many batches an epoch has of it; most pairs first."""
        found: dict[int, list[Members]] = {}
        for members, _ in self._jobs(self._in_order(None)):
            found.setdefault(int(self._shapes[1][members[0]]), []).append(members)
        order = sorted(found, key=lambda n: -self.shapes[n][1])
        return [(found[n][0], len(found[n])) for n in order]


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
    return Batch(graph, target, overlap, structure, weight, np.asarray(len(structures), dtype=dtype))
