"""ELCT against the Clebsch-Gordan baseline: same data, same epochs, same batch, one run of each.

    python benchmarks/network_comparison.py DATASET [--structures 12] [--epochs 10]

DATASET is a folder made by `deeph dataset generate`; its smallest structures are used.  The table is printed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np

from ase_deeph.compilation_cache import compilation_cache
from trainers.config import TrainingConfig, parse_config
from trainers.dataset import Batches
from trainers.experiment import Experiment, prepare
from trainers.fit import Trainer
from trainers.log import read_log

WIDTH = {
    "l_max": 4,
    "channels": 8,
    "pseudo_channels": 4,
    "n_blocks": 2,
    "n_heads": 4,
    "n_radial": 16,
    "hidden": 32,
    "message_cutoff": 3.0,
}


def configuration(kind: str, args: argparse.Namespace, output: str) -> TrainingConfig:
    """The same numbers for both kinds."""
    values = {
        "name": kind,
        "output": output,
        "data": {
            "train": str(Path(args.dataset).absolute()),
            "validation_fraction": 0.0,
            "max_shapes": 1,
            "drop_beyond_cutoff_below": 0.02,
        },
        "network": {"kind": kind, "cutoff": args.cutoff, **WIDTH},
        "optimizer": {"learning_rate": 5e-3, "ema": 0.98},
        "training": {"epochs": args.epochs, "batch": args.batch, "seed": 0, "checkpoint_every": args.epochs},
    }
    return parse_config(values)


def smallest(experiment: Experiment, n: int) -> Experiment:
    """The n smallest structures, every fifth held out."""
    chosen = sorted(experiment.train.structures, key=lambda s: (s.graph.n_pairs, s.name))[:n]
    held = chosen[::5]
    train = [s for s in chosen if s not in held]
    batch = experiment.config.training.batch
    return replace(
        experiment, train=Batches(train, batch, 1), validation=Batches(held, batch, 1), held_out=True
    )


def measure(kind: str, args: argparse.Namespace) -> dict[str, float | str]:
    """Train one network and read its log."""
    with tempfile.TemporaryDirectory() as output:
        experiment = smallest(prepare(configuration(kind, args, output)), args.structures)
        starts: list[float] = []

        def clock(batches: Iterable, label: str, total: int | None = None) -> Iterable:
            starts.append(time.process_time())
            return batches

        with compilation_cache():
            result = Trainer(experiment, clock).run(resume=False)
        rows = read_log(Path(output) / "log.csv")
    seconds = np.diff([row["seconds"] for row in rows])
    return {
        "kind": kind,
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(dict(experiment.network.init(0)))),
        "cpu": float(np.median(np.diff(starts)[1:])),
        "epoch": float(np.median(seconds)),
        "train": rows[-1]["train_mae_gauge_fixed_mev"],
        "fixed": result.errors.gauge_fixed,
        "raw": result.errors.raw,
    }


def main() -> None:
    """Run both and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dataset")
    parser.add_argument("--structures", type=int, default=12)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--cutoff", type=float, default=6.0)
    args = parser.parse_args()
    sys.stdout.write(
        "| network | parameters | s per epoch (median) | CPU s per epoch "
        "| training MAE | validation MAE, gauge-fixed | raw (meV) |\n|---|---|---|---|---|---|---|\n"
    )
    for kind in ("elct", "e3"):
        row = measure(kind, args)
        sys.stdout.write(
            f"| {row['kind']} | {row['parameters']} | {row['epoch']:.2f} | {row['cpu']:.2f} "
            f"| {row['train']:.2f} | {row['fixed']:.2f} | {row['raw']:.2f} |\n"
        )
        sys.stdout.flush()


if __name__ == "__main__":
    main()
