"""DeepHCalculator: ASE in, H(R), S(R), bands and Fermi levels out; no physics of its own."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import (
    BaseCalculator,
    Calculator,
    PropertyNotPresent,
    all_changes,
    compare_atoms,
)
from ase.dft.kpoints import BandPath, get_monkhorst_pack_size_and_offset
from ase.spectrum.band_structure import BandStructure

from ase_deeph.electronic_structure import ElectronicStructure
from ase_deeph.kpoints import DEFAULT_KPTS, KPoints, k_points, point_list
from ase_deeph.matrix import RealSpaceMatrix
from ase_deeph.occupation import DEFAULT_OCCUPATIONS, Smearing
from ase_deeph.sources import Committee, Dtype, Model, Source

log = logging.getLogger(__name__)

_ELECTRONIC = ("eigenvalues", "fermi_level", "ibz_kpoints", "kpoint_weights", "occupations")
_IGNORED = {"initial_charges", "initial_magmoms"}
_AT_THE_LEVEL = 1e-6


@dataclass(frozen=True)
class _Prediction:
    """What one geometry gave; asked for lazily, kept until an atom moves."""

    atoms: Atoms
    source: Committee

    @cached_property
    def hamiltonian(self) -> RealSpaceMatrix:
        """H(R), eV."""
        return self.source.hamiltonian(self.atoms)

    @cached_property
    def overlap(self) -> RealSpaceMatrix | None:
        """S(R); None for an orthonormal basis."""
        return self.source.overlap(self.atoms, self.hamiltonian)


class DeepHCalculator(Calculator):
    """An ASE calculator whose result is a Hamiltonian.

    Parameters
    ----------
    model : None (the small model that ships with the package), a registered name, a path, a HamiltonianModel,
        a list of them (a committee, whose mean is used), or any callable source(atoms) -> RealSpaceMatrix.
    overlap : None (two-centre integrals of the model's own basis) or such a callable.
    kpts : any form that ase.calculators.calculator.kpts2ndarray takes, a BandPath included; default
        {"density": 3.5, "gamma": True}, and 1 along an axis that is not periodic.
    occupations : {"name": "fermi-dirac" | "gaussian" | "marzari-vanderbilt" | "methfessel-paxton" | "fixed",
        "width": 0.05 (eV)}.
    forcefield : a calculator that gives energy, forces and stress; a Hamiltonian has none of its own.
    device : where networks run ("cpu", "gpu", "cuda:1"); None lets JAX choose.
    dtype : precision of networks, "float32" or "float64"; everything after them is double precision.

    Raises
    ------
    ValueError : an unknown model, device or precision, or k-points and occupations that cannot be meant.

    Notes
    -----
    The Fermi level is always that of the last *mesh* given as k-points: a band path does not change it.
    Predictions are kept per geometry (positions, cell, pbc, species); initial charges and magnetic moments do
    not matter.  Methods without an `atoms` argument speak of the structure that the calculator was last
    attached to or asked about, as it is now.  Compiled networks are kept on disk (see compilation_cache.py).

    Examples
    --------
    >>> from ase.build import graphene
    >>> atoms = graphene(vacuum=8.0)
    >>> atoms.calc = DeepHCalculator()  # doctest: +SKIP
    >>> atoms.calc.band_structure().write("bands.json")  # doctest: +SKIP
    """

    implemented_properties: list[str] = list(_ELECTRONIC)  # noqa: RUF012 (declared so by ASE)
    default_parameters: dict[str, Any] = {  # noqa: RUF012
        "kpts": dict(DEFAULT_KPTS),
        "occupations": dict(DEFAULT_OCCUPATIONS),
        "bandpath": None,
    }
    ignored_changes: set[str] = _IGNORED
    accepts_bandpath_keyword = True

    def __init__(
        self,
        model: Model | Sequence[Model] | None = None,
        *,
        overlap: Source | None = None,
        kpts: Any = None,
        occupations: Mapping[str, Any] | None = None,
        forcefield: BaseCalculator | None = None,
        device: str | None = None,
        dtype: Dtype = "float32",
    ) -> None:
        self._source = Committee(model, overlap, device=device, dtype=dtype)
        self._forcefield = forcefield
        self._attached: weakref.ref[Atoms] | None = None
        self._prediction: _Prediction | None = None
        self._structure: ElectronicStructure | None = None
        self._mesh: Any = dict(DEFAULT_KPTS)
        self._bands_requested = False
        super().__init__()
        if forcefield is not None:
            self.implemented_properties = [*_ELECTRONIC, *forcefield.implemented_properties]
        self.set(
            kpts=dict(DEFAULT_KPTS) if kpts is None else kpts,
            occupations=dict(DEFAULT_OCCUPATIONS) if occupations is None else dict(occupations),
        )

    @property
    def model(self) -> Any:
        """The Hamiltonian source (a list of them for a committee)."""
        members = self._source.members
        return members[0] if len(members) == 1 else members

    def set(self, **kwargs: Any) -> dict[str, Any]:
        """Change kpts, occupations or bandpath; nothing that is still right is computed again.

        Raises
        ------
        ValueError : an unknown parameter, or k-points that are none.
        """
        unknown = sorted(set(kwargs) - set(self.default_parameters))
        if unknown:
            known = ", ".join(self.default_parameters)
            raise ValueError(f"set: unknown parameter {unknown[0]!r}; those that can change are {known}")
        if "occupations" in kwargs:
            Smearing.from_dict(kwargs["occupations"])
            self._structure = None
        if "kpts" in kwargs and _is_path(kwargs["kpts"]):
            _check_path(kwargs["kpts"])
        elif "kpts" in kwargs:
            self._mesh = kwargs["kpts"]
            self._structure = None
        if kwargs.get("bandpath") is not None:
            self._bands_requested = True
        changed = super().set(**kwargs)
        if changed:
            self.results = {name: v for name, v in self.results.items() if name not in _ELECTRONIC}
        return changed

    def set_atoms(self, atoms: Atoms) -> None:
        """ASE calls this when the calculator is attached: `atoms.calc = calc`."""
        self._attached = weakref.ref(atoms)

    def reset(self) -> None:
        """Forget everything about the last structure."""
        super().reset()
        self._prediction = self._structure = None

    # What is predicted

    def _subject(self, atoms: Atoms | None) -> Atoms:
        """The structure asked about: the one given, else the one attached, else the last one."""
        if atoms is not None:
            self._attached = weakref.ref(atoms)
            return atoms
        attached = self._attached() if self._attached is not None else None
        subject = attached if attached is not None else self.atoms
        if subject is None:
            raise ValueError(
                "DeepHCalculator has no structure yet: attach it (atoms.calc = calc) or pass atoms"
            )
        return subject

    def _predict(self, atoms: Atoms | None) -> _Prediction:
        """The prediction for a structure, from the last one when no atom has moved."""
        subject = self._subject(atoms)
        last = self._prediction
        if last is None or compare_atoms(last.atoms, subject, excluded_properties=_IGNORED):
            self.reset()
            last = self._prediction = _Prediction(subject.copy(), self._source)
        self.atoms = last.atoms
        return last

    def get_hamiltonian(self, atoms: Atoms | None = None) -> RealSpaceMatrix:
        """H(R) in eV."""
        return self._predict(atoms).hamiltonian

    def get_overlap(self, atoms: Atoms | None = None) -> RealSpaceMatrix | None:
        """S(R); None where the overlap source says that the basis is orthonormal."""
        return self._predict(atoms).overlap

    def get_hamiltonian_spread(self, atoms: Atoms | None = None) -> RealSpaceMatrix:
        """Standard deviation of a committee's H(R), entry by entry, eV; zero for a single model."""
        return self._source.spread(self._predict(atoms).atoms)

    def get_electronic_structure(self, atoms: Atoms | None = None) -> ElectronicStructure:
        """H, S and the electrons in them, with the mesh and the occupations of this calculator."""
        prediction = self._predict(atoms)
        if self._structure is None:
            self._structure = ElectronicStructure(
                prediction.hamiltonian,
                prediction.overlap,
                kpts=self._mesh,
                occupations=self.parameters["occupations"],
            )
        return self._structure

    # ASE's machinery

    def get_property(self, name: str, atoms: Atoms | None = None, allow_calculation: bool = True) -> Any:
        """A property by ASE's name.

        Raises
        ------
        PropertyNotImplementedError : energy, forces or stress without a force field.
        """
        if atoms is None and allow_calculation:
            atoms = self._subject(None)
        return super().get_property(name, atoms, allow_calculation)

    def get_potential_energy(self, atoms: Atoms | None = None, force_consistent: bool = False) -> float:
        """The force field's energy, eV.

        Without a force field there is none.  ASE's `calculate_band_structure` asks for it nevertheless, after
        `set(bandpath=...)`; that one question is answered by NaN.

        Raises
        ------
        PropertyNotImplementedError : no force field, and no band path was just set.
        """
        bands_requested, self._bands_requested = self._bands_requested, False
        if bands_requested and self._forcefield is None:
            self._subject(atoms)
            log.info("a band structure was asked for; the total energy, which a Hamiltonian has not, is NaN")
            return float("nan")
        return super().get_potential_energy(atoms, force_consistent)

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("eigenvalues",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        """Put the properties asked for into `results` (ASE calls this)."""
        prediction = self._predict(atoms)
        for name in properties:
            if name in _ELECTRONIC:
                self.results.update(self._electronic_results())
            elif self._forcefield is not None:
                self.results[name] = self._forcefield.get_property(name, prediction.atoms)

    def _result(self, name: str) -> Any:
        """An electronic result for the structure asked about, computed when it is not there."""
        self._predict(None)
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
        if points is structure.mesh:
            return {
                **results,
                "eigenvalues": structure.mesh_eigenvalues,
                "occupations": structure.occupation_numbers(),
            }
        return {**results, "eigenvalues": structure.eigenvalues(points.irreducible)}

    def _k_points(self) -> KPoints:
        """The k-points whose eigenvalues are shown: the mesh, or the path or list given as kpts."""
        structure = self.get_electronic_structure()
        if _is_path(self.parameters["kpts"]):
            return k_points(structure.atoms, self.parameters["kpts"])
        return structure.mesh

    # What ASE's own tools call

    def get_fermi_level(self) -> float:
        """Fermi level of the k-mesh, eV."""
        return float(self.get_electronic_structure().fermi_level())

    def get_eigenvalues(self, kpt: int = 0, spin: int = 0) -> np.ndarray:
        """(n_bands,) energies in eV at one irreducible k-point."""
        return self._result("eigenvalues")[spin, kpt]

    def get_occupation_numbers(self, kpt: int = 0, spin: int = 0) -> np.ndarray:
        """(n_bands,) electrons in each level at one irreducible k-point, 0 to 2 without spin polarisation.

        Raises
        ------
        PropertyNotPresent : the k-points are a path, along which nothing is filled.
        """
        return self._result("occupations")[spin, kpt]

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

    def get_number_of_spins(self) -> int:
        """2 for collinear spin, else 1 (a spinor result too: its levels hold one electron each)."""
        return 2 if self.get_hamiltonian().spin == "collinear" else 1

    def get_spin_polarized(self) -> bool:
        """Whether there are two spin channels."""
        return self.get_number_of_spins() == 2

    def get_number_of_bands(self) -> int:
        """Bands at each k-point: the orbitals of the cell, less what a near-singular overlap took away."""
        return self._result("eigenvalues").shape[2]

    def get_homo_lumo(self) -> tuple[float, float]:
        """Highest level at or below and lowest level at or above the Fermi level on the mesh, eV."""
        structure = self.get_electronic_structure()
        level, energies = structure.fermi_level(), structure.mesh_eigenvalues
        return float(energies[energies <= level + _AT_THE_LEVEL].max()), float(
            energies[energies >= level - _AT_THE_LEVEL].min()
        )

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


def _check_path(kpts: Any) -> None:
    """ValueError for a list of no points; a dict with "path" is looked at once there is a cell."""
    if not isinstance(kpts, Mapping):
        point_list(kpts)
    elif "kpts" in kpts:
        point_list(kpts["kpts"])


def _is_path(kpts: Any) -> bool:
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
