"""`deeph doctor` and `deeph dataset`: one line per fault, exit status 0, 1 or 2."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import h5py
import pytest
from matplotlib.image import imread

from ase_deeph.cli import main
from ase_deeph.io import read_deeph, write_deeph
from tests.planted_faults import FAULTS, exchanged, rounded, sound, wrapped, zeroth_step

SHARED = next((p / "shared/data" for p in Path(__file__).parents if (p / "shared/data").is_dir()), None)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_deeph(tmp_path / "good", sound())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_sound(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "good"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("good: sound")
    assert "condition number of S(k)" in out
    assert main(["doctor", "good", "--quiet"]) == 0
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(("fault", "code"), [f for f in FAULTS if f[0] in (wrapped, zeroth_step, rounded)])
def test_faults(place: Path, capsys: pytest.CaptureFixture[str], fault, code: str) -> None:
    write_deeph("bad", fault(sound()))
    assert main(["doctor", "good", "bad", "--quiet"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines
    assert all(line.startswith("bad: ") and f" {code}: " in line for line in lines)


@pytest.mark.parametrize("name", ["hamiltonian.h5", "overlap.h5"])
@pytest.mark.parametrize("part", [0.0, 0.4, 0.95])
def test_truncated_files_are_named(
    place: Path, capsys: pytest.CaptureFixture[str], name: str, part: float
) -> None:
    whole = (place / "good" / name).read_bytes()
    (place / "good" / name).write_bytes(whole[: int(part * len(whole))])
    assert main(["doctor", "good", "--quiet"]) == 1
    (line,) = capsys.readouterr().out.splitlines()
    assert f"error: unreadable: {name}" in line
    assert line.count("copy or compute it again") == 1


def test_the_rest_of_a_damaged_folder_is_examined(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_deeph("bad", wrapped(sound()))
    (place / "bad/hamiltonian.h5").write_bytes(b"")
    assert main(["doctor", "bad", "--json"]) == 1
    report = json.loads(capsys.readouterr().out)["bad"]
    assert [f["code"] for f in report["findings"]] == ["unreadable", "wrapped-atom"]
    assert report["unchecked"]


def test_counts_of_info(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = place / "good/info.json"
    info = json.loads(path.read_text())
    path.write_text(json.dumps({**info, "orbits_quantity": 17}))
    assert main(["doctor", "good"]) == 1
    assert "orbits_quantity is 17, structure and shells have 16" in capsys.readouterr().out
    path.write_text(json.dumps({**info, "elements_orbital_map": {"Zn": [0, 1, 2], "S": [0, 1]}}))
    (place / "good/basis.h5").unlink()
    assert main(["doctor", "good"]) == 1
    assert "orbital-count: hamiltonian, atom 0 (Zn): 4 orbitals in its blocks, 9" in capsys.readouterr().out
    path.write_text("{")
    assert main(["doctor", "good"]) == 1
    assert "unreadable" in capsys.readouterr().out


def test_a_damaged_density_matrix(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "good/density_matrix.h5").write_bytes(b"no")
    assert main(["doctor", "good", "--quiet"]) == 1
    assert "unreadable: density_matrix.h5" in capsys.readouterr().out


def test_what_is_no_folder_of_ours(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "empty").mkdir()
    for name in ("absent", "empty"):
        assert main(["doctor", name]) == 2
        said = capsys.readouterr().err
        assert name in said
        assert said.count("\n") == 1


@pytest.fixture
def dataset(place: Path) -> Path:
    """Two structures in folders."""
    for n, change in enumerate((lambda d: d, exchanged)):
        write_deeph(place / f"set/dft/s{n}", change(sound()))
    return place / "set"


def test_dataset_info(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dataset", "info", "set"]) == 0
    out = capsys.readouterr().out
    assert "element Zn" in out
    assert "1s1p" in out
    assert main(["dataset", "info", "set", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["names"] == ["s0", "s1"]
    assert found["species"] == {"S": 4, "Zn": 4}
    assert found["n_atoms"] == [4, 4]
    distance = sound().atoms.get_all_distances(mic=True)
    assert min(found["nearest"]) == pytest.approx(distance[distance > 0].min())


def test_dataset_pack(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from ase_deeph.io.packed import PackedDataset

    assert main(["dataset", "pack", "set", "-o", "set.h5", "--dtype", "float32"]) == 0
    assert "2 packed, 0 were there" in capsys.readouterr().out
    assert main(["dataset", "pack", "set", "-o", "set.h5"]) == 0
    assert "0 packed, 2 were there" in capsys.readouterr().out
    packed = PackedDataset(dataset.with_suffix(".h5"))
    assert packed.names == ("s0", "s1")
    original = read_deeph(dataset / "dft/s0").hamiltonian
    assert (packed["s0"].hamiltonian - original).max_abs() < 1e-5
    assert main(["dataset", "pack", "set.h5", "-o", "set.h5"]) == 2
    assert main(["dataset", "pack", "absent", "-o", "new.h5"]) == 2
    assert main(["dataset", "pack", "set", "-o", "new.txt"]) == 2
    assert not Path("new.h5").exists()


def test_dataset_check(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dataset", "check", "set/dft/s0", "--quiet"]) == 2
    assert main(["dataset", "check", "set"]) == 1
    out = capsys.readouterr().out
    assert "set/dft/s1: error: swapped-species" in out
    assert "2 structures, 1 findings" in out
    write_deeph(dataset / "dft/s1", sound())
    assert main(["dataset", "check", "set"]) == 1
    assert "set/dft/s1: warning: duplicate: the same structure as set/dft/s0" in capsys.readouterr().out
    assert main(["dataset", "check", "set", "--no-duplicates"]) == 0
    assert main(["dataset", "pack", "set", "-o", "set.h5", "--quiet"]) == 0
    with h5py.File("set.h5", "r+") as file:
        file["overlap"][3] += 0.5
    assert main(["dataset", "check", "set.h5", "--no-duplicates"]) == 1
    assert "s0: error: unreadable: checksum" in capsys.readouterr().out


def test_dataset_split_and_plot(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from ase_deeph.io.dataset import split_score

    assert main(["dataset", "split", "set", "--fraction", "0.4", "-o", "split.json"]) == 0
    named = json.loads(Path("split.json").read_text())
    assert sorted(named["training"] + named["validation"]) == ["s0", "s1"]
    assert all(split_score(n) < 0.4 for n in named["validation"]) or len(named["validation"]) == 1
    assert main(["dataset", "split", "set", "--fraction", "2"]) == 2
    assert main(["dataset", "plot", "set", "-o", "p.png"]) == 0
    assert imread("p.png").std() > 0.01
    assert main(["dataset", "plot", "set", "-o", "p.gif"]) == 2


def test_output_of_a_code(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with tarfile.open(Path(__file__).parent / "data/cp2k_boron_hydride.tar.xz") as archive:
        archive.extractall(place / "cp2k", filter="data")
    assert main(["doctor", "cp2k"]) == 0
    assert capsys.readouterr().out.startswith("cp2k: sound")
    next((place / "cp2k").rglob("*.inp")).unlink()
    assert main(["doctor", "cp2k"]) == 2
    assert "input" in capsys.readouterr().err


def test_what_is_no_single_structure(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The root of a dataset, a packed file, a file; and the folder of one structure where a dataset is asked for."""
    (place / "note.txt").write_text("hello")
    assert main(["dataset", "pack", ".", "-o", "set.h5", "--quiet"]) == 0
    for given, told in (
        (".", "1 structures are in it"),
        ("set.h5", "dataset check"),
        ("note.txt", "expected"),
    ):
        assert main(["doctor", given]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert told in line
        assert "does not exist" not in line
    assert main(["dataset", "info", "good"]) == 2
    assert "the folder of one structure; give the folder above" in capsys.readouterr().err
    assert main(["dataset", "info", ".", "./"]) == 2
    assert "appears twice" in capsys.readouterr().err


def test_pairs_that_are_no_integers(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with h5py.File(place / "good/hamiltonian.h5", "r+") as file:
        pairs = file["atom_pairs"][()]
        del file["atom_pairs"]
        file["atom_pairs"] = pairs.astype(float)
    assert main(["doctor", "good", "--quiet"]) == 1
    assert "error: unreadable" in capsys.readouterr().out
