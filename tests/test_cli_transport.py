"""`deeph transport`: T(E) of a chain with a defect in files and pictures, and one line for every bad input."""

from __future__ import annotations

import csv
from pathlib import Path

import h5py
import numpy as np
import pytest
from ase import Atoms
from ase.io import write
from matplotlib.image import imread

from ase_deeph import DeepHCalculator
from ase_deeph.cli import main
from ase_deeph.cli.transport import parse_energies, parse_transverse, transverse_mesh
from tests.toys import untrained

pytest.importorskip("kwant")

N_CELLS = 10


def chain(n_cells: int) -> Atoms:
    atoms = Atoms("C2", [(0, 5, 5), (1.3, 5, 5)], cell=[2.6, 10, 10], pbc=(True, False, False))
    return atoms * (n_cells, 1, 1)


def defective() -> Atoms:
    atoms = chain(N_CELLS)
    atoms.positions[N_CELLS, 1] += 0.3
    return atoms


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, a lead, a perfect device and one with a kink."""
    folder = tmp_path_factory.mktemp("transport")
    untrained().save(folder / "m.h5")
    write(folder / "lead.xyz", chain(1))
    write(folder / "perfect.xyz", chain(N_CELLS))
    write(folder / "kinked.xyz", defective())
    return folder


@pytest.fixture
def deeph(place: Path, monkeypatch: pytest.MonkeyPatch):
    """Run `deeph transport` in the folder."""
    monkeypatch.chdir(place)
    return lambda *words: main(["transport", *words, "--model", "m.h5", "--kpts", "12,1,1"])


def table(path: Path) -> tuple[list[str], np.ndarray]:
    rows = list(csv.reader(path.open()))
    return rows[0], np.array(rows[1:], dtype=float)


def test_perfect_and_defective_device(deeph, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert deeph("perfect.xyz", "--lead", "lead.xyz", "--energies", "-2:2:0.5", "-o", "p.csv") == 0
    told = capsys.readouterr().out
    assert "p.csv, p.png: T(E) at 9 energies, 1 transverse k" in told
    assert "device aligned by" in told
    header, perfect = table(place / "p.csv")
    assert header == ["energy_minus_fermi_eV", "transmission", "modes_lead1", "modes_lead2"]
    assert np.allclose(perfect[:, 0], np.arange(-2, 2.1, 0.5))
    assert np.array_equal(perfect[:, 2], perfect[:, 3])
    assert perfect[:, 2].max() >= 1
    assert np.allclose(perfect[:, 1], perfect[:, 2], atol=2e-3)
    assert imread(place / "p.png").std() > 0.01

    words = ["--lead", "lead.xyz", "--lead", "lead.xyz", "--energies", "-2:2:0.5", "--quiet"]
    assert deeph("kinked.xyz", *words, "-o", "k.h5", "--picture", "kink.svg") == 0
    assert capsys.readouterr().out == ""
    assert (place / "kink.svg").stat().st_size > 1000
    with h5py.File(place / "k.h5") as file:
        transmission, modes = np.array(file["transmission"]), np.array(file["modes_skel"])[0, 0]
        level = file.attrs["fermi_level_eV"]
    assert np.array_equal(modes[:, 0], perfect[:, 2])
    assert np.all(transmission <= modes[:, 0] + 1e-6)
    assert np.abs(transmission - perfect[:, 1]).max() > 0.01
    bulk = DeepHCalculator(place / "m.h5", kpts=(12, 1, 1)).get_electronic_structure(chain(1))
    assert level == pytest.approx(bulk.fermi_level(), abs=1e-6)


def test_both_backends(deeph, place: Path) -> None:
    found = []
    for backend in ("kwant", "ase"):
        words = ["--lead", "lead.xyz", "--energies", "-1.3,0.7", "--backend", backend, "--quiet"]
        assert deeph("kinked.xyz", *words, "-o", f"{backend}.csv") == 0
        found.append(table(place / f"{backend}.csv")[1])
    assert np.allclose(found[0], found[1], atol=1e-5)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--energies", "2:-2:0.1"], "--energies: expected START:STOP:STEP"),
        (["--energies", "-2:2"], "--energies: expected START:STOP:STEP"),
        (["--energies", "low"], "--energies: expected START:STOP:STEP"),
        (["--energies", "500:501:1"], "outside the bands of the leads"),
        (["--kpts-perp", "0"], "--kpts-perp: expected a positive count"),
        (["--workers", "0"], "--workers: expected at least one process"),
        (["-o", "t.txt"], "expected a name that ends in .csv, .h5"),
        (["-o", "nowhere/t.csv"], "does not exist"),
        (["--picture", "t.gif"], "expected a name that ends in .png"),
        (["--direction", "b"], "--lead lead.xyz: lead: expected a structure periodic along b"),
        (["--direction", "d"], "invalid choice"),
        (["--lead", "lead.xyz", "--lead", "lead.xyz"], "expected one or two leads, received 3"),
        (["--lead", "absent.xyz"], "'absent.xyz' does not exist"),
    ],
)
def test_bad_input(deeph, words: list[str], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert deeph("perfect.xyz", "--lead", "lead.xyz", "-o", "bad.csv", *words) == 2
    streams = capsys.readouterr()
    assert line in streams.err
    assert len(streams.err.strip().splitlines()) == 1
    assert streams.out == ""
    assert not Path("bad.csv").exists()


def test_a_lead_is_required(deeph, capsys: pytest.CaptureFixture[str]) -> None:
    assert deeph("perfect.xyz") == 2
    assert "--lead" in capsys.readouterr().err


def test_leads_that_do_not_match(deeph, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = chain(1)
    other.set_cell([2.9, 10, 10], scale_atoms=True)
    write(place / "stretched.xyz", other)
    assert deeph("perfect.xyz", "--lead", "stretched.xyz", "-o", "m.csv") == 2
    error = capsys.readouterr().err
    assert "side -a" in error
    assert "Å" in error


def test_energies_of_a_range() -> None:
    assert np.allclose(parse_energies("-2:2:0.01"), np.linspace(-2, 2, 401))
    assert np.allclose(parse_energies("0:1:0.3"), [0, 0.3, 0.6, 0.9])
    assert np.allclose(parse_energies("0.5"), [0.5])
    with pytest.raises(ValueError, match="more than 100000 energies"):
        parse_energies("0:1:1e-9")


def test_transverse_mesh() -> None:
    """The mean over a zone of a function that is even in k, with half the points."""
    slab = Atoms("C", cell=[2.0, 3.0, 12.0], pbc=(True, True, False))
    for count in (4, 5):
        kpts, weights = transverse_mesh(slab, 0, parse_transverse(str(count)))
        assert len(kpts) == (count + 1) // 2
        assert np.all(kpts[:, [0, 2]] == 0)
        assert weights.sum() == pytest.approx(1.0)
        full = (np.arange(count) + 0.5 * (1 - count)) / count
        even = np.cos(2 * np.pi * full) ** 2 + np.cos(4 * np.pi * full)
        ours = np.cos(2 * np.pi * kpts[:, 1]) ** 2 + np.cos(4 * np.pi * kpts[:, 1])
        assert weights @ ours == pytest.approx(even.mean())
    assert len(transverse_mesh(slab, 0, None)[0]) > 1
