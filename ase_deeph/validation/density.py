"""The density matrix against H and S: Tr(ρS) is the electron count, and ρ commutes with a converged H."""

from __future__ import annotations

import numpy as np
from scipy.linalg import eigh

from ase_deeph.matrix import RealSpaceMatrix
from ase_deeph.validation.electrons import plausible
from ase_deeph.validation.finding import DENSITY, HAMILTONIAN, Case, Finding, Report

_COUNT = 2e-2
_COMMUTES = 5e-2
_MOST_ORBITALS = 1500
_POINTS = np.array([[0.0, 0.0, 0.0], [0.1732, 0.3819, 0.2713]])


def density(case: Case) -> Report:
    """Tr(ρS) = Σ ρ_ij(R) S_ij(R)*, and the largest entry of [H, ρ] between orthonormal orbitals, per electron."""
    rho, s, h = case.density, case.overlap, case.hamiltonian
    if rho is None:
        return Report()
    if s is None or rho.spin != "none":
        return Report(unchecked=("Tr(ρS): it needs the overlap and a density matrix without spin",))
    count = electrons(rho, s)
    measures = {"Tr(ρS)": f"{count:.4f}"}
    findings = _count_findings(case, count)
    if h is not None and h.spin == "none" and h.n_orbitals <= _MOST_ORBITALS:
        try:
            error = commutator(h, rho, s)
        except ValueError:
            return Report(findings, measures)
        measures["|[H, ρ]|"] = f"{error:.1e} eV"
        if error > _COMMUTES:
            what = f"it does not commute with the density matrix (|[H, ρ]| = {error:.2f} eV): not its converged H"
            remedy = "export H of the last iteration instead of H0, or both matrices of one calculation"
            findings = (*findings, Finding("error", "h0", HAMILTONIAN, what, remedy))
    return Report(findings, measures)


def electrons(rho: RealSpaceMatrix, s: RealSpaceMatrix) -> float:
    """Tr(ρS) per cell, spin counted in ρ."""
    pairs = s.pairs.union(rho.pairs)
    return float(np.sum(rho.on(pairs).entries * np.conj(s.on(pairs).entries)).real)


def commutator(h: RealSpaceMatrix, rho: RealSpaceMatrix, s: RealSpaceMatrix) -> float:
    """Largest entry in eV of [S^-½HS^-½, S^½ρS^½]/2 at Γ and, with neighbours in other cells, a general k.

    Raises
    ------
    ValueError : S is not positive definite.
    """
    worst = 0.0
    for k in _POINTS if np.any(s.pairs.R) else _POINTS[:1]:
        values, u = eigh(s.at_k(k))
        if values[0] <= 1e-10 * values[-1]:
            raise ValueError(f"S is not positive at k = {k}: smallest eigenvalue {values[0]:.1e}")
        root = (u * np.sqrt(values)) @ u.conj().T
        inverse = (u / np.sqrt(values)) @ u.conj().T
        energy, filling = inverse @ h.at_k(k) @ inverse, 0.5 * root @ rho.at_k(k) @ root
        worst = max(worst, float(np.abs(energy @ filling - filling @ energy).max()))
    return worst


def _count_findings(case: Case, count: float) -> tuple[Finding, ...]:
    stored, remedy = case.data.n_electrons, "bring density matrix, overlap and occupation of one calculation"
    if stored is not None and abs(count - stored) > _COUNT:
        what = f"Tr(ρS) = {count:.4f}, but {stored:g} electrons are stored"
        return (Finding("error", "electron-count", DENSITY, what, remedy),)
    if abs(count - round(count)) > _COUNT or count <= 0:
        what = f"Tr(ρS) = {count:.4f} is not a number of electrons"
        return (Finding("error", "density-matrix", DENSITY, what, remedy),)
    if stored is None and plausible(case.symbols, count) is False:
        what = f"Tr(ρS) = {count:.4f}, which {case.data.atoms.get_chemical_formula()} cannot bring"
        return (Finding("error", "electron-count", DENSITY, what, remedy),)
    return ()
