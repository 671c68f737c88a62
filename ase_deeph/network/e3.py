"""The baseline: a full Clebsch-Gordan network on e3nn-jax, after DeepH-E3, under the interface of elct.py.

X. Gong et al., Nature Communications 14, 2848 (2023).  Edges and nodes are updated by the tensor product of
(v_i, v_j, e_ij) with the spherical harmonics of the edge, gated, weighed by a radial perceptron and, for nodes,
summed.  Unlike the original, the norm is that of one atom or edge, so the network is strictly local.
"""

from __future__ import annotations

import e3nn_jax as e3nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from ase_deeph.graph import CrystalGraph
from ase_deeph.network.config import NetworkConfig
from ase_deeph.network.elct import safe_norm
from ase_deeph.network.embedding import RadialPerceptron, envelope
from ase_deeph.network.frames import edge_directions, frame_rotations
from ase_deeph.network.layout import OrbitalLayout
from ase_deeph.network.so2 import normal, weights

_MEAN_NEIGHBOURS = 16.0


def _feature_irreps(config: NetworkConfig) -> e3nn.Irreps:
    """channels of natural parity and pseudo_channels of the other, for each degree."""
    parts = []
    for l in range(config.l_max + 1):
        parts += [(config.channels, (l, (-1) ** l)), (config.pseudo_channels, (l, -((-1) ** l)))]
    return e3nn.Irreps(parts)


def _block_irreps(layout: OrbitalLayout) -> e3nn.Irreps:
    """The irreps of a block in the order of the coupling's paths."""
    paths, parts = layout.coupling.paths, []
    for L in range(layout.coupling.l_max + 1):
        for natural in (True, False):
            n = sum(p.L == L and p.natural == natural for p in paths)
            parts.append((n, (L, (-1) ** L * (1 if natural else -1))))
    return e3nn.Irreps([p for p in parts if p[0]])


class IrrepsLinear(nnx.Module):
    """One matrix per irrep, between inputs and outputs of the same kind."""

    def __init__(
        self, n_in: e3nn.Irreps, n_out: e3nn.Irreps, *, rng: np.random.Generator, gain: float = 1.0
    ) -> None:
        self.n_out = n_out
        source = {ir: mul for mul, ir in n_in.regroup()}
        self.matrices = nnx.Dict(
            {
                f"to_{n}": weights(rng, source[ir], mul, gain)
                for n, (mul, ir) in enumerate(n_out)
                if ir in source
            }
        )

    def __call__(self, x: e3nn.IrrepsArray) -> e3nn.IrrepsArray:
        """The mixed channels."""
        grouped = x.regroup()
        source = {ir: chunk for (_, ir), chunk in zip(grouped.irreps, grouped.chunks, strict=True)}
        chunks: list[Array | None] = []
        for n, (_, ir) in enumerate(self.n_out):
            chunk = source.get(ir)
            if chunk is None or f"to_{n}" not in self.matrices:
                chunks.append(None)
            else:
                chunks.append(jnp.einsum("num,uv->nvm", chunk, self.matrices[f"to_{n}"][...]))
        return e3nn.from_chunks(self.n_out, chunks, x.shape[:-1], x.dtype)


def _normalised(x: e3nn.IrrepsArray) -> e3nn.IrrepsArray:
    """x / rms(x) of one atom or edge."""
    return x * jax.lax.rsqrt(jnp.mean(x.array**2, axis=-1, keepdims=True) + 1e-6)


class Convolution(nnx.Module):
    """(v_i, v_j, e_ij) ⊗ Y(d̂), gated and weighed by distance and species."""

    def __init__(
        self, config: NetworkConfig, n_species: int, cutoff: float, *, rng: np.random.Generator
    ) -> None:
        self.l_max = config.l_max
        features = _feature_irreps(config)
        self.kept = tuple({ir for _, ir in features})
        self.row = IrrepsLinear(features, features, rng=rng)
        self.column = IrrepsLinear(features, features, rng=rng)
        self.edge = IrrepsLinear(features, features, rng=rng)
        harmonics = e3nn.Irreps.spherical_harmonics(config.l_max)
        product = e3nn.tensor_product(features, harmonics, filter_ir_out=self.kept)
        scalars = features.filter(keep=["0e", "0o"])
        gated = features.filter(drop=["0e", "0o"])
        ungated = scalars + e3nn.Irreps([(gated.num_irreps, (0, 1))]) + gated
        self.mix = IrrepsLinear(product, ungated, rng=rng)
        self.radial = RadialPerceptron(
            n_species, cutoff, config.n_radial, config.hidden, features.num_irreps, rng=rng
        )

    def __call__(self, x: e3nn.IrrepsArray, e: e3nn.IrrepsArray, edges: _Edges) -> e3nn.IrrepsArray:
        """Features of the edges."""
        nodes = _normalised(x)
        z = self.row(nodes)[edges.i] + self.column(nodes)[edges.j] + self.edge(_normalised(e))
        product = e3nn.tensor_product(z, edges.harmonics, filter_ir_out=self.kept)
        hidden = e3nn.gate(self.mix(product))
        factors = self.radial(edges.distance, edges.species_i, edges.species_j)
        return hidden * factors


class _Edges:
    """Some of the edges of a graph with what a convolution asks of them."""

    def __init__(
        self,
        graph: CrystalGraph,
        where: Array,
        mask: Array,
        directions: Array,
        config: NetworkConfig,
        cutoff: float,
    ) -> None:
        self.i, self.j = graph.i[where], graph.j[where]
        self.species_i, self.species_j = graph.species[self.i], graph.species[self.j]
        self.distance = safe_norm(graph.vectors[where])
        self.envelope = jnp.where(mask, envelope(self.distance, cutoff), 0.0)
        turned = e3nn.IrrepsArray("1o", directions[where][:, np.array([1, 2, 0])])
        degrees = e3nn.Irreps.spherical_harmonics(config.l_max)
        self.harmonics = e3nn.spherical_harmonics(degrees, turned, normalize=False, normalization="component")


class E3(nnx.Module):
    """Graph -> irreps of hopping blocks in edge frames and of on-site blocks, as ELCT returns them."""

    def __init__(self, config: NetworkConfig, layout: OrbitalLayout, *, rng: np.random.Generator) -> None:
        self.config, self.n_paths = config, len(layout.coupling.paths)
        self.degrees = tuple(p.L for p in layout.coupling.paths)
        n, features, blocks = layout.n_species, _feature_irreps(config), _block_irreps(layout)
        self.features = features
        self.species = normal(rng, (n, config.channels))
        self.start = RadialPerceptron(
            n, config.reach, config.n_radial, config.hidden, config.channels, rng=rng
        )
        self.start_hop = RadialPerceptron(
            n, config.cutoff, config.n_radial, config.hidden, config.channels, rng=rng
        )
        self.edges = nnx.List([Convolution(config, n, config.reach, rng=rng) for _ in range(config.n_blocks)])
        self.nodes = nnx.List([Convolution(config, n, config.reach, rng=rng) for _ in range(config.n_blocks)])
        self.merge = nnx.List([IrrepsLinear(features, features, rng=rng) for _ in range(config.n_blocks)])
        self.hop = Convolution(config, n, config.cutoff, rng=rng)
        self.hop_readout = IrrepsLinear(features, blocks, rng=rng, gain=0.3)
        self.site_readout = IrrepsLinear(features, blocks, rng=rng, gain=0.3)

    def _scalars(self, numbers: Float[Array, "n channels"]) -> e3nn.IrrepsArray:
        """Features whose natural scalars are the given numbers, all else zero."""
        return e3nn.IrrepsArray(f"{self.config.channels}x0e", numbers).extend_with_zeros(self.features)

    def __call__(
        self, graph: CrystalGraph, *, remat: bool = False
    ) -> tuple[Float[Array, "pairs irreps"], Float[Array, "atoms irreps"], list[Array]]:
        """(hopping irreps in edge frames, on-site irreps in the global frame, D_l of each pair)."""
        with jax.numpy_rank_promotion("allow"):  # e3nn-jax relies on it
            return (jax.checkpoint(self._irreps) if remat else self._irreps)(graph)

    def _irreps(self, graph: CrystalGraph) -> tuple[Array, Array, list[Array]]:
        config = self.config
        distance = safe_norm(graph.vectors)
        directions = edge_directions(graph.vectors, distance)
        near = _Edges(graph, graph.near, graph.near_mask, directions, config, config.reach)
        every = jnp.arange(graph.n_pairs, dtype=jnp.int32)
        hops = _Edges(graph, every, graph.pair_mask & ~graph.on_site, directions, config, config.cutoff)

        x = self._scalars(self.species[...][graph.species])
        e = self._scalars(self.start(near.distance, near.species_i, near.species_j))
        for edge, node, merge in zip(self.edges, self.nodes, self.merge, strict=True):
            message = node(x, e, near) * near.envelope[:, None]
            x = (
                x
                + merge(e3nn.scatter_sum(message, dst=near.i, output_size=graph.n_atoms))
                / _MEAN_NEIGHBOURS**0.5
            )
            e = e + edge(x, e, near)
        far = self._scalars(self.start_hop(hops.distance, hops.species_i, hops.species_j)).array
        far = far.at[graph.near].add(e.array * near.envelope[:, None])
        hidden = self.hop(x, e3nn.IrrepsArray(self.features, far), hops)
        rotations = frame_rotations(config.l_max, directions)
        hop = self._into_frames(self.hop_readout(hidden).array, rotations)
        return hop, self.site_readout(x).array, rotations

    def _into_frames(self, irreps: Float[Array, "pairs irreps"], rotations: list[Array]) -> Array:
        """Irreps of the global frame -> of each edge's frame."""
        parts, at = [], 0
        for L in sorted(set(self.degrees)):
            size = self.degrees.count(L) * (2 * L + 1)
            mine = irreps[:, at : at + size].reshape(len(irreps), -1, 2 * L + 1)
            parts.append(jnp.einsum("eab,epa->epb", rotations[L], mine).reshape(len(irreps), -1))
            at += size
        return jnp.concatenate(parts, axis=1)
