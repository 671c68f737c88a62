"""H(R) of structures too large for one pass: chunk by chunk, with an estimate of the memory beforehand."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from ase import Atoms

from ase_deeph.basis import OrbitalBasis
from ase_deeph.graph import CrystalGraph, ShapeLadder
from ase_deeph.matrix import RealSpaceMatrix
from ase_deeph.network import NetworkConfig
from ase_deeph.network.chunked import ChunkedNetwork, EdgeMemory, n_steps
from ase_deeph.network.chunks import Chunks, compact_groups
from ase_deeph.pairs import AtomPairs
from ase_deeph.predictable import check_dtype, check_structure

log = logging.getLogger(__name__)

PAIRS_PER_CHUNK = 4096
"""Work of one chunk: small enough for a processor's cache to hold a layer's edges, large enough to hide Python."""

LARGE = 100_000
"""From so many pairs on a model predicts in chunks of its own accord."""

_PAIRS_AT_ONCE = 1 << 16

Progress = Callable[[int, int], Any]
"""Told (steps done, steps in all)."""

_listener: ContextVar[Progress | None] = ContextVar("listener", default=None)


@contextmanager
def told(listener: Progress) -> Iterator[None]:
    """Tell a listener how far predictions in chunks have come that are made within."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def counted(progress: Progress | None, steps: int) -> Callable[[int], None]:
    """A function of how many more steps are done, which tells `progress` or the listener of `told`."""
    listener, done = progress or _listener.get(), 0

    def tell(n: int) -> None:
        nonlocal done
        done += n
        if listener is not None:
            listener(done, steps)

    return tell


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes of a prediction in chunks, by what holds them; temporary arrays of one chunk are left out.

    Parameters
    ----------
    pairs : lists of pairs and the graph.
    atoms : features of the atoms: of two layers, or of all where edges are rebuilt.
    edges : features of the pairs that carry messages; 0 where they are rebuilt.
    matrix : the blocks as they come, and H in double precision.
    """

    pairs: int
    atoms: int
    edges: int
    matrix: int

    @property
    def total(self) -> int:
        """Their sum."""
        return self.pairs + self.atoms + self.edges + self.matrix

    def __str__(self) -> str:
        parts = ", ".join(f"{name} {getattr(self, name) / 2**30:.2f}" for name in self.__dataclass_fields__)
        return f"{self.total / 2**30:.2f} GiB ({parts})"


def memory_estimate(
    config: NetworkConfig, basis: OrbitalBasis, graph: CrystalGraph, edges: EdgeMemory = "stored"
) -> MemoryEstimate:
    """The memory that H of a structure takes chunk by chunk."""
    size = np.asarray(graph.vectors).dtype.itemsize
    features = (config.l_max + 1) ** 2 * (config.channels + config.pseudo_channels) * size
    orbitals = basis.orbital_counts(list(basis))[graph.species].astype(np.int64)
    layers = 2 if edges == "stored" else config.n_blocks + 1
    return MemoryEstimate(
        pairs=graph.n_pairs * 130,
        atoms=layers * graph.n_atoms * features,
        edges=graph.n_near * features if edges == "stored" else 0,
        matrix=graph.n_pairs * basis.max_orbitals**2 * size
        + 8 * int((orbitals[graph.i] * orbitals[graph.j]).sum()),
    )


@dataclass(frozen=True, eq=False)
class LargePrediction:
    """A network that predicts structures in chunks; what it has compiled serves every structure of similar density.

    Parameters
    ----------
    network : run chunk by chunk.
    pairs_per_chunk : how many pairs go through the network at a time; time and memory of a chunk grow with it.
    ladder : padded shapes in use.

    Raises
    ------
    ValueError : pairs_per_chunk below 1.
    """

    network: ChunkedNetwork
    pairs_per_chunk: int
    ladder: ShapeLadder

    def __post_init__(self) -> None:
        if self.pairs_per_chunk < 1:
            raise ValueError(f"pairs_per_chunk: expected at least 1, received {self.pairs_per_chunk}")

    def __call__(
        self, atoms: Atoms, *, dtype: str = "float32", progress: Progress | None = None
    ) -> RealSpaceMatrix:
        """H(R), eV, exactly Hermitian, equal to that of one pass up to rounding.

        Parameters
        ----------
        dtype : precision of the network, "float32" or "float64".
        progress : told (steps done, steps in all); the listener of `told` if None.

        Raises
        ------
        KeyError, ValueError : a structure that cannot be predicted, another dtype, or a network that returned what
            is no number.
        """
        check_dtype(dtype)
        check_structure(atoms, self.network.network.basis)
        pairs = AtomPairs.from_atoms(atoms, self.network.network.config.cutoff)
        return self.on(pairs, atoms, dtype=dtype, progress=progress)

    def on(
        self, pairs: AtomPairs, atoms: Atoms, *, dtype: str = "float32", progress: Progress | None = None
    ) -> RealSpaceMatrix:
        """The same for a structure that was checked, on all its pairs within the network's cutoff."""
        config, basis = self.network.network.config, self.network.network.basis
        graph = CrystalGraph.from_atoms(
            atoms, pairs, basis, message_cutoff=config.reach, dtype=np.dtype(dtype).type
        )
        log.info("memory: %s", memory_estimate(config, basis, graph, self.network.edges))
        weights = np.bincount(graph.i, minlength=graph.n_atoms).astype(float)
        chunks = Chunks(graph, compact_groups(atoms.positions, weights, self.pairs_per_chunk), self.ladder)
        blocks = np.empty((len(pairs), basis.max_orbitals, basis.max_orbitals), dtype=graph.vectors.dtype)
        tell = counted(progress, n_steps(chunks, self.network.network))
        with jax.enable_x64(dtype == "float64"):
            for where, found in self.network(chunks, tell):
                blocks[where] = found
        if not np.all(np.isfinite(blocks)):
            raise ValueError(
                "the network returned NaN or infinity for this structure; the model file is unusable"
            )
        make_hermitian(blocks, pairs.reverse)
        return RealSpaceMatrix.from_padded_blocks(basis, pairs, atoms.copy(), blocks)


def make_hermitian(blocks: np.ndarray, reverse: np.ndarray) -> None:
    """Replace each block by ½ (B_ij(R) + B_ji(-R)^T), in place, some pairs at a time; not where `reverse` is -1."""
    for start in range(0, len(blocks), _PAIRS_AT_ONCE):
        here = np.arange(start, min(start + _PAIRS_AT_ONCE, len(blocks)))
        here = here[reverse[here] >= here]
        mean = 0.5 * (blocks[here] + np.swapaxes(blocks[reverse[here]], 1, 2))
        blocks[reverse[here]] = np.swapaxes(mean, 1, 2)
        blocks[here] = mean
