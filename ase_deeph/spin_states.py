"""The spin of each level along a path or on a list of k: ⟨σ⟩ of spinors in a non-orthogonal basis.

    ⟨σ_v⟩ = c† (S ⊗ σ_v) c,        c† (S ⊗ 1) c = 1

In a degenerate level the states may be chosen at will and ⟨σ⟩ with them; only its mean over the level is a number of
the level, and that is what is given: zero for the Kramers pairs of a crystal with inversion, as it must be.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ase_deeph.electronic_structure import ElectronicStructure
from ase_deeph.kpoints import point_list
from ase_deeph.matrix import RealSpaceMatrix

DEGENERATE = 1e-4
"""eV; neighbouring levels closer than this are one level: single precision splits Kramers pairs by 1e-6."""


@dataclass(frozen=True, eq=False)
class SpinStates:
    """Levels and their spin.

    Parameters
    ----------
    kpts : (n_kpts, 3) fractional.
    energies : (n_spins, n_kpts, n_bands) eV.
    spins : (n_spins, n_kpts, n_bands, 3) ⟨σ_x⟩, ⟨σ_y⟩, ⟨σ_z⟩, each -1 ... 1; the z axis is that of the two channels of
        collinear spin.
    """

    kpts: np.ndarray
    energies: np.ndarray
    spins: np.ndarray


def spin_states(structure: ElectronicStructure, kpts: Any, *, degenerate: float = DEGENERATE) -> SpinStates:
    """Levels and ⟨σ⟩ at fractional k-points (n_kpts, 3) or along a BandPath.

    Parameters
    ----------
    degenerate : eV; the mean is taken over levels closer than this.

    Raises
    ------
    ValueError : H has no spin.
    """
    points, spin = point_list(kpts), structure.hamiltonian.spin
    if spin == "none":
        raise ValueError("spin_states: expected a collinear or spinor Hamiltonian, received one without spin")
    if spin == "collinear":
        energies = structure.eigenvalues(points)
        spins = np.zeros((*energies.shape, 3))
        spins[0, ..., 2], spins[1, ..., 2] = 1.0, -1.0
        return SpinStates(points, energies, spins)
    levels, values = [], []
    for k in points:
        states = structure.eigenstates(k)
        assert states.coefficients is not None
        overlap = None if structure.overlap is None else np.asarray(structure.overlap.at_k(k))
        levels.append(states.eigenvalues[0, 0])
        c = states.coefficients[0, 0][:, : len(levels[-1])]
        values.append(expectation(structure.hamiltonian, overlap, c))
    n = min(len(e) for e in levels)
    spins = np.stack([_level_means(e[:n], v[:n], degenerate) for e, v in zip(levels, values, strict=True)])
    return SpinStates(points, np.stack([e[:n] for e in levels])[None], spins[None])


def spin_rows(hamiltonian: RealSpaceMatrix) -> tuple[np.ndarray, np.ndarray]:
    """(n,), (n,) the rows of spin up and of spin down in a spinor H(k): up then down within each atom."""
    counts = hamiltonian.rows_per_atom // 2
    starts = np.concatenate([[0], np.cumsum(2 * counts)[:-1]])
    up = np.concatenate([start + np.arange(n) for start, n in zip(starts, counts, strict=True)])
    return up, up + np.repeat(counts, counts)


def expectation(hamiltonian: RealSpaceMatrix, overlap: np.ndarray | None, c: np.ndarray) -> np.ndarray:
    """(n_bands, 3) ⟨σ⟩ of each state of one k-point, as the solver chose it.

    Parameters
    ----------
    overlap : (n, n) S(k) ⊗ 1, None for an orthogonal basis.
    c : (n, n_bands) coefficients.
    """
    up, down = spin_rows(hamiltonian)
    a, b = c[up], c[down]
    sa, sb = (a, b) if overlap is None else (overlap[np.ix_(up, up)] @ a, overlap[np.ix_(down, down)] @ b)
    flip = np.sum(a.conj() * sb, axis=0)
    z = np.sum(a.conj() * sa, axis=0).real - np.sum(b.conj() * sb, axis=0).real
    return np.column_stack([2 * flip.real, 2 * flip.imag, z])


def _level_means(energies: np.ndarray, values: np.ndarray, degenerate: float) -> np.ndarray:
    """(n_bands, 3) values averaged over runs of neighbouring levels."""
    level = np.concatenate([[0], np.cumsum(np.diff(energies) > degenerate)])
    sums = np.zeros((level[-1] + 1, 3))
    np.add.at(sums, level, values)
    return (sums / np.bincount(level)[:, None])[level]
