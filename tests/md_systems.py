"""A chain of atoms that moves in no time: hoppings that follow the bond lengths, springs between neighbours."""

from __future__ import annotations

import numpy as np
from ase import Atoms, units
from ase.calculators.calculator import Calculator, all_changes
from ase.md.verlet import VelocityVerlet

from ase_deeph import AtomPairs, DeepHCalculator, RealSpaceMatrix
from tests.systems import S_ORBITAL

SPACING = 1.0


def zigzag(n: int = 6, *, seed: int = 0) -> Atoms:
    """n hydrogen atoms in a row, periodic, with momenta."""
    atoms = Atoms(f"H{n}", cell=[n * SPACING, 8.0, 8.0], pbc=(True, False, False))
    atoms.positions[:, 0] = SPACING * np.arange(n)
    atoms.positions += np.random.default_rng(seed).normal(0.0, 0.02, (n, 3))
    atoms.set_momenta(np.random.default_rng(seed + 1).normal(0.0, 0.15, (n, 3)))
    return atoms


def follows_the_bonds(atoms: Atoms) -> RealSpaceMatrix:
    """H with hopping -3 eV exp(-2 (d - 1)) between neighbours."""
    pairs = AtomPairs.from_atoms(atoms, 1.6)
    d = np.linalg.norm(pairs.displacements(atoms), axis=1)
    return RealSpaceMatrix(
        S_ORBITAL, pairs, atoms.copy(), np.where(pairs.on_site, 0.0, -3 * np.exp(-2 * (d - 1)))
    )


class Springs(Calculator):
    """E = Σ_i |x_i - h_i|² with h_i = (i, 0, 0): exact to the last digit, whatever the restart."""

    implemented_properties = ["energy", "forces"]  # noqa: RUF012

    def calculate(self, atoms=None, properties=("energy",), system_changes=tuple(all_changes)) -> None:  # type: ignore[no-untyped-def]
        super().calculate(atoms, properties, system_changes)
        home = np.zeros((len(self.atoms), 3))
        home[:, 0] = SPACING * np.arange(len(self.atoms))
        away = self.atoms.positions - home
        self.results = {"energy": float((away**2).sum()), "forces": -2.0 * away}


def calculator() -> DeepHCalculator:
    """Both, on a mesh of four k-points."""
    return DeepHCalculator(
        follows_the_bonds,
        overlap=lambda atoms: None,
        forcefield=Springs(),
        kpts=(4, 1, 1),  # type: ignore[arg-type,return-value]
    )


def moving(n: int = 6) -> tuple[Atoms, VelocityVerlet]:
    """The chain with its calculator, and its dynamics."""
    atoms = zigzag(n)
    atoms.calc = calculator()
    return atoms, VelocityVerlet(atoms, 0.5 * units.fs)
