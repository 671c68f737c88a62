"""What a config would cost: parameters, compilations, memory, time per epoch; measured, and nothing is written."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np

from trainers import memory
from trainers.config import TrainingConfig
from trainers.experiment import Experiment
from trainers.fit import Progress, prepared, running
from trainers.fitting import fitting_steps
from trainers.step import Steps, TrainState

_FORWARD_SHARE = 0.4
_REPEATS = 2


@dataclass(frozen=True)
class ShapeCost:
    """What the batches of one padded shape cost.

    Parameters
    ----------
    shape : (atoms, pairs, near pairs) on each device.
    batches : of it in an epoch.
    compile_seconds, seconds : of the compilation (or of reading it from the cache), and of one batch.
    memory : bytes while it runs; 0 when the compiler does not say.
    """

    shape: tuple[int, int, int]
    batches: int
    compile_seconds: float
    seconds: float
    memory: int


@dataclass(frozen=True)
class DryRun:
    """What a config would cost; `table()` says it in words.

    Parameters
    ----------
    config : the config.
    n_parameters, n_arrays : of the network.
    structures : (training, validation).
    padding : share of padded pairs.
    shapes : the cost of each padded shape.
    update_seconds, updates : of one change of the parameters; in an epoch.
    validation_batches : in a validation.
    needed, free : bytes; free is None when unknown.
    devices : how many, and of which kind.
    """

    config: TrainingConfig
    n_parameters: int
    n_arrays: int
    structures: tuple[int, int]
    padding: float
    shapes: tuple[ShapeCost, ...]
    update_seconds: float
    updates: int
    validation_batches: int
    needed: int
    free: int | None
    devices: str

    @property
    def training_seconds(self) -> float:
        """Of one epoch, without validation."""
        return sum(s.batches * s.seconds for s in self.shapes) + self.updates * self.update_seconds

    @property
    def epoch_seconds(self) -> float:
        """Of one epoch; a validation batch is counted as 0.4 of a training batch."""
        batches = sum(s.batches for s in self.shapes)
        mean = sum(s.batches * s.seconds for s in self.shapes) / batches
        validation = self.validation_batches * mean * _FORWARD_SHARE
        return self.training_seconds + validation / self.config.training.validate_every

    def table(self) -> str:
        """Lines for a terminal."""
        lines = [
            f"parameters      {self.n_parameters} in {self.n_arrays} arrays",
            f"structures      {self.structures[0]} training, {self.structures[1]} validation",
            f"devices         {self.devices}",
            f"compilations    {len(self.shapes)} shapes, {100 * self.padding:.0f} % padding",
        ]
        for s in self.shapes:
            atoms, pairs, near = s.shape
            lines.append(
                f"  {atoms} atoms, {pairs} pairs, {near} near: {s.batches} batches per epoch, "
                f"{s.seconds:.3g} s each, {memory.gib(s.memory)}, compiled in {s.compile_seconds:.1f} s"
            )
        free = "unknown" if self.free is None else memory.gib(self.free)
        lines += [
            f"memory          {memory.gib(self.needed)} needed, {free} free",
            f"time per epoch  {self.epoch_seconds:.3g} s (updates of the parameters "
            f"{self.updates * self.update_seconds:.2g} s of them)",
            f"whole budget    {self._budget()}" + self._committee(),
            f"nothing was written to {self.config.output_folder}",
        ]
        if self.free is not None and self.needed > self.free:
            lines.append("this does not fit: lower [training] batch or set [training] remat = true")
        return "\n".join(lines)

    def _budget(self) -> str:
        training, each = self.config.training, max(self.epoch_seconds, 1e-9)
        parts = []
        if training.epochs is not None:
            parts.append(f"{training.epochs} epochs in {_duration(training.epochs * each)}")
        if training.max_minutes is not None:
            parts.append(
                f"{training.max_minutes:g} minutes for {60 * training.max_minutes / each:.0f} epochs"
            )
        return ", or ".join(parts)

    def _committee(self) -> str:
        n = self.config.training.committee
        return f", for each of {n} models" if n > 1 else ""


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def dry_run(config: TrainingConfig, bar: Progress | None = None) -> DryRun:
    """Read the data, compile, take a few steps on each shape with parameters that are thrown away.

    Raises
    ------
    ValueError, KeyError : config or data that cannot be used.
    """
    with running(config):
        return costs(prepared(config, bar))


def costs(experiment: Experiment) -> DryRun:
    """The same for an experiment."""
    steps = experiment.steps
    state = steps.start(experiment.initial_params())
    statistics = steps.devices.replicate(dict(experiment.statistics()))
    steps, _ = fitting_steps(experiment, steps, state, statistics)
    shapes, gradient = [], None
    for members, batches in experiment.train.kinds():
        cost, gradient = _cost(experiment, steps, state, statistics, members)
        shapes.append(replace(cost, batches=batches))
    leaves = jax.tree.leaves(state.params)
    needed = memory.needed(steps.compiled.values(), state)
    device, n = steps.devices.first, steps.devices.n
    return DryRun(
        config=experiment.config,
        n_parameters=sum(leaf.size for leaf in leaves),
        n_arrays=len(leaves),
        structures=(len(experiment.train.structures), len(experiment.validation.structures)),
        padding=experiment.train.waste,
        shapes=tuple(shapes),
        update_seconds=_update_seconds(steps, state, gradient),
        updates=len(experiment.train),
        validation_batches=sum(n for _, n in experiment.validation.kinds()),
        needed=needed,
        free=memory.free(device),
        devices=f"{n} x {device.device_kind} ({device.platform})",
    )


def _cost(
    experiment: Experiment, steps: Steps, state: TrainState, statistics: Any, members: list[int]
) -> tuple[ShapeCost, Any]:
    """The cost of one shape, and a gradient."""
    batch = experiment.train.example(members, experiment.config.training.seed)
    began = time.perf_counter()
    compiled = steps.compile(state, statistics, batch)
    compile_seconds = time.perf_counter() - began
    times, result = [], None
    for _ in range(_REPEATS):
        began = time.perf_counter()
        result = jax.block_until_ready(steps.gradient(state, statistics, batch))
        times.append(time.perf_counter() - began)
    assert result is not None
    size = memory.needed([compiled], {})
    return ShapeCost(experiment.train.shapes_of(members), 0, compile_seconds, min(times), size), result[0]


def _update_seconds(steps: Steps, state: TrainState, gradient: Any) -> float:
    """Of one change of the parameters."""
    times = []
    for _ in range(_REPEATS):
        began = time.perf_counter()
        state, _ = jax.block_until_ready(steps.update(state, gradient, np.float32(0.0)))
        times.append(time.perf_counter() - began)
    return min(times)
