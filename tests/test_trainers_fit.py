"""Training: the loss falls, few compilations, a run killed with -9 ends where an uninterrupted one does."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("pydantic")
pytest.importorskip("optax")
pytest.importorskip("orbax.checkpoint")

from ase_deeph.io.model_file import read_model
from ase_deeph.model import HamiltonianModel
from tests.training_data import TINY, toy_experiment, write_dataset
from trainers.checkpoint import Checkpoints
from trainers.config import OptimizerConfig, TrainingConfig, parse_config
from trainers.fit import Trainer
from trainers.log import COLUMNS, TrainingLog, read_log
from trainers.optimizer import schedule

EPOCHS = 16


def toy_config(folder: Path, **training: Any) -> TrainingConfig:
    values = {
        "name": "toy",
        "output": "out",
        "data": {"train": "unused", "max_shapes": 2},
        "network": TINY,
        "optimizer": {"learning_rate": 0.05, "ema": 0.9},
        "training": {"epochs": EPOCHS, "checkpoint_every": 8, **training},
    }
    return parse_config(values, folder)


def test_the_loss_falls_and_compilations_are_bounded(tmp_path: Path) -> None:
    config = toy_config(tmp_path, batch=2)
    result = Trainer(toy_experiment(config)).run(resume=False)
    rows = read_log(config.output_folder / "log.csv")
    assert len(rows) == result.epochs == EPOCHS
    assert result.final_loss < 0.8 * rows[0]["train_loss"]
    assert result.n_compilations <= 2
    assert (config.output_folder / "learning_curve.png").stat().st_size > 1000
    provenance = read_model(result.model_path)["provenance"]
    assert provenance["errors"]["mae_gauge_fixed_meV"] == pytest.approx(result.errors.gauge_fixed)
    assert provenance["errors"]["mae_gauge_fixed_meV"] == pytest.approx(
        min(r["validation_mae_gauge_fixed_mev"] for r in rows), rel=1e-6
    )
    assert provenance["dataset"]["n_training"] == 5
    assert provenance["versions"]["jax"]


def test_interrupted_and_resumed_equals_uninterrupted(tmp_path: Path) -> None:
    whole = Trainer(toy_experiment(toy_config(tmp_path / "a"))).run(resume=False)
    config = toy_config(tmp_path / "b", checkpoint_every=4)

    def stops_in_epoch_eleven(batches: Iterable, label: str, total: int | None = None) -> Iterable:
        if label.startswith("epoch 11/"):
            raise KeyboardInterrupt
        return batches

    with pytest.raises(KeyboardInterrupt):
        Trainer(toy_experiment(config), stops_in_epoch_eleven).run(resume=False)
    with pytest.raises(ValueError, match="holds a run already"):
        Trainer(toy_experiment(config)).run(resume=False)
    resumed = Trainer(toy_experiment(config)).run(resume=True)
    assert resumed.final_loss == pytest.approx(whole.final_loss, abs=1e-6)
    assert resumed.errors.gauge_fixed == pytest.approx(whole.errors.gauge_fixed, abs=1e-5)
    rows = read_log(config.output_folder / "log.csv")
    assert [r["epoch"] for r in rows] == list(range(EPOCHS))
    again = Trainer(toy_experiment(config)).run(resume=True)
    assert again.final_loss == resumed.final_loss

    other = toy_config(tmp_path / "b", checkpoint_every=4, seed=1)
    with pytest.raises(ValueError, match="another config or other data"):
        Trainer(toy_experiment(other)).run(resume=True)


def test_patience_and_minutes_end_a_run(tmp_path: Path) -> None:
    impatient = toy_config(tmp_path / "a", epochs=500, patience=3)
    result = Trainer(toy_experiment(impatient)).run(resume=False)
    assert "no better model in 3" in result.reason
    assert result.epochs < 500
    timed = toy_config(tmp_path / "b", epochs=None, max_minutes=0.05)
    result = Trainer(toy_experiment(timed)).run(resume=False)
    assert "minutes used" in result.reason
    assert 3.0 <= result.seconds < 30.0


def test_minutes_go_by_the_clock_given(tmp_path: Path) -> None:
    """A clock that goes ten seconds at every look ends a minute after six of them at most."""
    timed = toy_config(tmp_path, epochs=None, max_minutes=1.0)
    seconds = itertools.count(0.0, 10.0)
    trainer = Trainer(toy_experiment(timed), clock=lambda: next(seconds))
    result = trainer.run(resume=False)
    assert "minutes used" in result.reason
    assert 60.0 <= result.seconds <= 100.0
    assert trainer.state is not None
    assert 1 <= int(trainer.state.steps) <= 6


def test_a_loss_that_is_not_finite_names_the_structure(tmp_path: Path) -> None:
    experiment = toy_experiment(toy_config(tmp_path))
    experiment.train.structures[2].overlap[0, 0, 0] = np.nan
    with pytest.raises(ValueError, match=r"diverged in epoch 1.*structure s2"):
        Trainer(experiment).run(resume=False)


def test_the_schedule() -> None:
    config = OptimizerConfig(learning_rate=1.0, warm_up=0.1, final_fraction=0.01)
    rates = [schedule(x, config) for x in (0.0, 0.05, 0.1, 0.55, 1.0, 2.0)]
    np.testing.assert_allclose(rates, [1e-3, 0.5, 1.0, 0.505, 0.01, 0.01], atol=1e-12)


def test_half_written_checkpoints_and_log_lines_are_ignored(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "c", keep=2)
    tree = {"a": {"w": np.arange(6.0, dtype=np.float32), "none": np.zeros((0, 3), dtype=np.float32)}}
    for epoch in (1, 2, 3):
        checkpoints.save(epoch, tree)
    assert checkpoints.epochs() == [2, 3]
    (tmp_path / "c" / "epoch_000004.orbax-checkpoint-tmp-12").mkdir()
    assert checkpoints.epochs() == [2, 3]
    back = checkpoints.restore(tree)
    np.testing.assert_array_equal(back["a"]["w"], tree["a"]["w"])
    assert back["a"]["none"].shape == (0, 3)
    with pytest.raises(ValueError, match="does not fit"):
        checkpoints.restore({"a": {"other": np.zeros(2, dtype=np.float32)}})
    with pytest.raises(ValueError, match="no complete checkpoint"):
        Checkpoints(tmp_path / "d").restore(tree)

    log = TrainingLog(tmp_path / "log.csv")
    for epoch in range(3):
        log.append({**dict.fromkeys(COLUMNS, 1.5), "epoch": epoch})
    with (tmp_path / "log.csv").open("a") as file:
        file.write("3,4,5.0")
    assert [r["epoch"] for r in read_log(tmp_path / "log.csv")] == [0, 1, 2]
    TrainingLog(tmp_path / "log.csv", before_epoch=2)
    assert [r["epoch"] for r in read_log(tmp_path / "log.csv")] == [0, 1]


CONFIG = """
output = "{output}"
[data]
train = "data"
validation_fraction = 0.2
max_shapes = 1
[network]
{network}
[training]
epochs = 12
checkpoint_every = 2
"""


def write_config(folder: Path, output: str) -> Path:
    network = "\n".join(f"{key} = {value}" for key, value in TINY.items())
    path = folder / f"{output}.toml"
    path.write_text(CONFIG.format(output=output, network=network))
    return path


def command(config: Path, *extra: str) -> list[str]:
    return [sys.executable, "-m", "trainers", "fit", str(config), "--quiet", *extra]


def test_killed_with_minus_nine_and_resumed_equals_uninterrupted(tmp_path: Path) -> None:
    """The real network through the real command."""
    write_dataset(tmp_path / "data", (1, 1, 1))
    environment = {**os.environ, "ASE_DEEPH_CACHE": str(tmp_path / "cache")}
    whole, killed = write_config(tmp_path, "whole"), write_config(tmp_path, "killed")
    subprocess.run(command(whole), env=environment, check=True, timeout=800)

    process = subprocess.Popen(command(killed), env=environment)
    log = tmp_path / "killed" / "log.csv"
    while process.poll() is None and (not log.is_file() or len(read_log(log)) < 5):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    done = len(read_log(log))
    assert 5 <= done < 12
    subprocess.run(command(killed, "--resume"), env=environment, check=True, timeout=800)

    first, second = (read_log(tmp_path / name / "log.csv") for name in ("whole", "killed"))
    assert [r["epoch"] for r in second] == list(range(12))
    assert second[-1]["train_loss"] == pytest.approx(first[-1]["train_loss"], abs=1e-6)
    assert second[-1]["validation_mae_raw_mev"] == pytest.approx(
        first[-1]["validation_mae_raw_mev"], abs=1e-3
    )
    assert HamiltonianModel.load(tmp_path / "killed" / "model.h5").n_parameters > 0
