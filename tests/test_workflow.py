"""Many structures: tried again, resumed, reported; the same in a plain loop and over two workers of Dask."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import graphene, molecule
from ase.io import write

from ase_deeph import HamiltonianModel
from ase_deeph.cli import main as deeph
from ase_deeph.cli.many import SOME_FAILED
from ase_deeph.io import PackedWriter, read_deeph, write_deeph
from ase_deeph.reference import ReferenceData
from ase_deeph.workflow import Outcome, Settings, Workers, named_structures, predict_all, run_all
from tests.toys import untrained_with_statistics

needs_dask = pytest.mark.skipif(
    importlib.util.find_spec("distributed") is None, reason="needs the extra 'workflow'"
)
IN_ALL_WAYS = [Workers(), pytest.param(Workers(2), marks=needs_dask)]


def toy_work(name: str, folder: str) -> str:
    """Counts its tries in a file; succeeds, fails once, fails always, or is to blame itself."""
    counter = Path(folder) / name
    tries = int(counter.read_text()) + 1 if counter.exists() else 1
    counter.write_text(f"{tries}")
    if name == "hopeless" or (name == "unlucky" and tries == 1):
        raise RuntimeError("a node was lost")
    if name == "wrong":
        raise ValueError("no such element")
    return "there" if name == "old" else "done"


@pytest.mark.parametrize("workers", IN_ALL_WAYS, ids=["loop", "dask"])
def test_bad_luck_is_tried_again_and_faults_are_reported(workers: Workers, tmp_path: Path) -> None:
    names = ["good", "unlucky", "hopeless", "wrong", "old"]
    found = list(run_all(toy_work, [(n, str(tmp_path)) for n in names], workers=workers, retries=2))  # type: ignore[arg-type]
    outcomes = {outcome.name: outcome for outcome in found}
    assert set(outcomes) == set(names)
    assert len(found) == len(names)
    assert outcomes["good"] == Outcome("good", "done")
    assert outcomes["unlucky"] == Outcome("unlucky", "done")
    assert outcomes["old"].status == "there"
    assert outcomes["hopeless"] == Outcome("hopeless", "failed", "RuntimeError: a node was lost")
    assert outcomes["wrong"] == Outcome("wrong", "failed", "no such element")
    tries = {name: int((tmp_path / name).read_text()) for name in names}
    assert tries == {"good": 1, "unlucky": 2, "hopeless": 3, "wrong": 1, "old": 1}


def deadly_work(name: str, folder: str) -> str:
    """Kills its process always, or the first time; what dies after its work finds it there the next time."""
    marker = Path(folder) / name
    tried = marker.exists()
    with marker.open("a") as file:
        file.write("x")
    if name == "killer" or (name in ("once", "written") and not tried):
        os._exit(9)
    return "there" if name == "written" else "done"


@needs_dask
def test_who_kills_workers_fails_and_no_other(tmp_path: Path) -> None:
    names = ["a", "once", "b", "killer", "c", "written", "d", "e"]
    found: list[Outcome] = []

    def run() -> None:
        items = [(name, str(tmp_path)) for name in names]
        found.extend(run_all(deadly_work, items, workers=Workers(2), retries=1))  # type: ignore[arg-type]

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(timeout=150)
    assert not thread.is_alive(), f"no end in sight; so far {found}"
    outcomes = {outcome.name: outcome for outcome in found}
    assert len(found) == len(names)
    killer = outcomes.pop("killer")
    assert killer.status == "failed"
    assert "its worker died in the last of" in killer.reason
    assert {name: o.status for name, o in outcomes.items()} == dict.fromkeys(set(names) - {"killer"}, "done")
    assert 2 <= len((tmp_path / "killer").read_text()) <= 3
    assert len((tmp_path / "once").read_text()) >= 2


def lost_once(name: str, folder: str) -> str:
    """Does its work, but its answer is lost."""
    marker = Path(folder) / name
    if marker.exists():
        return "there"
    marker.touch()
    raise RuntimeError("the answer was lost")


def test_what_an_earlier_try_made_counts_as_done(tmp_path: Path) -> None:
    (tmp_path / "old").touch()
    outcomes = run_all(lost_once, [("new", str(tmp_path)), ("old", str(tmp_path))], retries=1)  # type: ignore[arg-type]
    assert [o.status for o in outcomes] == ["done", "there"]


def test_items_are_read_while_tasks_run(tmp_path: Path) -> None:
    read: list[int] = []

    def items():
        for n in range(5):
            read.append(n)
            yield f"good{n}", str(tmp_path)

    outcomes = run_all(toy_work, items(), retries=0)  # type: ignore[arg-type]
    next(iter(outcomes))
    assert read == [0]


def test_refusals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="retries: expected at least 0, received -1"):
        run_all(toy_work, [], retries=-1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="received both"):
        Workers(2, "tcp://here:1")
    with pytest.raises(ValueError, match="expected at least 1, received 0"):
        Workers(0)
    with pytest.raises(ValueError, match="do not exist"):
        named_structures(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="neither DeepH folders nor structure files"):
        named_structures(tmp_path)
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'ase-deeph\[workflow\]'"):
        run_all(toy_work, [("good", "")], workers=Workers(2))  # type: ignore[arg-type]
    with pytest.raises(ModuleNotFoundError, match="workflow"):
        predict_all([], tmp_path / "out", workers=Workers(2))
    assert not (tmp_path / "out").exists()


def test_equal_settings_compare_and_hash_as_equal() -> None:
    mesh, density = {"density": 3.5, "gamma": True}, {"density": np.float64(3.5), "gamma": True}
    for one, other in (
        ((2, 2, 1), np.array([2, 2, 1])),
        ([[0, 0, 0.5]], np.array([[0, 0, 0.5]])),
        (mesh, density),
    ):
        a, b = Settings(kpts=one, occupations=mesh), Settings(kpts=other, occupations=mesh)
        assert a == b
        assert hash(a) == hash(b)
    assert Settings(kpts=(2, 2, 1)) != Settings(kpts=np.array([2, 2, 2]))
    assert all(type(k) is int for k in Settings(kpts=np.array([2, 2, 1])).kpts)


@pytest.fixture(scope="module")
def model() -> HamiltonianModel:
    return untrained_with_statistics()


@pytest.fixture
def place(tmp_path: Path, model: HamiltonianModel, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a model and a trajectory, whose second frame has an element that the model lacks."""
    model.save(tmp_path / "m.h5")
    write(tmp_path / "run.extxyz", frames())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def frames() -> list[Atoms]:
    return [graphene(vacuum=6.0), molecule("H2O"), molecule("CH4")]


def many(*words: str) -> int:
    return deeph(["predict", *words, "--model", "m.h5", "--kpts", "2,2,1"])


WAYS = [pytest.param((), id="loop"), pytest.param(("--workers", "2"), id="dask", marks=needs_dask)]


@pytest.mark.parametrize("words", WAYS)
def test_a_trajectory_one_folder_per_frame(
    words: tuple[str, ...], place: Path, model: HamiltonianModel, capsys: pytest.CaptureFixture[str]
) -> None:
    assert many("run.extxyz", "--all", "-o", "out", *words) == SOME_FAILED
    told = capsys.readouterr()
    assert "out: 2 structures written, 0 were there, 1 failed" in told.out
    assert "run-0001: " in told.err
    assert "O" in told.err
    assert sorted(p.name for p in (place / "out").iterdir()) == ["run-0000", "run-0002"]
    for n in (0, 2):
        data, atoms = read_deeph(place / "out" / f"run-{n:04d}"), frames()[n]
        assert data.hamiltonian is not None
        assert data.fermi_level is not None
        assert np.abs((data.hamiltonian - model(atoms)).entries).max() <= 1e-6
        np.testing.assert_allclose(data.atoms.positions, atoms.positions, atol=1e-7)


def test_a_second_call_goes_on_and_destroys_nothing(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings, frame = Settings("m.h5", kpts=(2, 2, 1)), graphene(vacuum=6.0)
    assert [o.status for o in predict_all([("a", frame)], "out", settings)] == ["done"]
    file = place / "out" / "a" / "hamiltonian.h5"
    stamp = file.stat().st_mtime_ns
    (place / "out" / "b").mkdir()
    again = list(predict_all([("a", frame), ("b", frame)], "out", settings))
    assert [(o.name, o.status) for o in again] == [("a", "there"), ("b", "done")]
    frame.rattle(0.01, seed=1)
    (moved,) = predict_all([("a", frame)], "out", settings)
    assert moved.status == "failed"
    assert "another structure, model or setting" in moved.reason
    assert file.stat().st_mtime_ns == stamp
    file.unlink()
    (whole,) = predict_all([("a", frame)], "out", settings)
    assert whole.status == "done", "a folder without its Hamiltonian is not complete"
    assert json.loads((place / "out" / "a" / "reference.json").read_text())["info"]["request"]


def test_files_of_another_origin_are_kept(place: Path, model: HamiltonianModel) -> None:
    settings, frame = Settings("m.h5", kpts=np.array([2, 2, 1])), graphene(vacuum=6.0)
    write_deeph(
        place / "out" / "a", ReferenceData(atoms=frame, overlap=model.overlap(frame), basis=model.basis)
    )
    (place / "out" / "b").mkdir()
    (place / "out" / "b" / "info.json").write_text("{}")
    (place / "out" / "c").write_text("a file")
    before = {p: p.read_bytes() for p in (place / "out").rglob("*") if p.is_file()}
    found = list(predict_all([(name, frame) for name in "abc"], "out", settings))
    assert [o.status for o in found] == ["failed"] * 3
    assert all("files of another origin" in o.reason for o in found)
    assert {p: p.read_bytes() for p in (place / "out").rglob("*") if p.is_file()} == before


def test_a_replaced_model_is_read_again_and_never_in_the_middle(place: Path) -> None:
    settings, frame = Settings("m.h5", kpts=(2, 2, 1)), graphene(vacuum=6.0)
    assert [o.status for o in predict_all([("old", frame)], "out", settings)] == ["done"]
    begun = predict_all([("late", frame.repeat((2, 1, 1)))], "out", Settings("m.h5", kpts=(1, 1, 1)))
    replaced = untrained_with_statistics(6)
    replaced.save(place / "m.h5")
    assert [o.status for o in predict_all([("new", frame)], "out", settings)] == ["done"]
    old, new = (read_deeph(place / "out" / name).hamiltonian for name in ("old", "new"))
    assert old is not None
    assert new is not None
    assert np.abs((new - replaced(frame)).entries).max() <= 1e-6
    assert np.abs((new - old).entries).max() > 1e-3
    (late,) = begun
    assert late.status == "failed"
    assert "do not replace a model during a run" in late.reason


def test_names_of_folders_files_and_packed_datasets(place: Path, model: HamiltonianModel) -> None:
    atoms = graphene(vacuum=6.0)
    data = ReferenceData(atoms=atoms, hamiltonian=model(atoms), basis=model.basis)
    write_deeph(place / "set" / "one", data)
    write_deeph(place / "set" / "two", data)
    with PackedWriter(place / "set.h5") as packed:
        packed.append("x/1", data)
    (place / "files").mkdir()
    write(place / "files" / "a.xyz", molecule("CH4"))
    write(place / "files" / "a.vasp", atoms)
    write(place / "files" / "b.xyz", molecule("CH4"))
    (place / "files" / "notes.md").write_text("# not a structure\n")
    expected = {
        "set": ["one", "two"],
        "set.h5": ["x_1"],
        "files": ["a.vasp", "a.xyz", "b", "notes"],
        "run.extxyz": ["run-0000", "run-0001", "run-0002"],
    }
    for path, names in expected.items():
        structures = named_structures(place / path)
        assert list(structures) == names
        items = dict(structures.items())
        assert list(items) == names
        assert len(structures) == len(names)
    read = dict(named_structures(place / "files").items())
    assert isinstance(read.pop("notes"), ValueError)
    assert sorted(len(a) for a in read.values()) == [2, 5, 5]  # type: ignore[arg-type]


def test_a_folder_means_many_and_one_file_means_one(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "files").mkdir()
    write(place / "files" / "m.xyz", molecule("CH4"))
    assert many("files", "-o", "out") == 0
    assert "1 structures written" in capsys.readouterr().out
    assert many("run.extxyz", "-o", "last") == 0
    assert len(read_deeph(place / "last").atoms) == len(molecule("CH4"))
    assert many("files", "-o", "out", "--coordinator", "127.0.0.1:1") == 2
    assert "shares one structure" in capsys.readouterr().err
    assert many("files", "-o", "m.h5") == 2
    assert "found a file of that name" in capsys.readouterr().err
