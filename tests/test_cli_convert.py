"""`deeph convert`: what is read is written, read back the same, and nothing is overwritten unasked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ase_deeph.cli import main
from ase_deeph.cli.convert import code_of, reader_of
from ase_deeph.io import read_deeph, write_deeph
from tests.planted_faults import sound, wrapped

SHARED = next((p / "shared/data" for p in Path(__file__).parents if (p / "shared/data").is_dir()), None)
needs_examples = pytest.mark.skipif(SHARED is None, reason="the example data (shared/data) are absent")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_deeph(tmp_path / "source", sound())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_converted_is_the_same(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convert", "source", "new"]) == 0
    assert "H and S of S2Zn2" in capsys.readouterr().out.replace("Zn2S2", "S2Zn2")
    old, new = read_deeph("source"), read_deeph("new")
    assert np.array_equal(old.hamiltonian.entries, new.hamiltonian.entries)
    assert np.array_equal(old.overlap.entries, new.overlap.entries)
    assert (old.n_electrons, old.fermi_level) == (new.n_electrons, new.fermi_level)
    assert old.basis == new.basis


def test_nothing_is_overwritten_unasked(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convert", "source", "new", "--quiet"]) == 0
    before = (place / "new/hamiltonian.h5").stat().st_mtime_ns
    assert main(["convert", "source", "new"]) == 2
    assert "--force" in capsys.readouterr().err
    assert (place / "new/hamiltonian.h5").stat().st_mtime_ns == before
    assert main(["convert", "source", "new", "--force"]) == 0
    (place / "mine").mkdir()
    (place / "mine/thesis.txt").write_text("years")
    assert main(["convert", "source", "mine", "--force"]) == 2
    assert (place / "mine/thesis.txt").read_text() == "years"
    assert main(["convert", "source", "source", "--force"]) == 2
    assert read_deeph("source").n_electrons == 16


def test_bad_sources_leave_nothing(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "empty").mkdir()
    (place / "source/hamiltonian.h5").write_bytes(b"x")
    for source, says in (("absent", "does not exist"), ("empty", "known code"), ("source", "hamiltonian.h5")):
        assert main(["convert", source, "new"]) == 2
        error = capsys.readouterr().err
        assert says in error
        assert error.count("\n") == 1
        assert not (place / "new").exists()


def test_which_code_wrote_it(place: Path) -> None:
    assert code_of(place / "source") == "deeph"
    for name, code in (
        ("Si.HSX", "siesta"),
        ("rs_hamiltonian.out", "aims"),
        ("data-HR-sparse_SPIN0.csr", "abacus"),
    ):
        (place / code).mkdir()
        (place / code / name).touch()
        assert code_of(place / code) == code
    assert code_of(place / "siesta/Si.HSX") == "siesta"
    (place / "siesta/info.json").touch()
    with pytest.raises(ValueError, match="deeph"):
        code_of(place / "siesta")
    with pytest.raises(ValueError, match="--from"):
        code_of(place / "source/POSCAR")
    with pytest.raises(ValueError, match="cannot read vasp"):
        reader_of("vasp")


def test_check(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convert", "source", "new", "--check"]) == 0
    write_deeph("bad", wrapped(sound()))
    assert main(["convert", "bad", "newer", "--check"]) == 1
    assert "wrapped-atom" in capsys.readouterr().out


@needs_examples
@pytest.mark.parametrize("source", ["deeph/legacy/MoTe2", "siesta/Si", "abacus/MoS2", "aims/Si"])
def test_real_output(place: Path, source: str) -> None:
    if not source.startswith("deeph"):
        pytest.importorskip("sisl")
    read = reader_of(code_of(SHARED / source))(SHARED / source)
    assert main(["convert", str(SHARED / source), "new", "--check", "--quiet"]) == 0
    back = read_deeph("new")
    assert (back.hamiltonian - read.hamiltonian).max_abs() == 0.0
    assert (back.overlap - read.overlap).max_abs() == 0.0
    assert back.n_electrons == read.n_electrons
    assert back.fermi_level == read.fermi_level
