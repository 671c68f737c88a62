"""What ElectronicStructure and the command line ask of sparse matrices: H(R) and S(R) in, numbers out."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from ase_deeph.kpoints import KPoints
from ase_deeph.matrix import RealSpaceMatrix
from ase_deeph.occupation import Smearing
from ase_deeph.sparse.bands import BandEngine, NearBands, Progress, Request, bands_near
from ase_deeph.sparse.factorisation import Engine
from ase_deeph.sparse.fermi import CountedFermiLevel, CountingProblem, fermi_level_by_count
from ase_deeph.sparse.kpm import MeshPart, mesh_dos, moments
from ase_deeph.sparse.recursion import Backend
from ase_deeph.sparse.states import Pencil

_PENCILS = 4


def eigenvalues_near(
    hamiltonian: RealSpaceMatrix,
    overlap: RealSpaceMatrix | None,
    kpts: np.ndarray,
    energy: float | None = None,
    n_states: int = 10,
    *,
    window: tuple[float, float] | None = None,
    engine: BandEngine = "auto",
    n_ranks: int = 2,
    checkpoint: str | Path | None = None,
    progress: Progress | None = None,
) -> NearBands:
    """The states nearest an energy, or all of a window, at each k; see `ase_deeph.sparse.bands`.

    Parameters
    ----------
    kpts : (n_kpts, 3) fractional.
    energy, n_states : the n_states nearest this energy in eV; or
    window : (low, high) in eV.
    engine : "auto", "dense", "superlu", "pardiso", "mumps", or "slepc" on n_ranks processes.
    checkpoint : file of finished k-points; an interrupted run goes on from it.
    progress : called with k-points done and their number.

    Raises
    ------
    ValueError : a request that cannot be met; states are never missing in silence.
    """
    request = Request(energy, n_states, window, engine, n_ranks)
    return bands_near(hamiltonian, overlap, kpts, request, checkpoint=checkpoint, progress=progress)


def fermi_level(
    hamiltonian: RealSpaceMatrix,
    overlap: RealSpaceMatrix | None,
    mesh: KPoints,
    n_electrons: float,
    smearing: Smearing,
    *,
    engine: Engine = "auto",
) -> CountedFermiLevel:
    """The Fermi level by counting, see `ase_deeph.sparse.fermi`."""
    pencil = _pencils(hamiltonian, overlap, mesh.irreducible, engine)
    collinear, spinless = hamiltonian.spin == "collinear", hamiltonian.spin == "none"
    problem = CountingProblem(pencil, mesh.weights, 1 + collinear, 1 + spinless, n_electrons)
    return fermi_level_by_count(problem, smearing)


def kernel_polynomial_dos(
    hamiltonian: RealSpaceMatrix,
    overlap: RealSpaceMatrix | None,
    mesh: KPoints,
    energies: np.ndarray,
    width: float,
    *,
    groups: np.ndarray | None = None,
    n_vectors: int | None = 64,
    seed: int = 0,
    backend: Backend = "auto",
    progress: Progress | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Densities of states (n_spins, n_curves, n_energies) in states/eV and standard errors, see `ase_deeph.sparse.kpm`.

    Parameters
    ----------
    groups : (n_orbitals,) group of each orbital, for projections.
    n_vectors : random vectors at each k, 2 at least for a standard error (else NaN); None for exact traces.
    backend : "scipy", "jax" or "auto", see `ase_deeph.sparse.kpm.moments`.
    """
    options: dict[str, Any] = {"groups": groups, "n_vectors": n_vectors, "seed": seed, "backend": backend}
    parts = mesh_moments(hamiltonian, overlap, mesh, width, progress=progress, **options)
    return mesh_dos(parts, 1 + (hamiltonian.spin == "collinear"), energies, width)


def mesh_moments(
    hamiltonian: RealSpaceMatrix,
    overlap: RealSpaceMatrix | None,
    mesh: KPoints,
    width: float,
    *,
    groups: np.ndarray | None = None,
    n_vectors: int | None = 64,
    seed: int = 0,
    backend: Backend = "auto",
    progress: Progress | None = None,
) -> Iterator[MeshPart]:
    """Moments of every spin and k-point one after the other, for `mesh_dos` and `mesh_fermi_level`.

    Parameters
    ----------
    width : of the narrowest Gaussian in eV that the moments are to resolve; else as `kernel_polynomial_dos`.
    """
    n_spins, degeneracy = 1 + (hamiltonian.spin == "collinear"), 1 + (hamiltonian.spin == "none")
    pencil = _pencils(hamiltonian, overlap, mesh.irreducible, "auto")
    total, done = n_spins * len(mesh), 0
    for spin in range(n_spins):
        for k, weight in enumerate(mesh.weights):
            seeded = seed + done
            found = moments(
                pencil(spin, k), width, n_vectors=n_vectors, groups=groups, seed=seeded, backend=backend
            )
            done += 1
            if progress is not None:
                progress(done, total)
            yield spin, float(degeneracy * weight), found


class _pencils:
    """(spin, k-point number) -> pencil; the last few are kept."""

    def __init__(
        self, hamiltonian: RealSpaceMatrix, overlap: RealSpaceMatrix | None, kpts: np.ndarray, engine: Engine
    ) -> None:
        self._h, self._s, self._kpts, self._engine = hamiltonian, overlap, kpts, engine
        self._made = lru_cache(maxsize=_PENCILS)(self._make)

    def __call__(self, spin: int, k: int) -> Pencil:
        return self._made(spin, k)

    def _make(self, spin: int, k: int) -> Pencil:
        h = self._h.at_k(self._kpts[k], format="csr")
        s = None if self._s is None else self._s.at_k(self._kpts[k], format="csr")
        return Pencil.of(h[spin] if isinstance(h, list) else h, s, self._engine)
