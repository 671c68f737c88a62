"""Whether the largest batch of an experiment fits into memory, with or without recomputation (remat)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from trainers import memory
from trainers.experiment import Experiment
from trainers.step import Steps, TrainState


def fitting_steps(
    experiment: Experiment, steps: Steps, state: TrainState, statistics: Mapping[str, Any]
) -> tuple[Steps, str]:
    """The steps compiled for the largest shape, with the remat that [training] asks for, and a complaint or "".

    With remat = "auto" intermediate values are kept where they fit, and computed again where they do not.
    """
    members, training = experiment.train.kinds()[0][0], experiment.config.training
    batch, complaint = experiment.train.example(members, training.seed), ""
    for remat in (False, True) if training.remat == "auto" else (bool(training.remat),):
        if remat != steps.remat:
            steps = replace(steps, remat=remat, compiled={})
        compiled = steps.compile(state, statistics, batch)
        complaint = memory.complaint(
            memory.needed([compiled], state),
            memory.free(steps.devices.first),
            batch=training.batch,
            pairs=experiment.train.shapes_of(members)[1],
            remat=remat,
        )
        if not complaint:
            break
    return steps, complaint
