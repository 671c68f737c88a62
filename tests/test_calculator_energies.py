"""The composite: H from the model, energies from a force field or from the model's own head, ASE unmodified."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk, molecule
from ase.calculators.calculator import BaseCalculator, PropertyNotImplementedError
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from ase.filters import FrechetCellFilter
from ase.io import Trajectory
from ase.md.verlet import VelocityVerlet
from ase.optimize import BFGS, FIRE
from ase.phonons import Phonons

from ase_deeph import DeepHCalculator, ElectronicTrajectory, ElectronicTrajectoryReader, RealSpaceMatrix
from tests.toys import Huckel

DELTA = 1e-4


@dataclass(frozen=True)
class SpringPotential:
    """What the interface asks of a potential's result."""

    energy: float
    forces: np.ndarray
    stress: np.ndarray | None
    energies: np.ndarray


class Springs(Huckel):
    """A stand-in for a model with an energy head: every atom tied to where it was made."""

    def __init__(
        self, home: Atoms, strength: float = 1.0, names: tuple[str, ...] = ("energy", "forces")
    ) -> None:
        super().__init__()
        self.home, self.k = home.positions.copy(), strength
        self.potential_properties = frozenset(names)
        self.asked: list[bool | None] = []

    def potential(
        self, atoms: Atoms, *, dtype: str = "float32", stress: bool | None = None
    ) -> SpringPotential:
        self.asked.append(stress)
        away = atoms.positions - self.home
        energies = 0.5 * self.k * np.sum(away**2, axis=1)
        pressed = np.full(6, 0.01 * self.k) if stress and all(atoms.pbc) else None
        return SpringPotential(float(energies.sum()), -self.k * away, pressed, energies)


@pytest.fixture
def methane() -> Atoms:
    atoms = molecule("CH4")
    atoms.positions += 0.02 * np.arange(15).reshape(5, 3) % 0.07
    return atoms


def lennard_jones(**changes: float) -> LennardJones:
    return LennardJones(**{"sigma": 1.3, "epsilon": 0.2, "rc": 4.0, "smooth": True, **changes})


def composite(forcefield: BaseCalculator) -> DeepHCalculator:
    return DeepHCalculator(Huckel(), forcefield=forcefield, kpts=(1, 1, 1))


def numerical_force(atoms: Atoms, atom: int, axis: int) -> float:
    moved = atoms.copy()
    moved.calc = atoms.calc
    energies = []
    for step in (DELTA, -2 * DELTA):
        moved.positions[atom, axis] += step
        energies.append(moved.get_potential_energy())
    return -(energies[0] - energies[1]) / (2 * DELTA)


class TestForceField:
    @pytest.mark.parametrize("forcefield", [EMT(), lennard_jones()], ids=["EMT", "LennardJones"])
    def test_everything_is_the_force_fields(self, forcefield: BaseCalculator, methane: Atoms) -> None:
        alone = methane.copy()
        alone.calc = type(forcefield)(**forcefield.parameters)
        methane.calc = composite(forcefield)
        assert methane.get_potential_energy() == alone.get_potential_energy()
        assert np.array_equal(methane.get_forces(), alone.get_forces())
        assert np.array_equal(methane.get_potential_energies(), alone.get_potential_energies())
        assert methane.get_potential_energy(force_consistent=True) == alone.get_potential_energy()
        assert set(forcefield.implemented_properties) <= set(methane.calc.implemented_properties)
        assert methane.get_forces()[1, 2] == pytest.approx(numerical_force(methane, 1, 2), rel=1e-6, abs=1e-6)

    def test_stress_only_where_there_is_a_cell(self, methane: Atoms) -> None:
        methane.calc = composite(lennard_jones())
        methane.get_potential_energy()
        with pytest.raises(PropertyNotImplementedError):
            methane.get_stress()
        assert "energy" in methane.calc.results, "what is known stays known"
        diamond = bulk("C")
        diamond.calc = composite(lennard_jones())
        alone = diamond.copy()
        alone.calc = lennard_jones()
        assert np.array_equal(diamond.get_stress(), alone.get_stress())

    def test_its_parameters_and_its_cache_are_its_own(self, methane: Atoms) -> None:
        forcefield = lennard_jones()
        methane.calc = composite(forcefield)
        first = methane.get_potential_energy()
        forces = methane.get_forces()
        forcefield.set(epsilon=0.4)
        forcefield.reset()
        assert methane.calc.calculation_required(methane, ["forces"])
        assert methane.get_potential_energy() == pytest.approx(2 * first)
        assert np.allclose(methane.get_forces(), 2 * forces)
        methane.get_forces()[:] = 0.0
        assert np.abs(methane.get_forces()).max() > 0, "a caller's array is a copy"

    def test_calculation_required(self, methane: Atoms) -> None:
        methane.calc = calc = composite(lennard_jones())
        assert calc.calculation_required(methane, ["energy"])
        methane.get_potential_energy()
        assert not calc.calculation_required(methane, ["energy", "forces"])
        assert calc.calculation_required(methane, ["energy", "fermi_level"])
        calc.get_property("fermi_level", methane)
        assert not calc.calculation_required(methane, ["energy", "fermi_level"])
        assert calc.get_property("energy", methane, allow_calculation=False) is not None
        methane.positions[0] += 0.01
        assert calc.calculation_required(methane, ["energy"])
        assert calc.get_property("energy", methane, allow_calculation=False) is None

    def test_errors_are_the_force_fields(self) -> None:
        iodine = Atoms("CI", positions=[[0, 0, 0], [0, 0, 2.0]])
        iodine.calc = composite(EMT())
        with pytest.raises(NotImplementedError, match="EMT"):
            iodine.get_potential_energy()
        with pytest.raises(ValueError, match="instance"):
            DeepHCalculator(Huckel(), forcefield=EMT)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="forcefield"):
            DeepHCalculator(Huckel(), forcefield="emt")  # type: ignore[arg-type]

    def test_unknown_names_stay_out_of_results(self, methane: Atoms) -> None:
        class Peculiar(LennardJones):
            implemented_properties = [*LennardJones.implemented_properties, "colour"]  # noqa: RUF012

            def calculate(self, *args: Any, **kwargs: Any) -> None:
                super().calculate(*args, **kwargs)
                self.results["colour"] = "blue"

        methane.calc = composite(Peculiar(sigma=1.3))
        assert methane.calc.get_property("colour", methane) == "blue"
        assert set(methane.get_properties(["energy"])) >= {"energy"}

    def test_initial_charges_reach_it(self, methane: Atoms) -> None:
        """H does not depend on them, a force field may."""

        class Charged(LennardJones):
            def calculate(self, atoms: Any = None, *args: Any, **kwargs: Any) -> None:
                super().calculate(atoms, *args, **kwargs)
                self.results["energy"] = float(atoms.get_initial_charges().sum())

        methane.calc = composite(Charged())
        assert methane.get_potential_energy() == 0.0
        source = methane.calc.model
        methane.calc.get_fermi_level()
        methane.set_initial_charges([1.0, 0, 0, 0, 0])
        assert methane.get_potential_energy() == 1.0
        methane.calc.get_fermi_level()
        assert source.calls == 1

    def test_tblite(self) -> None:
        tblite = pytest.importorskip("tblite.ase")
        water = molecule("CH4")
        water.positions[1] += 0.05
        water.calc = DeepHCalculator(Huckel(), forcefield=tblite.TBLite(method="GFN2-xTB", verbosity=0))
        alone = water.copy()
        alone.calc = tblite.TBLite(method="GFN2-xTB", verbosity=0)
        assert water.get_potential_energy() == pytest.approx(alone.get_potential_energy(), abs=1e-8)
        assert np.allclose(water.get_forces(), alone.get_forces(), atol=1e-6)
        assert water.get_charges().sum() == pytest.approx(0.0, abs=1e-6)
        assert water.calc.get_homo_lumo()[0] < water.calc.get_fermi_level()
        water.calc.set(kpts=(1, 1, 1))
        assert BFGS(water, logfile=None).run(fmax=0.05, steps=30)


class TestModelEnergies:
    def test_the_models_own(self, methane: Atoms) -> None:
        source = Springs(molecule("CH4"))
        methane.calc = DeepHCalculator(source)
        assert {"energy", "free_energy", "energies", "forces"} <= set(methane.calc.implemented_properties)
        assert "stress" not in methane.calc.implemented_properties
        energy = methane.get_potential_energy()
        assert energy == methane.get_potential_energy(force_consistent=True)
        assert methane.get_potential_energies().sum() == pytest.approx(energy)
        assert methane.get_forces()[0, 1] == pytest.approx(numerical_force(methane, 0, 1), abs=1e-8)
        assert source.calls == 0, "energies need no Hamiltonian"

    def test_one_run_per_geometry(self, methane: Atoms) -> None:
        source = Springs(molecule("CH4"))
        methane.calc = calc = DeepHCalculator(source)
        assert calc.get_property("forces", methane, allow_calculation=False) is None
        assert calc.calculation_required(methane, ["energy"])
        methane.get_potential_energy()
        methane.get_forces()
        calc.get_fermi_level()
        assert len(source.asked) == 1
        assert not calc.calculation_required(methane, ["energy", "forces"])

    def test_a_committee_gives_the_mean_of_what_all_have(self, methane: Atoms) -> None:
        soft, hard = (Springs(molecule("CH4"), k) for k in (1.0, 3.0))
        methane.calc = DeepHCalculator([soft, hard], max_spread=None)
        expected = Springs(molecule("CH4"), 2.0).potential(methane)
        assert methane.get_potential_energy() == pytest.approx(expected.energy)
        assert np.allclose(methane.get_forces(), expected.forces)
        assert np.allclose(methane.get_potential_energies(), expected.energies)
        calc = DeepHCalculator([soft, Huckel()])
        with pytest.raises(PropertyNotImplementedError, match="forcefield="):
            calc.get_property("forces", methane)

    def test_stress_where_the_structure_has_one(self, methane: Atoms) -> None:
        diamond = bulk("C")
        source = Springs(diamond, names=("energy", "forces", "stress"))
        diamond.calc = DeepHCalculator(source)
        assert np.allclose(diamond.get_stress(), 0.01)
        assert np.allclose(diamond.get_forces(), 0.0)
        assert source.asked == [None, True]
        methane.calc = DeepHCalculator(Springs(methane, names=("energy", "forces", "stress")))
        methane.get_potential_energy()
        with pytest.raises(PropertyNotImplementedError, match="stress of CH4"):
            methane.get_stress()

    def test_a_force_field_wins(self, methane: Atoms) -> None:
        source = Springs(molecule("CH4"))
        methane.calc = DeepHCalculator(source, forcefield=EMT())
        alone = methane.copy()
        alone.calc = EMT()
        assert methane.get_potential_energy() == alone.get_potential_energy()
        assert not source.asked

    def test_broken_energies_are_named(self, methane: Atoms) -> None:
        source = Springs(molecule("CH4"), strength=np.nan)
        methane.calc = DeepHCalculator(source)
        with pytest.raises(ValueError, match="NaN"):
            methane.get_potential_energy()


class TestASEUnmodified:
    def test_dynamics_and_trajectory(self, methane: Atoms, tmp_path: Path) -> None:
        methane.calc = calc = DeepHCalculator(Springs(molecule("CH4"), 10.0))
        methane.set_momenta(np.random.default_rng(0).normal(0.0, 0.2, (5, 3)))
        total = methane.get_total_energy()
        dynamics = VelocityVerlet(methane, 0.5 * units.fs, trajectory=str(tmp_path / "md.traj"))
        levels: list[float] = []
        dynamics.attach(lambda: levels.append(calc.get_fermi_level()))
        dynamics.run(5)
        assert methane.get_total_energy() == pytest.approx(total, abs=1e-3)
        assert len(set(levels)) == 6
        with Trajectory(tmp_path / "md.traj") as frames:
            assert len(frames) == 6
            assert np.array_equal(frames[5].get_forces(), methane.get_forces())
            assert frames[5].get_potential_energy() == methane.get_potential_energy()
            with pytest.raises(PropertyNotImplementedError):
                frames[5].get_stress()

    def test_optimisers(self, methane: Atoms) -> None:
        for optimiser in (BFGS, FIRE):
            start = methane.copy()
            start.calc = composite(EMT())
            assert optimiser(start, logfile=None).run(fmax=0.05, steps=200)
            assert np.linalg.norm(start.get_forces(), axis=1).max() < 0.05

    def test_cell_filter(self) -> None:
        crystal = bulk("C", "fcc", a=2.0)
        crystal.calc = composite(lennard_jones())
        alone = crystal.copy()
        alone.calc = lennard_jones()
        for atoms in (crystal, alone):
            assert BFGS(FrechetCellFilter(atoms), logfile=None).run(fmax=1e-4, steps=60)
        assert crystal.get_volume() == pytest.approx(alone.get_volume(), rel=1e-10)
        assert np.abs(crystal.get_stress()).max() < 1e-3

    def test_phonons_of_ase_and_phonopy_agree(self, tmp_path: Path) -> None:
        crystal = bulk("C", "fcc", a=1.9)
        forcefield = lennard_jones(rc=3.0)
        crystal.calc = composite(forcefield)
        BFGS(FrechetCellFilter(crystal), logfile=None).run(fmax=1e-5)
        phonons = Phonons(crystal, crystal.calc, supercell=(3, 3, 3), delta=0.01, name=tmp_path / "cache")
        phonons.run()
        phonons.read(acoustic=True)
        points = np.array([[0.0, 0.0, 0.0], [1 / 3, 0.0, 0.0], [1 / 3, 1 / 3, 0.0]])
        energies = phonons.band_structure(points, verbose=False)
        assert np.abs(energies[0]).max() < 1e-3
        assert energies[1].min() > 1e-3
        phonopy = pytest.importorskip("phonopy")
        assert np.allclose(_by_phonopy(phonopy, crystal, points), energies, rtol=0.01, atol=2e-4)


def _by_phonopy(phonopy: Any, crystal: Atoms, points: np.ndarray) -> np.ndarray:
    """(n_points, n_branches) eV, along phonopy's own route."""
    from phonopy.structure.atoms import PhonopyAtoms

    cell = PhonopyAtoms(
        symbols=crystal.get_chemical_symbols(), cell=crystal.cell.array, positions=crystal.positions
    )
    phonon = phonopy.Phonopy(cell, supercell_matrix=np.diag([3, 3, 3]), primitive_matrix=np.eye(3))
    phonon.generate_displacements(distance=0.01)
    forces = []
    for displaced in phonon.supercells_with_displacements:
        atoms = Atoms(displaced.symbols, positions=displaced.positions, cell=displaced.cell, pbc=True)
        atoms.calc = crystal.calc
        forces.append(atoms.get_forces())
    phonon.forces = np.array(forces)
    phonon.produce_force_constants()
    phonon.symmetrize_force_constants()
    phonon.run_qpoints(points)
    terahertz = np.abs(phonon.qpoints.frequencies)
    return terahertz * 1e12 * units._hplanck / units._e


def test_the_stand_in_returns_what_a_source_returns(methane: Atoms) -> None:
    assert isinstance(Springs(methane)(methane), RealSpaceMatrix)


def test_a_trained_head_drives_dynamics(tmp_path: Path) -> None:
    """H, energy, forces and stress from one model file; two compilations for a motion, one for each."""
    from tests.test_potential import EnergyConfig, _model

    head = EnergyConfig(cutoff=2.5, backbone_blocks=0, l_max=1, channels=2, n_blocks=1, n_radial=4, hidden=4)
    model = _model(head)
    model._potential_shapes.shapes.clear()
    diamond = bulk("C") * (2, 1, 1)
    diamond.rattle(0.05, seed=1)
    diamond.calc = DeepHCalculator(model, overlap=lambda atoms: None, kpts=(1, 1, 1))  # type: ignore[arg-type,return-value]
    expected = model.potential(diamond)
    assert diamond.get_potential_energy() == pytest.approx(expected.energy, abs=1e-4)
    assert np.allclose(diamond.get_forces(), expected.forces, atol=1e-4)
    assert np.allclose(diamond.get_stress(), expected.stress, atol=1e-6)
    dynamics = VelocityVerlet(diamond, 0.5 * units.fs)
    with ElectronicTrajectory(tmp_path / "a.h5", diamond, dynamics=dynamics) as electrons:
        dynamics.attach(electrons)
        dynamics.run(5)
    reader = ElectronicTrajectoryReader(tmp_path / "a.h5")
    total = reader["energy"] + reader["kinetic_energy"]
    assert np.ptp(total) < 0.05 * np.ptp(reader["energy"]) + 1e-4
    assert reader["fermi_level"][-1] == pytest.approx(diamond.calc.get_fermi_level(), abs=1e-9)
    assert model.n_compilations <= 2
