"""Reference data with spin -> structures and padded batches: the real parts of H, S and the atoms' moments."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from flax import struct
from jaxtyping import Array, Float, Int

from ase_deeph.graph import CrystalGraph, batch
from ase_deeph.moments import magnetic_moments
from ase_deeph.reference import ReferenceData
from ase_deeph.spin import SpinNetwork
from trainers.structures import checked_labels, read_dataset

log = logging.getLogger(__name__)

Numbers = Array | np.ndarray
_BROKEN = 1e-3
"""eV; labels that break time reversal by more, for a model without moments, are worth a warning."""


@dataclass(frozen=True, eq=False)
class SpinStructure:
    """One training example with spin.

    Parameters
    ----------
    name : the id, unique in a dataset.
    graph : unpadded.
    moments : (n_atoms, 3) initial magnetic moments, μ_B; zero where the model reads none.
    target : (n_pairs, n_parts, M, M) real parts of H in eV (see SpinNetwork), padded to the largest species.
    overlap : (n_pairs, M, M) blocks of S on the same pairs.
    dropped : largest |H| in eV of the blocks beyond the cutoff, which were left out.
    broken : largest label in eV that breaks time reversal though there are no moments, left out.
    info : how the reference was computed.
    """

    name: str
    graph: CrystalGraph
    moments: np.ndarray
    target: np.ndarray
    overlap: np.ndarray
    dropped: float = 0.0
    broken: float = 0.0
    info: Mapping[str, Any] = field(default_factory=dict)

    @property
    def size(self) -> tuple[int, int, int]:
        """(atoms, pairs, near pairs)."""
        return self.graph.n_atoms, self.graph.n_pairs, self.graph.n_near


@struct.dataclass
class SpinBatch:
    """A padded disjoint graph of up to n structures with labels (a JAX pytree).

    Attributes
    ----------
    graph : the structures, padded.
    moments : of the atoms, μ_B, zero on padding.
    target, overlap : parts of H (eV) and blocks of S, zero on padding.
    structure : structure of each pair, n for padding.
    weight : 1 for each structure that is there, 0 for an empty place.
    total : structures of the whole update that this batch is a part of.
    """

    graph: CrystalGraph
    moments: Float[Numbers, "atoms 3"]
    target: Float[Numbers, "pairs parts M M"]
    overlap: Float[Numbers, "pairs M M"]
    structure: Int[Numbers, " pairs"]
    weight: Float[Numbers, " n"]
    total: Float[Numbers, ""]


def make_spin_structure(
    name: str, data: ReferenceData, network: SpinNetwork, *, tolerance: float, dtype: type = np.float32
) -> SpinStructure:
    """A training example of a reference calculation.

    Parameters
    ----------
    tolerance : eV; blocks on pairs beyond the network's cutoff are dropped when no entry is larger.

    Raises
    ------
    ValueError : H or S is missing, H has another kind of spin than the model, atoms have no moments though the
        model reads them, other orbitals than the basis, NaN, or blocks beyond the cutoff that are too large.
    """
    atoms, basis, config = data.atoms, network.backbone.basis, network.backbone.config
    matrix, overlap, dropped = checked_labels(name, data, basis, config.cutoff, tolerance)
    try:
        target, broken = network.target(replace(matrix, basis=basis))
        moments = np.zeros((len(atoms), 3))
        if network.config.magnetic:
            moments = magnetic_moments(atoms, network.config.kind)
    except ValueError as error:
        raise ValueError(f"structure {name}: {error}") from error
    graph = CrystalGraph.from_atoms(atoms, matrix.pairs, basis, message_cutoff=config.reach, dtype=dtype)
    blocks = overlap.padded_blocks(basis.max_orbitals)
    target, blocks = (np.ascontiguousarray(a, dtype=dtype) for a in (target, blocks))
    return SpinStructure(name, graph, moments.astype(dtype), target, blocks, dropped, broken, data.info)


def load_spin_structures(
    roots: Sequence[str | Path],
    network: SpinNetwork,
    *,
    tolerance: float = 0.0,
    dtype: type = np.float32,
    progress: Callable[[Iterable, str], Iterable] = lambda items, _: items,
) -> list[SpinStructure]:
    """Every structure of some datasets, in order of name."""
    items = progress(read_dataset(roots), "reading")
    found = [make_spin_structure(n, data, network, tolerance=tolerance, dtype=dtype) for n, data in items]
    dropped, broken = (max((getattr(s, what) for s in found), default=0.0) for what in ("dropped", "broken"))
    if dropped > 0:
        log.warning("blocks beyond the cutoff were dropped, the largest entry among them is %.2e eV", dropped)
    if broken > _BROKEN:
        log.warning(
            "labels break time reversal by up to %.2e eV, which a model without moments cannot learn; "
            "set [spin] magnetic_cutoff, and give the structures initial magnetic moments",
            broken,
        )
    return found


def pad_spin_batch(structures: Sequence[SpinStructure], shape: tuple[int, int, int], n: int) -> SpinBatch:
    """A batch of exactly this shape with room for n structures."""
    graph = batch([s.graph for s in structures]).pad(*shape)
    first = structures[0]
    dtype, n_pairs = first.target.dtype, graph.n_pairs
    moments = np.zeros((graph.n_atoms, 3), dtype=dtype)
    target = np.zeros((n_pairs, *first.target.shape[1:]), dtype=dtype)
    overlap = np.zeros((n_pairs, *first.overlap.shape[1:]), dtype=dtype)
    structure = np.full(n_pairs, n, dtype=np.int32)
    pair = atom = 0
    for place, s in enumerate(structures):
        pairs, atoms = slice(pair, pair + s.graph.n_pairs), slice(atom, atom + s.graph.n_atoms)
        target[pairs], overlap[pairs], structure[pairs], moments[atoms] = (
            s.target,
            s.overlap,
            place,
            s.moments,
        )
        pair, atom = pairs.stop, atoms.stop
    weight = (np.arange(n) < len(structures)).astype(dtype)
    total = np.asarray(len(structures), dtype=dtype)
    return SpinBatch(graph, moments, target, overlap, structure, weight, total)


def spin_fingerprint(structures: Iterable[SpinStructure]) -> str:
    """SHA-256 of names, geometries, moments and labels: equal for equal data."""
    digest = hashlib.sha256()
    for s in sorted(structures, key=lambda s: s.name):
        digest.update(s.name.encode())
        for array in (s.graph.species, s.graph.vectors, s.moments, s.target, s.overlap):
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
