"""Magnetic moments as features: of atoms by their own moment, of pairs by the products of both.

A moment is an axial vector, in the language of nodes.py degree 1 of pseudo parity; without spin-orbit coupling it
is a number that no rotation touches, degree 0 of natural parity.  Everything is smooth at zero moments.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from ase_deeph.coupling import real_clebsch_gordan
from ase_deeph.network.config import NetworkConfig
from ase_deeph.network.elct import EdgeSet
from ase_deeph.network.embedding import RadialPerceptron
from ase_deeph.network.so2 import Orders, normal, weights
from ase_deeph.spin_coupling import VECTOR_ORDER

Moments = Float[Array, "atoms 3"]
_POWERS = 3


def _squares(moments: Moments) -> Float[Array, "atoms 1"]:
    return jnp.sum(moments * moments, axis=1, keepdims=True)


def bounded(moments: Moments) -> Moments:
    """m / √(1 + m²)."""
    return moments / jnp.sqrt(1.0 + _squares(moments))


def _product(a: Moments, b: Moments, L: int) -> Float[Array, "n components"]:
    """(a ⊗ b) coupled to degree L, of two vectors in Cartesian components."""
    order = np.array(VECTOR_ORDER, dtype=np.int32)
    table = real_clebsch_gordan(1, 1, L).astype(a.dtype)
    return jnp.einsum("na,nb,abM->nM", a[:, order], b[:, order], table)


def _features(
    parts: list[tuple[int, Array, Array]], l_max: int, channels: tuple[int, int]
) -> Float[Array, "n components channels"]:
    """Σ over (L, components (n, 2L+1), factors (n, c)); degree 1 goes to the pseudo channels, others do not."""
    n, dtype = len(parts[0][1]), parts[0][1].dtype
    total = jnp.zeros((n, (l_max + 1) ** 2, sum(channels)), dtype=dtype)
    for L, components, factors in parts:
        if l_max < L:
            continue
        rows = slice(L * L, (L + 1) ** 2)
        where = slice(channels[0], None) if L == 1 else slice(0, channels[0])
        total = total.at[:, rows, where].add(components[:, :, None] * factors[:, None, :])
    return total


class AtomMoments(nnx.Module):
    """The moment of an atom -> features to add to it."""

    def __init__(
        self, config: NetworkConfig, n_species: int, *, collinear: bool, rng: np.random.Generator
    ) -> None:
        self.l_max, self.collinear = config.l_max, collinear
        self.channels = (config.channels, config.pseudo_channels)
        self.n_odd = config.channels if collinear else config.pseudo_channels
        self.species = normal(rng, (n_species, config.hidden), 0.5)
        self.first = weights(rng, _POWERS, config.hidden, gain=1.5)
        self.last = weights(rng, config.hidden, 2 * config.channels + self.n_odd, gain=1.6)

    def __call__(self, moments: Moments, species: Array) -> Float[Array, "atoms components channels"]:
        """Odd and even functions of the moments; zero for a zero moment."""
        square = _squares(moments)
        u = square / (1.0 + square)
        powers = jnp.concatenate([u**n for n in range(1, _POWERS + 1)], axis=1)
        hidden = jax.nn.silu(self.species[...][species] + powers @ self.first[...])
        c = self.channels[0]
        even, quadrupole, odd = jnp.split(hidden @ self.last[...], [c, 2 * c], axis=1)
        if self.collinear:
            parts = [(0, u, even), (0, moments[:, 2:], odd)]
        else:
            small = bounded(moments)
            parts = [
                (0, u, even),
                (1, moments[:, np.array(VECTOR_ORDER, dtype=np.int32)], odd),
                (2, _product(small, small, 2), quadrupole),
            ]
        return _features(parts, self.l_max, self.channels)


class PairMoments(nnx.Module):
    """The moments of two atoms -> features to add to their pair, in its frame; no time reversal changes them."""

    def __init__(
        self, config: NetworkConfig, n_species: int, *, collinear: bool, rng: np.random.Generator
    ) -> None:
        self.l_max, self.collinear = config.l_max, collinear
        self.channels = (config.channels, config.pseudo_channels)
        n_out = config.channels if collinear else 2 * config.channels + config.pseudo_channels
        self.radial = RadialPerceptron(
            n_species, config.cutoff, config.n_radial, config.hidden, n_out, rng=rng
        )

    def __call__(self, moments: Moments, edges: EdgeSet) -> Orders:
        """m_i·m_j, m_i × m_j and the quadrupole of both; of collinear moments their product."""
        small = bounded(moments)
        a, b = small[edges.i], small[edges.j]
        factors = self.radial(edges.distance, edges.species_i, edges.species_j)
        if self.collinear:
            parts = [(0, a[:, 2:] * b[:, 2:], factors)]
        else:
            c = self.channels[0]
            scalar, quadrupole, cross = jnp.split(factors, [c, 2 * c], axis=1)
            parts = [
                (0, _product(a, b, 0), scalar),
                (1, _product(a, b, 1), cross),
                (2, _product(a, b, 2), quadrupole),
            ]
        return edges.frames.into(_features(parts, self.l_max, self.channels), self.channels[0])
