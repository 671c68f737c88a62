"""The compiled steps: one that trains, one that measures; pure functions of their arguments."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from jaxtyping import Array, Float

from ase_deeph.network import Network
from trainers.config import LossConfig, OptimizerConfig
from trainers.dataset import Batch
from trainers.levels import level_losses, level_shifts
from trainers.loss import structure_losses, without_gauge
from trainers.metrics import error_sums
from trainers.optimizer import averaged, transformation


@struct.dataclass
class TrainState:
    """What a step changes: parameters, optimizer state, averaged parameters, number of steps."""

    params: Mapping[str, Any]
    optimizer: Any
    average: Mapping[str, Any]
    steps: Float[Array, ""]


@dataclass(frozen=True, eq=False)
class Steps:
    """The compiled functions of a training run.

    Parameters
    ----------
    network : a network with init and apply.
    loss : what is minimised.
    optimizer : how.
    """

    network: Network
    loss: LossConfig
    optimizer: OptimizerConfig

    @cached_property
    def _transformation(self) -> optax.GradientTransformation:
        return transformation(self.optimizer)

    def start(self, params: Mapping[str, Any]) -> TrainState:
        """The state before the first step."""
        params = jax.tree.map(lambda leaf: jnp.array(leaf, dtype=jnp.float32), dict(params))
        return TrainState(
            params=params,
            optimizer=self._transformation.init(params),
            average=jax.tree.map(jnp.copy, params),
            steps=jnp.zeros((), dtype=jnp.float32),
        )

    def batch_loss(
        self, params: Mapping[str, Any], statistics: Mapping[str, Any], batch: Batch
    ) -> tuple[Float[Array, ""], Float[Array, "n 3"]]:
        """Mean loss over the structures of a batch, and the error sums of each."""
        n = batch.weight.shape[0]
        graph = jax.tree.map(jnp.asarray, batch.graph)
        predicted = self.network.apply(params, dict(statistics), graph)
        mask = self.network.orbital_mask(graph)
        target, overlap, structure = (jnp.asarray(a) for a in (batch.target, batch.overlap, batch.structure))
        losses = structure_losses(predicted, target, overlap, mask, structure, n, self.loss, graph.on_site)
        if batch.levels is not None and self.loss.level_weight > 0:
            residual = jnp.where(mask, predicted - target, 0.0)
            if self.loss.gauge == "free":
                residual = without_gauge(residual, overlap, structure, n)
            shifts = level_shifts(residual, graph.i, graph.j, batch.levels, structure, n)
            losses = losses + self.loss.level_weight * level_losses(shifts, batch.levels)
        loss = jnp.sum(losses * batch.weight) / jnp.maximum(jnp.sum(batch.weight), 1.0)
        return loss, error_sums(predicted, target, overlap, mask, structure, n)

    @cached_property
    def train(self) -> Any:
        """(state, statistics, batch, rate) -> (state, loss, error sums, gradient norm); state is donated."""

        def step(
            state: TrainState, statistics: Mapping[str, Any], batch: Batch, rate: Float[Array, ""]
        ) -> tuple[TrainState, Float[Array, ""], Float[Array, "n 3"], Float[Array, ""]]:
            (loss, sums), gradient = jax.value_and_grad(self.batch_loss, has_aux=True)(
                state.params, statistics, batch
            )
            norm = jnp.sqrt(sum(jnp.sum(g * g) for g in jax.tree.leaves(gradient)))
            direction, optimizer = self._transformation.update(gradient, state.optimizer, state.params)
            params = jax.tree.map(lambda p, u: p - rate * u, state.params, direction)
            average = averaged(state.average, params, state.steps, self.optimizer.ema)
            return TrainState(params, optimizer, average, state.steps + 1.0), loss, sums, norm

        return jax.jit(step, donate_argnums=0)

    @cached_property
    def measure(self) -> Any:
        """(params, statistics, batch) -> (loss, error sums)."""
        return jax.jit(self.batch_loss)

    @property
    def n_compilations(self) -> int:
        """Shapes for which the training step has been compiled."""
        return int(self.train._cache_size())


def error_of(value: Any) -> np.ndarray:
    """A device array on the host, in double precision."""
    return np.asarray(value, dtype=float)
