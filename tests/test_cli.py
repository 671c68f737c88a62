"""The `deeph` command: every verb does its job and says so with its exit status."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable
from io import StringIO
from pathlib import Path

import h5py
import numpy as np
import pytest
from ase import Atoms
from ase.build import graphene, molecule
from ase.io import write
from ase.spectrum.band_structure import BandStructure
from matplotlib.image import imread

from ase_deeph import DeepHCalculator, HamiltonianModel, __version__, pretrained
from ase_deeph.cli import VERBS, main
from ase_deeph.cli.demo import band_errors, read_stored_bands
from ase_deeph.io import read_deeph
from tests.toys import untrained

Command = Callable[..., int]


@pytest.fixture(scope="module")
def model() -> HamiltonianModel:
    return untrained()


@pytest.fixture
def place(tmp_path: Path, model: HamiltonianModel, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a sheet, a molecule and a model; the command runs in it."""
    write(tmp_path / "sheet.xyz", graphene(vacuum=6.0))
    write(tmp_path / "methane.xyz", molecule("CH4"))
    model.save(tmp_path / "m.h5")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def deeph(*words: str) -> int:
    """Run a verb in this process with the model of the folder and a small mesh."""
    return main([*words, "--model", "m.h5", "--kpts", "4,4,1"])


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_and_a_version(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([verb, "--help"]) == 0
    assert "--quiet" in capsys.readouterr().out
    assert main([verb, "--version"]) == 0
    assert __version__ in capsys.readouterr().out


def test_no_verb_prints_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    out = capsys.readouterr().out
    assert all(verb in out for verb in VERBS)


@pytest.mark.parametrize("suffix", ["png", "pdf", "svg", "json", "csv"])
def test_bands(place: Path, suffix: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert deeph("bands", "sheet.xyz", "--path", "GMKG", "--npoints", "12", "-o", f"b.{suffix}") == 0
    assert "8 bands at 12 k-points along GMKG" in capsys.readouterr().out
    atoms = graphene(vacuum=6.0)
    atoms.calc = DeepHCalculator(place / "m.h5", kpts=(4, 4, 1))
    expected = atoms.calc.band_structure("GMKG", npoints=12)
    if suffix == "json":
        assert np.allclose(BandStructure.read(place / "b.json").energies, expected.energies, atol=1e-6)
    elif suffix == "csv":
        rows = list(csv.reader((place / "b.csv").open()))
        assert len(rows) == 13
        values = np.array(rows[1:], dtype=float)[:, 4:]
        assert np.allclose(values, expected.energies[0] - expected.reference, atol=1e-5)
    else:
        assert (place / f"b.{suffix}").stat().st_size > 1000


@pytest.mark.parametrize("suffix", ["png", "json", "csv"])
def test_dos(place: Path, suffix: str) -> None:
    words = ["--project", "shell", "--window", "-100", "100", "--broadening", "0.3", "-o", f"d.{suffix}"]
    assert deeph("dos", "sheet.xyz", *words) == 0
    if suffix == "csv":
        table = np.array(list(csv.reader((place / "d.csv").open()))[1:], dtype=float)
        assert np.trapezoid(table[:, 1], table[:, 0]) == pytest.approx(16.0, rel=1e-3)
        assert np.allclose(table[:, 1], table[:, 2:].sum(axis=1), atol=1e-8)
    elif suffix == "json":
        assert set(json.loads((place / "d.json").read_text())["dos_states_per_eV"]) == {
            "total",
            "C s1",
            "C p1",
        }
    else:
        assert imread(place / "d.png").std() > 0.01


def test_fermi(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert deeph("fermi", "sheet.xyz", "-o", "f.json") == 0
    atoms = graphene(vacuum=6.0)
    atoms.calc = DeepHCalculator(place / "m.h5", kpts=(4, 4, 1))
    level = atoms.calc.get_fermi_level()
    assert f"{level:.4f} eV" in capsys.readouterr().out
    assert json.loads((place / "f.json").read_text())["fermi_level"] == pytest.approx(level, abs=1e-6)


def test_fermi_of_a_molecule(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert deeph("fermi", "methane.xyz") == 0
    assert "8" in capsys.readouterr().out


def test_predict(place: Path, model: HamiltonianModel) -> None:
    assert deeph("predict", "sheet.xyz", "-o", "out") == 0
    data = read_deeph(place / "out")
    atoms = graphene(vacuum=6.0)
    assert (data.hamiltonian - model(atoms)).max_abs() < 1e-5
    assert (data.overlap - model.overlap(atoms)).max_abs() < 1e-5
    assert data.n_electrons == pytest.approx(8.0)


def test_models(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "m.h5"]) == 0
    out = capsys.readouterr().out
    assert "untrained" in out
    assert "parameters" in out
    assert main(["models", "m.h5", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["m.h5"]["name"] == "untrained"


def store_bands(path: Path, atoms: Atoms, bands: BandStructure) -> None:
    """A file as `deeph demo` reads it."""
    text = StringIO()
    write(text, atoms, format="extxyz")
    with h5py.File(path, "w") as file:
        file["kpts"], file["energies"] = bands.path.kpts, bands.energies[0]
        file.attrs.update(
            fermi_level=bands.reference,
            path=bands.path.path,
            name="sheet",
            engine="toy, itself",
            mesh=(4, 4, 1),
            width=0.05,
            extxyz=text.getvalue(),
        )


def test_demo_against_bands_that_are_its_own(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    atoms = graphene(vacuum=6.0)
    atoms.calc = DeepHCalculator(place / "m.h5")
    bands = atoms.calc.band_structure("GMKG", npoints=10)
    bands.energies[:] += 0.25
    atoms.calc = None
    store_bands(place / "own.h5", atoms, bands)
    atoms.calc = DeepHCalculator(place / "m.h5")
    monkeypatch.setattr(pretrained, "demo_bands", lambda: place / "own.h5")
    errors = band_errors(
        atoms.calc.band_structure("GMKG", npoints=10), read_stored_bands(place / "own.h5").bands
    )
    assert errors["raw"] == pytest.approx(0.25)
    assert errors["gauge-fixed"] == pytest.approx(0.0, abs=1e-9)
    assert main(["demo", "--model", "m.h5"]) == 0
    assert "250.0 meV raw" in capsys.readouterr().out
    assert imread(place / "deeph_demo.png").std() > 0.01


def test_quiet_and_no_escape_codes(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert deeph("bands", "sheet.xyz", "--npoints", "3", "--quiet", "-o", "b.csv") == 0
    said = capfd.readouterr()
    assert said.out == said.err == ""


def test_a_missing_extra_is_named(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import ase_deeph.cli.fermi as verb

    def run(arguments: object) -> None:
        raise ModuleNotFoundError("No module named 'optax'", name="optax")

    monkeypatch.setattr(verb, "run", run)
    assert main(["fermi", "sheet.xyz"]) == 2
    assert "ase-deeph[train]" in capsys.readouterr().err


@pytest.mark.parametrize(("error", "status"), [(KeyboardInterrupt(), 130), (RuntimeError("bug"), 1)])
def test_exit_status(
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    status: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import ase_deeph.cli.fermi as verb

    def run(arguments: object) -> None:
        raise error

    monkeypatch.setattr(verb, "run", run)
    assert main(["fermi", "sheet.xyz"]) == status
    assert "Traceback" not in capsys.readouterr().err


def test_as_a_process(place: Path) -> None:
    environment = {**os.environ, "ASE_DEEPH_CACHE": str(place / "cache")}
    command = [
        sys.executable,
        "-m",
        "ase_deeph.cli",
        "fermi",
        "sheet.xyz",
        "--model",
        "m.h5",
        "--kpts",
        "3,3,1",
    ]
    done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "Fermi level" in done.stdout
    assert done.stderr == ""
    assert list((place / "cache").iterdir())


def test_models_in_short_and_one_in_full(capsys):
    assert main(["models"]) == 0
    short = capsys.readouterr().out
    assert "carbon-pbe (default)" in short
    shipped = [name for name, model in pretrained.named_models().items() if model.ships]
    assert all(f"\n{name}" in f"\n{short}" for name in shipped)
    assert short.count("H_mae_gauge_fixed_meV") == len(shipped)
    assert short.count("forces_mae_meV_per_A") == 1
    assert "spin 'collinear': reads initial magnetic moments within 6 Å (in training H 1 μB)" in short
    assert short.count("\n") < 22 * len(shipped)
    assert main(["models", "silicon-pbe"]) == 0
    assert "szp(loc.dzp)" in capsys.readouterr().out.split("recipe:")[1]
