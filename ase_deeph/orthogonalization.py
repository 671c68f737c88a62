"""Löwdin orthogonalisation: H' = S^(-1/2) H S^(-1/2) on a k-mesh, back to H'(R), its truncation measured.

S^(-1/2) reaches much farther than S, so H'(R) cut at a radius is an approximation, unlike H and S: the error
in the bands is measured at k-points off the mesh and stated; one that is too large is refused.

(P.-O. Löwdin, J. Chem. Phys. 18, 365 (1950).)
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import scipy.linalg as sl
from ase import Atoms
from threadpoolctl import threadpool_limits

from ase_deeph.eigen import OVERLAP_THRESHOLD, solve, spinor_overlap
from ase_deeph.matrix import RealSpaceMatrix
from ase_deeph.pairs import AtomPairs

logger = logging.getLogger(__name__)

MAX_ERROR = 0.1
WINDOW = 5.0
_MESH_REACH = 3.0
_N_PROBES = 12
_LARGEST_MESH_ARRAY = 2e8
_SEARCH_FACTORS = (1.25, 1.5, 2.0, 2.5, 3.0, 4.0)
_PLASTIC = np.array([0.8191725134, 0.6710436067, 0.5497004779])


@dataclass(frozen=True)
class TruncationError:
    """How far the bands of a truncated matrix are from the exact ones, in eV, at k-points off the mesh.

    Parameters
    ----------
    max, rms : over bands within `window` of the Fermi level (over all bands where that is unknown).
    max_all, rms_all : over all bands.
    window : half width in eV around the Fermi level, None for all bands.
    """

    max: float
    rms: float
    max_all: float
    rms_all: float
    window: float | None

    def __str__(self) -> str:
        where = "all bands" if self.window is None else f"bands within {self.window:g} eV of the Fermi level"
        return (
            f"{self.max:.4f} eV at most ({self.rms:.4f} eV rms) in {where}, {self.max_all:.4f} eV in any band"
        )


@dataclass(frozen=True, eq=False)
class Orthogonalized:
    """A Hamiltonian in Löwdin's orthogonal orbitals, S = 1.

    Parameters
    ----------
    hamiltonian : H'(R) in eV on the pairs closer than `cutoff`.
    cutoff : Å.
    mesh : the k-mesh on which S^(-1/2) was taken.
    error : what the truncation costs.
    """

    hamiltonian: RealSpaceMatrix
    cutoff: float
    mesh: tuple[int, int, int]
    error: TruncationError


def lowdin(
    hamiltonian: RealSpaceMatrix,
    overlap: RealSpaceMatrix,
    cutoff: float,
    *,
    fermi_level: float | None = None,
    max_error: float = MAX_ERROR,
    window: float = WINDOW,
) -> Orthogonalized:
    """H'(R) = (1/N) Σ_k exp(-2πi k·R) S(k)^(-1/2) H(k) S(k)^(-1/2) on pairs closer than a cutoff.

    Parameters
    ----------
    hamiltonian, overlap : H(R) in eV of any spin, S(R).
    cutoff : Å; the k-mesh is chosen so that its supercell is three times as wide.
    fermi_level : eV; None measures the error over all bands.
    max_error : eV, largest error of a band within `window` that is accepted; infinity accepts any.
    window : half width in eV around the Fermi level.

    Raises
    ------
    ValueError : a cutoff that is no length, an overlap that is not positive, or an error above `max_error`;
        the message says the error measured and the cutoff that would do.
    """
    if not isinstance(cutoff, (int, float, np.number)) or not np.isfinite(cutoff) or cutoff <= 0:
        raise ValueError(f"cutoff: expected a positive length in Å, received {cutoff}")
    if hamiltonian.spin == "spinor" and overlap.spin == "none":
        overlap = spinor_overlap(overlap)
    measure = _Measure(hamiltonian, overlap, fermi_level, window)
    result = _truncated(hamiltonian, overlap, cutoff, measure)
    logger.info("Löwdin H' cut at %.2f Å: bands err by %s", cutoff, result.error)
    if not result.error.max <= max_error:
        raise ValueError(
            f"orthogonalized({cutoff:g} Å): bands err by {result.error}, more than max_error = {max_error:g} eV; "
            + _advice(hamiltonian, overlap, cutoff, measure, max_error)
        )
    return result


def inverse_square_root(s: np.ndarray, threshold: float = OVERLAP_THRESHOLD) -> np.ndarray:
    """S^(-1/2) of one Hermitian (n, n) overlap.

    Raises
    ------
    ValueError : its smallest eigenvalue is below `threshold` times its largest.
    """
    values, vectors = sl.eigh(0.5 * (s + s.conj().T), check_finite=False)
    if values[0] <= threshold * values[-1]:
        raise ValueError(
            f"orthogonalized: expected a positive overlap, received eigenvalues from {values[0]:.1e} to "
            f"{values[-1]:.1e}; use a smaller basis, or a route that keeps S (to_sisl, to_kwant)"
        )
    return (vectors / np.sqrt(values)) @ vectors.conj().T


def mesh_for(atoms: Atoms, reach: float) -> tuple[int, int, int]:
    """The smallest mesh whose supercell is wider than `reach` (Å) along every periodic axis; 1 along others."""
    cell = atoms.cell.complete().array
    heights = 1.0 / np.linalg.norm(np.linalg.inv(cell), axis=0)
    n1, n2, n3 = (int(np.ceil(reach / h)) if p else 1 for h, p in zip(heights, atoms.pbc, strict=True))
    return n1, n2, n3


def mesh_points(mesh: tuple[int, int, int]) -> np.ndarray:
    """(n_kpts, 3) fractional k-points n/N of a mesh that holds Γ, last axis fastest."""
    return np.indices(mesh).reshape(3, -1).T / np.array(mesh)


def from_mesh(
    values: np.ndarray, mesh: tuple[int, int, int], template: RealSpaceMatrix, pairs: AtomPairs
) -> RealSpaceMatrix:
    """M(R) = (1/N) Σ_k exp(-2πi k·R) M(k) on given pairs.

    Parameters
    ----------
    values : (n_channels, n_kpts, n, n) M(k) at `mesh_points(mesh)`.
    template : a matrix of the same orbitals and spin; its entries do not matter.
    """
    n = values.shape[-1]
    at_R = np.fft.fftn(values.reshape(-1, *mesh, n, n), axes=(1, 2, 3)) / np.prod(mesh)
    shapeless = RealSpaceMatrix(
        template.basis, pairs, template.atoms, _zeros(template, pairs, values.dtype), template.spin
    )
    pattern = shapeless.bloch_sum
    cell = np.mod(pattern.cells, mesh)[pattern.cell_of_entry]
    entries = at_R[:, cell[:, 0], cell[:, 1], cell[:, 2], pattern.rows, pattern.cols]
    real = template.spin != "spinor" and not np.iscomplexobj(template.entries)
    channels = np.ascontiguousarray(entries.real if real else entries)
    return replace(shapeless, entries=channels if template.spin == "collinear" else channels[0])


def _zeros(template: RealSpaceMatrix, pairs: AtomPairs, dtype: np.dtype) -> np.ndarray:
    counts = template.basis.orbital_counts(template.atoms.get_chemical_symbols())
    counts = counts * (2 if template.spin == "spinor" else 1)
    total = int((counts[pairs.i] * counts[pairs.j]).sum())
    return np.zeros((2, total) if template.spin == "collinear" else total, dtype=dtype)


@dataclass(frozen=True, eq=False)
class _Measure:
    """The exact levels at the probes, computed once, and the error of other levels against them."""

    hamiltonian: RealSpaceMatrix
    overlap: RealSpaceMatrix
    fermi_level: float | None
    window: float

    @cached_property
    def probes(self) -> np.ndarray:
        """(n, 3) k-points of a low-discrepancy sequence, 0 along open axes."""
        points = np.mod(0.5 + np.outer(np.arange(1, _N_PROBES + 1), _PLASTIC), 1.0)
        return points * self.hamiltonian.atoms.pbc

    @cached_property
    def exact(self) -> np.ndarray:
        return solve(self.hamiltonian, self.overlap, self.probes).eigenvalues

    def of(self, truncated: RealSpaceMatrix) -> TruncationError:
        """The error of the levels of a truncated matrix at the probes."""
        exact = self.exact
        difference = np.abs(solve(truncated, None, self.probes).eigenvalues[..., : exact.shape[-1]] - exact)
        inside = np.ones(exact.shape, dtype=bool)
        if self.fermi_level is not None:
            inside = np.abs(exact - self.fermi_level) <= self.window
        near = difference[inside] if inside.any() else difference.ravel()
        return TruncationError(
            float(near.max()),
            float(np.sqrt(np.mean(near**2))),
            float(difference.max()),
            float(np.sqrt(np.mean(difference**2))),
            None if self.fermi_level is None else self.window,
        )


def _truncated(
    hamiltonian: RealSpaceMatrix, overlap: RealSpaceMatrix, cutoff: float, measure: _Measure
) -> Orthogonalized:
    mesh = mesh_for(hamiltonian.atoms, _MESH_REACH * cutoff)
    values = _on_mesh(hamiltonian, overlap, mesh)
    pairs = AtomPairs.from_atoms(hamiltonian.atoms, cutoff)
    matrix = from_mesh(values, mesh, hamiltonian, pairs).hermitian_part()
    return Orthogonalized(matrix, cutoff, mesh, measure.of(matrix))


def _on_mesh(
    hamiltonian: RealSpaceMatrix, overlap: RealSpaceMatrix, mesh: tuple[int, int, int]
) -> np.ndarray:
    """(n_channels, n_kpts, n, n) S^(-1/2) H S^(-1/2); real matrices are computed at one of k and -k."""
    n, channels = hamiltonian.n_orbitals, 2 if hamiltonian.spin == "collinear" else 1
    if channels * float(np.prod(mesh)) * float(n) ** 2 > _LARGEST_MESH_ARRAY:
        raise ValueError(
            f"orthogonalized: a mesh of {np.prod(mesh)} k-points times {n}² elements is too large; "
            "choose a smaller cutoff, or a route that keeps S (to_sisl, to_kwant)"
        )
    points = mesh_points(mesh)
    values = np.empty((channels, len(points), n, n), dtype=complex)
    real = not np.iscomplexobj(hamiltonian.entries) and not np.iscomplexobj(overlap.entries)
    opposite = np.ravel_multi_index(
        tuple(np.mod(-np.indices(mesh).reshape(3, -1), np.reshape(mesh, (3, 1)))), mesh
    )
    with threadpool_limits(1 if n <= 400 else None, user_api="blas"):
        for number, k in enumerate(points):
            if real and opposite[number] < number:
                values[:, number] = values[:, opposite[number]].conj()
                continue
            x = inverse_square_root(overlap.at_k(k))
            values[:, number] = x @ np.reshape(hamiltonian.at_k(k), (channels, n, n)) @ x
    return values


def _advice(
    hamiltonian: RealSpaceMatrix,
    overlap: RealSpaceMatrix,
    cutoff: float,
    measure: _Measure,
    max_error: float,
) -> str:
    """What to do instead: the first larger cutoff that keeps the error below the limit."""
    tried = cutoff
    for factor in _SEARCH_FACTORS:
        try:
            error = _truncated(hamiltonian, overlap, factor * cutoff, measure).error.max
        except ValueError:
            break
        tried = factor * cutoff
        if error <= max_error:
            return f"a cutoff of {tried:.1f} Å errs by {error:.4f} eV"
    return f"no cutoff up to {tried:.1f} Å does; accept the error with max_error=..., or keep S (to_sisl, to_kwant)"
