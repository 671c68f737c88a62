"""Spin–orbit coupling in GPAW's LCAO basis: H(R) of spinors from a scalar-relativistic calculation.

Inside the spheres of PAW the coupling is a one-centre operator,

    H_so = Σ_a Σ_ij |p_i⟩ (α²/4) ⟨φ_i| (1/r) dV/dr  L·σ |φ_j⟩ ⟨p_j|,

added once, to the converged density without it (first order in the density, all orders in the levels), which is what
gpaw.spinorbit.soc_eigenstates diagonalises in the basis of bands [T. Olsen, Phys. Rev. B 94, 235106 (2016)].  L is
imaginary and antisymmetric in real harmonics, so H_so = i Σ_v σ_v ⊗ B_v with B_v(R) real and B_v(-R) = -B_v(R)ᵀ:
Hermitian and time-reversal symmetric by construction.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from ase.units import Hartree


def spin_orbit_matrices(calc: Any) -> np.ndarray:
    """(3, n_k, n, n) B_x, B_y, B_z at the irreducible k in eV, in GPAW's convention of Bloch sums.

    Parameters
    ----------
    calc : a converged LCAO calculator, spin-paired.
    """
    from gpaw.spinorbit import soc

    wfs = calc.wfs
    n_k, n = len(wfs.kd.ibzk_kc), wfs.setups.nao
    result = np.zeros((3, n_k, n, n), dtype=complex)
    for a, density in calc.density.D_asp.items():
        coupling = soc(wfs.setups[a], calc.hamiltonian.xc, density)
        strength = coupling.imag * Hartree
        for kpt in wfs.kpt_u:
            p = wfs.P_aqMi[a][kpt.q]
            result[:, kpt.k] += np.einsum("mi,vij,nj->vmn", p, strength, p.conj(), optimize=True)
    return result


def spinor_blocks(scalar: np.ndarray, coupling: np.ndarray) -> np.ndarray:
    """H σ_0 + i (B_x σ_x + B_y σ_y + B_z σ_z), spin outermost.

    Parameters
    ----------
    scalar : (rows, cols) real block of H without spin, eV.
    coupling : (3, rows, cols) real blocks B_x, B_y, B_z, eV.
    """
    x, y, z = coupling
    return np.block([[scalar + 1j * z, y + 1j * x], [-y + 1j * x, scalar - 1j * z]])
