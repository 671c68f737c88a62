"""From a converged GPAW calculator to H(R) and S(R) on atom pairs.

GPAW's Bloch matrices on a k-mesh are Fourier-transformed to real space,

    M_ij(R) = Re Σ_k w_k exp(+2πi k·R) M_ij(k)   (GPAW's M(k) is the conjugate of ours),

and each element of the mesh's supercell is given to the nearest periodic image of the pair.  The result is
the full H(R) when the supercell is wider than twice the range of H.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import numpy as np
from ase import Atoms
from ase.units import Hartree

from ase_deeph.basis import OrbitalBasis
from ase_deeph.dft.gpaw_spin_orbit import spin_orbit_matrices, spinor_blocks
from ase_deeph.matrix import RealSpaceMatrix, Spin
from ase_deeph.pairs import AtomPairs

logger = logging.getLogger(__name__)

HAMILTONIAN_THRESHOLD = 1e-6
OVERLAP_THRESHOLD = 1e-8
_ALIAS_LIMIT = 1e-4
"""eV; |H| at the edge of the mesh's supercell above which a warning is logged."""


_SPINS: dict[int, tuple[Spin, Callable[[np.ndarray], np.ndarray]]] = {
    1: ("none", lambda block: block[0]),
    2: ("collinear", lambda block: block),
    4: ("spinor", lambda block: spinor_blocks(block[0], block[1:])),
}
"""Kind of spin and block of H by how many real matrices make it: H; H↑, H↓; H, B_x, B_y, B_z."""


def bloch_matrices(calc: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """H(k) (n_spins, n_k, n, n) in eV, S(k) (n_k, n, n), the irreducible k (n_k, 3) and their weights."""
    from gpaw.utilities.tools import tri2full

    wfs, kd = calc.wfs, calc.wfs.kd
    n_k, n = len(kd.ibzk_kc), wfs.setups.nao
    hamiltonian = np.empty((wfs.nspins, n_k, n, n), dtype=complex)
    overlap = np.empty((n_k, n, n), dtype=complex)
    potential = [wfs.basis_functions.calculate_potential_matrices(vt_G) for vt_G in calc.hamiltonian.vt_sG]
    for kpt in wfs.kpt_u:
        H = wfs.eigensolver.calculate_hamiltonian_matrix(calc.hamiltonian, wfs, kpt, potential[kpt.s])
        S = wfs.S_qMM[kpt.q].copy()
        tri2full(H)
        tri2full(S)
        hamiltonian[kpt.s, kpt.k], overlap[kpt.k] = H * Hartree, S
    return hamiltonian, overlap, np.array(kd.ibzk_kc), np.array(kd.weight_k)


def nearest_image_cells(atoms: Atoms, mesh: Sequence[int], cells: np.ndarray) -> np.ndarray:
    """(n_cells, n_atoms, n_atoms, 3): the nearest image of each pair (i, j, R mod mesh), as a cell R.

    Among R + mesh·t (t integer along periodic axes) the one with the smallest |x_j + R·cell - x_i|.
    """
    x, N = atoms.positions, np.asarray(mesh)
    difference = x[None, :, :] - x[:, None, :]
    fractional = np.linalg.solve(atoms.cell.array.T, difference.reshape(-1, 3).T).T.reshape(difference.shape)
    base = cells - N * np.round((fractional[None] + cells) / N).astype(np.int64)
    base = np.where(atoms.pbc, base, 0)
    best, distance = base.copy(), np.full(base.shape[:-1], np.inf)
    for step in product(*((-1, 0, 1) if periodic else (0,) for periodic in atoms.pbc)):
        candidate = base + np.array(step) * N
        d = np.linalg.norm(candidate @ atoms.cell.array + difference[None], axis=-1)
        nearer = d < distance - 1e-9
        best[nearer], distance[nearer] = candidate[nearer], d[nearer]
    return best


def real_space_blocks(
    matrices: np.ndarray, kpoints: np.ndarray, weights: np.ndarray, cells: np.ndarray
) -> np.ndarray:
    """(n_cells, n, n) M(R) = Re Σ_k w_k exp(+2πi k·R) M(k): orbitals real, k and -k time-reversed."""
    phase = weights[:, None] * np.exp(2j * np.pi * kpoints @ cells.T)
    flat = matrices.reshape(len(kpoints), -1)
    real = phase.real.T @ flat.real - phase.imag.T @ flat.imag
    return real.reshape(len(cells), *matrices.shape[1:])


def real_space_matrices(
    atoms: Atoms,
    work: Atoms,
    calc: Any,
    basis: OrbitalBasis,
    mesh: tuple[int, ...],
    *,
    spin_orbit: bool = False,
) -> tuple[RealSpaceMatrix, RealSpaceMatrix, dict[str, Any]]:
    """H and S on the union of their pairs, and what was dropped; with `spin_orbit` H is one of spinors."""
    h_skMM, s_kMM, kpoints, weights = bloch_matrices(calc)
    if spin_orbit:
        h_skMM = np.concatenate([h_skMM, spin_orbit_matrices(calc)])
    cells = np.array(list(product(*(range(n) for n in mesh))), dtype=np.int64)
    h_sRMM = np.stack([real_space_blocks(h, kpoints, weights, cells) for h in h_skMM])
    s_RMM = real_space_blocks(s_kMM, kpoints, weights, cells)
    starts = basis.offsets(atoms.get_chemical_symbols())
    h_size, s_size = _block_maxima(np.abs(h_sRMM).max(axis=0), starts), _block_maxima(np.abs(s_RMM), starts)
    kept = (h_size > HAMILTONIAN_THRESHOLD) | (s_size > OVERLAP_THRESHOLD)
    at, i, j = np.nonzero(kept)
    wraps = np.round(work.cell.scaled_positions(work.positions) - calc.spos_ac).astype(np.int64)
    labels = cells[:, None, None, :] + wraps[None, :, None, :] - wraps[None, None, :, :]
    R = nearest_image_cells(work, mesh, labels)[at, i, j]
    order = np.lexsort(np.column_stack([i, j, R]).T[::-1])
    at, i, j, R = at[order], i[order], j[order], R[order]
    found = AtomPairs(i, j, R, len(atoms))
    pairs = found.union(AtomPairs(j, i, -R, len(atoms)))
    where = [
        (n, slice(starts[a], starts[a + 1]), slice(starts[b], starts[b + 1]))
        for n, a, b in zip(at, i, j, strict=True)
    ]
    blocks = [h_sRMM[(slice(None), *w)] for w in where]
    spin, of_spin = _SPINS[len(h_sRMM)]
    hamiltonian = RealSpaceMatrix.from_blocks(basis, found, atoms, [of_spin(b) for b in blocks], spin)
    overlap = RealSpaceMatrix.from_blocks(basis, found, atoms, [s_RMM[w] for w in where])
    report = {
        "dropped_blocks": int(kept.size - kept.sum()),
        "dropped_hamiltonian_eV": float(h_size[~kept].max(initial=0.0)),
        "dropped_overlap": float(s_size[~kept].max(initial=0.0)),
        "outermost_hamiltonian_eV": _outermost(hamiltonian, work, mesh),
    }
    return hamiltonian.on(pairs).hermitian_part(), overlap.on(pairs).hermitian_part(), report


def _block_maxima(matrices: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """(n_cells, n_atoms, n_atoms) largest entry of each atom block."""
    rows = np.maximum.reduceat(matrices, starts[:-1], axis=1)
    return np.maximum.reduceat(rows, starts[:-1], axis=2)


def _outermost(hamiltonian: RealSpaceMatrix, work: Atoms, mesh: Sequence[int]) -> float:
    """Largest |H| (eV) in the outer tenth of the mesh's supercell, where aliasing shows; warns if large."""
    fractional = work.cell.scaled_positions(hamiltonian.pairs.displacements(hamiltonian.atoms)) / np.asarray(
        mesh
    )
    outer = np.any((np.abs(fractional) > 0.45) & np.asarray(work.pbc), axis=1)
    largest = float(hamiltonian.block_norms()[outer].max(initial=0.0))
    if largest > _ALIAS_LIMIT:
        logger.warning(
            "H(R) reaches %.1e eV at the edge of the supercell of the k-mesh %s; use a denser mesh",
            largest,
            tuple(mesh),
        )
    return largest
