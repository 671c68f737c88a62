"""The equivariant local-coordinate transformer: SO(2) convolutions in edge frames, attention or sums, edges then nodes.

After Y. Wang et al., DeepH-2 (arXiv:2401.17015); the layers are those of so2.py and nodes.py.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from ase_deeph.graph import CrystalGraph
from ase_deeph.network.config import NetworkConfig
from ase_deeph.network.embedding import RadialPerceptron, envelope
from ase_deeph.network.frames import edge_directions, frame_rotations
from ase_deeph.network.layout import OrbitalLayout
from ase_deeph.network.nodes import DegreeLinear, FeedForward, Norm, degrees
from ase_deeph.network.readout import HopReadout, SiteReadout, out_of_frames
from ase_deeph.network.so2 import (
    EdgeFrames,
    EdgeNorm,
    Orders,
    SO2Linear,
    SomeEdges,
    by_degree,
    gate,
    n_gates,
    normal,
    of_each,
)

Nodes = Float[Array, "atoms components channels"]
_MEAN_NEIGHBOURS = 16.0


class EdgeSet:
    """Some of the edges of a graph with what every layer asks of them."""

    def __init__(
        self, graph: CrystalGraph, where: Array, mask: Array, frames: EdgeFrames, cutoff: float
    ) -> None:
        self.i, self.j, self.frames = graph.i[where], graph.j[where], frames
        self.species_i, self.species_j = graph.species[self.i], graph.species[self.j]
        self.distance = safe_norm(graph.vectors[where])
        self.envelope = jnp.where(mask, envelope(self.distance, cutoff), 0.0)


def safe_norm(vectors: Float[Array, "n 3"]) -> Float[Array, " n"]:
    """Lengths, with a finite gradient at zero."""
    squared = jnp.sum(vectors * vectors, axis=-1)
    return jnp.sqrt(jnp.where(squared > 0, squared, 1.0)) * (squared > 0)


class EdgeUpdate(nnx.Module):
    """Atoms i and j and the edge itself -> hidden features of the edge, and attention logits."""

    def __init__(
        self, config: NetworkConfig, n_species: int, cutoff: float, *, rng: np.random.Generator
    ) -> None:
        self.config = config
        both = (config.channels, config.pseudo_channels)
        total = sum(both)
        self.norm_nodes = Norm(degrees(config.l_max), total)
        self.norm_edges = EdgeNorm(config.l_max, total)
        self.row = DegreeLinear(config.l_max, both, both, rng=rng)
        self.column = DegreeLinear(config.l_max, both, both, rng=rng)
        self.radial = RadialPerceptron(
            n_species, cutoff, config.n_radial, config.hidden, (config.l_max + 1) * total, rng=rng
        )
        self.n_gates = n_gates(config.l_max, total)
        self.mix = SO2Linear(config.l_max, both, both, rng=rng, n_scalars=self.n_gates + config.n_heads)

    def __call__(
        self, x: Nodes, e: Orders | SomeEdges, edges: EdgeSet
    ) -> tuple[Orders, Float[Array, "edges heads"]]:
        """Hidden features and logits."""
        natural, nodes = self.config.channels, self.norm_nodes(x)
        ends = edges.frames.into(self.row(nodes)[edges.i] + self.column(nodes)[edges.j], natural)
        factors = self.radial(edges.distance, edges.species_i, edges.species_j)
        factors = factors.reshape(len(factors), self.config.l_max + 1, -1)
        z = by_degree(self.norm_edges.onto(ends, e), factors)
        hidden, scalars = self.mix(z)
        assert scalars is not None
        logits = 5.0 * jnp.tanh(scalars[:, self.n_gates :] / 5.0)
        return gate(hidden, scalars[:, : self.n_gates], natural), logits


def message_weights(
    logits: Float[Array, "edges heads"], edges: EdgeSet, n_atoms: int, aggregation: str
) -> Float[Array, "edges heads"]:
    """What each message counts for at its atom, smooth at the cutoff.

    "attention": a softmax over the neighbours and one silent neighbour; "sum": a gate over a usual number of them.
    """
    if aggregation == "sum":
        return 2.0 * jax.nn.sigmoid(logits) * edges.envelope[:, None] / _MEAN_NEIGHBOURS
    attention = jnp.exp(logits) * edges.envelope[:, None]
    total = jax.ops.segment_sum(attention, edges.i, n_atoms) + 1.0
    return attention / total[edges.i]


class NodeUpdate(nnx.Module):
    """Messages of the edges into the atoms (see `message_weights`), then the feed-forward."""

    def __init__(self, config: NetworkConfig, *, rng: np.random.Generator) -> None:
        self.config = config
        both = (config.channels, config.pseudo_channels)
        self.message = SO2Linear(config.l_max, both, both, rng=rng)
        self.merge = DegreeLinear(config.l_max, both, both, rng=rng)
        self.norm = Norm(degrees(config.l_max), sum(both))
        self.forward = FeedForward(config.l_max, both, rng=rng)

    def __call__(
        self, x: Nodes, hidden: Orders, logits: Float[Array, "edges heads"], edges: EdgeSet
    ) -> Nodes:
        """The updated atoms."""
        config, n_atoms = self.config, len(x)
        message = edges.frames.out(self.message(hidden)[0], config.channels)
        share = message_weights(logits, edges, n_atoms, config.aggregation)
        per_channel = jnp.concatenate(
            [
                jnp.repeat(share, config.channels // config.n_heads, axis=1),
                jnp.repeat(share, config.pseudo_channels // config.n_heads, axis=1),
            ],
            axis=1,
        )
        gathered = jax.ops.segment_sum(message * per_channel[:, None], edges.i, n_atoms)
        x = x + self.merge(gathered * _MEAN_NEIGHBOURS**0.5)
        return x + self.forward(self.norm(x))


class Block(nnx.Module):
    """One ELCT block: edges, then nodes."""

    def __init__(self, config: NetworkConfig, n_species: int, *, rng: np.random.Generator) -> None:
        both = (config.channels, config.pseudo_channels)
        self.edge = EdgeUpdate(config, n_species, config.reach, rng=rng)
        self.write = SO2Linear(config.l_max, both, both, rng=rng)
        self.node = NodeUpdate(config, rng=rng)

    def __call__(self, x: Nodes, e: Orders, edges: EdgeSet) -> tuple[Nodes, Orders]:
        """Updated atoms and edges."""
        hidden, logits = self.edge(x, e, edges)
        return self.node(x, hidden, logits, edges), of_each(jnp.add, e, self.write(hidden)[0])


class ELCT(nnx.Module):
    """Graph -> irreps of hopping blocks in edge frames and of on-site blocks.

    Parameters
    ----------
    config : the architecture.
    layout : the common shells.

    Raises
    ------
    ValueError : when l_max is below twice the largest shell.
    """

    def __init__(self, config: NetworkConfig, layout: OrbitalLayout, *, rng: np.random.Generator) -> None:
        if config.l_max < layout.coupling.l_max:
            raise ValueError(
                f"network l_max: shells up to l = {layout.coupling.l_max // 2} need at least "
                f"{layout.coupling.l_max}, received {config.l_max}"
            )
        self.config, self.coupling = config, layout.coupling
        n, both = layout.n_species, (config.channels, config.pseudo_channels)
        width = (config.l_max + 1) * config.channels
        self.species = normal(rng, (n, config.channels))
        self.start = RadialPerceptron(n, config.reach, config.n_radial, config.hidden, width, rng=rng)
        self.start_hop = RadialPerceptron(n, config.cutoff, config.n_radial, config.hidden, width, rng=rng)
        self.blocks = nnx.List([Block(config, n, rng=rng) for _ in range(config.n_blocks)])
        self.hop = EdgeUpdate(config, n, config.cutoff, rng=rng)
        self.hop_readout = HopReadout(layout.coupling, config.l_max, both, rng=rng)
        self.field_readout = HopReadout(layout.coupling, config.l_max, both, rng=rng)
        self.site_norm = Norm(degrees(config.l_max), sum(both))
        self.site = FeedForward(config.l_max, both, rng=rng)
        self.site_readout = SiteReadout(layout.coupling, self.site.wide, rng=rng)

    def _axial(self, scalars: Float[Array, "edges numbers"]) -> Float[Array, "edges 1 degrees channels"]:
        """The m = 0 components of edges whose natural ones are the given numbers, the pseudo ones zero."""
        top = scalars.reshape(len(scalars), 1, self.config.l_max + 1, self.config.channels)
        return jnp.pad(top, ((0, 0), (0, 0), (0, 0), (0, self.config.pseudo_channels)))

    def _frames(self, vectors: Float[Array, "edges 3"]) -> EdgeFrames:
        """The frames of some edges."""
        return EdgeFrames(frame_rotations(self.config.l_max, edge_directions(vectors, safe_norm(vectors))))

    def _messages(
        self, graph: CrystalGraph, near: EdgeSet, n_blocks: int, remat: bool
    ) -> tuple[Nodes, Orders]:
        """Atoms and near edges after the first n_blocks blocks."""
        x, e = self.begin(graph, near)
        for n in range(n_blocks):
            step = partial(self.blocks[n], edges=near)
            x, e = (jax.checkpoint(step) if remat else step)(x, e)
        return x, e

    def begin(self, graph: CrystalGraph, near: EdgeSet) -> tuple[Nodes, Orders]:
        """Atoms and near edges before the first block."""
        channels = self.config.channels
        axial = self._axial(self.start(near.distance, near.species_i, near.species_j))
        n, _, n_degrees, total = axial.shape
        e = (axial, *(jnp.zeros((n, 2, n_degrees - m, total), axial.dtype) for m in range(1, n_degrees)))
        arrivals = near.frames.out(
            of_each(lambda part: part * near.envelope[:, None, None, None], e), channels
        )
        x = jax.ops.segment_sum(arrivals, near.i, graph.n_atoms) / _MEAN_NEIGHBOURS**0.5
        return x.at[:, 0, :channels].add(self.species[...][graph.species]), e

    def near_edges(self, graph: CrystalGraph) -> EdgeSet:
        """The pairs that carry messages."""
        return EdgeSet(
            graph, graph.near, graph.near_mask, self._frames(graph.vectors[graph.near]), self.config.reach
        )

    def features(self, graph: CrystalGraph, n_blocks: int) -> Nodes:
        """Natural-parity features of the atoms after the first n_blocks blocks; only near pairs matter."""
        near = self.near_edges(graph)
        return self._messages(graph, near, n_blocks, False)[0][:, :, : self.config.channels]

    def __call__(
        self, graph: CrystalGraph, *, remat: bool = False
    ) -> tuple[Float[Array, "pairs irreps"], Float[Array, "atoms irreps"], list[Array]]:
        """(hopping irreps in edge frames, on-site irreps in the global frame, D_l of each pair)."""
        return self.read(*self.trunk(graph, remat=remat))

    def trunk(self, graph: CrystalGraph, *, remat: bool = False) -> tuple[Nodes, Orders, EdgeSet]:
        """What the read-outs read: features of atoms, of all pairs in their frames, and the pairs."""
        config = self.config
        frames = self._frames(graph.vectors)
        near = EdgeSet(graph, graph.near, graph.near_mask, frames.subset(graph.near), config.reach)
        x, e = self._messages(graph, near, config.n_blocks, remat)
        return self.widened(graph, x, e, frames, remat=remat)

    def widened(
        self,
        graph: CrystalGraph,
        x: Nodes,
        e: Orders,
        frames: EdgeFrames | None = None,
        *,
        remat: bool = False,
    ) -> tuple[Nodes, Orders, EdgeSet]:
        """What `trunk` gives, from the atoms and near edges after the last block; `frames` are of all pairs."""
        config = self.config
        frames = self._frames(graph.vectors) if frames is None else frames
        every = jnp.arange(graph.n_pairs, dtype=jnp.int32)
        hops = EdgeSet(graph, every, graph.pair_mask & ~graph.on_site, frames, config.cutoff)
        weight = jnp.where(graph.near_mask, envelope(hops.distance[graph.near], config.reach), 0.0)
        started = self._axial(self.start_hop(hops.distance, hops.species_i, hops.species_j))
        far = SomeEdges(started, graph.near, of_each(lambda part: part * weight[:, None, None, None], e))
        last = partial(self.hop, edges=hops)
        hidden, _ = (jax.checkpoint(last) if remat else last)(x, far)
        return x, hidden, hops

    def read(
        self, x: Nodes, hidden: Orders, hops: EdgeSet
    ) -> tuple[Float[Array, "pairs irreps"], Float[Array, "atoms irreps"], list[Array]]:
        """The irreps of `__call__` from what `trunk` gives."""
        site = self.site_readout(self.site.hidden(self.site_norm(x))) + self._field(hidden, hops, len(x))
        return self.hop_readout(hidden), site, hops.frames.rotations

    def _field(self, hidden: Orders, hops: EdgeSet, n_atoms: int) -> Float[Array, "atoms irreps"]:
        """What each neighbour adds to an atom's on-site block: a plain sum, of which attention knows a mean."""
        axial = self.field_readout(hidden) * hops.envelope[:, None]
        fields = out_of_frames(axial, hops.frames.rotations, self.coupling)
        return jax.ops.segment_sum(fields, hops.i, n_atoms) / _MEAN_NEIGHBOURS**0.5
