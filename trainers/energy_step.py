"""The loss of an energy head: errors of energy, forces and stress in units of the training set's forces."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from trainers.energy_data import EnergyBatch
from trainers.step import Steps

_SMOOTH = 1e-2


def soft_abs(squares: Float[Array, ...]) -> Float[Array, ...]:
    """√(x² + δ²) - δ from x²: |x| with a finite curvature at zero."""
    return jnp.sqrt(squares + _SMOOTH**2) - _SMOOTH


def of_atoms(values: Float[Array, " atoms"], batch: EnergyBatch) -> Float[Array, " n"]:
    """Sums over the atoms of each structure."""
    n = batch.weight.shape[0]
    return jax.ops.segment_sum(values, batch.structure, n + 1)[:n]


@dataclass(frozen=True, eq=False)
class EnergySteps(Steps):
    """The compiled functions of a head's training; `network` is an EnergyNetwork, `loss` the [potential] section.

    With σ the scale of the head (root mean square of the training forces), N atoms and W = dE/dε, a structure costs

        w_E |ΔE|/(N σ) + w_F mean_i |ΔF_i|/(√3 σ) + w_S mean_ab |ΔW_ab|/(N σ)

    where a term without a label is left out.
    """

    def batch_loss(
        self, params: Mapping[str, Any], statistics: Mapping[str, Any], batch: EnergyBatch
    ) -> tuple[Float[Array, ""], Float[Array, "n 4"]]:
        """This batch' part of the mean loss over the structures of the update, and the error sums of each."""
        batch = jax.tree.map(jnp.asarray, batch)
        energies, forces, virials = self.network.derivatives(
            params, statistics["head"], statistics["backbone"], batch.graph
        )
        n_atoms, scale = batch.n_atoms, statistics["head"]["scale"]
        energy = (of_atoms(energies, batch) - batch.energy) / n_atoms
        force = jnp.where(batch.graph.atom_mask[:, None], forces - batch.forces, 0.0)
        n = batch.weight.shape[0]
        virial = jax.ops.segment_sum(virials, batch.structure, n + 1)[:n]
        virial = (0.5 * (virial + jnp.swapaxes(virial, 1, 2)) - batch.virial) / n_atoms[:, None, None]

        loss = self.loss
        of_force = of_atoms(soft_abs(jnp.sum((force / scale) ** 2, axis=1) / 3.0), batch) / n_atoms
        of_virial = jnp.mean(soft_abs((virial / scale) ** 2), axis=(1, 2))
        losses = (
            loss.energy_weight * batch.has_energy * soft_abs((energy / scale) ** 2)
            + loss.force_weight * batch.has_forces * of_force
            + loss.stress_weight * batch.has_virial * of_virial
        )
        total = of_atoms(jnp.sum(jnp.abs(force), axis=1), batch)
        sums = [
            jnp.abs(energy) * batch.has_energy,
            batch.has_energy,
            total * batch.has_forces,
            3.0 * n_atoms * batch.has_forces,
        ]
        rows = jnp.stack(sums, axis=1) * batch.weight[:, None]
        return jnp.sum(losses * batch.weight) / batch.total, rows
