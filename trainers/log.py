"""The CSV log of a training run, safe to continue after a kill, and the picture of its learning curve."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class LogFormat:
    """What the log of a kind of training holds, and what its picture shows.

    Parameters
    ----------
    errors : names of the two errors, which have a column for training and one for validation each.
    label : of the second of them, for the picture.
    """

    errors: tuple[str, str]
    label: str

    @property
    def json_names(self) -> tuple[str, ...]:
        """Names of the errors where units are written as units: meV."""
        return tuple(name.replace("_mev", "_meV") for name in self.errors)

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns."""
        return (
            *("epoch", "steps", "seconds", "learning_rate", "train_loss"),
            *(f"{part}_{name}" for part in ("train", "validation") for name in self.errors),
            *("gradient_norm", "structures_per_second", "host_wait_percent", "peak_memory_gib"),
        )


HAMILTONIAN_LOG = LogFormat(("mae_raw_mev", "mae_gauge_fixed_mev"), "gauge-fixed MAE of H (meV)")
ENERGY_LOG = LogFormat(("mae_energy_mev_per_atom", "mae_force_mev_per_a"), "MAE of forces (meV/Å)")
COLUMNS = HAMILTONIAN_LOG.columns


class TrainingLog:
    """Rows of numbers, one per epoch, in a CSV file.

    Parameters
    ----------
    path : the file.
    before_epoch : rows of this epoch and later, from a run that was killed, are taken out.
    columns : names of the numbers.
    """

    def __init__(self, path: str | Path, before_epoch: int = 0, columns: tuple[str, ...] = COLUMNS) -> None:
        self.path, self.columns = Path(path), columns
        rows = (
            [row for row in read_log(self.path) if row["epoch"] < before_epoch] if self.path.is_file() else []
        )
        part = self.path.with_suffix(".part")
        with part.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(columns)
            writer.writerows([[_text(name, row.get(name, math.nan)) for name in columns] for row in rows])
        os.replace(part, self.path)

    def append(self, row: Mapping[str, float]) -> None:
        """Write one row and flush it."""
        with self.path.open("a", newline="") as file:
            csv.writer(file).writerow([_text(name, row[name]) for name in self.columns])


def _text(name: str, value: float) -> str:
    return str(int(value)) if name in ("epoch", "steps") else f"{value:.9g}"


def read_log(path: str | Path) -> list[dict[str, float]]:
    """The complete rows of a log; a last line cut short by a kill is left out."""
    with Path(path).open(newline="") as file:
        lines = file.read().split("\n")
    names, rows = next(csv.reader(lines[:1]), []), []
    for values in csv.reader(lines[1:-1]):
        if len(values) == len(names):
            rows.append({name: float(v) for name, v in zip(names, values, strict=True)})
    return rows


def is_of_head(path: str | Path) -> bool:
    """Whether a log is that of an energy head's training."""
    with Path(path).open(encoding="utf-8", errors="replace") as file:
        return file.readline().strip() == ",".join(ENERGY_LOG.columns)


def plot_learning_curve(log: str | Path, picture: str | Path, kind: LogFormat = HAMILTONIAN_LOG) -> None:
    """An error over epochs, of training and validation; nothing when the log is empty."""
    from matplotlib.figure import Figure

    rows = read_log(log)
    if not rows:
        return
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    epochs = [row["epoch"] + 1 for row in rows]
    for column, label in (
        (f"train_{kind.errors[1]}", "training (running)"),
        (f"validation_{kind.errors[1]}", "validation (averaged parameters)"),
    ):
        points = [(e, row[column]) for e, row in zip(epochs, rows, strict=True) if row[column] > 0]
        if points:
            axes.plot(*zip(*points, strict=True), label=label)
    axes.set(xlabel="epoch", ylabel=kind.label, yscale="log")
    axes.legend()
    axes.grid(alpha=0.3)
    part = Path(picture).with_suffix(".part")
    figure.savefig(part, dpi=150, format="png")
    os.replace(part, picture)
