"""Layers on atoms: per-degree linear maps, the norm, and the gated feed-forward.

Features of atoms are (atoms, (l_max+1)², channels) in the global frame, rows in l-major order, natural-parity
channels first and pseudo channels after them.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from ase_deeph.harmonics import degree_slice
from ase_deeph.network.products import weighed
from ase_deeph.network.so2 import weights

Features = Float[Array, "atoms components channels"]


def degrees(l_max: int) -> np.ndarray:
    """((l_max+1)²,) degree of each l-major row."""
    l = np.arange(l_max + 1, dtype=np.int32)
    return np.repeat(l, 2 * l + 1)


class DegreeLinear(nnx.Module):
    """x_l -> x_l W_l, one matrix per degree and parity."""

    def __init__(
        self,
        l_max: int,
        n_in: tuple[int, int],
        n_out: tuple[int, int],
        *,
        rng: np.random.Generator,
        gain: float = 1.0,
    ) -> None:
        self.l_max, self.n_in = l_max, n_in
        self.natural = nnx.List([weights(rng, n_in[0], n_out[0], gain) for _ in range(l_max + 1)])
        self.pseudo = nnx.List([weights(rng, n_in[1], n_out[1], gain) for _ in range(l_max + 1)])

    def __call__(self, x: Features) -> Features:
        """The mixed channels."""
        split = self.n_in[0]
        rows = [
            jnp.concatenate(
                [
                    weighed(x[:, degree_slice(l), :split], self.natural[l][...]),
                    weighed(x[:, degree_slice(l), split:], self.pseudo[l][...]),
                ],
                axis=-1,
            )
            for l in range(self.l_max + 1)
        ]
        return jnp.concatenate(rows, axis=1)


class Norm(nnx.Module):
    """x / rms(x) over all degrees (each with equal weight) and channels, times a learnt factor per (l, channel).

    One number per atom, so that the layer stays strictly local.
    """

    def __init__(self, degree_of_row: np.ndarray, channels: int) -> None:
        self._degrees = tuple(int(l) for l in degree_of_row)
        self.factor = nnx.Param(jnp.ones((max(self._degrees) + 1, channels)))

    def __call__(self, x: Features) -> Features:
        """The normalised features."""
        l = np.array(self._degrees, dtype=np.int32)
        balance = (1.0 / ((2 * l + 1) * (l.max() + 1))).astype(x.dtype)
        mean_square = jnp.einsum("nsc,s->n", x * x, balance) / x.shape[-1]
        return x * jax.lax.rsqrt(mean_square + 1e-6)[:, None, None] * self.factor[...][l][None]


class FeedForward(nnx.Module):
    """Linear, gate, linear on atoms: SiLU on natural scalars, sigmoid gates from them on everything else."""

    def __init__(self, l_max: int, channels: tuple[int, int], *, rng: np.random.Generator) -> None:
        self.l_max, self.channels = l_max, channels
        wide = (2 * channels[0], 2 * channels[1])
        self.wide = wide
        self.first = DegreeLinear(l_max, channels, wide, rng=rng)
        self.gates = weights(rng, channels[0], (l_max + 1) * sum(wide))
        self.second = DegreeLinear(l_max, wide, channels, rng=rng)

    def hidden(self, x: Features) -> Features:
        """The gated hidden features, twice as many channels."""
        y = self.first(x)
        gates = jax.nn.sigmoid(weighed(x[:, 0, : self.channels[0]], self.gates[...]))
        gated = y * gates.reshape(len(x), self.l_max + 1, -1)[:, degrees(self.l_max)]
        scalars = jnp.concatenate(
            [jax.nn.silu(y[:, :1, : self.wide[0]]), gated[:, :1, self.wide[0] :]], axis=-1
        )
        return jnp.concatenate([scalars, gated[:, 1:]], axis=1)

    def __call__(self, x: Features) -> Features:
        """The update of the features."""
        return self.second(self.hidden(x))
