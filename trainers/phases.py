"""What a config with a [potential] section means: the training of H, if it asks for one, and that of the head."""

from __future__ import annotations

from typing import Any

from trainers.config import TrainingConfig

_DATA = ("train", "validation")
_BUDGET = ("epochs", "max_minutes")


def trains_hamiltonian_first(config: TrainingConfig) -> bool:
    """Whether H is trained before the head, in one run."""
    return config.potential is not None and config.potential.hamiltonian == "first"


def hamiltonian_phase(config: TrainingConfig) -> TrainingConfig:
    """The config without its head.

    Raises
    ------
    ValueError : a committee is asked for.
    """
    if config.potential is not None and config.training.committee > 1:
        raise ValueError(
            '[potential] hamiltonian = "first" trains one model; train the committee of H without [potential], '
            "then a head for each member with start_from"
        )
    return config.model_copy(update={"potential": None})


def head_phase(config: TrainingConfig) -> TrainingConfig:
    """The config of the head alone: [data], [optimizer] and [training] with what [potential] says instead."""
    own = config.potential
    assert own is not None
    data: dict[str, Any] = {name: getattr(own, name) for name in _DATA if getattr(own, name) is not None}
    if "train" in data:
        data.setdefault("validation", ())
    training: dict[str, Any] = {} if own.batch is None else {"batch": own.batch}
    if any(getattr(own, name) is not None for name in _BUDGET):
        training |= {name: getattr(own, name) for name in _BUDGET}
    changes: dict[str, Any] = {}
    if trains_hamiltonian_first(config):
        training["start_from"] = f"{config.output}/model.h5"
        changes = {"output": f"{config.output}/potential", "network": {}}
    if own.learning_rate is not None:
        rate = {"learning_rate": own.learning_rate}
        changes["optimizer"] = config.optimizer.model_copy(update=rate)
    used = dict.fromkeys((*_DATA, *_BUDGET, "learning_rate", "batch"))
    return config.model_copy(
        update={
            "data": config.data.model_copy(update=data),
            "training": config.training.model_copy(update=training),
            "potential": own.model_copy(update={**used, "hamiltonian": "frozen"}),
            **changes,
        }
    )
