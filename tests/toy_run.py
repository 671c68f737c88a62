"""A small training in a process of its own: `python -m tests.toy_run FOLDER TRAINING_JSON [COORDINATOR I N]`."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

from ase_deeph.processes import join_processes
from tests.training_data import TINY, toy_experiment
from trainers.config import parse_config
from trainers.devices import choose_devices
from trainers.fit import Trainer


def main() -> None:
    """Continue the run in FOLDER; "go" on stdout when it begins."""
    folder, training, *several = sys.argv[1:]
    if several:
        join_processes(several[0], int(several[1]), int(several[2]))
    values = {
        "output": "out",
        "data": {"train": "unused", "max_shapes": 1},
        "network": TINY,
        "optimizer": {"learning_rate": 0.05, "ema": 0.9},
        "training": json.loads(training),
    }
    config = parse_config(values, Path(folder))
    experiment = toy_experiment(config)
    devices = choose_devices(config.training.devices, config.training.batch)
    experiment = replace(
        experiment,
        devices=devices,
        train=replace(experiment.train, devices=devices),
        validation=replace(experiment.validation, devices=devices),
    )
    sys.stdout.write("go\n")
    sys.stdout.flush()
    Trainer(experiment).run(resume=True)


if __name__ == "__main__":
    main()
