"""The experiment of a [spin] section: H with spin, trained as a whole or as a head on a Hamiltonian model."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from ase_deeph.basis import OrbitalBasis
from ase_deeph.model import HamiltonianModel
from ase_deeph.network import build_network
from ase_deeph.spin import SpinHead, SpinNetwork
from trainers.bases import common_basis, orbital_difference
from trainers.config import TrainingConfig
from trainers.dataset import Batches, hold_out
from trainers.devices import choose_devices
from trainers.domain import training_domain
from trainers.experiment import Experiment, Progress, fingerprint_of, read_start
from trainers.spin_data import SpinStructure, load_spin_structures, pad_spin_batch, spin_fingerprint
from trainers.spin_step import SpinSteps

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class SpinExperiment(Experiment):
    """What the training of H with spin works with; `network` is a SpinNetwork.

    Parameters of a run are {"backbone": of the Hamiltonian network, "head": of the spin head}, the former among
    the statistics, as "frozen", where it stays as it is.
    """

    @property
    def frozen(self) -> bool:
        """Whether the Hamiltonian network stays as it is."""
        assert self.config.spin is not None
        return self.config.spin.backbone == "frozen"

    @property
    def steps(self) -> SpinSteps:
        """Fresh compiled steps."""
        assert self.config.spin is not None
        options = {**self.step_options, "spin_weight": self.config.spin.spin_weight}
        return SpinSteps(self.network, self.config.loss, self.config.optimizer, self.devices, **options)

    @property
    def _known(self) -> SpinHead | None:
        """The head to continue, where the model to start from has one of this architecture."""
        head = None if self.start is None else self.start.spin_head
        return head if head is not None and head.config == self.network.config else None

    def initial_params(self) -> Mapping[str, Any]:
        """Parameters before the first step: those of the model to start from, as far as it has them."""
        seed, known = self.config.training.seed, self._known
        head = self.network.init(seed) if known is None else known.params
        if self.frozen:
            return {"head": head}
        backbone = self.network.backbone.init(seed) if self.start is None else self.start.params
        return {"backbone": backbone, "head": head}

    def statistics(self) -> Mapping[str, Any]:
        """Means and scales of the targets, fitted on (a subset of) the training set unless a model brings them."""
        structures, known = self.train.structures, self._known
        count = min(self.config.data.statistics_structures, len(structures))
        chosen = np.unique(np.linspace(0, len(structures) - 1, count).round().astype(int))
        used = [structures[n] for n in chosen]
        start = None if self.start is None else self.start.statistics
        if known is not None:
            return self._with_frozen({"backbone": start, "head": known.statistics})
        samples = ((s.graph, s.moments, s.target) for s in used)
        return self._with_frozen(self.network.fit_statistics(samples, start))

    def empty_statistics(self) -> Mapping[str, Any]:
        """Arrays of the shapes of `statistics`."""
        backbone, head = self.network.backbone.empty_statistics(), self.network.empty_statistics()
        return self._with_frozen({"backbone": backbone, "head": head})

    def _with_frozen(self, statistics: dict[str, Any]) -> dict[str, Any]:
        if self.frozen:
            assert self.start is not None
            statistics["frozen"] = self.start.params
        return statistics

    def identity(self) -> dict[str, Any]:
        """What must be equal for a resumed run to equal an uninterrupted one, the model read included."""
        before = {} if self.start is None else {"start model": fingerprint_of(self.start.params)}
        return {**super().identity(), **before}

    def model(
        self, params: Mapping[str, Any], statistics: Mapping[str, Any], **measured: Any
    ) -> HamiltonianModel:
        """The model of some parameters, with its provenance."""
        return HamiltonianModel(
            config=self.config.network_config,
            basis=self.basis,
            params=statistics["frozen"] if self.frozen else params["backbone"],
            statistics=dict(statistics["backbone"]),
            provenance=self.provenance(domain=training_domain(self), **measured),
            head=self.start.head if self.frozen and self.start is not None else None,
            spin_head=SpinHead(self.network.config, params["head"], statistics["head"]),
        )


def _start(config: TrainingConfig) -> HamiltonianModel | None:
    """The model to continue from, or that the head is for.

    Raises
    ------
    ValueError : a frozen network without a model, or [network] contradicts it.
    """
    assert config.spin is not None
    model = read_start(config, for_head=True)
    if model is None and config.spin.backbone == "frozen":
        raise ValueError(
            '[spin] backbone = "frozen" needs a Hamiltonian model: give its file as [training] start_from'
        )
    return model


def _same_basis(start: HamiltonianModel, basis: OrbitalBasis) -> None:
    """ValueError unless the model has every species of a dataset with the same orbitals."""
    for symbol in basis:
        if symbol not in start.basis or orbital_difference(start.basis[symbol], basis[symbol]):
            raise ValueError(
                f"start_from: the model's basis {start.basis} does not hold {symbol} as the dataset does, "
                f"{basis}; train from the start, or on data of the model's basis"
            )


def prepare_spin(config: TrainingConfig, progress: Progress = lambda items, _: items) -> SpinExperiment:
    """Read the data and build the network of a config.

    Raises
    ------
    ValueError, KeyError : a model or data that cannot be used, in one line.
    """
    assert config.spin is not None
    start, data = _start(config), config.data
    roots = [config.path(p) for p in data.train]
    basis = common_basis(roots, [config.path(p) for p in data.validation])
    if start is not None:
        _same_basis(start, basis)
        basis, config = start.basis, config.model_copy(update={"network": start.config.to_dict()})
    network = SpinNetwork(config.spin.spin_config, build_network(config.network_config, basis))  # type: ignore[union-attr]
    dtype = np.float64 if config.training.precision == "float64" else np.float32

    def load(where: tuple[str, ...]) -> list[SpinStructure]:
        paths, tolerance = [config.path(p) for p in where], data.drop_beyond_cutoff_below
        return load_spin_structures(paths, network, tolerance=tolerance, dtype=dtype, progress=progress)

    apart = load(data.validation) if data.validation else []
    training, held = hold_out(load(data.train), apart, data.validation_fraction)
    batch = config.training.batch
    devices = choose_devices(config.training.devices, batch)
    make = partial(Batches, batch_size=batch, max_shapes=data.max_shapes, devices=devices, pad=pad_spin_batch)
    return SpinExperiment(
        config=config,
        basis=basis,
        network=network,
        train=make(training, accumulate=config.training.accumulate),
        validation=make(held or training),
        held_out=bool(held),
        start=start,
        data_fingerprint=spin_fingerprint(training + held),
        devices=devices,
    )
