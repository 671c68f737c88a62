"""The loss of a Hamiltonian with spin: of both channels, or of A_0 and A_s, with one μ for a whole structure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from trainers.loss import penalty, per_structure, without_gauge
from trainers.spin_data import SpinBatch
from trainers.step import Steps

Residual = Float[Array, "pairs parts M M"]


def channels(residual: Residual) -> Residual:
    """(A_0, A_z) -> (A_0 + A_z, A_0 - A_z): the Hamiltonians of spin up and of spin down."""
    zero, z = residual[:, 0], residual[:, 1]
    return jnp.stack([zero + z, zero - z], axis=1)


def entry_sizes(residual: Residual) -> Residual:
    """Absolute values of the entries of H: of both channels, or of uu, ud, du and dd."""
    n_parts = residual.shape[1]
    if n_parts == 2:
        return jnp.abs(channels(residual))
    r = jnp.moveaxis(residual, 1, 0)
    zero, (x, y, z) = r[0] + 0j, 1j * r[1:4]
    if n_parts == 8:
        zero, x, y, z = zero + 1j * r[7], x + r[4], y + r[5], z + r[6]
    blocks = jnp.stack([zero + z, x - 1j * y, x + 1j * y, zero - z], axis=1)
    return jnp.sqrt(jnp.real(blocks) ** 2 + jnp.imag(blocks) ** 2)


@dataclass(frozen=True, eq=False)
class SpinSteps(Steps):
    """The compiled functions of a training with spin; `network` is a SpinNetwork, `loss` the [loss] section.

    Collinear: the mean penalty over the entries of both channels.  Spinor: over those of the real parts of H in
    Pauli form, so that spin-orbit coupling is not drowned by the rest.

    Parameters
    ----------
    spin_weight : factor on the entries of the parts with spin.
    """

    spin_weight: float = 1.0

    def parts(self, params: Mapping[str, Any], statistics: Mapping[str, Any], batch: SpinBatch) -> Residual:
        """Predicted parts; the network is that of the statistics where it is frozen."""
        both = {"backbone": statistics["frozen"], **params} if "frozen" in statistics else dict(params)
        means = {name: statistics[name] for name in ("backbone", "head")}
        return self.network.apply(both, means, batch.graph, batch.moments, remat=self.remat)

    def batch_loss(
        self, params: Mapping[str, Any], statistics: Mapping[str, Any], batch: SpinBatch
    ) -> tuple[Float[Array, ""], Float[Array, "n 3"]]:
        """This batch' part of the mean loss over the structures of the update, and the error sums of each."""
        batch = jax.tree.map(jnp.asarray, batch)
        n, config = batch.weight.shape[0], self.loss
        overlap, structure = jnp.asarray(batch.overlap), jnp.asarray(batch.structure)
        mask = self.network.backbone.orbital_mask(batch.graph)
        residual = self.parts(params, statistics, batch) - batch.target
        raw = jnp.where(mask[:, None], residual, 0.0)
        zero = without_gauge(raw[:, 0], overlap, structure, n)
        fixed = raw.at[:, 0].set(jnp.where(mask, zero, 0.0))
        used = fixed if config.gauge == "free" else raw
        weight = jnp.ones((1, used.shape[1], 1, 1), dtype=used.dtype)
        if self.network.config.kind == "collinear":
            used = channels(used)
        else:
            weight = weight.at[:, 1:].set(self.spin_weight)
        sizes = jnp.where(mask[:, None], weight * penalty(used, config), 0.0)
        of_pair = jnp.where(batch.graph.on_site, config.on_site_weight, 1.0) * jnp.sum(sizes, axis=(1, 2, 3))
        entries = per_structure(jnp.sum(mask, axis=(1, 2)).astype(used.dtype), structure, n)
        losses = per_structure(of_pair, structure, n) / jnp.maximum(used.shape[1] * entries, 1.0)
        errors = [jnp.sum(entry_sizes(jax.lax.stop_gradient(r)), axis=(1, 2, 3)) for r in (raw, fixed)]
        columns = 2 if raw.shape[1] == 2 else 4
        sums = [*(per_structure(e, structure, n) for e in errors), columns * entries]
        rows = jnp.stack(sums, axis=1) * batch.weight[:, None]
        return jnp.sum(losses * batch.weight) / batch.total, rows
