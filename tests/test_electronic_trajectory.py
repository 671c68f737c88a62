"""The electronic structure along a run: right, aligned, appended to, and safe whatever kills the process."""

from __future__ import annotations

import atexit
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import units
from ase.io import Trajectory
from ase.md.verlet import VelocityVerlet
from ase.optimize import BFGS

from ase_deeph import ElectronicStructure, ElectronicTrajectory, ElectronicTrajectoryReader
from ase_deeph.electronic_trajectory import OBSERVABLES, DosGrid
from ase_deeph.io import journal
from ase_deeph.populations import Populations
from tests.md_systems import calculator, follows_the_bonds, moving, zigzag

ROOT = Path(__file__).parents[1]


def test_every_frame_is_what_the_structure_gives(tmp_path: Path) -> None:
    atoms, dynamics = moving()
    grid = DosGrid(np.linspace(-8, 8, 33), 0.4)
    with (
        Trajectory(tmp_path / "run.traj", "w", atoms) as frames,
        ElectronicTrajectory(
            tmp_path / "run.h5",
            atoms,
            record=tuple(OBSERVABLES),
            functions={"band_energy": band_energy, "count": lambda es: len(es.atoms)},
            kpts=[[0, 0, 0], [0.3, 0, 0]],
            dos=grid,
            dynamics=dynamics,
            trajectory=frames,
        ) as electrons,
    ):
        dynamics.attach(frames, interval=2)
        dynamics.attach(electrons, interval=2)
        dynamics.run(6)
    reader = ElectronicTrajectoryReader(tmp_path / "run.h5")
    assert reader["step"].tolist() == [0, 2, 4, 6]
    assert np.allclose(reader["time"], [0, 1, 2, 3])
    assert reader["frame"].tolist() == [0, 1, 2, 3]
    assert np.array_equal(reader["count"], [6] * 4)
    with Trajectory(tmp_path / "run.traj") as frames:
        for n, frame in enumerate(frames):
            again = reader.atoms(n)
            assert np.array_equal(again.positions, frame.positions)
            assert np.array_equal(again.get_momenta(), frame.get_momenta())
            assert reader["energy"][n] == frame.get_potential_energy()
            assert reader["temperature"][n] == pytest.approx(frame.get_temperature())
            es = ElectronicStructure(follows_the_bonds(frame), kpts=(4, 1, 1))
            level = es.fermi_level()
            assert reader["fermi_level"][n] == pytest.approx(level, abs=1e-10)
            assert reader["gap"][n] == pytest.approx(float(es.band_gap()), abs=1e-10)
            assert reader["direct_gap"][n] == pytest.approx(es.band_gap().direct, abs=1e-10)
            assert np.allclose(reader["eigenvalues"][n], es.eigenvalues([[0, 0, 0], [0.3, 0, 0]]))
            assert np.allclose(reader["dos"][n], es.dos(grid.energies + level, width=0.4))
            assert np.allclose(reader["mulliken"][n], Populations(es).mulliken_charges(), atol=1e-9)
            assert np.allclose(reader["lowdin"][n], reader["mulliken"][n], atol=1e-9)
            assert np.allclose(reader["bond_orders"][n], Populations(es).bond_orders(), atol=1e-9)
            assert reader["band_energy"][n] == pytest.approx(band_energy(es))
    energies, mean = reader.average_dos(start=1)
    assert np.array_equal(energies, grid.energies)
    assert np.allclose(mean, reader["dos"][1:].mean(axis=0))


def band_energy(structure: ElectronicStructure) -> float:
    """Σ f ε, what a user may ask for."""
    filled = structure.occupation_numbers() * structure.mesh_eigenvalues
    return float(np.einsum("skn,k->", filled, structure.mesh.weights))


def test_picture(tmp_path: Path) -> None:
    atoms, dynamics = moving()
    with ElectronicTrajectory(tmp_path / "a.h5", atoms, record=("gap", "fermi_level", "dos")) as electrons:
        dynamics.attach(electrons)
        dynamics.run(3)
    reader = ElectronicTrajectoryReader(tmp_path / "a.h5")
    assert np.all(np.isnan(reader["time"])), "nobody said which dynamics"
    assert reader["step"].tolist() == [0, 1, 2, 3]
    reader.plot(tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG"
    with pytest.raises(KeyError, match="recorded are"):
        reader["mulliken"]


def test_optimisers_and_other_calculators(tmp_path: Path) -> None:
    """A relaxation has steps and no time; the forces may be somebody else's."""
    atoms = zigzag(4)
    atoms.calc = calculator()._energies.calculator
    electronic = calculator()
    relaxation = BFGS(atoms, logfile=None)
    with ElectronicTrajectory(
        tmp_path / "a.h5", atoms, calculator=electronic, dynamics=relaxation
    ) as electrons:
        relaxation.attach(electrons)
        relaxation.run(fmax=1e-3)
    reader = ElectronicTrajectoryReader(tmp_path / "a.h5")
    assert len(reader) == relaxation.nsteps + 1
    assert reader["energy"][-1] < reader["energy"][0]
    assert np.all(np.isnan(reader["time"]))


def test_resuming_appends_and_equals_the_run_in_one_go(tmp_path: Path) -> None:
    atoms, dynamics = moving()
    with ElectronicTrajectory(tmp_path / "whole.h5", atoms, dynamics=dynamics) as electrons:
        dynamics.attach(electrons, interval=2)
        dynamics.run(8)
    for n_steps in (4, 4):
        atoms, dynamics = moving()
        if (tmp_path / "parts.h5").exists():
            last = ElectronicTrajectoryReader(tmp_path / "parts.h5").atoms()
            atoms.positions, atoms.arrays["momenta"] = last.positions, last.arrays["momenta"]
        with ElectronicTrajectory(tmp_path / "parts.h5", atoms, dynamics=dynamics) as electrons:
            dynamics.attach(electrons, interval=2)
            dynamics.run(n_steps)
            assert ElectronicTrajectoryReader(tmp_path / "parts.h5")["gap"].shape == (len(electrons),), (
                "readable"
            )
    whole = ElectronicTrajectoryReader(tmp_path / "whole.h5")
    parts = ElectronicTrajectoryReader(tmp_path / "parts.h5")
    assert whole.names == parts.names
    for name in whole.names:
        assert np.allclose(whole[name], parts[name], atol=1e-12, rtol=0, equal_nan=True), name
    assert len(whole) == 5


def test_what_cannot_be_continued(tmp_path: Path) -> None:
    atoms, dynamics = moving()
    with ElectronicTrajectory(tmp_path / "a.h5", atoms, dynamics=dynamics) as electrons:
        with pytest.raises(ValueError, match="another process"):
            ElectronicTrajectory(tmp_path / "a.h5", atoms)
        dynamics.attach(electrons)
        dynamics.run(2)
    with pytest.raises(ValueError, match="its record is"):
        ElectronicTrajectory(tmp_path / "a.h5", atoms, record=("gap",))
    other, _ = moving(4)
    with pytest.raises(ValueError, match="another run"):
        ElectronicTrajectory(tmp_path / "a.h5", other)
    again, dynamics = moving()
    with (
        ElectronicTrajectory(tmp_path / "a.h5", again, dynamics=dynamics) as electrons,
        pytest.raises(ValueError, match="starts at its step 0"),
    ):
        electrons()
    with ElectronicTrajectory(
        tmp_path / "a.h5", atoms, dynamics=VelocityVerlet(atoms, units.fs)
    ) as electrons:
        electrons()
        assert len(electrons) == 3, "the frame it starts from is there"
        atoms.positions += 0.01
        electrons()
    assert len(ElectronicTrajectoryReader(tmp_path / "a.h5")) == 4


def test_inputs_are_checked_before_the_run(tmp_path: Path) -> None:
    atoms, _ = moving()
    with pytest.raises(ValueError, match="unknown observable 'colour'"):
        ElectronicTrajectory(tmp_path / "a.h5", atoms, record=("colour",))
    with pytest.raises(ValueError, match="list of names"):
        ElectronicTrajectory(tmp_path / "a.h5", atoms, record="gap")
    with pytest.raises(ValueError, match="taken"):
        ElectronicTrajectory(tmp_path / "a.h5", atoms, functions={"gap": band_energy})
    with pytest.raises(ValueError, match="callable"):
        ElectronicTrajectory(tmp_path / "a.h5", atoms, functions={"mine": 3})  # type: ignore[dict-item]
    with pytest.raises(ValueError, match="positive width"):
        DosGrid(width=0.0)
    atoms.calc = None
    with pytest.raises(ValueError, match="DeepHCalculator"):
        ElectronicTrajectory(tmp_path / "a.h5", atoms)
    assert not (tmp_path / "a.h5").exists()
    with pytest.raises(ValueError, match="does not exist"):
        ElectronicTrajectoryReader(tmp_path / "a.h5")
    (tmp_path / "b.h5").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="no HDF5 file"):
        ElectronicTrajectoryReader(tmp_path / "b.h5")


def test_a_function_that_fails_or_changes_shape_leaves_whole_frames(tmp_path: Path) -> None:
    atoms, dynamics = moving()
    shapes = iter([(2,), (2,), (3,)])
    with ElectronicTrajectory(
        tmp_path / "a.h5", atoms, functions={"mine": lambda es: np.zeros(next(shapes))}
    ) as electrons:
        dynamics.attach(electrons)
        with pytest.raises(ValueError, match="must keep its shape"):
            dynamics.run(5)
    reader = ElectronicTrajectoryReader(tmp_path / "a.h5")
    assert len(reader) == 2
    assert reader["mine"].shape == (2, 2)
    with (
        ElectronicTrajectory(tmp_path / "b.h5", atoms, functions={"mine": lambda es: "red"}) as electrons,
        pytest.raises(ValueError, match="expected numbers"),
    ):
        electrons()
    assert not (tmp_path / "b.h5").exists(), "no frame, no file"


class Cut(BaseException):
    """Stands for a kill at a given system call."""


def test_cut_at_any_system_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever write of a commit is the last one, the file opens with all frames before, or one more."""
    remaining = [10**9]

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            if remaining[0] <= 0:
                raise Cut
            remaining[0] -= 1
            return function(*arguments)

        return call

    monkeypatch.setattr(journal, "_write_journal", counted(journal._write_journal))
    monkeypatch.setattr(journal.os, "pwrite", counted(os.pwrite))
    path, held = tmp_path / "a.h5", 0
    lengths = set()
    for allowed in (10**9, *range(14)):
        atoms, dynamics = moving()
        if path.exists():
            last = ElectronicTrajectoryReader(path).atoms()
            atoms.positions, atoms.arrays["momenta"] = last.positions, last.arrays["momenta"]
        electrons = ElectronicTrajectory(path, atoms, dynamics=dynamics)
        dynamics.attach(electrons)
        remaining[0] = allowed
        try:
            dynamics.run(1)
            electrons.close()
        except Cut:
            atexit.unregister(electrons._file.close)  # a killed process runs nothing at its exit
            os.close(electrons._file._raw._fd)
            electrons._file._raw._fd = os.open(os.devnull, os.O_RDWR)
        remaining[0] = 10**9
        reader = ElectronicTrajectoryReader(path)
        n = len(reader)
        assert n in (held, held + 1, 2), "frames that were there are there"
        assert all(len(reader[name]) == n for name in reader.names)
        assert np.array_equal(reader["step"], np.arange(n))
        lengths.add(n - held)
        held = n
    assert lengths >= {0, 1}, "both sides of the commit were cut"


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no kill -9 here")
def test_killed_at_a_random_moment(tmp_path: Path) -> None:
    """kill -9 a running dynamics twice; every step it had reported is there, and it goes on."""
    path, rng = tmp_path / "run.h5", np.random.default_rng()
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "OMP_NUM_THREADS": "1"}
    held = 0
    for _ in range(2):
        command = [sys.executable, "-m", "tests.md_run", str(path), "100000"]
        with subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            while int(process.stdout.readline()) <= held:
                pass
            time.sleep(float(rng.uniform(0.05, 0.5)))
            process.send_signal(signal.SIGKILL)
            said = [int(line) for line in process.stdout.read().splitlines() if line.strip().isdigit()]
        reader = ElectronicTrajectoryReader(path)
        assert len(reader) >= max([held, *said[:-1]])
        assert np.array_equal(reader["step"], np.arange(len(reader)))
        assert np.allclose(np.diff(reader["time"]), 0.5)
        assert np.all(np.isfinite(reader["gap"]))
        assert len(reader) > held
        held = len(reader)
    total = reader["energy"] + reader["kinetic_energy"]
    assert np.ptp(total) < 0.05 * np.ptp(reader["energy"]), "one trajectory through all kills"


def test_a_script_that_never_closes_ends_well(tmp_path: Path) -> None:
    script = (
        "from ase.build import molecule\n"
        "from ase.md.verlet import VelocityVerlet\n"
        "from ase_deeph import ElectronicTrajectory\n"
        "from ase_deeph import DeepHCalculator\n"
        "from ase.calculators.emt import EMT\n"
        "from tests.toys import Huckel\n"
        "atoms = molecule('CH4')\n"
        "atoms.calc = DeepHCalculator(Huckel(), forcefield=EMT())\n"
        "dynamics = VelocityVerlet(atoms, timestep=0.05)\n"
        f"electrons = ElectronicTrajectory({str(tmp_path / 'e.h5')!r}, atoms, record=('gap',), dynamics=dynamics)\n"
        "dynamics.attach(electrons)\n"
        "dynamics.run(2)\n"
    )
    root = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=root
    )
    assert done.returncode == 0, done.stderr
    assert len(ElectronicTrajectoryReader(tmp_path / "e.h5")) == 3
