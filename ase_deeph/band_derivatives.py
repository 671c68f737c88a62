"""Slopes and curvatures of bands from dH/dk and dS/dk: group velocities and effective masses, no differences.

With ε, c of H c = ε S c, c† S c = 1, primes for derivatives along a direction of Cartesian k (Å^-1), and
X_nm = c_n† (H' - ε_n S') c_m

    ε'_n  = X_nn
    ε''_n = c_n† (H'' - ε_n S'' - 2 ε'_n S') c_n + 2 Σ_m≠n |X_nm|² / (ε_n - ε_m).

Degenerate levels are first told apart by their slopes (X diagonalised among them), then, where these agree too, by
their curvatures (the same expression as a matrix among them).  Slopes and curvatures are then those of the sorted
levels just behind k in that direction.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from ase import units

from ase_deeph.eigen import solve, spinor_overlap
from ase_deeph.matrix import RealSpaceMatrix

HBAR2_OVER_ME = units.Hartree * units.Bohr**2
"""ħ²/mₑ in eV·Å²."""
_DEGENERATE = 1e-5
_SAME_SLOPE = 1e-5
_FLAT = 1e-9


@dataclass(frozen=True, eq=False)
class EffectiveMass:
    """The mass tensor of one band at one k-point, in units of the electron's mass.

    Parameters
    ----------
    inverse : (3, 3) (1/ħ²) ∂²ε/∂k∂k in 1/mₑ, Cartesian; zero along axes that are not periodic.
    energy : of the band, eV.
    velocity : (3,) ∂ε/∂k, eV·Å; a mass says most where it vanishes.
    """

    inverse: np.ndarray
    energy: float
    velocity: np.ndarray

    @property
    def principal(self) -> tuple[np.ndarray, np.ndarray]:
        """(3,) masses in mₑ (negative for holes, infinite where the band is flat), and (3, 3) their axes as rows."""
        values, axes = np.linalg.eigh(self.inverse)
        flat = np.abs(values) < _FLAT
        return np.where(flat, np.inf, 1 / np.where(flat, 1.0, values)), axes.T

    def along(self, direction: np.ndarray) -> float:
        """The mass along a Cartesian direction, mₑ."""
        unit = _unit(direction)
        value = float(unit @ self.inverse @ unit)
        return np.inf if abs(value) < _FLAT else 1 / value


def group_velocities(
    hamiltonian: RealSpaceMatrix, overlap: RealSpaceMatrix | None, kpts: np.ndarray
) -> np.ndarray:
    """(n_spins, n_kpts, n_bands, 3) dε/dk in eV·Å for Cartesian k, along each Cartesian axis.

    Parameters
    ----------
    hamiltonian : H(R) in eV.
    overlap : S(R), None for an orthogonal basis.
    kpts : (n_kpts, 3) fractional.
    """
    lists = [[_slopes(bands, axis) for axis in np.eye(3)] for bands in _bands(hamiltonian, overlap, kpts)]
    n_spins = 2 if hamiltonian.spin == "collinear" else 1
    velocities = np.moveaxis(np.array(lists), 1, 2)
    return velocities.reshape(len(kpts), n_spins, -1, 3).swapaxes(0, 1)


def curvatures(
    hamiltonian: RealSpaceMatrix, overlap: RealSpaceMatrix | None, kpts: np.ndarray, direction: np.ndarray
) -> np.ndarray:
    """(n_spins, n_kpts, n_bands) d²ε/dk² in eV·Å² along a Cartesian direction; the mass there is ħ²/mₑ over it."""
    unit = _unit(direction)
    n_spins = 2 if hamiltonian.spin == "collinear" else 1
    found = np.array([_curvatures(bands, unit) for bands in _bands(hamiltonian, overlap, kpts)])
    return found.reshape(len(kpts), n_spins, -1).swapaxes(0, 1)


def effective_mass(
    hamiltonian: RealSpaceMatrix, overlap: RealSpaceMatrix | None, kpt: np.ndarray, band: int, spin: int = 0
) -> EffectiveMass:
    """The mass tensor of a band, from curvatures along six directions.

    Raises
    ------
    ValueError : no such band, or a degenerate one, which has no tensor (`curvatures` takes a direction).
    """
    bands = list(_bands(hamiltonian, overlap, np.reshape(kpt, (1, 3))))
    if not 0 <= spin < len(bands):
        raise ValueError(f"effective mass: expected a spin below {len(bands)}, received {spin}")
    mine = bands[spin]
    if not 0 <= band < len(mine.energies):
        raise ValueError(f"effective mass: expected a band below {len(mine.energies)}, received {band}")
    group = next(g for g in mine.groups if g.start <= band < g.stop)
    if group.stop - group.start > 1:
        raise ValueError(
            f"effective mass: bands {group.start} to {group.stop - 1} are degenerate at k = "
            f"{np.round(kpt, 4).tolist()} and have no mass tensor; use curvatures(kpts, direction)"
        )
    axes = np.eye(3)
    hessian = np.diag([_curvatures(mine, axis)[band] for axis in axes])
    for a, b in ((0, 1), (0, 2), (1, 2)):
        between = _curvatures(mine, _unit(axes[a] + axes[b]))[band]
        hessian[a, b] = hessian[b, a] = between - 0.5 * (hessian[a, a] + hessian[b, b])
    velocity = np.array([_slopes(mine, axis)[band] for axis in axes])
    return EffectiveMass(hessian / HBAR2_OVER_ME, float(mine.energies[band]), velocity)


@dataclass(frozen=True, eq=False)
class _Bands:
    """The levels of one k and spin, and what the derivatives of H and S are among them."""

    hamiltonian: RealSpaceMatrix
    overlap: RealSpaceMatrix | None
    spin: int
    kpt: np.ndarray
    energies: np.ndarray
    coefficients: np.ndarray

    @property
    def groups(self) -> list[slice]:
        """Runs of degenerate levels."""
        return _runs(self.energies, _DEGENERATE)

    def derivative(self, direction: np.ndarray, order: int) -> tuple[np.ndarray, np.ndarray]:
        """(n_bands, n_bands) of H and of S, along a direction, in the basis of the levels."""
        found = []
        for matrix in (self.hamiltonian, self.overlap):
            if matrix is None:
                found.append(np.zeros((len(self.energies),) * 2, dtype=complex))
                continue
            entries = matrix.entries[self.spin] if matrix.spin == "collinear" else matrix.entries
            lengths = matrix.bloch_sum.cells @ matrix.atoms.cell.array @ direction
            change = matrix.bloch_sum.along(entries, self.kpt, lengths, order)
            found.append(self.coefficients.conj().T @ change @ self.coefficients)
        return found[0], found[1]


def _bands(
    hamiltonian: RealSpaceMatrix, overlap: RealSpaceMatrix | None, kpts: np.ndarray
) -> Iterator[_Bands]:
    """Levels at each k, then spin."""
    if overlap is not None and hamiltonian.spin == "spinor" and overlap.spin == "none":
        overlap = spinor_overlap(overlap)
    states = solve(hamiltonian, overlap, kpts, vectors=True)
    assert states.coefficients is not None
    for n, k in enumerate(kpts):
        for spin, (e, c) in enumerate(zip(states.eigenvalues[:, n], states.coefficients[:, n], strict=True)):
            yield _Bands(hamiltonian, overlap, spin, k, e, c)


def _slopes(bands: _Bands, direction: np.ndarray) -> np.ndarray:
    """(n_bands,) ε'."""
    h, s = bands.derivative(direction, 1)
    slopes = np.empty(len(bands.energies))
    for group in bands.groups:
        slopes[group] = np.linalg.eigvalsh(h[group, group] - bands.energies[group].mean() * s[group, group])
    return slopes


def _curvatures(bands: _Bands, direction: np.ndarray) -> np.ndarray:
    """(n_bands,) ε''."""
    (h1, s1), (h2, s2) = bands.derivative(direction, 1), bands.derivative(direction, 2)
    found = np.empty(len(bands.energies))
    for group in bands.groups:
        e = float(bands.energies[group].mean())
        slopes, turn = np.linalg.eigh(h1[group, group] - e * s1[group, group])
        others = np.ones(len(found), dtype=bool)
        others[group] = False
        x = turn.conj().T @ (h1[group][:, others] - e * s1[group][:, others])
        second = turn.conj().T @ (h2[group, group] - e * s2[group, group]) @ turn
        second = second + 2 * (x / (e - bands.energies[others])) @ x.conj().T
        first = turn.conj().T @ s1[group, group] @ turn
        for run in _runs(slopes, _SAME_SLOPE):
            matrix = second[run, run] - 2 * slopes[run].mean() * first[run, run]
            found[group.start + run.start : group.start + run.stop] = np.linalg.eigvalsh(matrix)
    return found


def _runs(values: np.ndarray, tolerance: float) -> list[slice]:
    """Slices of sorted values whose neighbours differ by less than a tolerance."""
    edges = np.nonzero(np.diff(values) > tolerance)[0] + 1
    starts = [0, *edges.tolist()]
    return [slice(a, b) for a, b in zip(starts, [*starts[1:], len(values)], strict=True)]


def _unit(direction: np.ndarray) -> np.ndarray:
    """A direction of length one; ValueError when it is none."""
    vector = np.asarray(direction, dtype=float)
    length = float(np.linalg.norm(vector)) if vector.shape == (3,) else 0.0
    if not np.isfinite(length) or length == 0:
        raise ValueError(f"direction: expected a Cartesian vector of three numbers, received {direction!r}")
    return vector / length
