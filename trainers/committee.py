"""A committee: the same config trained with several seeds, each member a run of its own in output/member-n."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from trainers.config import TrainingConfig
from trainers.experiment import Experiment
from trainers.fit import FitResult, Progress, Trainer, prepared, running
from trainers.phases import hamiltonian_phase, trains_hamiltonian_first

log = logging.getLogger(__name__)


def member_config(config: TrainingConfig, n: int) -> TrainingConfig:
    """The config of member n: its seed, its name, its folder."""
    training = config.training.model_copy(update={"seed": config.training.seed + n, "committee": 1})
    return config.model_copy(
        update={
            "training": training,
            "name": f"{config.name}-{n}",
            "output": f"{config.output}/member-{n}",
        }
    )


def members(experiment: Experiment) -> Iterator[Experiment]:
    """The experiments of a committee: equal but for the seed and, with a fraction, the structures seen."""
    config = experiment.config
    for n in range(config.training.committee):
        own = member_config(config, n)
        size, fraction = len(experiment.train.structures), own.training.committee_fraction
        chosen = None
        if fraction < 1.0:
            order = np.random.default_rng([own.training.seed, size]).permutation(size)
            chosen = tuple(sorted(int(m) for m in order[: max(1, round(fraction * size))]))
        yield replace(experiment, config=own, train=replace(experiment.train, chosen=chosen))


def fit_committee(
    config: TrainingConfig, *, resume: bool = False, bar: Progress | None = None
) -> list[FitResult]:
    """Train every member, one after the other; with resume, finished ones are kept and the rest go on.

    Returns
    -------
    one result per member; `DeepHCalculator([r.model_path for r in results])` uses them together.

    Raises
    ------
    ValueError, KeyError, OSError : see fit.
    """
    if trains_hamiltonian_first(config):
        hamiltonian_phase(config)
    with running(config):
        return train_members(prepared(config, bar), resume=resume, bar=bar)


def train_members(
    experiment: Experiment, *, resume: bool = False, bar: Progress | None = None
) -> list[FitResult]:
    """The same for an experiment; all members share the compiled steps."""
    results: list[FitResult] = []
    steps = None
    for own in members(experiment):
        log.info("member %d of %d", len(results) + 1, experiment.config.training.committee)
        trainer = Trainer(own, bar, steps=steps)
        results.append(trainer.run(resume=resume))
        steps = trainer.steps
    return results
