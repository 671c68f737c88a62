"""The compiled steps: one that trains, one that measures; pure functions of their arguments."""

from __future__ import annotations

import inspect
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float

from ase_deeph.network import Network
from ase_deeph.network.products import Products, products
from trainers.config import OptimizerConfig
from trainers.dataset import Batch
from trainers.devices import Devices
from trainers.levels import level_losses, level_shifts
from trainers.loss import structure_losses, without_gauge
from trainers.metrics import error_sums
from trainers.optimizer import Optimizer
from trainers.slopes import slope_function, slope_losses

log = logging.getLogger(__name__)


@struct.dataclass
class TrainState:
    """What a step changes: parameters, optimizer state, averaged parameters, number of steps."""

    params: Mapping[str, Any]
    optimizer: Any
    average: Mapping[str, Any]
    steps: Float[Array, ""]


@dataclass(frozen=True, eq=False)
class Steps:
    """The compiled functions of a training run: one for the gradient of each shape, one for the update.

    Parameters
    ----------
    network : a network with init and apply.
    loss : what is minimised (of H here; energy_step.py has another).
    optimizer : how.
    devices : what shares a batch.
    remat : compute the network's intermediate values again on the way back instead of keeping them.
    multiply : how exactly gradients multiply by weights (see products.py); errors are measured in full precision.
    """

    network: Any
    loss: Any
    optimizer: OptimizerConfig
    devices: Devices = field(default_factory=Devices)
    remat: bool = False
    multiply: Products = "float32"
    compiled: dict[Any, Any] = field(default_factory=dict)

    @cached_property
    def _optimizer(self) -> Optimizer:
        return Optimizer(self.optimizer)

    def start(self, params: Mapping[str, Any]) -> TrainState:
        """The state before the first step."""
        params = jax.tree.map(lambda leaf: jnp.array(leaf, dtype=jnp.float32), dict(params))
        state = TrainState(
            params=params,
            optimizer=self._optimizer.start(params),
            average=jax.tree.map(jnp.copy, params),
            steps=jnp.zeros((), dtype=jnp.float32),
        )
        return self.devices.replicate(state)

    def _predicted(self, params: Mapping[str, Any], statistics: Mapping[str, Any], graph: Any) -> Any:
        return rematerialised(self.network, self.remat)(params, dict(statistics), graph)

    def batch_loss(
        self, params: Mapping[str, Any], statistics: Mapping[str, Any], batch: Any
    ) -> tuple[Float[Array, ""], Float[Array, "n sums"]]:
        """This batch' part of the mean loss over the structures of the update, and the error sums of each."""
        n = batch.weight.shape[0]
        graph = jax.tree.map(jnp.asarray, batch.graph)
        slope = None
        if getattr(batch, "slopes", None) is None:
            predicted = self._predicted(params, statistics, graph)
        else:
            apply = partial(self._predicted, params, statistics)
            predicted, slope = slope_function(apply, graph, batch.slopes.tangents)
        mask = self.network.orbital_mask(graph)
        target, overlap, structure = (jnp.asarray(a) for a in (batch.target, batch.overlap, batch.structure))
        losses = structure_losses(predicted, target, overlap, mask, structure, n, self.loss, graph.on_site)
        if batch.levels is not None and self.loss.level_weight > 0:
            residual = jnp.where(mask, predicted - target, 0.0)
            if self.loss.gauge == "free":
                residual = without_gauge(residual, overlap, structure, n)
            shifts = level_shifts(residual, graph.i, graph.j, batch.levels, structure, n)
            losses = losses + self.loss.level_weight * level_losses(shifts, batch.levels)
        if slope is not None:
            found = slope_losses((predicted, slope), batch, mask, structure, self.loss, graph.on_site)
            losses = losses + self.loss.derivative_weight * found
        loss = jnp.sum(losses * batch.weight) / batch.total
        sums = error_sums(predicted, target, overlap, mask, structure, n)
        return loss, sums * jnp.asarray(batch.weight)[:, None]

    @cached_property
    def _gradient(self) -> Any:
        def gradient(params: Mapping[str, Any], statistics: Mapping[str, Any], batch: Batch) -> Any:
            with products(self.multiply):
                found = jax.value_and_grad(self.batch_loss, has_aux=True)(params, statistics, batch)
            (loss, sums), slope = found
            loss, slope = self.devices.total((loss, slope))
            return slope, loss, self.devices.gathered(sums)

        return jax.jit(self.devices.mapped(gradient, 2))

    def compile(self, state: TrainState, statistics: Mapping[str, Any], batch: Batch) -> Any:
        """The gradient for batches of this one's shape, compiled if it is not yet."""
        shape = tuple(leaf.shape for leaf in jax.tree.leaves(batch))
        if shape not in self.compiled:
            began = time.perf_counter()
            self.compiled[shape] = self._gradient.lower(state.params, statistics, batch).compile()
            log.debug("compiled for %s pairs in %.1f s", batch.graph.i.shape, time.perf_counter() - began)
        return self.compiled[shape]

    def gradient(
        self, state: TrainState, statistics: Mapping[str, Any], batch: Batch
    ) -> tuple[Mapping[str, Any], Float[Array, ""], Float[Array, "n 3"]]:
        """(gradient, loss, error sums of each structure) of a batch, summed over the devices."""
        return self.compile(state, statistics, batch)(state.params, statistics, batch)

    @cached_property
    def added(self) -> Any:
        """(gradient, gradient) -> their sum; the first is donated."""
        return jax.jit(lambda a, b: jax.tree.map(jnp.add, a, b), donate_argnums=0)

    @cached_property
    def update(self) -> Any:
        """(state, gradient, rate) -> (state, gradient norm); the state is donated."""

        def update(
            state: TrainState, gradient: Mapping[str, Any], rate: Float[Array, ""]
        ) -> tuple[TrainState, Float[Array, ""]]:
            norm = jnp.sqrt(sum(jnp.sum(g * g) for g in jax.tree.leaves(gradient)))
            params, optimizer = self._optimizer.update(gradient, state.optimizer, state.params, rate)
            average = self._optimizer.averaged(state.average, params, optimizer, state.steps)
            return TrainState(params, optimizer, average, state.steps + 1.0), norm

        return jax.jit(update, donate_argnums=0)

    @cached_property
    def measure(self) -> Any:
        """(params, statistics, batch) -> (loss, error sums)."""

        def measure(params: Mapping[str, Any], statistics: Mapping[str, Any], batch: Batch) -> Any:
            loss, sums = self.batch_loss(params, statistics, batch)
            return self.devices.total(loss), self.devices.gathered(sums)

        return jax.jit(self.devices.mapped(measure, 2))

    @property
    def n_compilations(self) -> int:
        """Shapes for which the gradient has been compiled."""
        return len(self.compiled)


def rematerialised(network: Network, wanted: bool) -> Callable:
    """network.apply; when wanted, with its own remat, or, where it has none, keeping dot products alone."""
    if not wanted:
        return network.apply
    if "remat" in inspect.signature(network.apply).parameters:
        options: dict[str, Any] = {"remat": True}
        return partial(network.apply, **options)
    return jax.checkpoint(network.apply, policy=jax.checkpoint_policies.dots_saveable)


def error_of(value: Any) -> np.ndarray:
    """A device array on the host, in double precision."""
    return np.asarray(value, dtype=float)
