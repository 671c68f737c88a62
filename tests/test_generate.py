"""Data sets: complete folders only, resumed after a kill, failures recorded, other recipes refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms

from ase_deeph.cli import main
from ase_deeph.dft.generate import generate
from ase_deeph.dft.recipe import Recipe, read_recipe
from ase_deeph.io import read_deeph
from ase_deeph.reference import ReferenceData
from tests.toys import Huckel

TEXT = """
seed = 5
[engine]
name = "pyscf"
[[structures]]
name = "flat"
builder = "graphene"
count = 3
rattle = 0.05
[[structures]]
name = "two"
builder = "bilayer"
count = 2
rattle = 0.02
"""
N_SAMPLES = 5


def toy(atoms: Atoms, **settings: Any) -> ReferenceData:
    """Extended Hückel theory in place of an engine; refuses bilayers when settings say so."""
    if settings.get("refuse") and len(atoms) == 4:
        raise RuntimeError("did not converge")
    source = Huckel()
    return ReferenceData(atoms, hamiltonian=source(atoms), basis=source.basis, n_electrons=4.0 * len(atoms))


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    monkeypatch.setattr("ase_deeph.dft.generate.engine_function", lambda name: toy)
    (tmp_path / "r.toml").write_text(TEXT)
    return read_recipe(tmp_path / "r.toml")


def times(folders: Iterable[Path]) -> dict[str, int]:
    return {p.name: (p / "hamiltonian.h5").stat().st_mtime_ns for p in folders}


def test_generation_and_its_folders(recipe: Recipe, tmp_path: Path) -> None:
    report = generate(recipe, tmp_path / "out")
    assert len(report.computed) == N_SAMPLES
    assert not report.failed
    for sample in recipe.samples():
        data = read_deeph(tmp_path / "out/dft" / sample.id)
        assert np.allclose(data.atoms.positions, sample.atoms().positions, atol=1e-12)
        assert data.info["sample"] == sample.fingerprint
        assert data.basis.has_radial_functions
        assert tuple(data.atoms.pbc) == (True, True, False)
    before = times((tmp_path / "out/dft").iterdir())
    again = generate(recipe, tmp_path / "out")
    assert (len(again.computed), len(again.found)) == (0, N_SAMPLES)
    assert times((tmp_path / "out/dft").iterdir()) == before


def test_damaged_and_half_written_folders_are_made_again(recipe: Recipe, tmp_path: Path) -> None:
    generate(recipe, tmp_path / "out")
    damaged = tmp_path / "out/dft/flat-001/hamiltonian.h5"
    damaged.write_bytes(damaged.read_bytes()[:1000])
    half = tmp_path / "out/dft/.flat-002.partial-abc"
    half.mkdir()
    (half / "POSCAR").write_text("half")
    report = generate(recipe, tmp_path / "out")
    assert report.computed == ("flat-001",)
    assert not half.exists()
    read_deeph(damaged.parent)


def test_failures_are_recorded_and_tried_again(recipe: Recipe, tmp_path: Path) -> None:
    (tmp_path / "f.toml").write_text(TEXT.replace('"pyscf"', '"pyscf"\nrefuse = true'))
    report = generate(read_recipe(tmp_path / "f.toml"), tmp_path / "out")
    assert sorted(report.failed) == ["two-000", "two-001"]
    assert len(report.computed) == 3
    record = json.loads((tmp_path / "out/failed/two-000.json").read_text())
    assert "did not converge" in record["reason"]
    assert not (tmp_path / "out/dft/two-000").exists()
    assert sorted(generate(read_recipe(tmp_path / "f.toml"), tmp_path / "out").failed) == [
        "two-000",
        "two-001",
    ]


def test_another_recipe_is_refused(recipe: Recipe, tmp_path: Path) -> None:
    generate(recipe, tmp_path / "out")
    (tmp_path / "r.toml").write_text(TEXT.replace("seed = 5", "seed = 6"))
    with pytest.raises(ValueError, match="another recipe"):
        generate(read_recipe(tmp_path / "r.toml"), tmp_path / "out")
    with pytest.raises(ValueError, match="n_workers"):
        generate(recipe, tmp_path / "other", n_workers=0)
    with pytest.raises(ValueError, match="engine"):
        generate(recipe, tmp_path / "other", engine="vasp")


def test_the_command(recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["dataset", "generate", str(tmp_path / "r.toml"), "-o", str(tmp_path / "out")]
    assert main(arguments) == 0
    assert "5 computed" in capsys.readouterr().out
    assert main([*arguments, "--quiet"]) == 0
    assert capsys.readouterr().out == ""
    assert main(["dataset", "list", str(tmp_path / "r.toml")]) == 0
    assert capsys.readouterr().out.count("atoms") == N_SAMPLES
    assert main(arguments[:3]) == 2
    assert main(["dataset", "generate", str(tmp_path / "absent.toml"), "-o", "x"]) == 2
    (tmp_path / "f.toml").write_text(TEXT.replace('"pyscf"', '"pyscf"\nrefuse = true'))
    assert main(["dataset", "generate", str(tmp_path / "f.toml"), "-o", str(tmp_path / "f")]) == 1
    assert "two-000 failed" in capsys.readouterr().err


SLOW_WRITER = """
import sys, time
import ase_deeph.dft.generate as g, ase_deeph.io.deeph as d
from tests.test_generate import toy
from ase_deeph.dft.recipe import read_recipe
g.engine_function = lambda name: toy
write = d._write_matrix
def slowly(path, matrix):
    time.sleep(0.15)
    write(path, matrix)
    time.sleep(0.15)
d._write_matrix = slowly
g.generate(read_recipe(sys.argv[1]), sys.argv[2])
"""


@pytest.mark.parametrize("delay", [0.1, 0.25])
def test_kill_and_resume(recipe: Recipe, tmp_path: Path, delay: float) -> None:
    root = Path(__file__).parents[1]
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW_WRITER, str(tmp_path / "r.toml"), str(tmp_path / "out")],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    folders = tmp_path / "out/dft"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (folders / "two-000").exists():
        time.sleep(0.01)
    time.sleep(delay)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    finished = [p for p in folders.iterdir() if not p.name.startswith(".")]
    assert 2 <= len(finished) < N_SAMPLES
    for folder in finished:
        read_deeph(folder)
    before = times(finished)
    report = generate(recipe, tmp_path / "out")
    assert sorted(report.found) == sorted(p.name for p in finished)
    assert times(finished) == before
    assert len(list(folders.iterdir())) == N_SAMPLES


def test_a_longer_recipe_keeps_what_is_there(recipe: Recipe, tmp_path: Path) -> None:
    generate(recipe, tmp_path / "out")
    (tmp_path / "r.toml").write_text(TEXT.replace("count = 3", "count = 4"))
    assert generate(read_recipe(tmp_path / "r.toml"), tmp_path / "out").computed == ("flat-003",)


def test_unknown_settings_are_told_before_anything_runs(tmp_path: Path) -> None:
    pytest.importorskip("pyscf", reason="needs PySCF: pip install 'ase-deeph[pyscf]'")
    (tmp_path / "r.toml").write_text(TEXT.replace('"pyscf"', '"pyscf"\nbasiss = "x"'))
    with pytest.raises(ValueError, match="'basiss'"):
        generate(read_recipe(tmp_path / "r.toml"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_parallel_processes(tmp_path: Path) -> None:
    pytest.importorskip("pyscf", reason="needs PySCF: pip install 'ase-deeph[pyscf]'")
    (tmp_path / "n2.xyz").write_text("2\n\nN 0 0 0\nN 0 0 1.10\n")
    (tmp_path / "r.toml").write_text(
        'seed = 1\n[engine]\nname = "pyscf"\n[[structures]]\nname = "n2"\nbuilder = "file"\n'
        'path = "n2.xyz"\ncount = 2\nrattle = 0.02\n'
    )
    report = generate(read_recipe(tmp_path / "r.toml"), tmp_path / "out", n_workers=2)
    assert sorted(report.computed) == ["n2-000", "n2-001"], report.failed
    assert read_deeph(tmp_path / "out/dft/n2-001").hamiltonian.hermiticity_error() < 1e-8
