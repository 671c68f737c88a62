"""Several devices, several processes, several batches per update: the same training as one device's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("pydantic")
pytest.importorskip("optax")
pytest.importorskip("orbax.checkpoint")

import jax

from ase_deeph.io.model_file import read_model
from tests.ports import free_port
from tests.test_trainers_fit import toy_config
from tests.training_data import toy_experiment
from trainers.dataset import Batches
from trainers.devices import choose_devices
from trainers.experiment import Experiment
from trainers.feed import Feed
from trainers.fit import Trainer
from trainers.log import read_log

EPOCHS = 8


def launch(folder: Path, *several: str, devices: int = 1) -> subprocess.Popen:
    """A toy training on so many simulated devices, perhaps as one of several processes."""
    environment = {
        **os.environ,
        "ASE_DEEPH_CACHE": "off",
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "OMP_NUM_THREADS": "1",
    }
    training = json.dumps({"epochs": EPOCHS, "batch": 4, "checkpoint_every": 4, "devices": "all"})
    return subprocess.Popen(
        [sys.executable, "-m", "tests.toy_run", str(folder), training, *several],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=Path(__file__).parents[1],
    )


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One device, four devices, two processes, on five structures in batches of four."""
    folder, address = tmp_path_factory.mktemp("parallel"), f"127.0.0.1:{free_port()}"
    started = [
        launch(folder / "one"),
        launch(folder / "four", devices=4),
        *(launch(folder / "two", address, str(n), "2") for n in range(2)),
    ]
    for process in started:
        out, err = process.communicate(timeout=800)
        assert process.returncode == 0, (out + err).decode()[-2000:]
    return folder


@pytest.mark.parametrize("name", ["four", "two"])
def test_devices_and_processes_follow_the_same_losses(name: str, runs: Path) -> None:
    one, other = (read_log(runs / which / "out" / "log.csv") for which in ("one", name))
    assert len(one) == len(other) == EPOCHS
    assert one[-1]["steps"] == other[-1]["steps"] == 2 * EPOCHS
    for column in ("train_loss", "train_mae_raw_mev", "validation_mae_raw_mev"):
        expected = [row[column] for row in one]
        np.testing.assert_allclose([row[column] for row in other], expected, rtol=1e-5)
    models = [read_model(runs / which / "out" / "model.h5")["parameters"] for which in ("one", name)]
    pairs = zip(*(jax.tree.leaves(m) for m in models), strict=True)
    assert all(np.allclose(a, b, rtol=1e-5, atol=1e-6) for a, b in pairs)
    assert not list((runs / name / "out").glob(".model*"))


def trained(folder: Path, accumulate: int, batch: int) -> list[dict[str, float]]:
    config = toy_config(folder, batch=batch, accumulate=accumulate, epochs=6)
    experiment = toy_experiment(config, (1, 1, 1, 1, 1, 1, 1))
    sets = {
        which: Batches(getattr(experiment, which).structures, batch, 1, accumulate=accumulate)
        for which in ("train", "validation")
    }
    whole = {**vars(experiment), **sets}
    Trainer(Experiment(**whole)).run(resume=False)
    return read_log(config.output_folder / "log.csv")


def test_accumulated_batches_update_like_a_large_one(tmp_path: Path) -> None:
    large, small = trained(tmp_path / "a", 1, 4), trained(tmp_path / "b", 4, 1)
    assert large[-1]["steps"] == small[-1]["steps"] == 12
    for column in ("train_loss", "validation_mae_raw_mev", "gradient_norm"):
        np.testing.assert_allclose([r[column] for r in small], [r[column] for r in large], rtol=2e-5)


def test_devices_that_are_not_there_or_not_fed() -> None:
    assert choose_devices(None, 1).n == choose_devices(1, 1).n == choose_devices("all", 1).n == 1
    with pytest.raises(ValueError, match=r"devices: received 99, this process has"):
        choose_devices(99, 128)


def test_a_feed_keeps_the_order_measures_waiting_and_passes_errors_on() -> None:
    import time

    def slow(job: int) -> int:
        if job == 5:
            raise ValueError("no fifth")
        time.sleep(0.01)
        return job * job

    feed = Feed(slow, range(5))
    assert list(feed) == [(n, n * n) for n in range(5)]
    assert feed.waited > 0.02
    for job, _ in (early := Feed(slow, range(100))):
        if job == 1:
            break
    assert early.waited < 0.5
    with pytest.raises(ValueError, match="no fifth"):
        list(Feed(slow, range(6)))
    with jax.enable_x64(True):
        doubles: list[Any] = [made for _, made in Feed(lambda n: jax.numpy.asarray(np.float64(n)), [1])]
    assert doubles[0].dtype == np.float64
