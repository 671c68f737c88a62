"""Killed at random moments, no room on the disk, a folder that cannot be written: what is there stays usable."""

from __future__ import annotations

import errno
import json
import os
import resource
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

import jax

from ase_deeph.io.model_file import read_model
from tests.test_trainers_fit import toy_config
from tests.training_data import toy_experiment, write_dataset
from trainers.__main__ import main
from trainers.checkpoint import Checkpoints
from trainers.fit import FitResult, Trainer
from trainers.log import read_log

KILLS = 10
EPOCHS = 120
MEASURED = ("seconds", "structures_per_second", "host_wait_percent", "peak_memory_gib")


def start(folder: Path) -> subprocess.Popen:
    environment = {**os.environ, "ASE_DEEPH_CACHE": str(folder.parent / "cache"), "OMP_NUM_THREADS": "1"}
    training = json.dumps({"epochs": EPOCHS, "checkpoint_every": 2, "batch": 2})
    return subprocess.Popen(
        [sys.executable, "-m", "tests.toy_run", str(folder), training],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
        cwd=Path(__file__).parents[1],
    )


def outcome(folder: Path) -> tuple[Any, list[dict[str, float]]]:
    """Parameters of the model file, and the log without what a clock or the system measured."""
    rows = read_log(folder / "out" / "log.csv")
    return read_model(folder / "out" / "model.h5")["parameters"], [
        {k: v for k, v in row.items() if k not in MEASURED} for row in rows
    ]


def test_killed_at_ten_random_moments_ends_bit_identical(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    undisturbed = start(whole)
    rng, landed = np.random.default_rng(11), []
    for _ in range(KILLS):
        process = start(killed)
        assert process.stdout is not None
        assert process.stdout.readline() == b"go\n"
        time.sleep(rng.uniform(0.0, 0.6))
        process.send_signal(signal.SIGKILL)
        landed.append(process.wait() == -signal.SIGKILL)
    assert all(landed), "the run was over before it could be killed: raise EPOCHS"
    last = start(killed)
    assert last.wait(300) == 0
    assert undisturbed.wait(300) == 0
    (first, rows), (second, again) = outcome(whole), outcome(killed)
    assert len(rows) == EPOCHS
    assert rows == again
    assert jax.tree.all(jax.tree.map(np.array_equal, first, second))


WRITERS = {"model": "ase_deeph.model.write_model", "log": "trainers.log.TrainingLog.append"}


def full_from(epoch: int, what: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A progress bar after which the disk is full: for files of over 1 KiB, or for one kind of write."""

    def bar(batches: Iterable, label: str, total: int | None = None) -> Iterable:
        if label.startswith(f"epoch {epoch}/"):
            if what in WRITERS:
                monkeypatch.setattr(WRITERS[what], no_room)
            else:
                resource.setrlimit(resource.RLIMIT_FSIZE, (1024, resource.RLIM_INFINITY))
        return batches

    return bar


def no_room(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture(scope="module")
def twelve_epochs(tmp_path_factory: pytest.TempPathFactory) -> FitResult:
    """An undisturbed run."""
    config = toy_config(tmp_path_factory.mktemp("whole"), checkpoint_every=4, epochs=12)
    return Trainer(toy_experiment(config)).run(resume=False)


@pytest.mark.parametrize("what", ["large files", "model", "log"])
def test_a_full_disk_stops_with_the_last_checkpoint_intact(
    what: str, twelve_epochs: FitResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = toy_config(tmp_path, checkpoint_every=2, epochs=12)
    soft = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with pytest.raises(
            OSError, match=r"could not be written to .*(No space|File too large).*--resume"
        ) as caught:
            Trainer(toy_experiment(config), full_from(8, what, monkeypatch)).run(resume=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, soft)
        monkeypatch.undo()
    assert "\n" not in str(caught.value)
    assert "the checkpoint of epoch 6 is complete" in str(caught.value)
    assert read_model(config.output_folder / "model.h5")["parameters"]
    assert Checkpoints(config.output_folder / "checkpoints").epochs()[-1] == 6
    resumed = Trainer(toy_experiment(config)).run(resume=True)
    assert resumed.final_loss == twelve_epochs.final_loss
    assert resumed.errors == twelve_epochs.errors


def test_an_output_that_cannot_be_written_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_dataset(tmp_path / "data", (1, 1))
    (tmp_path / "file").write_text("no folder")
    config = tmp_path / "config.toml"
    network = "cutoff = 4.2\nl_max = 2\nchannels = 4\npseudo_channels = 2\nn_blocks = 1\nn_heads = 2"
    config.write_text(
        f'output = "file/run"\n[data]\ntrain = "data"\n[network]\n{network}\n[training]\nepochs = 1\n'
    )
    assert main(["fit", str(config), "--quiet"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "output folder could not be written to" in said
    assert "Not a directory" in said


def test_a_loss_that_is_not_finite_leaves_model_and_checkpoint(tmp_path: Path) -> None:
    config = toy_config(tmp_path, checkpoint_every=2, epochs=8, batch=2)
    experiment = toy_experiment(config)

    def spoil(batches: Iterable, label: str, total: int | None = None) -> Iterable:
        if label.startswith("epoch 5/"):
            experiment.train.structures[3].overlap[0, 0, 0] = np.inf
        return batches

    with pytest.raises(ValueError, match=r"diverged in epoch 5: .*on structure s3;"):
        Trainer(experiment, spoil).run(resume=False)
    assert Checkpoints(config.output_folder / "checkpoints").epochs()[-1] == 4
    parameters = read_model(config.output_folder / "model.h5")["parameters"]
    assert jax.tree.all(jax.tree.map(lambda leaf: bool(np.all(np.isfinite(leaf))), parameters))
