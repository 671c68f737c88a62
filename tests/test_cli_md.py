"""`deeph md`: a run, its frames, its restart, and one line for what cannot be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase.build import graphene
from ase.calculators.lj import LennardJones
from ase.io import Trajectory, write

from ase_deeph import DeepHCalculator, ElectronicTrajectoryReader, HamiltonianModel, pretrained
from ase_deeph.cli import main
from tests.toys import untrained

FIELD = ("--forcefield", "lj:sigma=1.28,epsilon=0.3,rc=4")


@pytest.fixture(scope="module")
def model() -> HamiltonianModel:
    return untrained()


@pytest.fixture
def place(tmp_path: Path, model: HamiltonianModel, monkeypatch: pytest.MonkeyPatch) -> Path:
    atoms = graphene(vacuum=6.0)
    atoms.pbc = (True, True, False)
    atoms.rattle(0.02, seed=1)
    write(tmp_path / "sheet.extxyz", atoms)
    monkeypatch.setattr(pretrained, "load", lambda name: model)  # compiled once for all tests
    monkeypatch.chdir(tmp_path)
    return tmp_path


def md(folder: str, *words: str, n: int = 4) -> int:
    options = ("--model", "m.h5", "--kpts", "2,2,1", "--steps", str(n), "-o", folder)
    return main(["md", "sheet.extxyz", *options, *words])


def test_a_run_and_its_files(
    place: Path, capsys: pytest.CaptureFixture[str], model: HamiltonianModel
) -> None:
    assert md("out", *FIELD, "--interval", "2", "--record", "gap,fermi_level,mulliken") == 0
    printed = capsys.readouterr()
    assert "C2, NVT, 3 frames" in printed.out
    assert printed.err.count("outside the training domain") <= 1
    reader = ElectronicTrajectoryReader("out/electrons.h5")
    assert reader["step"].tolist() == [0, 2, 4]
    assert np.allclose(reader["time"], [0, 1, 2])
    with Trajectory("out/run.traj") as frames:
        assert len(frames) == 3
        for n, frame in enumerate(frames):
            assert np.array_equal(frame.positions, reader.atoms(n).positions)
            assert frame.get_potential_energy() == reader["energy"][n]
            frame.calc = DeepHCalculator(model, kpts=(2, 2, 1))
            assert frame.calc.get_fermi_level() == pytest.approx(reader["fermi_level"][n], abs=1e-5)
        alone = frames[2].copy()
        alone.calc = LennardJones(sigma=1.28, epsilon=0.3, rc=4, smooth=True)
        assert np.allclose(
            frames[2].get_forces(apply_constraint=False), alone.get_forces(apply_constraint=False)
        )
    assert (place / "out/electrons.png").stat().st_size > 1000
    assert np.allclose(reader["mulliken"].sum(axis=1), 0.0, atol=1e-6)


@pytest.mark.parametrize("ensemble", ["nvt", "nve"])
def test_a_resumed_run_is_the_run_in_one_go(
    place: Path, ensemble: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (*FIELD, "--ensemble", ensemble, "--seed", "3", "--timestep", "1.0")
    assert md("whole", *words, n=6) == 0
    assert ("drift" in capsys.readouterr().out) == (ensemble == "nve")
    assert md("parts", *words, "--quiet", n=3) == 0
    with Trajectory("parts/run.traj", "a") as frames:
        frames.write(graphene(vacuum=6.0))
    assert md("parts", *words, "--quiet", "--resume", n=6) == 0
    assert capsys.readouterr().out == ""
    whole, parts = (ElectronicTrajectoryReader(f"{f}/electrons.h5") for f in ("whole", "parts"))
    assert len(whole) == len(parts) == 7
    for name in ("step", "time", "frame", "positions", "momenta", "energy", "gap", "random_state"):
        assert np.allclose(whole[name].astype(float), parts[name].astype(float), rtol=1e-10, atol=1e-8), name
    with Trajectory("parts/run.traj") as frames:
        assert len(frames) == 7
        assert np.array_equal([f.positions for f in frames], parts["positions"])
    assert md("parts", *words, "--resume", n=6) == 0, "nothing is left to do"
    assert "7 frames" in capsys.readouterr().out
    assert np.ptp(whole["positions"], axis=0).max() > 1e-3


def test_a_lost_trajectory_is_made_again(place: Path) -> None:
    assert md("out", *FIELD, "--quiet", n=2) == 0
    (place / "out/run.traj").write_bytes(b"damaged")
    assert md("out", *FIELD, "--quiet", "--resume", n=3) == 0
    reader = ElectronicTrajectoryReader("out/electrons.h5")
    with Trajectory("out/run.traj") as frames:
        assert np.array_equal([f.positions for f in frames], reader["positions"])
        assert np.allclose([f.get_potential_energy() for f in frames], reader["energy"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "no forces; add --forcefield"),
        (("--forcefield", "reaxff"), "expected one of emt, lj, tblite"),
        (("--forcefield", "lj"), "expected sigma"),
        (("--forcefield", "lj:sigma"), "parameter=value"),
        (("--forcefield", "lj:sigma=1,epsilon=1,colour=2"), "unknown parameter 'colour'"),
        ((*FIELD, "--timestep", "0"), "--timestep"),
        ((*FIELD, "--temperature", "-3"), "--temperature"),
        ((*FIELD, "--interval", "0"), "--interval"),
        ((*FIELD, "--record", "colour"), "unknown observable 'colour'"),
        ((*FIELD, "--ensemble", "npt"), "invalid choice"),
    ],
)
def test_one_line_for_what_cannot_be(
    place: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], said: str
) -> None:
    assert md("out", *words) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not (place / "out/electrons.h5").exists()


def test_what_cannot_be_resumed(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert md("out", *FIELD, "--resume", "--quiet", n=1) == 0, "nothing there yet: a new run"
    for words, said in (
        (FIELD, "holds a run already; add --resume"),
        ((*FIELD, "--resume", "--temperature", "500"), "has --temperature 300.0, received 500.0"),
        ((*FIELD, "--resume", "--seed", "1"), "--seed 0"),
    ):
        assert md("out", *words) == 2
        assert said in capsys.readouterr().err
    (place / "out/md.json").unlink()
    assert md("out", *FIELD, "--resume") == 2
    assert "settings of the run are unknown" in capsys.readouterr().err
    (place / "file").touch()
    assert md("file", *FIELD) == 2
