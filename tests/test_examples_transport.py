"""The scripts of examples/transport/ run as they stand and draw what they say."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
from matplotlib.image import imread

from ase_deeph import pretrained

EXAMPLES = Path(__file__).parents[1] / "examples" / "transport"
SHIPPED = pretrained.named_models()[pretrained.default_name()].path


@pytest.mark.slow
@pytest.mark.skipif(not SHIPPED.is_file(), reason="the model that ships is not installed")
@pytest.mark.parametrize("name", ["nanotube_defect", "strained_junction"])
def test_with_the_model_that_ships(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("kwant")
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(EXAMPLES / f"{name}.py"))
    assert imread(tmp_path / f"{name}.png").std() > 0.01
    assert capsys.readouterr().out.startswith(f"{name}.png: ")
