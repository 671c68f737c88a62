"""What can be recorded of one frame: named functions of its electronic structure, and functions of the user."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from ase_deeph.electronic_structure import ElectronicStructure
from ase_deeph.populations import Populations

Function = Callable[[ElectronicStructure], Any]


@dataclass(frozen=True, eq=False)
class DosGrid:
    """Where densities of states are recorded.

    Parameters
    ----------
    energies : (n_energies,) eV relative to the Fermi level of each frame.
    width : standard deviation of a Gaussian in eV.

    Raises
    ------
    ValueError : no energies, or a width that is not positive.
    """

    energies: np.ndarray = field(default_factory=lambda: np.linspace(-10.0, 10.0, 401))
    width: float = 0.1

    def __post_init__(self) -> None:
        energies = np.asarray(self.energies, dtype=float)
        if energies.ndim != 1 or not len(energies) or not np.all(np.isfinite(energies)):
            raise ValueError(f"DOS energies: expected a list of numbers in eV, received {self.energies!r}")
        if not np.isfinite(self.width) or self.width <= 0:
            raise ValueError(f"DOS width: expected a positive width in eV, received {self.width}")
        object.__setattr__(self, "energies", energies)


@dataclass(frozen=True, eq=False)
class Frame:
    """The electrons of one step, and where eigenvalues and densities of states are wanted.

    Parameters
    ----------
    structure : H, S and their levels.
    kpts : (n_kpts, 3) fractional, of the eigenvalues.
    dos : grid and width.
    """

    structure: ElectronicStructure
    kpts: np.ndarray
    dos: DosGrid

    @cached_property
    def populations(self) -> Populations:
        """Charges and bond orders."""
        return Populations(self.structure)

    def eigenvalues(self) -> np.ndarray:
        """(n_spins, n_kpts, n_orbitals) eV; NaN for bands that a near-singular overlap took away."""
        structure, mesh = self.structure, self.structure.mesh.irreducible
        on_mesh = mesh.shape == self.kpts.shape and np.allclose(mesh, self.kpts, atol=1e-12)
        found = structure.mesh_eigenvalues if on_mesh else structure.eigenvalues(self.kpts)
        lacking = structure.hamiltonian.n_orbitals - found.shape[2]
        return np.pad(found, ((0, 0), (0, 0), (0, lacking)), constant_values=np.nan)

    def density_of_states(self) -> Any:
        """(n_energies,) or (2, n_energies) states/eV."""
        level = self.structure.fermi_level()
        return self.structure.dos(self.dos.energies + level, width=self.dos.width)


OBSERVABLES: Mapping[str, Callable[[Frame], Any]] = {
    "fermi_level": lambda frame: frame.structure.fermi_level(),
    "gap": lambda frame: float(frame.structure.band_gap()),
    "direct_gap": lambda frame: frame.structure.band_gap().direct,
    "eigenvalues": Frame.eigenvalues,
    "dos": Frame.density_of_states,
    "mulliken": lambda frame: frame.populations.mulliken_charges(),
    "lowdin": lambda frame: frame.populations.lowdin_charges(),
    "bond_orders": lambda frame: frame.populations.bond_orders(),
}
"""fermi_level, gap, direct_gap (eV, on the calculator's mesh); eigenvalues (eV, on the trajectory's k-points); dos
(states/eV relative to each frame's Fermi level); mulliken, lowdin (charges in e); bond_orders (Mayer)."""

BOOKKEEPING = (
    "step",
    "time",
    "frame",
    "energy",
    "kinetic_energy",
    "temperature",
    "positions",
    "momenta",
    "cell",
)
"""What every frame has: time in fs, frame of the ASE trajectory (-1: none), eV, K, Å, ASE's unit of momentum."""


def check_names(record: Sequence[str], functions: Mapping[str, Function]) -> None:
    """ValueError for observables that are unknown or ambiguous, or functions that are none."""
    if isinstance(record, str):
        raise ValueError(f"record: expected a list of names, received {record!r}; give ({record!r},)")
    unknown = [name for name in record if name not in OBSERVABLES]
    if unknown:
        raise ValueError(
            f"record: unknown observable {unknown[0]!r}; known are {', '.join(OBSERVABLES)}, "
            "others as functions={name: callable}"
        )
    for name, function in functions.items():
        if not callable(function):
            raise ValueError(f"functions: expected a callable for {name!r}, received {function!r}")
        if name in OBSERVABLES or name in BOOKKEEPING or not str(name).isidentifier():
            raise ValueError(
                f"functions: {name!r} is taken or no name; use letters, digits and underscores, and none of "
                f"{', '.join([*OBSERVABLES, *BOOKKEEPING])}"
            )


def as_array(name: str, value: Any) -> np.ndarray:
    """Numbers that can be recorded; ValueError for anything else."""
    array = np.asarray(value)
    if array.dtype.kind not in "biufc":
        raise ValueError(
            f"{name}: expected numbers, received {type(value).__name__}; return an array or a number"
        )
    return array
