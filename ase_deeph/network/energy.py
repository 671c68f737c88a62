"""The energy head: features of the Hamiltonian network and the head's own messages -> energies of the atoms.

Features are (atoms, (l_max+1)², channels) of natural parity in the global frame.  A block sums messages made of
spherical harmonics of the edges and of the neighbours' features, then multiplies what an atom has gathered
with itself up to third power on the sphere (see sphere.py): four-body functions of its neighbours, after
R. Drautz, Phys. Rev. B 99, 014104 (2019) and I. Batatia et al., NeurIPS 2022 (arXiv:2206.07697), with products
taken as S. Luo et al., ICLR 2024 (arXiv:2401.10216).  Every step has two continuous derivatives in the positions,
and no product grows without bound, so that the energy grows linearly where it is extrapolated.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from ase_deeph.graph import CrystalGraph
from ase_deeph.harmonics import degree_slice, real_harmonics
from ase_deeph.network.elct import safe_norm
from ase_deeph.network.embedding import RadialPerceptron, envelope
from ase_deeph.network.energy_config import EnergyConfig
from ase_deeph.network.frames import edge_directions
from ase_deeph.network.nodes import degrees
from ase_deeph.network.so2 import normal, weights
from ase_deeph.network.sphere import from_sphere, on_sphere

Nodes = Float[Array, "atoms components channels"]
_MEAN_NEIGHBOURS = 16.0
_FACTORS = 3


class NaturalLinear(nnx.Module):
    """x_l -> x_l W_l, one matrix per degree."""

    def __init__(
        self, l_max: int, n_in: int, n_out: int, *, rng: np.random.Generator, gain: float = 1.0
    ) -> None:
        self.matrices = nnx.List([weights(rng, n_in, n_out, gain) for _ in range(l_max + 1)])

    def __call__(self, x: Nodes) -> Nodes:
        """The mixed channels."""
        rows = [x[:, degree_slice(l)] @ w[...] for l, w in enumerate(self.matrices)]
        return jnp.concatenate(rows, axis=1)


def softened(x: Nodes, l_max: int) -> Nodes:
    """x / √(1 + mean square), every degree of equal weight: x where it is small, never much larger than 1."""
    l = degrees(l_max)
    balance = (1.0 / ((2 * l + 1) * (l_max + 1))).astype(x.dtype)
    mean_square = jnp.einsum("nsc,s->n", x * x, balance) / x.shape[-1]
    return x * jax.lax.rsqrt(1.0 + mean_square)[:, None, None]


class _Edges:
    """The edges of a graph with what every block asks of them."""

    def __init__(self, graph: CrystalGraph, config: EnergyConfig) -> None:
        self.i, self.j = graph.i, graph.j
        self.species_i, self.species_j = graph.species[graph.i], graph.species[graph.j]
        self.distance = safe_norm(graph.vectors)
        real = graph.pair_mask & ~graph.on_site
        self.envelope = jnp.where(real, envelope(self.distance, config.cutoff), 0.0)
        directions = edge_directions(graph.vectors, self.distance)
        self.harmonics = real_harmonics(config.l_max, directions) * np.sqrt(4 * np.pi).astype(
            directions.dtype
        )


class EnergyBlock(nnx.Module):
    """Messages into the atoms, products of what arrived, a gate."""

    def __init__(self, config: EnergyConfig, n_species: int, *, rng: np.random.Generator) -> None:
        l_max, n = config.l_max, config.channels
        self.l_max, self.channels = l_max, n
        self.source = NaturalLinear(l_max, n, n, rng=rng)
        self.radial = RadialPerceptron(
            n_species, config.cutoff, config.n_radial, config.hidden, 3 * (l_max + 1) * n, rng=rng
        )
        self.arrive = NaturalLinear(l_max, n, _FACTORS * n, rng=rng)
        self.powers = nnx.List([NaturalLinear(l_max, n, n, rng=rng, gain=0.5) for _ in range(_FACTORS)])
        self.gate_in = weights(rng, n, config.hidden, 1.0)
        self.gate_bias = nnx.Param(jnp.zeros(config.hidden))
        self.gate_out = weights(rng, config.hidden, (l_max + 1) * n, 0.5)

    def _messages(self, x: Nodes, edges: _Edges) -> Nodes:
        """Σ_j w_l(r) [s_j + Σ_l' v_l'(r) x_j·Y_l'(r̂)] Y_l(r̂) + u_l(r) x_j, with x and s the source's features."""
        of = degrees(self.l_max)
        factors = self.radial(edges.distance, edges.species_i, edges.species_j) * edges.envelope[:, None]
        w, u, v = jnp.split(factors.reshape(len(factors), -1, self.channels), 3, axis=1)
        sender = self.source(x)[edges.j]
        harmonics = edges.harmonics[:, :, None]
        along = jnp.sum(sender * harmonics * v[:, of], axis=1) / (self.l_max + 1)
        strength = sender[:, 0] + along
        return w[:, of] * harmonics * strength[:, None] + u[:, of] * sender

    def __call__(self, x: Nodes, edges: _Edges) -> Nodes:
        """The updated features."""
        arrived = jax.ops.segment_sum(self._messages(x, edges), edges.i, len(x)) / _MEAN_NEIGHBOURS**0.5
        first, *others = jnp.split(self.arrive(arrived), _FACTORS, axis=2)
        factors = [softened(a, self.l_max) for a in (first, *others)]
        one, two, three = (on_sphere(a, self.l_max, _FACTORS) for a in factors)
        pair, triple = (from_sphere(p, self.l_max, _FACTORS) for p in (one * two, one * two * three))
        linear, square, cube = self.powers
        new = x + linear(first) + square(pair) + cube(triple)
        hidden = jax.nn.silu(new[:, 0] @ self.gate_in[...] + self.gate_bias[...][None])
        gates = jnp.tanh(hidden @ self.gate_out[...]).reshape(len(x), self.l_max + 1, -1)
        return new * (1.0 + gates[:, degrees(self.l_max)])


class AtomicEnergies(nnx.Module):
    """Graph and features of the Hamiltonian network -> energies of the atoms, in units of the head's scale.

    Parameters
    ----------
    config : the architecture.
    n_species : species of the basis.
    n_features : natural channels of the Hamiltonian network; 0 where none are read.
    """

    def __init__(
        self, config: EnergyConfig, n_species: int, n_features: int, *, rng: np.random.Generator
    ) -> None:
        l_max, n = config.l_max, config.channels
        self.config, self.n_features = config, n_features
        self.species = normal(rng, (n_species, n))
        self.enter = NaturalLinear(l_max, n_features, n, rng=rng) if n_features else None
        self.blocks = nnx.List([EnergyBlock(config, n_species, rng=rng) for _ in range(config.n_blocks)])
        self.readout_in = nnx.List([weights(rng, n, config.hidden) for _ in range(config.n_blocks)])
        self.readout_out = nnx.List([weights(rng, config.hidden, 1, 0.1) for _ in range(config.n_blocks)])

    def __call__(self, graph: CrystalGraph, features: Nodes | None) -> Float[Array, " atoms"]:
        """(n_atoms,) energies; features are (atoms, (l_max+1)², n_features), None where none are read."""
        edges = _Edges(graph, self.config)
        size = (self.config.l_max + 1) ** 2
        species = self.species[...][graph.species]
        x = jnp.pad(species[:, None], ((0, 0), (0, size - 1), (0, 0)))
        if self.enter is not None and features is not None:
            x = x + self.enter(softened(features, self.config.l_max))
        energy = jnp.zeros(len(x), dtype=graph.vectors.dtype)
        for block, first, last in zip(self.blocks, self.readout_in, self.readout_out, strict=True):
            x = block(x, edges)
            energy = energy + (jax.nn.silu(x[:, 0] @ first[...]) @ last[...])[:, 0]
        return energy
