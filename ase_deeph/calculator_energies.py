"""Where energy, forces and stress of a calculator come from: a force field, the model itself, or nowhere."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol

from ase import Atoms
from ase.calculators.calculator import PropertyNotImplementedError

from ase_deeph.calculator_prediction import Prediction
from ase_deeph.sources import Committee

NAMES_OF = {
    "energy": ("energy", "free_energy", "energies"),
    "forces": ("forces",),
    "stress": ("stress",),
}
"""ASE's names of what each property of a `Potential` gives."""


class EnergySource(Protocol):
    """What a calculator asks for energies."""

    properties: tuple[str, ...]
    """ASE's names of what it may have."""

    def required(self, atoms: Atoms, names: Iterable[str]) -> bool:
        """Whether one of these needs a calculation."""

    def get(self, name: str, atoms: Atoms, allow_calculation: bool) -> Any:
        """The property in ASE's units, None where a calculation would be needed and is not allowed.

        Raises
        ------
        PropertyNotImplementedError : not for this structure (a stress without a cell, say).
        """


class ForceField:
    """Any ASE calculator; its parameters, its caching and its errors stay its own.

    Parameters
    ----------
    calculator : an instance that gives at least one property.

    Raises
    ------
    ValueError : no calculator, or the class in place of an instance.
    """

    def __init__(self, calculator: Any) -> None:
        if isinstance(calculator, type) or not callable(getattr(calculator, "get_property", None)):
            received = calculator.__name__ if isinstance(calculator, type) else type(calculator).__name__
            raise ValueError(
                f"forcefield: expected an ASE calculator such as EMT(), received {received}; "
                "give an instance that has get_property"
            )
        self.calculator = calculator
        self.properties = tuple(dict.fromkeys(calculator.implemented_properties))

    def required(self, atoms: Atoms, names: Iterable[str]) -> bool:
        """What the calculator itself says."""
        return bool(self.calculator.calculation_required(atoms, list(names)))

    def get(self, name: str, atoms: Atoms | None, allow_calculation: bool) -> Any:
        """What the calculator itself gives."""
        return self.calculator.get_property(name, atoms, allow_calculation)


class ModelEnergies:
    """The energy head of one model, or the mean of a committee's.

    Parameters
    ----------
    source : the models.
    predict : the prediction for a structure, kept until an atom moves.
    """

    def __init__(self, source: Committee, predict: Callable[[Atoms], Prediction]) -> None:
        known = source.potential_properties
        self.properties = tuple(name for kind, names in NAMES_OF.items() if kind in known for name in names)
        self._predict = predict

    def required(self, atoms: Atoms, names: Iterable[str]) -> bool:
        """Whether the last prediction lacks one of them."""
        prediction = self._predict(atoms)
        return not all(self._is_known(name, prediction) for name in names)

    @staticmethod
    def _is_known(name: str, prediction: Prediction) -> bool:
        """Whether a property needs no further run of the network (cached properties live in __dict__)."""
        done = prediction.__dict__
        if name != "stress":
            return "potential" in done
        return "stressed" in done or ("potential" in done and done["potential"].stress is not None)

    def get(self, name: str, atoms: Atoms, allow_calculation: bool) -> Any:
        """A property of the model."""
        prediction = self._predict(atoms)
        if not allow_calculation and not self._is_known(name, prediction):
            return None
        potential = prediction.stressed if name == "stress" else prediction.potential
        value = getattr(potential, "energy" if name == "free_energy" else name)
        if value is None:
            raise PropertyNotImplementedError(
                f"{name} of {atoms.get_chemical_formula()}, pbc={tuple(bool(p) for p in atoms.pbc)}: the model "
                "gives none for this structure"
            )
        return value


def energy_source(
    forcefield: Any, source: Committee, predict: Callable[[Atoms], Prediction]
) -> EnergySource | None:
    """The force field where one is given, else the models' own energies where all of them have some, else None."""
    if forcefield is not None:
        return ForceField(forcefield)
    return ModelEnergies(source, predict) if source.potential_properties else None


def not_implemented(name: str) -> PropertyNotImplementedError:
    """The error for an energy that nobody can give."""
    return PropertyNotImplementedError(
        f"{name}: a Hamiltonian alone has none, and this model was not trained to have it; "
        "give DeepHCalculator(..., forcefield=any ASE calculator)"
    )
