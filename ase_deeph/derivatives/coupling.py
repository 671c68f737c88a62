"""Electron-phonon matrix elements in a basis that moves with the atoms, and first-order shifts of levels.

With ψ_n = Σ_ν c_νn φ_ν, H c = ε S c and c† S c = 1, the change of the self-consistent Hamiltonian has the elements

    ⟨m|∂Ĥ|n⟩ = c_m† (∂H - ε_n ∂S_bra - ε_m ∂S_ket) c_n,    ∂S_bra = ⟨∂φ|φ⟩, ∂S_ket = ⟨φ|∂φ⟩,

where ∂H is the change of the matrix.  It follows from ∂H = ⟨∂φ|Ĥ|φ⟩ + ⟨φ|∂Ĥ|φ⟩ + ⟨φ|Ĥ|∂φ⟩ with Ĥψ_n = ε_n ψ_n in the
two outer terms (the space of the orbitals taken as complete), and equals (ε_n - ε_m) ⟨m|∂n⟩ of the perturbed states.
Between equal energies only ∂H - ε ∂S is left.  See T. Gunst, T. Markussen, K. Stokbro and M. Brandbyge, Phys. Rev. B
93, 035414 (2016), and L. A. Agapito and M. Bernardi, Phys. Rev. B 97, 235146 (2018).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms

from ase_deeph.derivatives.modes import Modes
from ase_deeph.derivatives.perturbation import Perturbation, perturbations
from ase_deeph.eigen import solve
from ase_deeph.matrix import RealSpaceMatrix
from ase_deeph.model import Dtype, HamiltonianModel
from ase_deeph.two_center.derivative import checked_displacements

DEGENERATE = 1e-4
"""eV; levels closer than this are taken as one."""


@dataclass(frozen=True, eq=False)
class ElectronPhonon:
    """g_mnν(k, q) = ⟨m, k+q|∂_qν Ĥ|n, k⟩, the modes with their zero-point amplitude.

    Parameters
    ----------
    kpts : (n_kpts, 3) fractional.
    modes : the phonons of q.
    elements : (n_kpts, n_modes, n_bands, n_bands) g in eV, m before n; zero for modes too soft for an amplitude.
    energies : (n_kpts, n_bands) ε_n(k) in eV.
    scattered_energies : (n_kpts, n_bands) ε_m(k + q).
    """

    kpts: np.ndarray
    modes: Modes
    elements: np.ndarray
    energies: np.ndarray
    scattered_energies: np.ndarray

    def strengths(self, tolerance: float = DEGENERATE) -> np.ndarray:
        """(n_kpts, n_modes, n_bands, n_bands) Σ|g|² (eV²) over the levels degenerate with m, with n and with ν.

        That is what does not depend on the choice of states among degenerate ones.
        """
        squares = np.abs(self.elements) ** 2
        same_mode = _same(self.modes.energies, tolerance)
        found = np.empty_like(squares)
        for k in range(len(self.kpts)):
            rows, cols = (_same(e[k], tolerance) for e in (self.scattered_energies, self.energies))
            found[k] = np.einsum("vw,mp,wpr,rn->vmn", same_mode, rows, squares[k], cols, optimize=True)
        return found


def electron_phonon(
    model: HamiltonianModel,
    atoms: Atoms,
    modes: Modes,
    kpts: Any,
    *,
    dtype: Dtype = "float32",
    softest: float = 1e-3,
) -> ElectronPhonon:
    """The coupling of a model's electrons to phonons of a commensurate q, overlap terms included (see above).

    Parameters
    ----------
    atoms : the primitive cell, at rest.
    modes : phonons of that cell at one q.
    kpts : (n_kpts, 3) fractional.
    softest : eV; softer modes have no finite amplitude, their g is zero.

    Raises
    ------
    ValueError : a q that is not commensurate, or a basis without radial functions.
    """
    points = np.atleast_2d(np.asarray(kpts, dtype=float))
    waves = perturbations(model, atoms, modes.amplitudes(softest), modes.q.tolist(), dtype=dtype)
    h, s = model(atoms, dtype=dtype), model.overlap(atoms)
    here, there = (solve(h, s, k, vectors=True) for k in (points, points + modes.q))
    assert here.coefficients is not None
    assert there.coefficients is not None
    n = min(here.eigenvalues.shape[2], there.eigenvalues.shape[2])
    e, f = here.eigenvalues[0, :, :n], there.eigenvalues[0, :, :n]
    elements = [
        [
            matrix_elements(
                wave, k, (e[m], here.coefficients[0, m, :, :n]), (f[m], there.coefficients[0, m, :, :n])
            )
            for wave in waves
        ]
        for m, k in enumerate(points)
    ]
    return ElectronPhonon(points, modes, np.array(elements), e, f)


States = tuple[np.ndarray, np.ndarray]


def matrix_elements(wave: Perturbation, k: Sequence[float], here: States, there: States) -> np.ndarray:
    """(n_m, n_n) ⟨m, k+q|∂Ĥ|n, k⟩ of energies and coefficients at k and at k + q; eV/Å times the waves' unit."""
    (e, c), (f, d) = here, there
    h, bra, ket = wave.at_k(k)
    return d.conj().T @ (h @ c - bra @ (c * e)) - f[:, None] * (d.conj().T @ (ket @ c))


def deformation_potentials(
    model: HamiltonianModel,
    atoms: Atoms,
    displacements: np.ndarray,
    kpts: Any,
    *,
    dtype: Dtype = "float32",
    tolerance: float = DEGENERATE,
) -> np.ndarray:
    """(n, n_kpts, n_bands) first-order shifts dε/dx of the levels under displacements that all cells share.

    Parameters
    ----------
    displacements : (n, n_atoms, 3) u, real; x measures how far along u the atoms are.
    tolerance : eV; levels closer than this are degenerate: their shifts are the eigenvalues of ∂H - ε ∂S among
        them, lowest first.

    Returns
    -------
    eV/Å times the unit of u; zero for atoms that all rest.
    """
    points = np.atleast_2d(np.asarray(kpts, dtype=float))
    waves = perturbations(model, atoms, checked_displacements(atoms, displacements), dtype=dtype)
    return level_shifts(model(atoms, dtype=dtype), model.overlap(atoms), waves, points, tolerance)


def level_shifts(
    hamiltonian: RealSpaceMatrix,
    overlap: RealSpaceMatrix,
    waves: Sequence[Perturbation],
    kpts: np.ndarray,
    tolerance: float = DEGENERATE,
) -> np.ndarray:
    """(n, n_kpts, n_bands) the same from H, S and perturbations with q = 0."""
    states = solve(hamiltonian, overlap, kpts, vectors=True)
    assert states.coefficients is not None
    found = np.empty((len(waves), *states.eigenvalues.shape[1:]))
    for m, k in enumerate(kpts):
        e, c = states.eigenvalues[0, m], states.coefficients[0, m]
        ends = np.nonzero(np.diff(e, append=np.inf) > tolerance)[0] + 1
        for wave, shifts in zip(waves, found[:, m], strict=True):
            if np.any(wave.q):
                raise ValueError(f"shifts of levels: expected waves of q = 0, received q = {wave.q.tolist()}")
            x = matrix_elements(wave, k, (e, c), (e, c))
            for first, last in zip(np.append(0, ends[:-1]), ends, strict=True):
                part = x[first:last, first:last]
                shifts[first:last] = np.linalg.eigvalsh(0.5 * (part + part.conj().T))
    return found


def _same(energies: np.ndarray, tolerance: float) -> np.ndarray:
    """(n, n) 1 where two levels, sorted or not, belong to one group."""
    order = np.argsort(energies, kind="stable")
    group = np.empty(len(energies), dtype=int)
    group[order] = np.concatenate([[0], np.cumsum(np.diff(energies[order]) > tolerance)])
    return (group[:, None] == group[None, :]).astype(float)
