"""Where a training run stands between epochs, what the updates of one epoch add up to, and how a run ended."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from trainers.energy_metrics import EnergyErrors
from trainers.metrics import MatrixErrors


@dataclass(frozen=True)
class FitResult:
    """How a training run ended.

    Parameters
    ----------
    model_path : the model file with the best averaged parameters.
    errors : of that model on the validation set.
    final_loss : mean training loss of the last epoch.
    epochs, seconds : used, over all resumes.
    n_compilations : of the training step, in this process.
    reason : why it ended.
    host_wait : share of this process' training time in which no batch was ready for the device.
    structures_per_second : trained on, in this process.
    peak_memory : bytes; of the device, on a CPU of the process.
    """

    model_path: Path
    errors: MatrixErrors | EnergyErrors
    final_loss: float
    epochs: int
    seconds: float
    n_compilations: int
    reason: str
    host_wait: float = 0.0
    structures_per_second: float = 0.0
    peak_memory: int = 0


@dataclass
class Standing:
    """Where a run stands between epochs; goes into the checkpoint as numbers.

    best_raw and best_fixed are the two errors of the best model, of whatever kind.
    """

    epoch: int = 0
    seconds: float = 0.0
    best: float = math.inf
    best_raw: float = math.inf
    best_fixed: float = math.inf
    stale: int = 0
    last_loss: float = math.nan

    def to_arrays(self) -> dict[str, np.ndarray]:
        """One number per name."""
        return {name: np.array(value, dtype=np.float64) for name, value in vars(self).items()}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Standing:
        """The inverse of to_arrays."""
        values = {name: float(value) for name, value in arrays.items()}
        return cls(**{**values, "epoch": int(values["epoch"]), "stale": int(values["stale"])})  # type: ignore[arg-type]


@dataclass
class EpochSums:
    """What the updates of one epoch add up to.

    Numbers of an update are read from the device when the next one is under way, so that it never waits for them.
    """

    names: Sequence[str]
    losses: list[float] = field(default_factory=list)
    sums: list[np.ndarray] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    rate: float = 0.0
    structures: int = 0
    seconds: float = 0.0
    waited: float = 0.0
    pending: tuple[list[list[int]], Any, list[Any], Any] | None = None

    def add(self, members: list[list[int]], loss: Any, sums: list[Any], norm: Any) -> None:
        """Keep an update's numbers, still on the device, and read those of the one before."""
        before, self.pending = self.pending, (members, loss, sums, norm)
        if before is not None:
            self._read(*before)

    def finish(self) -> None:
        """Read the last update."""
        if self.pending is not None:
            before, self.pending = self.pending, None
            self._read(*before)

    def _read(self, members: list[list[int]], loss: Any, sums: list[Any], norm: Any) -> None:
        rows = [np.asarray(s, dtype=float) for s in sums]
        value, length = float(np.asarray(loss)), float(np.asarray(norm))
        if not (np.isfinite(value) and np.isfinite(length)):
            raise FloatingPointError(
                f"loss {value}, gradient {length} on structure {self._culprits(members, rows)}; check it, or "
                "lower [optimizer] learning_rate and train into another output"
            )
        self.losses.append(value)
        self.norms.append(length)
        self.sums += rows
        self.structures += sum(len(m) for m in members)

    def _culprits(self, members: list[list[int]], rows: list[np.ndarray]) -> str:
        """Names of the structures whose own errors are not finite, of all when there are none."""
        everyone = [m for batch in members for m in batch]
        bad = [
            m
            for batch, of_batch in zip(members, rows, strict=True)
            for m, row in zip(batch, of_batch, strict=False)
            if not np.all(np.isfinite(row))
        ]
        found = [self.names[m] for m in bad or everyone]
        return ", ".join(found[:8]) + (f" and {len(found) - 8} more" if len(found) > 8 else "")
