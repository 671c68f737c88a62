"""DeepHCalculator: ASE in, H(R), S(R), bands and Fermi levels out; no physics of its own."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import BaseCalculator, all_changes, all_properties, compare_atoms

from ase_deeph.calculator_bands import BandCalculator, check_path, is_path
from ase_deeph.calculator_energies import NAMES_OF, energy_source, not_implemented
from ase_deeph.calculator_prediction import Prediction
from ase_deeph.electronic_structure import ElectronicStructure
from ase_deeph.kpoints import DEFAULT_KPTS
from ase_deeph.matrix import RealSpaceMatrix
from ase_deeph.occupation import DEFAULT_OCCUPATIONS, Smearing
from ase_deeph.sources import Committee, Dtype, Model, Source
from ase_deeph.uncertainty import HamiltonianSpread, Uncertainty

log = logging.getLogger(__name__)

_ELECTRONIC = ("eigenvalues", "fermi_level", "ibz_kpoints", "kpoint_weights", "occupations")
_MOMENTS = ("magmom", "magmoms")
_IGNORED = {"initial_charges", "initial_magmoms"}
_IGNORED_BY_MAGNETIC = {"initial_charges"}
DEFAULT_MAX_SPREAD = 0.002


class DeepHCalculator(BandCalculator):
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
    forcefield : a calculator that gives energy, forces and stress; None: the model's own where it was trained
        to have them, else none. `implemented_properties` says what there is.
    device : where networks run ("cpu", "gpu", "cuda:1"); None lets JAX choose.
    dtype : precision of networks, "float32" or "float64"; everything after them is double precision.
    max_spread : eV; where the members of a committee differ by more than this in H (mean absolute deviation,
        each on the common zero of energy), a warning is logged. None: no such warning.

    Raises
    ------
    ValueError : an unknown model, device or precision, or k-points and occupations that cannot be meant.

    Notes
    -----
    The Fermi level is always that of the last *mesh* given as k-points: a band path does not change it.
    Predictions are kept per geometry (positions, cell, pbc, species); initial charges do not matter, initial
    magnetic moments only to a model that reads them.  Methods without an `atoms` argument speak of the structure
    that the calculator was last attached to or asked about, as it is now.  A structure outside the training
    domain (an unseen pair of species, a distance below those seen, other coordination, a spread above
    `max_spread`) is predicted nevertheless, with one logged warning that says why; `get_uncertainty` has the
    numbers.  Compiled networks are kept on disk (see compilation_cache.py).

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
        max_spread: float | None = DEFAULT_MAX_SPREAD,
    ) -> None:
        if max_spread is not None and not max_spread >= 0:
            raise ValueError(f"max_spread: expected None or an energy >= 0 in eV, received {max_spread!r}")
        self._source = Committee(model, overlap, device=device, dtype=dtype)
        self.ignored_changes = _IGNORED_BY_MAGNETIC if self._source.magnetic else _IGNORED
        self._max_spread = max_spread
        self._attached: weakref.ref[Atoms] | None = None
        self._prediction: Prediction | None = None
        self._structure: ElectronicStructure | None = None
        self._mesh: Any = dict(DEFAULT_KPTS)
        self._bands_requested = False
        super().__init__()
        self._energies = energy_source(forcefield, self._source, self._predict)
        offered = () if self._energies is None else self._energies.properties
        self._energy_names = tuple(name for name in offered if name not in _ELECTRONIC)
        self.implemented_properties = [*_ELECTRONIC, *self._energy_names]
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
        if "kpts" in kwargs and is_path(kwargs["kpts"]):
            check_path(kwargs["kpts"])
        elif "kpts" in kwargs:
            self._mesh = kwargs["kpts"]
            self._structure = None
        if kwargs.get("bandpath") is not None:
            self._bands_requested = True
        changed = super().set(**kwargs)
        if changed:
            of_levels = (*_ELECTRONIC, *_MOMENTS)
            self.results = {name: v for name, v in self.results.items() if name not in of_levels}
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

    def _predict(self, atoms: Atoms | None) -> Prediction:
        """The prediction for a structure, from the last one when no atom has moved."""
        subject = self._subject(atoms)
        last = self._prediction
        if last is None or compare_atoms(last.atoms, subject, excluded_properties=self.ignored_changes):
            self.reset()
            last = self._prediction = Prediction(subject.copy(), self._source, self._max_spread)
        self.atoms = last.atoms
        return last

    def get_hamiltonian(self, atoms: Atoms | None = None) -> RealSpaceMatrix:
        """H(R) in eV."""
        return self._predict(atoms).hamiltonian

    def get_overlap(self, atoms: Atoms | None = None) -> RealSpaceMatrix | None:
        """S(R); None where the overlap source says that the basis is orthonormal."""
        return self._predict(atoms).overlap

    def get_hamiltonian_spread(self, atoms: Atoms | None = None) -> RealSpaceMatrix:
        """Standard deviation of a committee's H(R), entry by entry, eV; zero for a single model.

        Each member keeps its own zero of energy here; `get_uncertainty` puts them on a common one.
        """
        members = self._predict(atoms).members
        return HamiltonianSpread.raw(members).standard_deviation() if len(members) > 1 else members[0] * 0.0

    def get_uncertainty(self, atoms: Atoms | None = None) -> Uncertainty:
        """How far the members of a committee disagree: about H block by block, levels, Fermi level and gap.

        Raises
        ------
        ValueError : a single model; two or more are needed.
        """
        prediction = self._predict(atoms)
        structure = self.get_electronic_structure() if prediction.knows_overlap else None
        return Uncertainty(prediction.spread, prediction.outside_domain, structure)

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
        PropertyNotImplementedError : energy, forces or stress without a force field or a model that has them,
            or not for this structure; "magmom" and "magmoms" without spin.
        """
        if atoms is None and allow_calculation:
            atoms = self._subject(None)
        if name in self._energy_names:
            value = self._refreshed(name, self._subject(atoms), allow_calculation)
            return value.copy() if isinstance(value, np.ndarray) else value
        if any(name in names for names in NAMES_OF.values()):
            raise not_implemented(name)
        if name in _MOMENTS:
            return self._moments(name, atoms, allow_calculation)
        return super().get_property(name, atoms, allow_calculation)

    def calculation_required(self, atoms: Atoms, properties: Sequence[str]) -> bool:
        """Whether one of these properties of a structure is not known yet; the force field speaks for its own."""
        energies = [name for name in properties if name in self._energy_names]
        others = [name for name in properties if name not in self._energy_names]
        if energies and self._energies is not None and self._energies.required(atoms, energies):
            return True
        return bool(others or not energies) and super().calculation_required(atoms, others)

    def _moments(self, name: str, atoms: Atoms | None, allow_calculation: bool) -> Any:
        """Mulliken moments, put into `results` where they are the numbers that ASE's files expect (collinear)."""
        if not allow_calculation:
            known = atoms is not None and self.atoms is not None and not self.check_state(atoms)
            return self.results.get(name) if known else None
        moments = self.get_magnetic_moments(atoms)
        if moments.ndim == 1:
            self.results |= {"magmoms": moments, "magmom": float(moments.sum())}
        return moments.copy() if name == "magmoms" else self.get_magnetic_moment(atoms)

    def _refreshed(self, name: str, atoms: Atoms, allow_calculation: bool = True) -> Any:
        """One of the energies, also put into `results`, where ASE's own names stand and what still holds."""
        assert self._energies is not None
        self._predict(atoms)
        held = [n for n in self.results if n in self._energy_names]
        if held and self._energies.required(atoms, held):
            self.results = {n: v for n, v in self.results.items() if n not in held}
        value = self._energies.get(name, atoms, allow_calculation)
        if value is not None and name in all_properties:
            self.results[name] = value
        return value

    def get_potential_energy(self, atoms: Atoms | None = None, force_consistent: bool = False) -> float:
        """The energy of the force field or of the model, eV.

        Where neither has one there is none.  ASE's `calculate_band_structure` asks for it nevertheless, after
        `set(bandpath=...)`; that one question is answered by NaN.

        Raises
        ------
        PropertyNotImplementedError : no such energy, and no band path was just set.
        """
        bands_requested, self._bands_requested = self._bands_requested, False
        if bands_requested and "energy" not in self._energy_names:
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
        subject = self._predict(atoms).atoms if atoms is None else self._subject(atoms)
        for name in properties:
            if name in self._energy_names:
                self._refreshed(name, subject)
            elif name in _ELECTRONIC:
                self._predict(subject)
                self.results.update(self._electronic_results())
