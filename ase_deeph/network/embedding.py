"""Embeddings: distances in Gaussians, species, and the cutoff functions (two continuous derivatives)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from ase_deeph.network.so2 import normal, weights

ONSET = 1.0


def smooth_step(t: Float[Array, ...]) -> Float[Array, ...]:
    """1 at t <= 0, 0 at t >= 1, the quintic 1 - 10t³ + 15t⁴ - 6t⁵ between: C2."""
    t = jnp.clip(t, 0.0, 1.0)
    return 1.0 - t**3 * (10.0 - 15.0 * t + 6.0 * t * t)


def envelope(distance: Float[Array, " n"], cutoff: float, onset: float | None = None) -> Float[Array, " n"]:
    """1 up to cutoff - onset (default: the whole range decays), 0 from the cutoff on."""
    width = cutoff if onset is None else min(onset, cutoff)
    return smooth_step((distance - (cutoff - width)) / width)


def gaussians(distance: Float[Array, " n"], cutoff: float, n: int) -> Float[Array, "n radial"]:
    """n Gaussians on [0, cutoff], as wide as they are apart."""
    centres = np.linspace(0.0, cutoff, n).astype(distance.dtype)
    width = cutoff / (n - 1)
    return jnp.exp(-0.5 * ((distance[:, None] - centres[None]) / width) ** 2)


class RadialPerceptron(nnx.Module):
    """(distance, species i, species j) -> numbers: Gaussians and species embeddings through two layers."""

    def __init__(
        self,
        n_species: int,
        cutoff: float,
        n_radial: int,
        hidden: int,
        n_out: int,
        *,
        rng: np.random.Generator,
    ) -> None:
        self.cutoff, self.n_radial = cutoff, n_radial
        self.species_i = normal(rng, (n_species, hidden), 0.5)
        self.species_j = normal(rng, (n_species, hidden), 0.5)
        self.first = weights(rng, n_radial, hidden, gain=2.5)
        self.middle = weights(rng, hidden, hidden, gain=1.6)
        self.bias = nnx.Param(jnp.zeros(hidden))
        self.last = weights(rng, hidden, n_out, gain=1.6)
        self.last_bias = nnx.Param(jnp.zeros(n_out))

    def __call__(
        self, distance: Float[Array, " n"], species_i: Int[Array, " n"], species_j: Int[Array, " n"]
    ) -> Float[Array, "n out"]:
        """(n, n_out) numbers."""
        x = gaussians(distance, self.cutoff, self.n_radial) @ self.first[...]
        x = jax.nn.silu(x + self.species_i[...][species_i] + self.species_j[...][species_j])
        x = jax.nn.silu(x @ self.middle[...] + self.bias[...][None])
        return x @ self.last[...] + self.last_bias[...][None]
