"""The scripts of examples/ run as they stand."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from ase_deeph import pretrained

EXAMPLES = Path(__file__).parents[1] / "examples"
SHIPPED = pretrained.named_models()[pretrained.default_name()].path


@pytest.mark.skipif(not SHIPPED.is_file(), reason="the model that ships is not installed")
@pytest.mark.parametrize(("name", "writes"), [("bands.py", "bands.json"), ("dos.py", "dos.csv")])
def test_with_the_model_that_ships(
    name: str,
    writes: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(EXAMPLES / name))
    assert (tmp_path / writes).stat().st_size > 0
    assert "Fermi level -" in capsys.readouterr().out


def test_dft_as_source(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("pyscf")
    runpy.run_path(str(EXAMPLES / "dft_as_source.py"))
    assert "ethylene: HOMO -" in capsys.readouterr().out
