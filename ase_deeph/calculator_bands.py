"""The questions about bands and k-points that ASE and its tools ask a calculator, answered from a k-mesh.

ASE knows one or two channels of spin, and its DOS and STM count two electrons per level of a single one.  The levels
of spinors, which hold one each, are therefore dealt out to two channels, every other level to each: counts,
densities of states and gaps come out right everywhere; the channels are not spin up and down.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, PropertyNotImplementedError, PropertyNotPresent
from ase.dft.kpoints import BandPath, get_monkhorst_pack_size_and_offset
from ase.spectrum.band_structure import BandStructure

from ase_deeph.electronic_structure import ElectronicStructure
from ase_deeph.kpoints import KPoints, k_points, point_list
from ase_deeph.matrix import RealSpaceMatrix
from ase_deeph.populations import Populations


class BandCalculator(Calculator):
    """An ASE calculator that has H and S; a subclass says where they come from."""

    _bands_requested = False

    @abstractmethod
    def get_hamiltonian(self, atoms: Atoms | None = None) -> RealSpaceMatrix:
        """H(R) in eV."""

    @abstractmethod
    def get_electronic_structure(self, atoms: Atoms | None = None) -> ElectronicStructure:
        """H, S and the electrons in them."""

    def _result(self, name: str) -> Any:
        """An electronic result for the structure asked about, computed when it is not there."""
        self.get_hamiltonian()
        if name not in self.results:
            self.results.update(self._electronic_results())
        if name not in self.results:
            raise PropertyNotPresent(f"{name}: only known on a k-mesh, and the k-points set are a path")
        return self.results[name]

    def _electronic_results(self) -> dict[str, Any]:
        """Eigenvalues and the mesh's Fermi level under ASE's names; occupations on a mesh alone."""
        structure = self.get_electronic_structure()
        points = self._k_points()
        results = {
            "fermi_level": structure.fermi_level(),
            "ibz_kpoints": points.irreducible,
            "kpoint_weights": points.weights,
        }
        channels = _dealt_out if structure.hamiltonian.spin == "spinor" else np.asarray
        if points is structure.mesh:
            return {
                **results,
                "eigenvalues": channels(structure.mesh_eigenvalues),
                "occupations": channels(structure.occupation_numbers()),
            }
        return {**results, "eigenvalues": channels(structure.eigenvalues(points.irreducible))}

    def _k_points(self) -> KPoints:
        """The k-points whose eigenvalues are shown: the mesh, or the path or list given as kpts."""
        structure = self.get_electronic_structure()
        if is_path(self.parameters["kpts"]):
            return k_points(structure.atoms, self.parameters["kpts"])
        return structure.mesh

    def get_fermi_level(self) -> float:
        """Fermi level of the k-mesh, eV."""
        return float(self.get_electronic_structure().fermi_level())

    def get_eigenvalues(self, kpt: int = 0, spin: int = 0) -> np.ndarray:
        """(n_bands,) energies in eV at one irreducible k-point; of spinors every other level (see above).

        Raises
        ------
        ValueError : no such channel or k-point.
        """
        return self._at("eigenvalues", kpt, spin)

    def get_occupation_numbers(self, kpt: int = 0, spin: int = 0) -> np.ndarray:
        """(n_bands,) electrons in each level at one irreducible k-point, 0 to 2 without spin, else 0 to 1.

        Raises
        ------
        PropertyNotPresent : the k-points are a path, along which nothing is filled.
        ValueError : no such channel or k-point.
        """
        return self._at("occupations", kpt, spin)

    def _at(self, name: str, kpt: int, spin: int) -> np.ndarray:
        values = self._result(name)
        if not (-len(values) <= spin < len(values) and -values.shape[1] <= kpt < values.shape[1]):
            raise ValueError(
                f"{name}: expected spin below {len(values)} and kpt below {values.shape[1]}, received spin {spin} "
                f"and kpt {kpt}"
            )
        return values[spin, kpt]

    def get_ibz_k_points(self) -> np.ndarray:
        """(n_ibz, 3) the k-points that eigenvalues are given at, fractional; a path as it stands."""
        return self._k_points().irreducible

    def get_bz_k_points(self) -> np.ndarray:
        """(n_bz, 3) all k-points of the mesh, fractional."""
        return self._k_points().points

    def get_bz_to_ibz_map(self) -> np.ndarray:
        """(n_bz,) the irreducible k-point that stands for each k-point."""
        return self._k_points().bz_to_ibz

    def get_k_point_weights(self) -> np.ndarray:
        """(n_ibz,) weights that sum to 1."""
        return self._k_points().weights

    def get_magnetic_moments(self, atoms: Atoms | None = None) -> np.ndarray:
        """Mulliken moments of the atoms in μB: (n_atoms,) for collinear spin, (n_atoms, 3) for spinors.

        Raises
        ------
        PropertyNotImplementedError : H has no spin.
        """
        hamiltonian = self.get_hamiltonian(atoms)
        if hamiltonian.spin == "none":
            raise PropertyNotImplementedError(
                "magnetic moments: the Hamiltonian of this calculator has no spin"
            )
        moments = Populations(self.get_electronic_structure()).magnetic_moments()
        return moments[:, 2] if hamiltonian.spin == "collinear" else moments

    def get_magnetic_moment(self, atoms: Atoms | None = None) -> Any:
        """Moment of the cell in μB: a number, for spinors a vector (3,); see `get_magnetic_moments`."""
        total = self.get_magnetic_moments(atoms).sum(axis=0)
        return float(total) if np.ndim(total) == 0 else total

    def get_number_of_spins(self) -> int:
        """Channels: 1 without spin, 2 for collinear spin (up, down) and for spinors (see above)."""
        return 1 if self.get_hamiltonian().spin == "none" else 2

    def get_spin_polarized(self) -> bool:
        """Whether there is spin up and spin down: for collinear spin alone."""
        return self.get_hamiltonian().spin == "collinear"

    def get_number_of_bands(self) -> int:
        """Bands of a channel at each k-point: the orbitals of the cell, less what a near-singular overlap took away."""
        return self._result("eigenvalues").shape[2]

    def get_homo_lumo(self) -> tuple[float, float]:
        """Highest level at or below and lowest level at or above the Fermi level on the mesh, eV."""
        return self.get_electronic_structure().homo_lumo()

    def band_structure(
        self, path: BandPath | str | np.ndarray | None = None, npoints: int = 100
    ) -> BandStructure:
        """Bands along a path, their reference the Fermi level of the k-mesh.

        Parameters
        ----------
        path : a BandPath, special points such as "GMKG", or (n, 3) fractional k-points; by default the path
            set as kpts or bandpath, else ASE's standard path of the lattice.
        npoints : k-points along a path that is not given point by point.

        Raises
        ------
        ValueError : a structure without a periodic axis, a path of no k-points, or unknown special points.
        """
        given = self.parameters["bandpath"] if path is None else path
        if given is None and isinstance(self.parameters["kpts"], BandPath):
            given = self.parameters["kpts"]
        self._bands_requested = False
        self.parameters["bandpath"] = None
        structure = self.get_electronic_structure()
        if given is not None and not isinstance(given, (str, BandPath)):
            given = BandPath(structure.atoms.cell, kpts=point_list(given))
        return structure.band_structure(given, npoints)


def _dealt_out(levels: np.ndarray) -> np.ndarray:
    """(2, n_kpts, n_bands / 2) from (1, n_kpts, n_bands), the last level left out where their number is odd."""
    even = 2 * (levels.shape[2] // 2)
    return np.stack([levels[0, :, 0:even:2], levels[0, :, 1:even:2]])


def check_path(kpts: Any) -> None:
    """ValueError for a list of no points; a dict with "path" is looked at once there is a cell."""
    if not isinstance(kpts, Mapping):
        point_list(kpts)
    elif "kpts" in kpts:
        point_list(kpts["kpts"])


def is_path(kpts: Any) -> bool:
    """Whether kpts lists points that make no mesh: a BandPath, a dict with "path", an array off any mesh."""
    if isinstance(kpts, Mapping) and "kpts" not in kpts:
        return "path" in kpts
    listed = kpts["kpts"] if isinstance(kpts, Mapping) else getattr(kpts, "kpts", kpts)
    if isinstance(kpts, BandPath):
        return True
    points = np.asarray(listed, dtype=float)
    if points.ndim != 2:
        return False
    try:
        get_monkhorst_pack_size_and_offset(points)
    except ValueError:
        return True
    return False
