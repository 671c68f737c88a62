"""config.toml: what is accepted, and one clear line for what is not."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("pydantic")

from trainers.__main__ import main
from trainers.config import load_config, parse_config

MINIMAL = {"data": {"train": "here"}, "training": {"epochs": 3}}


def test_defaults_and_relative_paths(tmp_path: Path) -> None:
    config = parse_config(MINIMAL, tmp_path)
    assert config.data.train == ("here",)
    assert config.output_folder == tmp_path / "run"
    assert config.loss.gauge == "free"
    assert config.network_config.kind == "elct"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"trainings": {}}, ["trainings", "training"]),
        ({"optimizer": {"learning_rat": 1e-3}}, ["[optimizer]", "learning_rat", "'learning_rate'"]),
        ({"network": {"chanels": 3}}, ["[network]", "chanels", "'channels'"]),
        ({"loss": {"gauge": "maybe"}}, ["[loss]", "gauge", "maybe"]),
        ({"training": {}}, ["epochs", "max_minutes"]),
        ({"training": {"epochs": 0}}, ["[training]", "epochs", "0"]),
        ({"data": {}}, ["[data]", "train", "missing"]),
        ({"network": {"cutoff": -1.0}}, ["[network]", "cutoff"]),
        ({"network": {"cutoff": "wide"}}, ["[network]", "cutoff", "positive length", "'wide'"]),
        ({"network": {"channels": "8"}}, ["[network]", "channels", "whole number", "'8'"]),
        ({"training": {"epochs": 3, "seed": -1}}, ["[training]", "seed", "-1", "greater than or equal to 0"]),
    ],
)
def test_a_bad_config_is_one_clear_line(change: dict, words: list[str]) -> None:
    with pytest.raises(ValueError) as caught:
        parse_config({**MINIMAL, **change})
    assert all(word in str(caught.value) for word in words)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_missing_or_no_toml(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not exist"):
        load_config(tmp_path / "none.toml")
    broken = tmp_path / "broken.toml"
    broken.write_text("[data\n")
    with pytest.raises(ValueError, match="no valid TOML"):
        load_config(broken)


@pytest.mark.parametrize("extra", ["[los]\nkind = 'mae'\n", ""])
def test_the_command_exits_with_two(tmp_path: Path, capsys: pytest.CaptureFixture, extra: str) -> None:
    """Unknown section, and a dataset that is not there."""
    path = tmp_path / "config.toml"
    path.write_text(f"[data]\ntrain = 'nowhere'\n[training]\nepochs = 1\n{extra}")
    assert main(["fit", str(path), "--quiet"]) == 2
    complaint = capsys.readouterr().err
    assert complaint.count("\n") == 1
    assert ("'loss'" if extra else "nowhere") in complaint
