"""Experiment: everything a config.toml stands for, built: data, network, statistics, steps."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ase_deeph import pretrained
from ase_deeph.basis import OrbitalBasis
from ase_deeph.model import HamiltonianModel
from ase_deeph.network import build_network
from trainers.bases import common_basis, holds, orbital_difference, same_orbitals
from trainers.config import TrainingConfig
from trainers.dataset import Batches, hold_out
from trainers.devices import Devices, choose_devices
from trainers.domain import training_domain
from trainers.levels import LevelStates, level_states
from trainers.log import HAMILTONIAN_LOG, LogFormat
from trainers.metrics import MatrixErrors
from trainers.provenance import describe_data, package_versions
from trainers.step import Steps
from trainers.structures import Structure, fingerprint, load_structures
from trainers.transfer import transfer

log = logging.getLogger(__name__)

Progress = Callable[[Iterable, str], Iterable]

_FREE_TO_CHANGE = {"output", "name", "training"}
_BUDGET = {"epochs", "max_minutes"}
_FIXED_IN_TRAINING = {
    "batch",
    "accumulate",
    "seed",
    "precision",
    "products",
    "start_from",
    "epochs",
    "committee_fraction",
}


@dataclass(frozen=True, eq=False)
class Experiment:
    """What a training run works with.

    Parameters
    ----------
    config : the checked config.
    basis : orbitals, with radial functions where the dataset has them.
    network : the architecture on that basis: a Network (energy_experiment.py has another).
    train, validation : batches; validation is the training set itself where nothing is held out.
    held_out : whether validation structures are apart from the training ones.
    start : parameters and statistics of the model to continue from, or None.
    data_fingerprint : SHA-256 of all labels.
    devices : what shares a batch.
    """

    config: TrainingConfig
    basis: OrbitalBasis
    network: Any
    train: Batches
    validation: Batches
    held_out: bool
    start: HamiltonianModel | None
    data_fingerprint: str
    devices: Devices = field(default_factory=Devices)

    @property
    def steps(self) -> Steps:
        """Fresh compiled steps."""
        return Steps(self.network, self.config.loss, self.config.optimizer, self.devices, **self.step_options)

    @property
    def step_options(self) -> dict[str, Any]:
        """What [training] says of the compiled steps of H, with spin or without."""
        training = self.config.training
        return {"remat": training.remat is True, "multiply": training.products}

    @property
    def log_format(self) -> LogFormat:
        """What the log of a run holds."""
        return HAMILTONIAN_LOG

    def errors(self, sums: np.ndarray) -> Any:
        """The two errors of a set, from the rows that a step returns."""
        return MatrixErrors.from_sums(sums)

    def errors_of(self, numbers: tuple[float, float]) -> Any:
        """The same from the two numbers."""
        return MatrixErrors(*numbers)

    def score(self, numbers: tuple[float, float]) -> float:
        """What the best model has least of."""
        return numbers[1] if self.config.loss.gauge == "free" else numbers[0]

    def model(
        self, params: Mapping[str, Any], statistics: Mapping[str, Any], **measured: Any
    ) -> HamiltonianModel:
        """The model of some parameters, with its provenance."""
        return HamiltonianModel(
            config=self.config.network_config,
            basis=self.basis,
            params=params,
            statistics=dict(statistics),
            provenance=self.provenance(domain=training_domain(self), **measured),
        )

    @property
    def seen(self) -> Sequence[int]:
        """Which of the training structures the updates see: all, or a committee member's share."""
        chosen = self.train.chosen
        return range(len(self.train.structures)) if chosen is None else [int(n) for n in chosen]

    def empty_statistics(self) -> Mapping[str, Any]:
        """Arrays of the shapes of `statistics`."""
        return self.network.empty_statistics()

    @property
    def _transfers(self) -> bool:
        """Whether the model to continue from has other orbitals."""
        return self.start is not None and not same_orbitals(self.start.basis, self.basis)

    def initial_params(self) -> Mapping[str, Any]:
        """Parameters before the first step."""
        if self.start is None:
            return self.network.init(self.config.training.seed)
        if not self._transfers:
            return self.start.params
        name, known = self.config.training.start_from, self.start.basis
        taken = transfer(self.start, self.network, self.config.training.seed)
        log.info("start_from %s: %s", name, taken)
        lost = [s for s in known if s not in self.basis]
        if lost:
            log.warning("start_from %s: the data hold no %s, which the new model will not know", name, lost)
        if any(orbital_difference(known[s], self.basis[s]) for s in known if s in self.basis):
            log.warning("start_from %s: its orbitals are not those of the data; expect a slow start", name)
        return taken.params

    def statistics(self) -> Mapping[str, Any]:
        """Target statistics: of a model of this basis to continue from, or fitted on (a subset of) the training set."""
        if self.start is not None and not self._transfers:
            return self.start.statistics
        structures = [self.train.structures[n] for n in self.seen]
        count = min(self.config.data.statistics_structures, len(structures))
        chosen = np.unique(np.linspace(0, len(structures) - 1, count).round().astype(int))
        return self.network.fit_statistics((structures[n].graph, structures[n].target) for n in chosen)

    def identity(self) -> dict[str, Any]:
        """What must be equal for a resumed run to equal an uninterrupted one, as JSON values by name."""
        values = self.config.model_dump(mode="json", exclude_defaults=True)
        kept: dict[str, Any] = {k: v for k, v in values.items() if k not in _FREE_TO_CHANGE}
        if "potential" in kept:
            kept["potential"] = {k: v for k, v in kept["potential"].items() if k not in _BUDGET}
        kept["training"] = {k: v for k, v in values.get("training", {}).items() if k in _FIXED_IN_TRAINING}
        held = sorted(s.name for s in self.validation.structures) if self.held_out else []
        return {**kept, "labels": self.data_fingerprint, "held out": held}

    def provenance(self, **measured: Any) -> dict[str, Any]:
        """Where a model of this run comes from: config, data, versions and what was measured."""
        config = self.config.model_dump()
        for key in ("train", "validation"):
            config["data"][key] = [Path(p).name for p in config["data"][key]]
        if config["training"]["start_from"]:
            config["training"]["start_from"] = Path(config["training"]["start_from"]).name
        config.pop("output")
        inherited = dict(self.start.provenance) if self.start is not None else None
        return {
            "name": self.config.name,
            "config": config,
            "dataset": {
                "fingerprint": self.data_fingerprint,
                "n_training": len(self.seen),
                "n_validation": len(self.validation.structures) if self.held_out else 0,
                **describe_data(s.info for s in self.train.structures),
            },
            "versions": package_versions(),
            **({"continued_from": inherited} if inherited else {}),
            **measured,
        }


def fingerprint_of(params: Mapping[str, Any]) -> str:
    """SHA-256 of the numbers of a tree of parameters."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(dict(params)):
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()


def read_start(config: TrainingConfig, *, for_head: bool = False) -> HamiltonianModel | None:
    """The model of [training] start_from; None without one.  For a head on it [network] may be left out.

    Raises
    ------
    ValueError : [network] contradicts it.
    """
    if config.training.start_from is None:
        return None
    model = pretrained.load(_model_file(config.path(config.training.start_from)))
    stated = bool(config.network) or not for_head
    if stated and model.config != config.network_config:
        remedy = "leave [network] out" if for_head else "copy its values"
        raise ValueError(
            f"start_from: the model's network {model.config.to_dict()} differs from [network] "
            f"{config.network_config.to_dict()}; {remedy}"
        )
    return model


def _model_file(path: Path) -> str:
    """A path that is there, else what it ends in, which may be the name of a model that ships."""
    return str(path) if path.exists() or path.name not in pretrained.named_models() else path.name


def prepare(config: TrainingConfig, progress: Progress = lambda items, _: items) -> Experiment:
    """Read the data and build the network of a config.

    Raises
    ------
    ValueError, KeyError : data that cannot be used, in one line.
    """
    network_config, data = config.network_config, config.data
    roots = [config.path(p) for p in data.train]
    basis, start = common_basis(roots, [config.path(p) for p in data.validation]), read_start(config)
    if start is not None and holds(start.basis, basis):
        basis = start.basis
    network = build_network(network_config, basis)
    dtype = np.float64 if config.training.precision == "float64" else np.float32

    states = None
    if config.loss.level_weight > 0:
        states = partial(
            level_states, cutoff=network_config.cutoff, n_padded=basis.max_orbitals, config=config.loss
        )

    def load(
        where: list[Path], states: Callable[..., LevelStates] | None = None, slopes: bool = False
    ) -> list[Structure]:
        return load_structures(
            where,
            basis,
            network_config,
            tolerance=data.drop_beyond_cutoff_below,
            dtype=dtype,
            states=states,
            slopes=slopes,
            progress=progress,
        )

    apart = load([config.path(p) for p in data.validation]) if data.validation else []
    structures = load(roots, states, config.loss.derivative_weight > 0)
    training, held = hold_out(structures, apart, data.validation_fraction)
    batch, shapes = config.training.batch, data.max_shapes
    devices = choose_devices(config.training.devices, batch)
    return Experiment(
        config=config,
        basis=basis,
        network=network,
        train=Batches(
            training, batch, shapes, config.loss.levels_per_step, config.training.accumulate, devices
        ),
        validation=Batches(held or training, batch, shapes, devices=devices),
        held_out=bool(held),
        start=start,
        data_fingerprint=fingerprint(training + held),
        devices=devices,
    )
