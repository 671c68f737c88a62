"""One change at a time: what it does to the validation error after the same number of updates.

    python benchmarks/what_pays.py benchmarks/sets/graphene DATA --structures 36 --updates 576 -o rows.csv \\
        --change "base" --change "AdamW: optimizer.kind=\\"adamw\\"" --change "18 structures: structures=18"

DATA holds train and validation, made by `deeph dataset generate` from the recipes beside fit.toml. A change is a name
and, after a colon, keys of fit.toml with their values in TOML; `structures` is how many of the training set, by name.
Changes that stand in the output already are not trained again; an unfinished one continues where it was (its CPU
seconds are then those of the last process alone). OMP_NUM_THREADS=1 makes CPU seconds, compilation included,
comparable. The validation set chooses; the test set is not read.
"""

from __future__ import annotations

import argparse
import csv
import os
import sys
import time
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

ROW = ("change", "structures", "parameters", "epochs", "gauge_fixed_meV", "raw_meV", "cpu_s_per_epoch")


def parsed_change(text: str) -> tuple[str, dict[str, Any]]:
    """ "name: a.b=1 c=2" -> (name, {"a.b": 1, "c": 2})."""
    name, _, assignments = text.partition(":")
    return name.strip(), {
        key: tomllib.loads(f"x = {value}")["x"]
        for key, _, value in (a.partition("=") for a in assignments.split())
    }


def some_structures(data: Path, count: int, work: Path) -> Path:
    """A folder of links to the first so many structures of the training set."""
    found = sorted(p for p in (data / "train" / "dft").iterdir() if p.is_dir())
    if count > len(found):
        raise ValueError(
            f"structures = {count}: {data / 'train'} has {len(found)}; generate more or ask for fewer"
        )
    links = work / f"first-{count}" / "dft"
    links.mkdir(parents=True, exist_ok=True)
    for source in found[:count]:
        if not (links / source.name).exists():
            (links / source.name).symlink_to(source.absolute())
    return links.parent


def configuration(arguments: argparse.Namespace, name: str, change: dict[str, Any]) -> dict[str, Any]:
    """fit.toml with the data's place, the number of updates and the change."""
    work, data = Path(arguments.work), Path(arguments.data)
    values = tomllib.loads((Path(arguments.set) / "fit.toml").read_text(encoding="utf-8"))
    count = int(change.get("structures", arguments.structures))
    values["data"]["train"] = [str(some_structures(data, count, work).absolute())]
    values["data"]["validation"] = [str((data / "validation").absolute())]
    del values["training"]["max_minutes"]
    for key, value in change.items():
        if key != "structures":
            section, _, entry = key.partition(".")
            values[section][entry] = value
    each = values["training"].get("batch", 1) * values["training"].get("accumulate", 1)
    epochs = -(-arguments.updates // -(-count // each))
    values["training"] |= {"epochs": epochs, "validate_every": epochs}
    values["output"] = str((work / name.replace(" ", "-").replace("/", "-")).absolute())
    return values


def trained(values: dict[str, Any], name: str) -> dict[str, Any]:
    """Train one; its row."""
    import jax

    from trainers.config import parse_config
    from trainers.experiment import prepare
    from trainers.fit import Trainer, running

    cpu = time.process_time()
    with running(config := parse_config(values)):
        experiment = prepare(config)
        result = Trainer(experiment).run(resume=True)
    return {
        "change": name,
        "structures": len(experiment.train.structures),
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(dict(experiment.network.init(0)))),
        "epochs": result.epochs,
        "gauge_fixed_meV": f"{result.errors.gauge_fixed:.4f}",
        "raw_meV": f"{result.errors.raw:.4f}",
        "cpu_s_per_epoch": f"{(time.process_time() - cpu) / result.epochs:.1f}",
    }


def rows_in(path: Path) -> list[dict[str, Any]]:
    """The rows of a CSV, none when there is no file."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def write(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """All rows, through a temporary file."""
    partial = path.with_suffix(".partial")
    with partial.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, ROW)
        writer.writeheader()
        writer.writerows(rows)
    os.replace(partial, path)


def main() -> None:
    """Train every change that the output does not have yet."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("set")
    parser.add_argument("data")
    parser.add_argument("--structures", type=int, required=True)
    parser.add_argument("--updates", type=int, required=True)
    parser.add_argument(
        "--change", action="append", required=True, help="NAME or NAME: section.key=VALUE ..."
    )
    parser.add_argument("--work", default="run")
    parser.add_argument("-o", "--output", required=True)
    arguments = parser.parse_args()
    output = Path(arguments.output)
    for name, change in map(parsed_change, arguments.change):
        rows = rows_in(output)
        if any(row["change"] == name for row in rows):
            continue
        row = trained(configuration(arguments, name, change), name)
        write(output, [*rows, row])
        sys.stdout.write("  ".join(str(row[key]) for key in ROW) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
