"""`deeph bands` and `deeph dos` of folders with spin: colours, columns, signs; and who may be asked."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ase_deeph.cli import main
from ase_deeph.electronic_structure import ElectronicStructure
from ase_deeph.io import write_deeph
from ase_deeph.matrix import Spin
from ase_deeph.reference import ReferenceData
from ase_deeph.spin_states import spin_states
from tests.test_spin_observables import EXCHANGE, structure


@pytest.fixture(params=["none", "collinear", "spinor"])
def spin(request: pytest.FixtureRequest) -> Spin:
    return request.param


def folder_of(spin: Spin, root: Path) -> tuple[Path, ElectronicStructure]:
    es = structure(spin, 0.0 if spin == "none" else EXCHANGE)
    write_deeph(root / "dft", ReferenceData(es.atoms, es.hamiltonian, es.overlap, n_electrons=8.0))
    return root / "dft", es


def table(path: Path) -> tuple[list[str], np.ndarray]:
    rows = list(csv.reader(path.open()))
    return rows[0], np.array(rows[1:], dtype=float)


def test_bands_of_a_folder(spin: Spin, tmp_path: Path) -> None:
    folder, es = folder_of(spin, tmp_path)
    out = tmp_path / "bands.csv"
    common = ["bands", str(folder), "--kpts", "3,3,3", "--path", "GX", "--npoints", "4", "-o"]
    assert main([*common, str(out)]) == 0
    header, rows = table(out)
    path = es.atoms.cell.bandpath("GX", npoints=4)
    levels = [n for n, name in enumerate(header) if name.endswith("_eV")]
    found = rows[:, levels]
    expected = np.moveaxis(es.eigenvalues(path), 1, 0).reshape(4, -1)
    level = replace(es, kpts=(3, 3, 3)).fermi_level()
    assert np.abs(found + level - expected).max() < 1e-5
    sigma = [n for n, name in enumerate(header) if "sigma" in name]
    assert len(sigma) == (3 * 16 if spin == "spinor" else 0)
    if spin == "spinor":
        assert np.abs(rows[:, sigma].reshape(4, 16, 3) - spin_states(es, path).spins[0]).max() < 1e-6
        assert np.abs(rows[:, sigma]).max() > 0.9
    for name in ("bands.png", "bands.json"):
        assert main([*common, str(tmp_path / name)]) == 0
        assert (tmp_path / name).stat().st_size > 1000
    assert main([*common, str(tmp_path / "x.png"), "--spin", "x"]) == (0 if spin == "spinor" else 2)
    assert main([*common, str(tmp_path / "x.csv"), "--spin", "x"]) == 2


def test_densities_of_states_of_a_folder(spin: Spin, tmp_path: Path) -> None:
    folder, _ = folder_of(spin, tmp_path)
    common = ["dos", str(folder), "--kpts", "3,3,3", "--window", "-40", "80", "-o"]
    assert main([*common, str(tmp_path / "dos.csv")]) == 0
    header, rows = table(tmp_path / "dos.csv")
    assert len(header) == (3 if spin == "collinear" else 2)
    assert np.trapezoid(rows[:, 1:].sum(axis=1), rows[:, 0]) == pytest.approx(16, abs=1e-2)
    assert main([*common, str(tmp_path / "dos.png"), "--project", "species"]) == 0


def test_a_folder_without_a_hamiltonian(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    es = structure("none")
    write_deeph(tmp_path / "s", ReferenceData(es.atoms, None, es.overlap))
    assert main(["bands", str(tmp_path / "s")]) == 2
    assert "--model" in capsys.readouterr().err


def test_fermi_level_of_a_folder(spin: Spin, tmp_path: Path) -> None:
    """That of the folder's own H, not of a model's."""
    folder, es = folder_of(spin, tmp_path)
    expected = ElectronicStructure(es.hamiltonian, es.overlap, 8.0, kpts=(3, 3, 3))
    for engine in ("diagonalize", "count"):
        out = tmp_path / f"{engine}.json"
        assert main(["fermi", str(folder), "--kpts", "3,3,3", "--engine", engine, "-o", str(out)]) == 0
        assert json.loads(out.read_text())["fermi_level"] == pytest.approx(expected.fermi_level(), abs=1e-4)
