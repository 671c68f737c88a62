"""The experiment of a [potential] section: a head on a Hamiltonian model that stays as it is."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from ase_deeph.model import HamiltonianModel
from ase_deeph.potential import EnergyHead, EnergyNetwork
from trainers.config import TrainingConfig
from trainers.dataset import Batches, hold_out
from trainers.devices import choose_devices
from trainers.energy_data import (
    EnergyStructure,
    energy_fingerprint,
    fit_reference,
    label_scale,
    load_energy_structures,
    pad_energy_batch,
)
from trainers.energy_metrics import EnergyErrors
from trainers.energy_step import EnergySteps
from trainers.experiment import Experiment, Progress, fingerprint_of, read_start
from trainers.log import ENERGY_LOG, LogFormat

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class EnergyExperiment(Experiment):
    """What the training of a head works with; `network` is an EnergyNetwork, `start` the Hamiltonian model.

    Parameters
    ----------
    reference : energy of each species, eV.
    """

    reference: Mapping[str, float] = field(default_factory=dict)

    @property
    def steps(self) -> EnergySteps:
        """Fresh compiled steps."""
        assert self.config.potential is not None
        return EnergySteps(self.network, self.config.potential, self.config.optimizer, self.devices)

    @property
    def _known(self) -> EnergyHead | None:
        """The head to continue, where the model has one of this architecture."""
        assert self.start is not None
        head = self.start.head
        return head if head is not None and head.config == self.network.config else None

    def initial_params(self) -> Mapping[str, Any]:
        """Parameters before the first step: those of the model's head where it has one of this architecture."""
        known = self._known
        return self.network.init(self.config.training.seed) if known is None else known.params

    def statistics(self) -> Mapping[str, Any]:
        """Scales of the head, and the parameters of the network that it reads, which are not trained."""
        assert self.start is not None
        known = self._known
        if known is not None:
            return {"head": known.statistics, "backbone": self.start.params}
        structures = self.train.structures
        count = min(self.config.data.statistics_structures, len(structures))
        chosen = np.unique(np.linspace(0, len(structures) - 1, count).round().astype(int))
        scale = label_scale(structures, _table(self.reference, self.start))
        graphs = (structures[n].graph for n in chosen)
        fitted = self.network.fit_statistics(self.start.params, graphs, scale)
        return {"head": fitted, "backbone": self.start.params}

    def identity(self) -> dict[str, Any]:
        """What must be equal for a resumed run to equal an uninterrupted one, the model read included."""
        assert self.start is not None
        return {**super().identity(), "start model": fingerprint_of(self.start.params)}

    def empty_statistics(self) -> Mapping[str, Any]:
        """Arrays of the shapes of `statistics`."""
        assert self.start is not None
        return {"head": self.network.empty_statistics(), "backbone": self.start.params}

    @property
    def log_format(self) -> LogFormat:
        """What the log of a run holds."""
        return ENERGY_LOG

    def errors(self, sums: np.ndarray) -> EnergyErrors:
        """The errors of a set, from the rows that a step returns."""
        return EnergyErrors.from_sums(sums)

    def errors_of(self, numbers: tuple[float, float]) -> EnergyErrors:
        """The same from the two numbers."""
        return EnergyErrors(*numbers)

    def score(self, numbers: tuple[float, float]) -> float:
        """w_E · meV per atom + w_F · meV/Å, without what the validation set does not have."""
        section = self.config.potential
        assert section is not None
        weights = (section.energy_weight, section.force_weight)
        return sum(w * e for w, e in zip(weights, numbers, strict=True) if not math.isnan(e))

    def model(
        self, params: Mapping[str, Any], statistics: Mapping[str, Any], **measured: Any
    ) -> HamiltonianModel:
        """The Hamiltonian model, untouched, with the head."""
        assert self.start is not None
        head = EnergyHead(self.network.config, params, statistics["head"], self.reference)
        own = self.provenance(**measured)
        own.pop("continued_from", None)
        return replace(self.start, head=head, provenance={**self.start.provenance, "potential": own})


def _table(reference: Mapping[str, float], start: HamiltonianModel) -> np.ndarray:
    return np.array([reference[s] for s in start.basis.symbols])


def _start(config: TrainingConfig) -> HamiltonianModel:
    """The Hamiltonian model that the head is for.

    Raises
    ------
    ValueError : none is given, or [network] contradicts it.
    """
    model = read_start(config, for_head=True)
    if model is None:
        raise ValueError(
            "[potential] needs a Hamiltonian model: give its file as [training] start_from, or set [potential] "
            'hamiltonian = "first" to train one before'
        )
    return model


def prepare_energy(config: TrainingConfig, progress: Progress = lambda items, _: items) -> EnergyExperiment:
    """Read the data and build the head of a config.

    Raises
    ------
    ValueError, KeyError : a model or data that cannot be used, in one line.
    """
    assert config.potential is not None
    start, data = _start(config), config.data
    network = EnergyNetwork(config.potential.energy_config, start.network)
    dtype = np.float64 if config.training.precision == "float64" else np.float32

    def load(where: tuple[str, ...]) -> list[EnergyStructure]:
        return load_energy_structures(
            [config.path(p) for p in where], network, dtype=dtype, progress=progress
        )

    apart = load(data.validation) if data.validation else []
    training, held = hold_out(load(data.train), apart, data.validation_fraction)
    same = start.head is not None and start.head.config == network.config
    reference = dict(start.head.reference) if same else fit_reference(training, start.basis)  # type: ignore[union-attr]
    batch = config.training.batch
    devices = choose_devices(config.training.devices, batch)
    make = partial(
        Batches,
        batch_size=batch,
        max_shapes=data.max_shapes,
        devices=devices,
        pad=partial(pad_energy_batch, reference=_table(reference, start)),
    )
    return EnergyExperiment(
        config=config,
        basis=start.basis,
        network=network,
        train=make(training, accumulate=config.training.accumulate),
        validation=make(held or training),
        held_out=bool(held),
        start=start,
        data_fingerprint=energy_fingerprint(training + held),
        devices=devices,
        reference=reference,
    )
