"""Folders of DFT output -> Structures: a graph with the blocks of H and S on its pairs, in memory."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from ase_deeph.basis import OrbitalBasis
from ase_deeph.graph import CrystalGraph
from ase_deeph.io.dataset import read_dataset, structure_folders
from ase_deeph.matrix import RealSpaceMatrix
from ase_deeph.network.config import NetworkConfig
from ase_deeph.pairs import AtomPairs
from ase_deeph.reference import ReferenceData
from trainers.levels import LevelStates
from trainers.slopes import Slope, middle, paired, slope

__all__ = [
    "Structure",
    "fingerprint",
    "load_structures",
    "make_structure",
    "read_dataset",
    "structure_folders",
]

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Structure:
    """One training example.

    Parameters
    ----------
    name : the id, unique in a dataset.
    graph : unpadded.
    target : (n_pairs, M, M) blocks of H in eV, padded to the largest species.
    overlap : (n_pairs, M, M) blocks of S on the same pairs.
    dropped : largest |H| in eV of the blocks beyond the cutoff, which were left out.
    info : how the reference was computed.
    states : eigenvectors near the Fermi level for a loss on levels; None without one.
    slope : dH/dR along one direction, of a displaced pair; None without one.
    """

    name: str
    graph: CrystalGraph
    target: np.ndarray
    overlap: np.ndarray
    dropped: float = 0.0
    info: Mapping[str, Any] = field(default_factory=dict)
    states: LevelStates | None = None
    slope: Slope | None = None

    @property
    def size(self) -> tuple[int, int, int]:
        """(atoms, pairs, near pairs)."""
        return self.graph.n_atoms, self.graph.n_pairs, self.graph.n_near


def make_structure(
    name: str,
    data: ReferenceData,
    basis: OrbitalBasis,
    config: NetworkConfig,
    *,
    tolerance: float,
    dtype: type = np.float32,
) -> Structure:
    """A training example of a reference calculation.

    Parameters
    ----------
    tolerance : eV; blocks on pairs beyond the network's cutoff are dropped when no entry is larger.

    Raises
    ------
    ValueError : H or S is missing, is spin-polarised, has other orbitals than the basis, has NaN, or has
        blocks beyond the cutoff that are too large to drop (the message lists them).
    """
    if data.hamiltonian is not None and data.hamiltonian.spin != "none":
        raise ValueError(f"structure {name}: expected spin 'none', received {data.hamiltonian.spin!r}")
    target, overlap, dropped = checked_labels(name, data, basis, config.cutoff, tolerance)
    graph = CrystalGraph.from_atoms(data.atoms, target.pairs, basis, message_cutoff=config.reach, dtype=dtype)
    blocks: list[np.ndarray] = [
        matrix.padded_blocks(basis.max_orbitals).astype(dtype) for matrix in (target, overlap)
    ]
    return Structure(name, graph, blocks[0], blocks[1], dropped, data.info)


def checked_labels(
    name: str, data: ReferenceData, basis: OrbitalBasis, cutoff: float, tolerance: float
) -> tuple[RealSpaceMatrix, RealSpaceMatrix, float]:
    """H and S on the pairs within the cutoff, and the largest |H| in eV that was dropped beyond it.

    Raises
    ------
    ValueError : as make_structure, for H of any kind of spin.
    """
    if data.hamiltonian is None or data.overlap is None:
        lacking = "Hamiltonian" if data.hamiltonian is None else "overlap"
        raise ValueError(f"structure {name}: it has no {lacking}, which training needs")
    atoms = data.atoms
    for symbol in sorted(set(atoms.get_chemical_symbols())):
        if symbol not in basis:
            raise ValueError(
                f"structure {name}: it holds {symbol}, and the training sets hold {', '.join(basis)} alone; "
                f"add structures with {symbol} to [data] train, or leave this one out"
            )
        found = data.hamiltonian.basis.shells(symbol)
        if found != basis.shells(symbol):
            raise ValueError(
                f"structure {name}: shells of {symbol} are {found}, those of the dataset's basis "
                f"{basis.shells(symbol)}; regenerate one of them"
            )
    for what, matrix in (("Hamiltonian", data.hamiltonian), ("overlap", data.overlap)):
        if not np.all(np.isfinite(matrix.entries)):
            raise ValueError(f"structure {name}: its {what} holds NaN or infinity; regenerate it")
    pairs = AtomPairs.from_atoms(atoms, cutoff)
    target, dropped = _on_graph(name, data.hamiltonian, pairs, atoms, cutoff, tolerance)
    return target, data.overlap.restricted_to(pairs), dropped


def _on_graph(
    name: str, matrix: RealSpaceMatrix, pairs: AtomPairs, atoms: Atoms, cutoff: float, tolerance: float
) -> tuple[RealSpaceMatrix, float]:
    """The labels on the graph's pairs, and the largest |entry| outside; what matters is never dropped."""
    outside = np.nonzero(pairs.indices_of(matrix.pairs) < 0)[0]
    if not len(outside):
        return matrix.restricted_to(pairs), 0.0
    largest = matrix.block_norms()[outside]
    lost = outside[largest > tolerance]
    if len(lost):
        worst = lost[np.argsort(-matrix.block_norms()[lost], kind="stable")]
        distances = np.linalg.norm(matrix.pairs.displacements(atoms), axis=1)
        named = ", ".join(
            f"({matrix.pairs.i[n]}, {matrix.pairs.j[n]}, R={tuple(int(c) for c in matrix.pairs.R[n])}) "
            f"{distances[n]:.2f} Å {matrix.block_norms()[n]:.1e} eV"
            for n in worst[:4]
        )
        raise ValueError(
            f"structure {name}: {len(lost)} blocks of H lie beyond the network's cutoff {cutoff} Å with "
            f"entries above {tolerance} eV: {named}{' ...' if len(lost) > 4 else ''}; raise [network] cutoff "
            f"above {distances[lost].max():.2f} or [data] drop_beyond_cutoff_below above {largest.max():.1e}"
        )
    return matrix.restricted_to(pairs), float(largest.max())


def load_structures(
    roots: Sequence[str | Path],
    basis: OrbitalBasis,
    config: NetworkConfig,
    *,
    tolerance: float = 0.0,
    dtype: type = np.float32,
    states: Callable[[str, ReferenceData], LevelStates] | None = None,
    slopes: bool = False,
    progress: Callable[[Iterable, str], Iterable] = lambda items, _: items,
) -> list[Structure]:
    """Every structure of some datasets, in order of name; with the states of each when told how.

    With slopes a displaced pair becomes one structure, that in its middle (see slopes.py).
    """
    structures = []
    read = progress(read_dataset(roots), "reading")
    for name, data, partner in paired(read) if slopes else ((*item, None) for item in read):
        here = data if partner is None else middle(name, data, partner)[0]
        structure = make_structure(name, here, basis, config, tolerance=tolerance, dtype=dtype)
        if partner is not None:
            pairs = AtomPairs.from_atoms(here.atoms, config.cutoff)
            structure = replace(structure, slope=slope(name, data, partner, pairs, basis.max_orbitals))
        structures.append(structure if states is None else replace(structure, states=states(name, here)))
    if slopes and not any(s.slope for s in structures):
        raise ValueError(
            "[loss] derivative_weight > 0 needs displaced pairs, and the training set has none; generate some "
            "with displacement = 0.01 in a recipe, or set it to 0"
        )
    dropped = max(s.dropped for s in structures)
    if dropped > 0:
        log.warning("blocks beyond the cutoff were dropped, the largest entry among them is %.2e eV", dropped)
    return structures


def fingerprint(structures: Iterable[Structure]) -> str:
    """SHA-256 of names, geometries and labels: equal for equal data."""
    digest = hashlib.sha256()
    for s in sorted(structures, key=lambda s: s.name):
        digest.update(s.name.encode())
        slopes = () if s.slope is None else (s.slope.direction, s.slope.hamiltonian)
        states = () if s.states is None else (s.states.phases, *s.states.coefficients)
        for array in (s.graph.species, s.graph.vectors, s.target, s.overlap, *slopes, *states):
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
