"""CrystalGraph: what the network sees of a structure; padding to buckets and batching."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from ase import Atoms
from flax import struct
from jaxtyping import Bool, Float, Int

from ase_deeph.basis import OrbitalBasis
from ase_deeph.pairs import AtomPairs

_LADDER_RATIO = 1.25
_HEADROOM = 1.08
_LARGEST_WASTE = 1.6


@struct.dataclass
class CrystalGraph:
    """Atoms and pairs as arrays (a JAX pytree).

    NumPy arrays on the way in, JAX arrays inside a network.

    Attributes
    ----------
    species : position of each atom's species in the basis.
    i, j : atoms of each pair (row atom, column atom).
    vectors : displacement d = x_j + R·cell - x_i, Å; (0, 0, 0) for on-site pairs.
    reverse : position of the pair (j, i, -R).
    on_site : pairs (i, i, 0).
    near : positions of the pairs that carry messages (within the message cutoff, on-site ones excluded).
    pair_mask, atom_mask : False for padding.
    near_mask : False for padding of `near`.
    """

    species: Int[Any, " atoms"]
    i: Int[Any, " pairs"]
    j: Int[Any, " pairs"]
    vectors: Float[Any, "pairs 3"]
    reverse: Int[Any, " pairs"]
    on_site: Bool[Any, " pairs"]
    near: Int[Any, " near"]
    pair_mask: Bool[Any, " pairs"]
    atom_mask: Bool[Any, " atoms"]
    near_mask: Bool[Any, " near"]

    @property
    def n_atoms(self) -> int:
        """Atoms, padding included."""
        return len(self.species)

    @property
    def n_pairs(self) -> int:
        """Pairs, padding included."""
        return len(self.i)

    @property
    def n_near(self) -> int:
        """Pairs that carry messages, padding included."""
        return len(self.near)

    @classmethod
    def from_atoms(
        cls,
        atoms: Atoms,
        pairs: AtomPairs,
        basis: OrbitalBasis,
        *,
        message_cutoff: float = np.inf,
        dtype: type = np.float32,
        reverse: np.ndarray | None = None,
    ) -> CrystalGraph:
        """The graph of a structure, unpadded; KeyError for a species outside the basis.

        `reverse` stands for that of the pairs where they are some rows alone, whose reverse may be absent.
        """
        vectors = pairs.displacements(atoms)
        near = np.nonzero(~pairs.on_site & (np.linalg.norm(vectors, axis=1) < message_cutoff))[0]
        return cls(
            species=basis.species_indices(atoms.get_chemical_symbols()),
            i=pairs.i.astype(np.int32),
            j=pairs.j.astype(np.int32),
            vectors=vectors.astype(dtype),
            reverse=(pairs.reverse if reverse is None else reverse).astype(np.int32),
            on_site=pairs.on_site,
            near=near.astype(np.int32),
            pair_mask=np.ones(len(pairs), dtype=bool),
            atom_mask=np.ones(len(atoms), dtype=bool),
            near_mask=np.ones(len(near), dtype=bool),
        )

    def pad(self, n_atoms: int, n_pairs: int, n_near: int) -> CrystalGraph:
        """The same graph with padding atoms and pairs at the end (at least one of each).

        Padding pairs join the last (padding) atom to itself, are their own reverse and have the vector
        (0, 0, 1), so that no length is zero.

        Raises
        ------
        ValueError : when the sizes asked for leave no padding atom, or fewer pairs than there are.
        """
        more_atoms, more_pairs, more_near = (
            n_atoms - self.n_atoms,
            n_pairs - self.n_pairs,
            n_near - self.n_near,
        )
        if more_atoms < 1 or more_pairs < 1 or more_near < 0:
            raise ValueError(
                f"pad: expected at least {self.n_atoms + 1} atoms, {self.n_pairs + 1} pairs and {self.n_near} "
                f"near pairs, received {n_atoms}, {n_pairs} and {n_near}"
            )
        dummy = np.full(more_pairs, n_atoms - 1, dtype=np.int32)
        away = np.zeros((more_pairs, 3), dtype=np.asarray(self.vectors).dtype)
        away[:, 2] = 1.0
        return CrystalGraph(
            species=np.concatenate([self.species, np.zeros(more_atoms, dtype=np.int32)]),
            i=np.concatenate([self.i, dummy]),
            j=np.concatenate([self.j, dummy]),
            vectors=np.concatenate([self.vectors, away]),
            reverse=np.concatenate([self.reverse, np.arange(self.n_pairs, n_pairs, dtype=np.int32)]),
            on_site=np.concatenate([self.on_site, np.zeros(more_pairs, dtype=bool)]),
            near=np.concatenate([self.near, np.full(more_near, n_pairs - 1, dtype=np.int32)]),
            pair_mask=np.concatenate([self.pair_mask, np.zeros(more_pairs, dtype=bool)]),
            atom_mask=np.concatenate([self.atom_mask, np.zeros(more_atoms, dtype=bool)]),
            near_mask=np.concatenate([self.near_mask, np.zeros(more_near, dtype=bool)]),
        )


def batch(graphs: Sequence[CrystalGraph]) -> CrystalGraph:
    """One disjoint graph of several (unpadded ones; pad the result)."""
    if not graphs:
        raise ValueError("batch: expected at least one graph, received none")
    atom_starts = np.concatenate([[0], np.cumsum([g.n_atoms for g in graphs])])[:-1]
    pair_starts = np.concatenate([[0], np.cumsum([g.n_pairs for g in graphs])])[:-1]

    def joined(name: str, starts: np.ndarray | None = None) -> np.ndarray:
        parts = [np.asarray(getattr(g, name)) for g in graphs]
        if starts is not None:
            parts = [(p + s).astype(np.int32) for p, s in zip(parts, starts, strict=True)]
        return np.concatenate(parts)

    same = CrystalGraph(*(joined(n) for n in CrystalGraph.__dataclass_fields__))
    shifted = {"i": atom_starts, "j": atom_starts, "reverse": pair_starts, "near": pair_starts}
    return replace(same, **{name: joined(name, starts) for name, starts in shifted.items()})


def bucket_size(n: int, smallest: int = 8, ratio: float = _LADDER_RATIO) -> int:
    """The next size >= n on a geometric ladder, so that few shapes are ever compiled."""
    size = smallest
    while size < n:
        size = int(np.ceil(size * ratio / 8)) * 8
    return size


class ShapeLadder:
    """The padded shapes (atoms, pairs, near pairs) in use, so that moving atoms rarely ask for a new one.

    Parameters
    ----------
    waste : a shape with so many times the pairs of a graph is too large for it.
    """

    def __init__(self, waste: float = _LARGEST_WASTE) -> None:
        self.waste = waste
        self.shapes: list[tuple[int, int, int]] = []

    def shape(self, graph: CrystalGraph) -> tuple[int, int, int]:
        """A shape in use that holds the graph without much waste, or the next one of the ladder."""
        return self.fitting((graph.n_atoms + 1, graph.n_pairs + 1, graph.n_near))

    def fitting(self, need: tuple[int, int, int]) -> tuple[int, int, int]:
        """The same for at least so many (atoms, pairs, near pairs)."""
        for shape in sorted(self.shapes, key=lambda s: s[1]):
            if (
                all(s >= n for s, n in zip(shape, need, strict=True))
                and shape[1] <= self.waste * need[1] + 64
            ):
                return shape
        new = (
            bucket_size(need[0]),
            bucket_size(int(_HEADROOM * need[1]), smallest=64),
            bucket_size(int(_HEADROOM * need[2]), smallest=64),
        )
        self.shapes.append(new)
        return new
