"""Invariants that hold for any electronic structure, as assertions."""

from __future__ import annotations

import numpy as np

from ase_deeph.electronic_structure import ElectronicStructure
from ase_deeph.matrix import RealSpaceMatrix

GENERIC = np.array([[0.137, 0.291, 0.413], [-0.377, 0.081, 0.222]])


def assert_hermitian(matrix: RealSpaceMatrix, tolerance: float = 1e-12) -> None:
    """M(k) = M(k)† at generic k."""
    for k in GENERIC:
        m = matrix.at_k(k)
        np.testing.assert_allclose(m, np.swapaxes(m, -1, -2).conj(), atol=tolerance, rtol=0)


def assert_periodic(es: ElectronicStructure, tolerance: float = 1e-10) -> None:
    """E(k + G) = E(k)."""
    k = GENERIC * es.atoms.pbc
    shifted = k + np.array([2, -1, 3]) * es.atoms.pbc
    np.testing.assert_allclose(es.eigenvalues(k), es.eigenvalues(shifted), atol=tolerance, rtol=0)


def assert_counts_electrons(es: ElectronicStructure, tolerance: float = 1e-9) -> None:
    """Σ_skn w_k f_skn = n_electrons."""
    total = np.einsum("skn,k->", es.occupation_numbers(), es.mesh.weights)
    assert abs(total - es.n_electrons) <= tolerance, f"{total} electrons instead of {es.n_electrons}"


def assert_normalised(es: ElectronicStructure, tolerance: float = 1e-10) -> None:
    """C† S C = 1 and C† H C = diag(e)."""
    k = GENERIC * es.atoms.pbc
    states = es.eigenstates(k)
    for n, point in enumerate(k):
        h = es.hamiltonian.at_k(point) if es.n_spins == 2 else es.hamiltonian.at_k(point)[None]
        s = np.eye(h.shape[-1]) if es.overlap is None else es.overlap.at_k(point)
        for spin in range(es.n_spins):
            c, e = states.coefficients[spin, n], states.eigenvalues[spin, n]
            np.testing.assert_allclose(c.conj().T @ s @ c, np.eye(len(e)), atol=tolerance, rtol=0)
            np.testing.assert_allclose(c.conj().T @ h[spin] @ c, np.diag(e), atol=tolerance * 10, rtol=0)


def assert_folded(
    small: ElectronicStructure, large: ElectronicStructure, repeat: tuple[int, int, int]
) -> None:
    """Levels of a supercell at Γ are those of the primitive cell at the k-points that fold onto Γ."""
    k = np.indices(repeat).reshape(3, -1).T / np.array(repeat)
    primitive = np.sort(small.eigenvalues(k).reshape(small.n_spins, -1), axis=1)
    folded = large.eigenvalues([[0.0, 0.0, 0.0]])[:, 0]
    np.testing.assert_allclose(folded, primitive, atol=1e-10, rtol=0)
