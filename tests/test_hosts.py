"""One structure predicted by two processes on loopback: the same H and S as by one, written as one folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.io import read, write

from ase_deeph.cli import main as deeph
from ase_deeph.compilation_cache import compilation_cache
from ase_deeph.hosts import predict_rows
from ase_deeph.io import read_deeph
from ase_deeph.io.deeph_rows import write_deeph_rows
from ase_deeph.matrix import RealSpaceMatrix
from ase_deeph.model import HamiltonianModel
from ase_deeph.processes import of_each_process, rows_of_all, together
from ase_deeph.two_center.rows import images_within, overlap_rows
from tests.ports import free_port
from tests.toys import untrained_with_statistics

BOUND = 1e-10
PAIRS_PER_CHUNK = 150


def cell() -> Atoms:
    """Twelve atoms of two species in a skew cell, one of them far outside it; pairs meet their own images."""
    atoms = bulk("C", "diamond", a=3.7) * (3, 2, 1)
    atoms.rattle(0.08, seed=4)
    atoms.symbols[[3, 7]] = "H"
    atoms.positions[5] += 2 * atoms.cell[0] - atoms.cell[2]
    return atoms


@pytest.fixture(scope="module")
def model() -> HamiltonianModel:
    """An untrained network whose blocks are not all zero, with radial functions."""
    return untrained_with_statistics()


@pytest.fixture(scope="module")
def together_in(
    tmp_path_factory: pytest.TempPathFactory, session_cache: Path, model: HamiltonianModel
) -> Path:
    """The folder where two processes ran tests/host_run.py."""
    folder, address = tmp_path_factory.mktemp("hosts"), f"127.0.0.1:{free_port()}"
    model.save(folder / "m.h5")
    write(folder / "cell.extxyz", cell())
    environment = {
        **os.environ,
        "ASE_DEEPH_CACHE": str(session_cache),
        "JAX_PLATFORMS": "cpu",
        "OMP_NUM_THREADS": "1",
        "XLA_FLAGS": "--xla_backend_optimization_level=0",
    }
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.host_run", str(folder), address, str(n), "2"],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=Path(__file__).parents[1],
        )
        for n in range(2)
    ]
    for process in started:
        out, err = process.communicate(timeout=600)
        assert out.decode().strip().endswith("done"), (out + err).decode()[-3000:]
    return folder


@pytest.fixture(scope="module")
def atoms(together_in: Path) -> Atoms:
    """The structure as it was written."""
    found = read(together_in / "cell.extxyz")
    assert isinstance(found, Atoms)
    return found


@pytest.fixture(scope="module")
def whole(atoms: Atoms, model: HamiltonianModel) -> RealSpaceMatrix:
    """H in one pass of one process."""
    return model(atoms, dtype="float64")


def assert_same(found: RealSpaceMatrix | None, expected: RealSpaceMatrix | None, bound: float) -> None:
    assert found is not None
    assert expected is not None
    assert np.abs(expected.entries).max() > 0.1
    assert np.abs((found - expected).entries).max() <= bound


def test_two_processes_write_one_folder_equal_to_one_process(
    together_in: Path, atoms: Atoms, whole: RealSpaceMatrix, model: HamiltonianModel
) -> None:
    written = read_deeph(together_in / "out")
    assert_same(written.hamiltonian, whole, BOUND)
    assert_same(written.overlap, model.overlap(atoms), BOUND)
    assert written.n_electrons == model.basis.n_electrons(atoms.get_chemical_symbols())
    np.testing.assert_allclose(written.atoms.positions, atoms.positions, atol=1e-10)
    assert not list(together_in.glob(".out*")), "nothing is left beside the folder"


def test_two_processes_have_the_matrix_of_one(together_in: Path, whole: RealSpaceMatrix) -> None:
    for number in range(2):
        entries = np.load(together_in / f"entries{number}.npy")
        assert np.abs(entries - whole.entries).max() <= BOUND


def test_one_process_is_the_special_case(
    atoms: Atoms, whole: RealSpaceMatrix, model: HamiltonianModel, tmp_path: Path
) -> None:
    prediction = model.large_prediction(pairs_per_chunk=PAIRS_PER_CHUNK)
    with compilation_cache():
        rows = predict_rows(model, atoms, dtype="float64", prediction=prediction)
    assert_same(rows.hamiltonian, whole, BOUND)
    n_pairs = write_deeph_rows(tmp_path / "out", rows)
    written = read_deeph(tmp_path / "out")
    assert rows.hamiltonian is not None
    assert rows.overlap is not None
    assert n_pairs == len(rows.hamiltonian.pairs.union(rows.overlap.pairs))
    assert_same(written.hamiltonian, rows.hamiltonian, 0.0)
    assert_same(written.overlap, rows.overlap, 0.0)
    (tmp_path / "strange").mkdir()
    (tmp_path / "strange" / "thesis.tex").write_text("mine")
    with pytest.raises(ValueError, match=r"holds files that are not of this format \(thesis.tex\)"):
        write_deeph_rows(tmp_path / "strange", rows)
    assert (tmp_path / "strange" / "thesis.tex").read_text() == "mine"


def test_overlap_of_some_rows(model: HamiltonianModel) -> None:
    atoms = cell()
    whole = model.overlap(atoms)
    for own in (np.array([5]), np.array([0, 3, 7, 11])):
        rows = overlap_rows(atoms, model.basis, own)
        assert set(rows.pairs.i) == set(own)
        mine = np.isin(whole.pairs.i, own)
        assert len(rows.pairs) == mine.sum()
        at = whole.pairs.indices_of(rows.pairs)
        assert at.min() >= 0
        expected = np.concatenate([whole.block_at(n).ravel() for n in at])
        assert np.abs(rows.entries - expected).max() <= 1e-13


def test_images_within_a_distance_by_brute_force() -> None:
    atoms = cell()
    atoms.pbc = (True, False, True)
    own = np.array([5, 2])
    found = {(int(a), *map(int, R)) for a, R in zip(*images_within(atoms, own, 5.0), strict=True)}
    expected = set()
    for R in np.ndindex(13, 1, 13):
        shift = np.array(R) - [6, 0, 6]
        moved = atoms.positions + shift @ atoms.cell.array
        d = np.linalg.norm(moved[:, None] - atoms.positions[own], axis=2).min(axis=1)
        expected |= {(int(a), *map(int, shift)) for a in np.nonzero(d < 5.0)[0]}
    assert found == expected


def test_alone_everything_is_ones_own() -> None:
    rows = np.arange(6.0).reshape(3, 2)
    assert np.array_equal(of_each_process(rows), rows[None])
    assert np.array_equal(rows_of_all(rows), rows)
    with pytest.raises(ValueError, match="mine"), together("work"):
        raise ValueError("mine")


def test_refusals(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "c.xyz", cell())
    words = ["predict", str(tmp_path / "c.xyz"), "-o", str(tmp_path / "o")]
    assert deeph([*words, "--coordinator", "127.0.0.1:1"]) == 2
    assert "needs --process-id I and --num-processes N" in capsys.readouterr().err
    assert deeph([*words, "--process-id", "0"]) == 2
    assert "--process-id and --num-processes need --coordinator" in capsys.readouterr().err
