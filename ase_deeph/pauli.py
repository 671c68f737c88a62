"""Matrices with spin in Pauli form: H = A_0 ⊗ 1 + Σ_s A_s ⊗ σ_s, blocks padded to one size, and back.

uu = A_0 + A_z, dd = A_0 - A_z, ud = A_x - i A_y, du = A_x + i A_y.  Time reversal T = iσ_y K takes A_0 to A_0* and
A_s to -A_s*: without magnetism A_0 is real and A_s imaginary.
"""

from __future__ import annotations

import numpy as np
from ase import Atoms

from ase_deeph.basis import OrbitalBasis
from ase_deeph.matrix import RealSpaceMatrix, Spin
from ase_deeph.pairs import AtomPairs


def pauli_parts(matrix: RealSpaceMatrix) -> np.ndarray:
    """(4, n_pairs, M, M) complex A_0, A_x, A_y, A_z of a spinor matrix; (2, ...) real A_0, A_z of a collinear one.

    Raises
    ------
    ValueError : a matrix without spin.
    """
    if matrix.spin == "none":
        raise ValueError("pauli_parts: expected a collinear or spinor matrix, received spin 'none'")
    size, n = matrix.basis.max_orbitals, len(matrix.pairs)
    if matrix.spin == "collinear":
        channels = np.zeros((2, n, size, size), dtype=matrix.entries.dtype)
        for (rows, cols), members, where in matrix._shape_groups:
            channels[:, members, :rows, :cols] = matrix.entries[:, where].reshape(2, -1, rows, cols)
        return 0.5 * np.stack([channels[0] + channels[1], channels[0] - channels[1]])
    parts = np.zeros((4, n, size, size), dtype=complex)
    for (rows, cols), members, where in matrix._shape_groups:
        blocks = matrix.entries[where].reshape(-1, 2, rows // 2, 2, cols // 2)
        uu, ud, du, dd = blocks[:, 0, :, 0], blocks[:, 0, :, 1], blocks[:, 1, :, 0], blocks[:, 1, :, 1]
        found = np.stack([uu + dd, ud + du, 1j * (ud - du), uu - dd])
        parts[:, members, : rows // 2, : cols // 2] = 0.5 * found
    return parts


def from_pauli(
    basis: OrbitalBasis, pairs: AtomPairs, atoms: Atoms, parts: np.ndarray, spin: Spin
) -> RealSpaceMatrix:
    """The inverse of `pauli_parts`; rows and columns beyond a species' orbitals are left out.

    Parameters
    ----------
    parts : (2, n_pairs, M, M) real for "collinear", (4, n_pairs, M, M) for "spinor".
    """
    counts = basis.orbital_counts(atoms.get_chemical_symbols())
    total = int((counts[pairs.i] * counts[pairs.j]).sum())
    if spin == "collinear":
        matrix = RealSpaceMatrix(basis, pairs, atoms, np.zeros((2, total)), spin)
        channels = np.stack([parts[0] + parts[1], parts[0] - parts[1]])
        for (rows, cols), members, where in matrix._shape_groups:
            matrix.entries[:, where] = channels[:, members, :rows, :cols].reshape(2, len(members), -1)
        return matrix
    matrix = RealSpaceMatrix(basis, pairs, atoms, np.zeros(4 * total, dtype=complex), "spinor")
    zero, x, y, z = parts
    blocks = np.stack([np.stack([zero + z, x - 1j * y]), np.stack([x + 1j * y, zero - z])])
    for (rows, cols), members, where in matrix._shape_groups:
        mine = blocks[:, :, members, : rows // 2, : cols // 2].transpose(2, 0, 3, 1, 4)
        matrix.entries[where] = mine.reshape(len(members), -1)
    return matrix
