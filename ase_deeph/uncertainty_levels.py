"""From deviations of H to deviations of levels, Fermi level and gap, to first order in the mean's eigenvectors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from ase_deeph.bands import band_gap
from ase_deeph.electronic_structure import ElectronicStructure
from ase_deeph.matrix import RealSpaceMatrix
from ase_deeph.occupation import Smearing, fill

NEARLY_DEGENERATE = 0.02
"""Levels closer than this (eV) are mixed by a perturbation before they are shifted by it."""
WINDOW = 3.0


@dataclass(frozen=True, eq=False)
class LevelSpread:
    """The members' levels on a k-mesh, as deviations from the levels of the mean H.

    Parameters
    ----------
    kpts, weights : (n_kpts, 3) fractional and (n_kpts,) summing to 1.
    eigenvalues : (n_spins, n_kpts, n_bands) of the mean H, eV.
    deviations : (n_members, n_spins, n_kpts, n_bands) eV.
    fermi_level : of the mean H, eV.
    fermi_levels, band_gaps : (n_members,) eV; NaN where the electron number is unknown.
    """

    kpts: np.ndarray
    weights: np.ndarray
    eigenvalues: np.ndarray
    deviations: np.ndarray
    fermi_level: float
    fermi_levels: np.ndarray
    band_gaps: np.ndarray

    @property
    def standard_deviation(self) -> np.ndarray:
        """(n_spins, n_kpts, n_bands) root mean square over the members, eV."""
        return np.sqrt(np.mean(self.deviations**2, axis=0))

    @property
    def fermi_level_deviation(self) -> float:
        """Standard deviation of the Fermi level over the members, eV."""
        return float(np.std(self.fermi_levels))

    @property
    def band_gap_deviation(self) -> float:
        """Standard deviation of the band gap over the members, eV."""
        return float(np.std(self.band_gaps))

    def rms(self, window: float = WINDOW) -> float:
        """Root mean square deviation of the levels within `window` eV of the Fermi level, in eV.

        Each member's mean deviation there is taken out first, as where errors of bands are published after
        the best common shift.  NaN where no level is near.
        """
        near = np.abs(self.eigenvalues - self.fermi_level) <= window
        if not near.any():
            return float("nan")
        weights = np.broadcast_to(self.weights[None, :, None], near.shape)[near]
        weights = weights / weights.sum()
        chosen = self.deviations[:, near]
        chosen = chosen - (chosen @ weights)[:, None]
        return float(np.sqrt(np.mean(chosen**2 @ weights)))


def level_spread(structure: ElectronicStructure, deviations: Sequence[RealSpaceMatrix]) -> LevelSpread:
    """Levels of H̄ + D_m for every member m, on the irreducible k-mesh of the mean.

    δε_nk = c†_nk D_m(k) c_nk with H̄ c = ε S c and c† S c = 1.  Levels that lie closer to a neighbour than
    0.02 eV form a group g; in it the levels are the eigenvalues of diag(ε_g) + C†_g D_m C_g, in ascending order,
    so that neither the arbitrary vectors of a degeneracy nor a small denominator enters.

    Parameters
    ----------
    structure : of the mean H, with its S, mesh and smearing.
    deviations : D_m(R) = H_m − H̄ in eV, one per member, of the spin of H̄.
    """
    mesh = structure.mesh
    per_k = [first_order(structure, deviations, k) for k in mesh.irreducible]
    n_bands = min(e.shape[-1] for e, _ in per_k)
    energies = np.stack([e[:, :n_bands] for e, _ in per_k], axis=1)
    shifts = np.stack([d[:, :, :n_bands] for _, d in per_k], axis=2)
    if structure.n_electrons is None:
        unknown = np.full(len(deviations), np.nan)
        return LevelSpread(mesh.irreducible, mesh.weights, energies, shifts, np.nan, unknown, unknown)
    fermi, gaps = np.array([_fermi_and_gap(structure, energies + d) for d in shifts]).T
    level = structure.fermi_level()
    return LevelSpread(mesh.irreducible, mesh.weights, energies, shifts, level, fermi, gaps)


def _fermi_and_gap(structure: ElectronicStructure, energies: np.ndarray) -> tuple[float, float]:
    smearing, mesh = structure.occupations, structure.mesh
    assert isinstance(smearing, Smearing)
    assert structure.n_electrons is not None
    level = fill(
        energies, mesh.weights, structure.n_electrons, smearing, degeneracy=structure.degeneracy
    ).fermi_level
    return level, float(band_gap(energies, mesh.irreducible, level))


def first_order(
    structure: ElectronicStructure, deviations: Sequence[RealSpaceMatrix], k: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(n_spins, n_bands) levels of the mean at one k, and (n_members, n_spins, n_bands) deviations, eV."""
    states = structure.eigenstates(k)
    assert states.coefficients is not None
    energies, vectors = states.eigenvalues[:, 0], states.coefficients[:, 0]
    shifts = np.empty((len(deviations), *energies.shape))
    for m, deviation in enumerate(deviations):
        d = np.asarray(deviation.at_k(k.tolist())).reshape(-1, deviation.n_orbitals, deviation.n_orbitals)
        for spin, (e, c) in enumerate(zip(energies, vectors, strict=True)):
            shifts[m, spin] = _shifts(e, c, d[spin])
    return energies, shifts


def _shifts(energies: np.ndarray, c: np.ndarray, d: np.ndarray) -> np.ndarray:
    """(n_bands,) shifts of levels e with vectors c under d, exact inside groups of near levels."""
    dc = d @ c
    shifts = np.einsum("mb,mb->b", c.conj(), dc).real
    for group in _groups(energies):
        mixed = np.diag(energies[group]) + c[:, group].conj().T @ dc[:, group]
        shifts[group] = np.linalg.eigvalsh(0.5 * (mixed + mixed.conj().T)) - energies[group]
    return shifts


def _groups(energies: np.ndarray) -> Iterator[slice]:
    """Runs of two or more ascending levels, each nearer than NEARLY_DEGENERATE to the next."""
    ends = np.nonzero(np.diff(energies) > NEARLY_DEGENERATE)[0] + 1
    edges = np.concatenate([[0], ends, [len(energies)]])
    yield from (slice(a, b) for a, b in pairwise(edges) if b - a > 1)
