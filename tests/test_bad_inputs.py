"""Bad inputs through the command line: one clear line on stderr, exit status 2, nothing half-written."""

from __future__ import annotations

from pathlib import Path

import h5py
import jax
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, graphene
from ase.io import write

from ase_deeph import HamiltonianModel
from ase_deeph.cli import main
from tests.toys import untrained


@pytest.fixture(scope="module")
def model_bytes(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("model") / "m.h5"
    untrained().save(path)
    return path.read_bytes()


@pytest.fixture
def place(tmp_path: Path, model_bytes: bytes, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "m.h5").write_bytes(model_bytes)
    write(tmp_path / "sheet.xyz", graphene(vacuum=6.0))
    write(tmp_path / "silicon.xyz", bulk("Si"))
    write(tmp_path / "close.xyz", Atoms("C2", [[0, 0, 0], [0, 0, 0.1]], cell=[5, 5, 5], pbc=True))
    nan = graphene(vacuum=6.0)
    nan.positions[0, 0] = np.nan
    write(tmp_path / "nan.xyz", nan)
    write(tmp_path / "flat.xyz", Atoms("C2", [[0, 0, 0], [0, 0, 1.4]]))
    (tmp_path / "empty.xyz").write_text("")
    (tmp_path / "zero.xyz").write_text("0\n\n")
    (tmp_path / "noise.xyz").write_bytes(bytes(range(256)) * 4)
    (tmp_path / "unknown.abc").write_text("hello\n")
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def complaint(capfd: pytest.CaptureFixture[str]):
    """Run the command, expect status 2 and one line, and return that line."""

    def run(*words: str) -> str:
        capfd.readouterr()
        status = main(list(words))
        said = capfd.readouterr()
        assert status == 2, said
        assert said.err.count("\n") == 1, said.err
        assert said.err.startswith("deeph")
        assert "Traceback" not in said.err + said.out
        return said.err

    return run


STRUCTURES = [
    ("missing.xyz", "does not exist"),
    ("empty.xyz", "is empty"),
    ("zero.xyz", "zero.xyz"),
    ("noise.xyz", "noise.xyz"),
    ("unknown.abc", "unknown.abc"),
    ("folder", "folder"),
    ("silicon.xyz", "'Si'"),
    ("close.xyz", "0.100 Å apart"),
    ("nan.xyz", "NaN"),
]


@pytest.mark.parametrize("verb", ["bands", "dos", "fermi", "predict"])
@pytest.mark.parametrize(("structure", "says"), STRUCTURES)
def test_structures(place: Path, complaint, verb: str, structure: str, says: str) -> None:
    before = {p.name for p in place.iterdir()}
    output = {"predict": "out", "fermi": "f.json"}.get(verb, "out.csv")
    assert says in complaint(verb, structure, "--model", "m.h5", "-o", output)
    assert {p.name for p in place.iterdir()} == before


OPTIONS = [
    (["fermi", "sheet.xyz", "--kpts", "0,6,1"], "at least one k-point"),
    (["fermi", "sheet.xyz", "--kpts", "0"], "positive"),
    (["fermi", "sheet.xyz", "--kpts", "many"], "--kpts"),
    (["fermi", "sheet.xyz", "--kpts", "2,2"], "--kpts"),
    (["bands", "sheet.xyz", "--npoints", "0"], "at least one k-point"),
    (["bands", "sheet.xyz", "--path", "GQZ"], "special points"),
    (["bands", "flat.xyz"], "no periodic axis"),
    (["bands", "sheet.xyz", "-o", "b.gif"], ".png"),
    (["bands", "sheet.xyz", "-o", "absent/b.png"], "does not exist"),
    (["bands", "sheet.xyz", "--window", "3", "-3"], "LOW < HIGH"),
    (["dos", "sheet.xyz", "--broadening", "0"], "positive"),
    (["dos", "sheet.xyz", "--npoints", "1"], "at least 2"),
    (["fermi", "sheet.xyz", "--smearing", "cold"], "cold"),
    (["fermi", "sheet.xyz", "--width", "-1"], "width"),
    (["fermi", "sheet.xyz", "--width", "wide"], "--width"),
    (["fermi", "sheet.xyz", "--device", "abacus"], "abacus"),
    (["predict", "sheet.xyz", "-o", "m.h5"], "folder"),
    (["predict", "sheet.xyz"], "--output"),
]


@pytest.mark.parametrize(
    ("words", "says"), OPTIONS, ids=lambda value: " ".join(value) if list(value) == value else ""
)
def test_options(place: Path, complaint, words: list[str], says: str) -> None:
    assert says in complaint(*words, "--model", "m.h5")


def test_unknown_words(place: Path, complaint) -> None:
    assert "invalid choice" in complaint("bnads", "sheet.xyz")
    assert "--colour" in complaint("bands", "sheet.xyz", "--colour", "red")
    assert "STRUCTURE" in complaint("bands")


@pytest.mark.parametrize("seed", range(12))
def test_truncated_model(place: Path, complaint, model_bytes: bytes, seed: int) -> None:
    length = int(np.random.default_rng(seed).integers(0, len(model_bytes)))
    (place / "cut.h5").write_bytes(model_bytes[:length])
    line = complaint("fermi", "sheet.xyz", "--model", "cut.h5")
    assert "cut.h5" in line
    assert "truncated" in line or "damaged" in line


@pytest.mark.parametrize("seed", range(8))
def test_altered_model(place: Path, complaint, model_bytes: bytes, seed: int) -> None:
    random = np.random.default_rng(seed)
    altered = bytearray(model_bytes)
    start = int(random.integers(0, len(altered) - 512))
    altered[start : start + 512] = random.bytes(512)
    (place / "odd.h5").write_bytes(altered)
    try:
        read, intact = HamiltonianModel.load("odd.h5"), HamiltonianModel.load("m.h5")
    except ValueError:
        assert "odd.h5" in complaint("models", "odd.h5")
    else:
        assert (read.basis, read.config, read.provenance) == (intact.basis, intact.config, intact.provenance)
        for a, b in zip(jax.tree.leaves(read.params), jax.tree.leaves(intact.params), strict=True):
            assert np.array_equal(a, b), "the damage lay where the file says nothing"


def test_models_that_are_none(place: Path, complaint) -> None:
    assert "no-such" in complaint("fermi", "sheet.xyz", "--model", "no-such")
    assert "folder" in complaint("fermi", "sheet.xyz", "--model", "folder")
    assert "sheet.xyz" in complaint("fermi", "sheet.xyz", "--model", "sheet.xyz")
    with h5py.File(place / "other.h5", "w") as file:
        file["x"] = [1.0]
    assert "no model file" in complaint("fermi", "sheet.xyz", "--model", "other.h5")


def test_model_of_a_newer_format(place: Path, complaint) -> None:
    with h5py.File(place / "m.h5", "r+") as file:
        file.attrs["version"] = 99
    line = complaint("fermi", "sheet.xyz", "--model", "m.h5")
    assert "99" in line
    assert "upgrade" in line


def test_demo_without_its_reference(place: Path, complaint, monkeypatch: pytest.MonkeyPatch) -> None:
    from ase_deeph import pretrained

    monkeypatch.setattr(pretrained, "demo_bands", lambda: place / "sheet.xyz")
    assert "DFT bands" in complaint("demo", "--model", "m.h5")


def test_unknown_config_key(place: Path, complaint) -> None:
    (place / "config.toml").write_text("[optimizer]\nflavour = 'sweet'\n")
    assert "flavour" in complaint("train", "config.toml")


def test_debug_shows_where(place: Path) -> None:
    with pytest.raises(ValueError, match="does not exist"):
        main(["fermi", "missing.xyz", "--debug"])
