"""ElectronicStructure: H(R), S(R), an electron number and what follows; the formulas live elsewhere."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from ase import Atoms

from ase_deeph.band_derivatives import EffectiveMass, curvatures, effective_mass, group_velocities
from ase_deeph.bands import BandGap, as_band_structure, band_gap, band_path
from ase_deeph.dos import Projection, gaussian_dos, mulliken_weights, orbital_groups, tetrahedron_dos
from ase_deeph.eigen import OVERLAP_THRESHOLD, EigenStates, solve, spinor_overlap
from ase_deeph.kpoints import (
    DEFAULT_KPTS,
    SYMMETRIES,
    KPoints,
    Symmetry,
    k_points,
    point_group,
    point_list,
    respects_time_reversal,
    symmetry_probes,
)
from ase_deeph.matrix import RealSpaceMatrix
from ase_deeph.occupation import DEFAULT_OCCUPATIONS, Filling, Smearing, fill
from ase_deeph.orthogonalization import MAX_ERROR, WINDOW, lowdin
from ase_deeph.sparse import facade as near

if TYPE_CHECKING:
    from ase.dft.kpoints import BandPath
    from ase.spectrum.band_structure import BandStructure

    from ase_deeph.eigen_batched import DenseEngine
    from ase_deeph.sparse.bands import NearBands
    from ase_deeph.sparse.factorisation import Engine
    from ase_deeph.sparse.fermi import CountedFermiLevel

logger = logging.getLogger(__name__)

_AT_THE_LEVEL = 1e-6
_SYMMETRIC = 1e-4
_DOS_WIDTH = 0.1
_SMALL_MESH = 2
"""k-points up to which a point group saves nothing: to trust it takes two at least."""


@dataclass(frozen=True, eq=False)
class ElectronicStructure:
    """The levels of a real-space Hamiltonian and their filling.

    Parameters
    ----------
    hamiltonian : H(R) in eV, spin "none", "collinear" or "spinor".
    overlap : S(R) on its own pairs, spin "none" (or "spinor" with a spinor H); None for an orthogonal basis.
    n_electrons : electrons of the cell; None takes the valence electrons of the basis.
    kpts : mesh for the Fermi level and the density of states, any form that ASE's `kpts2ndarray` takes.
    occupations : {"name", "width"} as in GPAW, see `ase_deeph.occupation.Smearing`.
    symmetry : "full" reduces the mesh by the point group of the structure, after H has shown at a generic k
        that it obeys it to 0.1 meV; else, and for "time-reversal", only k and -k are identified (exact for
        real H); "none" computes every point.
    overlap_threshold : see `ase_deeph.eigen`.

    Raises
    ------
    ValueError : H and S of different structures or orbitals, a negative or non-finite electron number.

    Examples
    --------
    A chain of hydrogen-like orbitals at half filling, hopping -1 eV:

    >>> from ase import Atoms
    >>> from ase_deeph import AtomPairs, ElectronicStructure, OrbitalBasis, RealSpaceMatrix
    >>> from ase_deeph.basis import SpeciesBasis
    >>> chain = Atoms("H", cell=[2, 9, 9], pbc=(True, False, False))
    >>> pairs = AtomPairs.from_atoms(chain, 2.5)
    >>> h = RealSpaceMatrix(OrbitalBasis({"H": SpeciesBasis((0,), 1)}), pairs, chain, (-1.0) * ~pairs.on_site)
    >>> es = ElectronicStructure(h, kpts=(8, 1, 1))
    >>> [round(float(e), 6) for e in es.eigenvalues([[0, 0, 0], [0.5, 0, 0]]).ravel()]
    [-2.0, 2.0]
    """

    hamiltonian: RealSpaceMatrix
    overlap: RealSpaceMatrix | None = None
    n_electrons: float | None = None
    kpts: Any = field(default_factory=lambda: dict(DEFAULT_KPTS), kw_only=True)
    occupations: Mapping[str, Any] | Smearing = field(
        default_factory=lambda: dict(DEFAULT_OCCUPATIONS), kw_only=True
    )
    symmetry: Symmetry = field(default="full", kw_only=True)
    overlap_threshold: float = field(default=OVERLAP_THRESHOLD, kw_only=True)

    def __post_init__(self) -> None:
        h = self.hamiltonian
        if self.symmetry not in SYMMETRIES:
            raise ValueError(f"symmetry: expected one of {', '.join(SYMMETRIES)}, received {self.symmetry!r}")
        if self.overlap is not None:
            _check_same_orbitals(h, self.overlap)
            if h.spin == "spinor" and self.overlap.spin == "none":
                object.__setattr__(self, "overlap", spinor_overlap(self.overlap))
        count = self.n_electrons
        if count is None:
            count = h.basis.n_electrons(h.atoms.get_chemical_symbols()) or None
        if count is not None and not (np.isfinite(count) and count >= 0):
            raise ValueError(f"n_electrons: expected a count >= 0, received {count}")
        object.__setattr__(self, "n_electrons", None if count is None else float(count))
        object.__setattr__(self, "occupations", Smearing.from_dict(self.occupations))

    @property
    def atoms(self) -> Atoms:
        """The structure."""
        return self.hamiltonian.atoms

    @property
    def n_spins(self) -> int:
        """2 for collinear spin, else 1."""
        return 2 if self.hamiltonian.spin == "collinear" else 1

    @property
    def degeneracy(self) -> int:
        """Electrons per level: 2 for spin "none", else 1."""
        return 2 if self.hamiltonian.spin == "none" else 1

    @cached_property
    def mesh(self) -> KPoints:
        """The k-points of the Fermi level and the density of states."""
        by_time = self._mesh("time-reversal" if self.symmetry == "full" else self.symmetry)
        if self.symmetry != "full" or by_time.size is None or len(by_time) <= _SMALL_MESH:
            return by_time
        if len(point_group(self.atoms)) == 1:
            return by_time
        by_group = self._mesh("full")
        probes = symmetry_probes(self.atoms)
        if len(by_time) - len(by_group) <= len(probes):
            return by_time
        spread = float(np.ptp(self.eigenvalues(probes), axis=1).max())
        if spread < _SYMMETRIC:
            return by_group
        logger.info(
            "H breaks the point group of the structure by %.1e eV; mesh reduced by time reversal only", spread
        )
        return by_time

    def _mesh(self, symmetry: Symmetry) -> KPoints:
        return k_points(self.atoms, self.kpts, symmetry, time_reversal=self._time_reversal)

    @cached_property
    def _time_reversal(self) -> bool:
        return respects_time_reversal(self.hamiltonian)

    @cached_property
    def mesh_eigenvalues(self) -> np.ndarray:
        """(n_spins, n_ibz, n_bands) eV on the irreducible points of the mesh; computed once, read-only."""
        energies = self.eigenvalues(self.mesh.irreducible)
        energies.setflags(write=False)
        return energies

    @cached_property
    def _filling(self) -> Filling:
        assert isinstance(self.occupations, Smearing)
        if self.n_electrons is None:
            raise ValueError(
                f"n_electrons: the valence electrons of {self.hamiltonian.basis} are unknown; "
                "pass ElectronicStructure(..., n_electrons=...)"
            )
        return fill(
            self.mesh_eigenvalues,
            self.mesh.weights,
            self.n_electrons,
            self.occupations,
            degeneracy=self.degeneracy,
        )

    def eigenvalues(self, kpts: Any, *, engine: DenseEngine = "auto") -> np.ndarray:
        """(n_spins, n_kpts, n_bands) eV at fractional k-points (n_kpts, 3) or along a BandPath.

        `engine`: "lapack" one k after the other, "jax" in batches on JAX's device, "auto" the faster (`eigen_batched`).
        """
        return self._solve(point_list(kpts), engine, vectors=False).eigenvalues

    def eigenstates(self, kpts: Any, *, engine: DenseEngine = "auto") -> EigenStates:
        """Eigenvalues, and coefficients (n_spins, n_kpts, n_orbitals, n_bands) with C† S C = 1."""
        return self._solve(point_list(kpts), engine, vectors=True)

    def _solve(self, kpts: np.ndarray, engine: DenseEngine, *, vectors: bool) -> EigenStates:
        h, s, threshold = self.hamiltonian, self.overlap, self.overlap_threshold
        return solve(h, s, kpts, vectors=vectors, threshold=threshold, engine=engine)

    def eigenvalues_near(
        self, kpts: Any, energy: float | None = None, n_states: int = 10, **options: Any
    ) -> NearBands:
        """A few states at each k of a large system, none missed, with their band index; no dense matrix.

        The `n_states` nearest `energy` (eV), or all of `window=(low, high)`; `engine`, `n_ranks`, `checkpoint` and
        `progress` as in `ase_deeph.sparse.facade.eigenvalues_near`.
        """
        return near.eigenvalues_near(
            self.hamiltonian, self.overlap, point_list(kpts), energy, n_states, **options
        )

    def fermi_level_by_count(self, engine: Engine = "auto") -> CountedFermiLevel:
        """The Fermi level of the mesh by counting states with sparse factorisations, see `ase_deeph.sparse.fermi`."""
        mesh = self._mesh("time-reversal" if self.symmetry == "full" else self.symmetry)
        if self.n_electrons is None or not isinstance(self.occupations, Smearing):
            raise ValueError("n_electrons: unknown; pass ElectronicStructure(..., n_electrons=...)")
        return near.fermi_level(
            self.hamiltonian, self.overlap, mesh, self.n_electrons, self.occupations, engine=engine
        )

    def dos_by_moments(
        self, energies: np.ndarray, width: float | None = None, **options: Any
    ) -> tuple[np.ndarray, np.ndarray]:
        """Curves (n_spins, n_curves, n_energies) in states/eV and standard errors, by kernel polynomials.

        `groups`, `n_vectors`, `seed`, `backend` and `progress` as in `ase_deeph.sparse.facade.kernel_polynomial_dos`.
        """
        mesh = self._mesh("time-reversal" if self.symmetry == "full" else self.symmetry)
        width = _DOS_WIDTH if width is None else width
        grid = np.asarray(energies, dtype=float)
        return near.kernel_polynomial_dos(self.hamiltonian, self.overlap, mesh, grid, width, **options)

    def group_velocities(self, kpts: Any) -> np.ndarray:
        """(n_spins, n_kpts, n_bands, 3) dε/dk in eV·Å for Cartesian k; degenerate levels told apart by slope."""
        return group_velocities(self.hamiltonian, self.overlap, point_list(kpts))

    def curvatures(self, kpts: Any, direction: Any) -> np.ndarray:
        """(n_spins, n_kpts, n_bands) d²ε/dk² in eV·Å² along a Cartesian direction, degenerate levels included."""
        return curvatures(self.hamiltonian, self.overlap, point_list(kpts), direction)

    def effective_mass(self, kpt: Any, band: int, spin: int = 0) -> EffectiveMass:
        """Mass tensor of a band at a k-point; ValueError for a degenerate one (see `curvatures`)."""
        return effective_mass(self.hamiltonian, self.overlap, point_list(kpt)[0], band, spin)

    def fermi_level(self) -> float:
        """Fermi level in eV, on the scale of H."""
        return self._filling.fermi_level

    def occupation_numbers(self) -> np.ndarray:
        """(n_spins, n_ibz, n_bands) electrons per level; Σ_skn w_k f_skn = n_electrons."""
        return self._filling.occupations.copy()

    def band_gap(self) -> BandGap:
        """The gap on the k-mesh in eV, with .direct, .vbm, .cbm, .k_vbm, .k_cbm."""
        return band_gap(self.mesh_eigenvalues, self.mesh.irreducible, self.fermi_level())

    def homo_lumo(self) -> tuple[float, float]:
        """Highest level at or below and lowest level at or above the Fermi level on the mesh, eV."""
        level, energies = self.fermi_level(), self.mesh_eigenvalues
        return (
            float(energies[energies <= level + _AT_THE_LEVEL].max()),
            float(energies[energies >= level - _AT_THE_LEVEL].min()),
        )

    def band_structure(self, path: str | BandPath | None = None, npoints: int = 100) -> BandStructure:
        """Bands along an ASE path (default: that of the periodic axes); reference: the mesh's Fermi level."""
        along = band_path(self.atoms, path, npoints)
        return as_band_structure(along, self.eigenvalues(along), self.fermi_level())

    def orthogonalized(
        self, cutoff: float, *, max_error: float = MAX_ERROR, window: float = WINDOW
    ) -> ElectronicStructure:
        """The same levels, approximately, with S = 1: Löwdin's H' on pairs closer than a cutoff in Å.

        For tools that know no overlap. The error in bands within `window` eV of the Fermi level is logged,
        and above `max_error` eV refused; `ase_deeph.orthogonalization.lowdin` returns the numbers.
        """
        if self.overlap is None:
            return self
        fermi_level = None if self.n_electrons is None else self.fermi_level()
        result = lowdin(
            self.hamiltonian,
            self.overlap,
            cutoff,
            fermi_level=fermi_level,
            max_error=max_error,
            window=window,
        )
        return replace(self, hamiltonian=result.hamiltonian, overlap=None)

    def dos(
        self, energies: np.ndarray, width: float | None = None, project: Projection | None = None
    ) -> np.ndarray | dict[str, np.ndarray]:
        """Density of states in states/eV per cell, energies on the scale of H.

        Parameters
        ----------
        energies : (n_energies,) eV.
        width : standard deviation of a Gaussian in eV, 0.1 if None; 0 for linear tetrahedra (needs a mesh).
        project : None, "species", "shell" or "atom" (Mulliken weights).

        Returns
        -------
        (n_energies,), for collinear spin (2, n_energies); with `project` a dict of such arrays by label.
        """
        grid = np.asarray(energies, dtype=float)
        width = _DOS_WIDTH if width is None else width
        if project is None:
            curves = self._curves(grid, width, self.mesh, self.mesh_eigenvalues, None)[:, 0]
            return curves if self.n_spins == 2 else curves[0]
        mesh = self._mesh("time-reversal") if project == "atom" and self.symmetry == "full" else self.mesh
        labels, energies_skn, shares = self._projected(mesh, project)
        curves = self._curves(grid, width, mesh, energies_skn, shares)
        return {label: curves[:, n] if self.n_spins == 2 else curves[0, n] for n, label in enumerate(labels)}

    def _projected(self, mesh: KPoints, project: Projection) -> tuple[list[str], np.ndarray, np.ndarray]:
        """Labels, energies (n_spins, n_ibz, n_bands) and shares (n_spins, n_groups, n_ibz, n_bands)."""
        h = self.hamiltonian
        labels, groups = orbital_groups(h.basis, self.atoms, project, spinor=h.spin == "spinor")
        n_bands = h.n_orbitals
        energies, shares = [], []
        for k in mesh.irreducible:
            states = self.eigenstates(k)
            s = None if self.overlap is None else self.overlap.at_k(k)
            assert states.coefficients is not None
            energies.append(states.eigenvalues[:, 0])
            shares.append(np.stack([mulliken_weights(c[0], s, groups) for c in states.coefficients]))
            n_bands = min(n_bands, states.eigenvalues.shape[2])
        energies_skn = np.stack([e[:, :n_bands] for e in energies], axis=1)
        return labels, energies_skn, np.stack([w[:, :, :n_bands] for w in shares], axis=2)

    def _curves(
        self, grid: np.ndarray, width: float, mesh: KPoints, energies: np.ndarray, shares: np.ndarray | None
    ) -> np.ndarray:
        """(n_spins, n_curves, n_energies) broadened densities of states."""
        if shares is None:
            shares = np.ones((self.n_spins, 1, *energies.shape[1:]))
        if width == 0:
            return self.degeneracy * self._tetrahedra(grid, mesh, energies, shares)
        counted = self.degeneracy * mesh.weights[:, None] * shares
        return np.stack(
            [
                gaussian_dos(grid, e.ravel(), w.reshape(len(w), -1), width)
                for e, w in zip(energies, counted, strict=True)
            ]
        )

    def _tetrahedra(
        self, grid: np.ndarray, mesh: KPoints, energies: np.ndarray, shares: np.ndarray
    ) -> np.ndarray:
        if mesh.size is None:
            raise ValueError(
                "tetrahedra: expected a k-point mesh, received a list of points; give a width > 0"
            )
        full, size = mesh.bz_to_ibz, mesh.size
        channels = zip(energies, shares, strict=True)
        return np.stack([tetrahedron_dos(grid, e[full], w[:, full], size) for e, w in channels])


def _check_same_orbitals(hamiltonian: RealSpaceMatrix, overlap: RealSpaceMatrix) -> None:
    """H and S must be of the same atoms in the same orbitals; their pairs may differ."""
    h, s = hamiltonian.atoms, overlap.atoms
    if not np.array_equal(h.numbers, s.numbers) or not np.array_equal(h.pbc, s.pbc):
        raise ValueError(f"overlap: expected that of {h}, received that of {s}; build both for one structure")
    if not np.allclose(h.cell.array, s.cell.array, atol=1e-5) or not np.allclose(
        h.positions, s.positions, atol=1e-5
    ):
        raise ValueError("overlap: its cell or positions differ from the Hamiltonian's by more than 1e-5 Å")
    for symbol in sorted(set(h.get_chemical_symbols())):
        ours, theirs = hamiltonian.basis.shells(symbol), overlap.basis.shells(symbol)
        if ours != theirs:
            raise ValueError(f"overlap: expected {symbol} with shells l = {ours} as in H, received {theirs}")
    if overlap.spin != "none" and (overlap.spin, hamiltonian.spin) != ("spinor", "spinor"):
        raise ValueError(
            f"overlap: expected spin 'none', received {overlap.spin!r} with a {hamiltonian.spin!r} H"
        )
