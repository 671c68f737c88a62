"""One structure predicted by several processes, on several hosts: each holds H and S of the rows of its own atoms.

Every process knows all atoms and the features of all of them, and searches all neighbours; pairs, features of pairs
and blocks it holds for its own atoms alone.  The atoms' features are gathered after each layer, and the blocks of
the pairs that join two processes' atoms are exchanged once, for the Hermitian part.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from ase import Atoms

from ase_deeph.basis import OrbitalBasis
from ase_deeph.graph import CrystalGraph
from ase_deeph.large import LargePrediction, Progress, counted, make_hermitian, memory_estimate
from ase_deeph.matrix import RealSpaceMatrix
from ase_deeph.neighbours import one_way
from ase_deeph.network.chunked import n_steps
from ase_deeph.network.chunks import Chunks, compact_groups
from ase_deeph.pairs import AtomPairs
from ase_deeph.predictable import check_dtype, check_structure
from ase_deeph.processes import of_each_process, rows_of_all, together
from ase_deeph.reference import ReferenceData
from ase_deeph.two_center.rows import overlap_rows

if TYPE_CHECKING:
    from ase_deeph.model import HamiltonianModel

log = logging.getLogger(__name__)

_BLOCKS_AT_ONCE = 1 << 16


def predict_rows(
    model: HamiltonianModel,
    atoms: Atoms,
    *,
    dtype: str = "float32",
    prediction: LargePrediction | None = None,
    progress: Progress | None = None,
) -> ReferenceData:
    """H(R) and S(R) of the rows of this process' atoms; every process calls this with the same arguments.

    Parameters
    ----------
    model : one without a spin head.
    dtype : precision of the network, "float32" or "float64".
    prediction : how it goes through the network; None: model.large_prediction over `own_devices()`.
    progress : told (steps done, steps in all) of this process.

    Returns
    -------
    H in eV, equal to that of one process, and S, None where the basis has no radial functions; on all pairs
    (i, j, R) with i among this process' atoms, whose reverse may be another's.  `write_deeph_rows` writes them.

    Raises
    ------
    KeyError, ValueError : as `model(atoms)`, or fewer atoms than processes.
    OSError : another process failed.
    """
    prediction = prediction or model.large_prediction(devices=own_devices())
    hamiltonian = hamiltonian_rows(prediction, atoms, dtype=dtype, progress=progress)
    basis, overlap = model.basis, None
    with together("overlap"):
        if basis.has_radial_functions:
            overlap = overlap_rows(atoms, basis, np.unique(hamiltonian.pairs.i))
    return ReferenceData(
        atoms=atoms.copy(),
        hamiltonian=hamiltonian,
        overlap=overlap,
        n_electrons=basis.n_electrons(atoms.get_chemical_symbols()) or None,
        basis=basis,
    )


def own_devices(platform: str | None = None) -> tuple[Any, ...]:
    """This process' devices: every accelerator, or one processor.

    Raises
    ------
    ValueError : none of that platform.
    """
    try:
        found = jax.local_devices(backend=platform)
    except RuntimeError as error:
        raise ValueError(f"device {platform!r}: not found here; leave --device out") from error
    return tuple(found[:1] if found[0].platform == "cpu" else found)


def hamiltonian_rows(
    prediction: LargePrediction, atoms: Atoms, *, dtype: str = "float32", progress: Progress | None = None
) -> RealSpaceMatrix:
    """H(R) of the rows of this process' atoms; arguments and errors as `predict_rows`."""
    network = prediction.network
    config, basis = network.network.config, network.network.basis
    check_dtype(dtype)
    check_structure(atoms, basis)
    i, j, R = one_way(atoms, config.cutoff)
    groups = _groups(atoms, i, j, prediction.pairs_per_chunk)
    parts = np.array_split(np.arange(len(groups)), jax.process_count())[jax.process_index()]
    mine = range(int(parts[0]), int(parts[-1]) + 1)
    pairs = _own_pairs(i, j, R, np.concatenate(groups[mine.start : mine.stop]), len(atoms))
    del i, j, R
    graph = CrystalGraph.from_atoms(
        atoms,
        pairs,
        basis,
        message_cutoff=config.reach,
        dtype=np.dtype(dtype).type,
        reverse=np.arange(len(pairs)),
    )
    log.info("memory of this process: %s", memory_estimate(config, basis, graph, network.edges))
    with jax.enable_x64(dtype == "float64"):
        chunks = Chunks(graph, groups, prediction.ladder, mine=mine, largest=_largest)
        blocks = _blocks(prediction, chunks, progress)
        _share_hermitian_part(blocks, pairs)
    return RealSpaceMatrix.from_padded_blocks(basis, pairs, atoms.copy(), blocks)


def _groups(atoms: Atoms, i: np.ndarray, j: np.ndarray, pairs_per_chunk: int) -> list[np.ndarray]:
    """The atoms of all chunks, at least one chunk for each process."""
    weights = 1.0 + np.bincount(i, minlength=len(atoms)) + np.bincount(j, minlength=len(atoms))
    n = jax.process_count()
    largest = min(float(pairs_per_chunk), weights.sum() / n)
    groups = compact_groups(atoms.positions, weights, largest)
    if len(groups) < n:
        raise ValueError(
            f"{len(atoms)} atoms in {len(groups)} groups cannot be shared by {n} processes; start fewer"
        )
    return groups


def _own_pairs(i: np.ndarray, j: np.ndarray, R: np.ndarray, own: np.ndarray, n_atoms: int) -> AtomPairs:
    """All pairs whose row atom is among `own`, from one of the two directions of every pair."""
    is_own = np.zeros(n_atoms, dtype=bool)
    is_own[own] = True
    there, back = is_own[i], is_own[j]
    return AtomPairs(
        np.concatenate([own, i[there], j[back]]),
        np.concatenate([own, j[there], i[back]]),
        np.concatenate([np.zeros((len(own), 3), dtype=R.dtype), R[there], -R[back]]),
        n_atoms,
    )


def _largest(sizes: np.ndarray) -> np.ndarray:
    """Sizes that hold every process' chunks."""
    return of_each_process(np.asarray(sizes)).max(axis=0)


def _blocks(prediction: LargePrediction, chunks: Chunks, progress: Progress | None) -> np.ndarray:
    """(n_pairs, M, M) blocks of this process' pairs, each seen from its own side."""
    network, basis = prediction.network, prediction.network.network.basis
    shape = (chunks.graph.n_pairs, basis.max_orbitals, basis.max_orbitals)
    blocks = np.empty(shape, dtype=np.asarray(chunks.graph.vectors).dtype)
    tell = counted(progress, n_steps(chunks, network.network))
    for where, found in network(chunks, tell, rows_of_all):
        blocks[where] = found
    with together("prediction"):
        if not np.all(np.isfinite(blocks)):
            raise ValueError(
                "the network returned NaN or infinity for this structure; the model file is unusable"
            )
    return blocks


def _share_hermitian_part(blocks: np.ndarray, pairs: AtomPairs) -> None:
    """Replace each block by ½ (B_ij(R) + B_ji(-R)^T), in place, where B_ji(-R) may be another process'."""
    back = np.column_stack([pairs.j, pairs.i, -pairs.R])
    reverse = pairs.positions_of(back)
    outer = np.nonzero(reverse < 0)[0]
    one_sided, keys = blocks[outer], back[outer]
    make_hermitian(blocks, reverse)
    rounds = int(_largest(np.array([-(-len(outer) // _BLOCKS_AT_ONCE)]))[0])
    for n in range(rounds):
        part = slice(n * _BLOCKS_AT_ONCE, (n + 1) * _BLOCKS_AT_ONCE)
        theirs, at = rows_of_all(one_sided[part]), pairs.positions_of(rows_of_all(keys[part]))
        known = np.nonzero(at >= 0)[0]
        blocks[at[known]] = 0.5 * (blocks[at[known]] + np.swapaxes(theirs[known], 1, 2))


def gathered_rows(rows: RealSpaceMatrix, basis: OrbitalBasis) -> RealSpaceMatrix:
    """The whole matrix on every process, from the rows of each; for structures that one process can hold."""
    pairs = rows.pairs
    keys = rows_of_all(np.column_stack([pairs.i, pairs.j, pairs.R]))
    everyone = AtomPairs(keys[:, 0], keys[:, 1], keys[:, 2:], pairs.n_atoms)
    padded = rows_of_all(rows.padded_blocks(basis.max_orbitals))
    blocks = np.empty_like(padded)
    blocks[everyone.positions_of(keys)] = padded
    return RealSpaceMatrix.from_padded_blocks(basis, everyone, rows.atoms, blocks)
