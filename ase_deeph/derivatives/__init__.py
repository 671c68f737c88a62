"""Derivatives of H and S with respect to positions: dH/dR, electron-phonon coupling, deformation potentials."""

from __future__ import annotations

from ase_deeph.derivatives.coupling import (
    ElectronPhonon,
    deformation_potentials,
    electron_phonon,
    level_shifts,
    matrix_elements,
)
from ase_deeph.derivatives.hamiltonian import hamiltonian_derivatives, hamiltonian_gradient
from ase_deeph.derivatives.modes import Modes
from ase_deeph.derivatives.perturbation import Perturbation, perturbations
from ase_deeph.two_center import OverlapDerivative, overlap_derivatives, overlap_gradient

__all__ = [
    "ElectronPhonon",
    "Modes",
    "OverlapDerivative",
    "Perturbation",
    "deformation_potentials",
    "electron_phonon",
    "hamiltonian_derivatives",
    "hamiltonian_gradient",
    "level_shifts",
    "matrix_elements",
    "overlap_derivatives",
    "overlap_gradient",
    "perturbations",
]
