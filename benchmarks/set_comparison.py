"""One benchmark set, two networks, the same wall time, taking turns: ELCT and the Clebsch-Gordan baseline.

    python benchmarks/set_comparison.py benchmarks/sets/graphene DATA --minutes 20 -o RESULT.json

DATA holds train, validation, test and perhaps transfer, made by `deeph dataset generate` from the recipes beside
fit.toml. Each network trains in a process of its own; the two take turns of ten seconds on one core, and the minutes of
each are those of its own turns (see turns.py), without preparing the data and compiling for the largest shape, with all
other compilation, for which no cache is used. Leave the machine idle. Both have fit.toml's numbers,
but for [training] products, which the baseline's layers do not have; the baseline also takes the optimizer named by
--baseline-optimizer. The test sets choose nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from turns import in_turns

_ENVIRONMENT = {
    "ASE_DEEPH_CACHE": "off",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
}


def configuration(folder: Path, data: Path, kind: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """fit.toml of the set with the data's place, the network's kind and the budget."""
    values = tomllib.loads((folder / "fit.toml").read_text(encoding="utf-8"))
    values["data"] |= {part: [str((data / part).absolute())] for part in ("train", "validation")}
    values["network"]["kind"] = kind
    values["training"]["max_minutes"] = arguments.minutes
    values["output"] = str((Path(arguments.work) / f"{folder.name}-{kind}").absolute())
    if kind == "e3":
        values["training"].pop("products", None)
    if kind == "e3" and arguments.baseline_optimizer:
        values["optimizer"].pop("products", None)
        values["optimizer"] |= {
            "kind": arguments.baseline_optimizer,
            "learning_rate": arguments.baseline_rate,
        }
    return values


def measured(model_path: Path, data: Path) -> dict[str, Any]:
    """Errors in meV on the test sets there are."""
    from trainers.evaluate import evaluate

    errors = {}
    for part in ("test", "transfer"):
        if (data / part).exists():
            numbers = evaluate(str(model_path), data / part).to_dict()
            errors[part] = {
                "n": numbers["n_structures"],
                "gauge_fixed": numbers["mae_gauge_fixed_meV"],
                "raw": numbers["mae_raw_meV"],
                "levels_rms": numbers["levels_meV"]["rms_shifted"]["over_structures"],
            }
    return errors


def train(values: dict[str, Any], data: Path, clock: Callable[[], float]) -> dict[str, Any]:
    """Train one network, measure it."""
    import jax

    from trainers.config import parse_config
    from trainers.experiment import prepare
    from trainers.fit import Trainer, running

    with running(config := parse_config(values)):
        experiment = prepare(config)
        cpu = time.process_time()
        result = (trainer := Trainer(experiment, clock=clock)).run(resume=False)
        cpu = time.process_time() - cpu
    return {
        "kind": values["network"]["kind"],
        "optimizer": values["optimizer"]["kind"],
        "products": [values[part].get("products", "float32") for part in ("training", "optimizer")],
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(dict(experiment.network.init(0)))),
        "structures": sum(len(b.structures) for b in [experiment.train]),
        "epochs": result.epochs,
        "updates": int(trainer.state.steps),
        "minutes": result.seconds / 60,
        "cpu_minutes": cpu / 60,
        "validation": {"gauge_fixed": result.errors.gauge_fixed, "raw": result.errors.raw},
        **measured(result.model_path, data),
    }


def main() -> None:
    """Both networks; the table as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("set")
    parser.add_argument("data")
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--work", default="run")
    parser.add_argument("--kinds", nargs="+", default=["elct", "e3"])
    parser.add_argument("--baseline-optimizer", default=None)
    parser.add_argument("--baseline-rate", type=float, default=2e-3)
    parser.add_argument("-o", "--output", required=True)
    arguments = parser.parse_args()
    os.environ.update(_ENVIRONMENT)
    folder, data = Path(arguments.set), Path(arguments.data)
    for part in ("train", "validation"):
        if not (data / part).is_dir():
            parser.error(f"{data} holds no {part}; make it with deeph dataset generate {folder / part}.toml")
    if not Path(arguments.output).absolute().parent.is_dir():
        parser.error(f"{arguments.output}: its folder is not there, and the result would be lost")
    for kind in arguments.kinds:
        begun = Path(arguments.work) / f"{folder.name}-{kind}"
        if begun.exists():
            parser.error(
                f"{begun} holds a run already, and times are compared in one go; give another --work"
            )
    jobs = [(configuration(folder, data, kind, arguments), data) for kind in arguments.kinds]
    rows = []
    for _, row in in_turns(train, jobs):
        rows.append(row)
        Path(arguments.output).write_text(json.dumps(rows, indent=1))
    sys.stdout.write(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
