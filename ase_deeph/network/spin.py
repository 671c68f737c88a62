"""The spin head: features of the Hamiltonian network, and moments, -> irreps of the parts of H that have spin.

With H = A_0 ⊗ 1 + Σ_s A_s ⊗ σ_s (see pauli.py) time reversal, which also turns the moments M around, asks that

    even in M: A_0 real ("even"), A_s imaginary ("orbit": spin-orbit coupling);
    odd in M:  A_0 imaginary ("current"), A_s real ("odd": exchange).

The stage is run on M and on -M, f(M) and f(-M) by the same instructions, so that ½(f(M) ± f(-M)) are exactly even
and odd.  Moments reach an atom from neighbours within the magnetic cutoff in one round of messages (compare
H. Li et al., Nature Computational Science 3, 321 (2023)); without moments only "orbit" is left.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from ase_deeph.graph import CrystalGraph
from ase_deeph.network.config import NetworkConfig
from ase_deeph.network.elct import EdgeSet, EdgeUpdate, NodeUpdate
from ase_deeph.network.frames import edge_directions, frame_rotations
from ase_deeph.network.layout import OrbitalLayout
from ase_deeph.network.nodes import DegreeLinear, FeedForward, Norm, degrees
from ase_deeph.network.readout import HopReadout, SiteReadout, out_of_frames
from ase_deeph.network.so2 import EdgeFrames, EdgeNorm, Orders, SO2Linear, of_each
from ase_deeph.network.spin_config import SpinConfig
from ase_deeph.network.spin_moments import AtomMoments, PairMoments
from ase_deeph.spin_coupling import SpinCoupling

_MEAN_NEIGHBOURS = 16.0


class Part(NamedTuple):
    """One real part of H with spin: whether it has three components, its sign under transposition, under M -> -M."""

    name: str
    vector: bool
    symmetry: float
    odd: bool


def parts_of(config: SpinConfig) -> tuple[Part, ...]:
    """The parts that a head writes, in the order of its output."""
    if config.kind == "collinear":
        return (Part("even", False, 1.0, False), Part("odd", False, 1.0, True))
    orbit = Part("orbit", True, -1.0, False)
    if not config.magnetic:
        return (orbit,)
    even, odd = Part("even", False, 1.0, False), Part("odd", True, 1.0, True)
    return (even, orbit, odd, Part("current", False, -1.0, True))


class PartLayout:
    """An OrbitalLayout whose coupling is that of one part."""

    def __init__(self, layout: OrbitalLayout, part: Part) -> None:
        self.part, self.shells, self.n_species = part, layout.shells, layout.n_species
        self.coupling: Any = SpinCoupling(layout.shells) if part.vector else layout.coupling


def _padded_degrees(orders: Orders, l_max: int) -> Orders:
    """The features of edges up to a degree l_max at least their own, zero where there are none."""
    n, channels = len(orders[0]), orders[0].shape[3]
    found = [
        jnp.pad(part, ((0, 0), (0, 0), (0, l_max + 1 - m - part.shape[2]), (0, 0)))
        for m, part in enumerate(orders)
    ]
    found += [
        jnp.zeros((n, 2, l_max + 1 - m, channels), dtype=orders[0].dtype)
        for m in range(len(orders), l_max + 1)
    ]
    return tuple(found)


class Hidden(NamedTuple):
    """What the read-outs read: pairs, atoms, and the pairs whose sum makes the field on an atom."""

    hops: Orders
    sites: Array
    field: Orders


class PartReadout(nnx.Module):
    """Hidden features -> irreps of one part: of pairs in their frames, of atoms in the global one."""

    def __init__(
        self,
        coupling: Any,
        config: NetworkConfig,
        wide: tuple[int, int],
        *,
        rng: np.random.Generator,
    ) -> None:
        both = (config.channels, config.pseudo_channels)
        self.coupling = coupling
        self.hop = HopReadout(coupling, config.l_max, both, rng=rng)
        self.field = HopReadout(coupling, config.l_max, both, rng=rng)
        self.site = SiteReadout(coupling, wide, rng=rng)

    def __call__(self, hidden: Hidden, edges: EdgeSet) -> tuple[Array, Array]:
        """Irreps of pairs and of atoms; `edges` are the pairs of the field."""
        axial = self.field(hidden.field) * edges.envelope[:, None]
        fields = out_of_frames(axial, edges.frames.rotations, self.coupling)
        gathered = jax.ops.segment_sum(fields, edges.i, len(hidden.sites))
        return self.hop(hidden.hops), self.site(hidden.sites) + gathered / _MEAN_NEIGHBOURS**0.5


class SpinStage(nnx.Module):
    """Features of atoms and pairs, and moments, -> irreps of every part.

    Parameters
    ----------
    config : the head's architecture.
    network : that of the Hamiltonian network.
    layout : the common shells.
    """

    def __init__(
        self,
        config: SpinConfig,
        network: NetworkConfig,
        layout: OrbitalLayout,
        *,
        rng: np.random.Generator,
    ) -> None:
        layouts = {part.name: PartLayout(layout, part) for part in parts_of(config)}
        highest = max(of_part.coupling.l_max for of_part in layouts.values())
        layers = config.layers(network, highest)
        self.config, self.layers = config, layers
        given = (network.channels, network.pseudo_channels)
        both, n = (layers.channels, layers.pseudo_channels), layout.n_species
        self.norm_nodes = Norm(degrees(layers.l_max), sum(given))
        self.norm_edges = EdgeNorm(layers.l_max, sum(given))
        self.enter_nodes = DegreeLinear(layers.l_max, given, both, rng=rng)
        self.enter_edges = SO2Linear(layers.l_max, given, both, rng=rng)
        if config.magnetic:
            collinear = config.kind == "collinear"
            self.of_atoms = AtomMoments(layers, n, collinear=collinear, rng=rng)
            self.of_pairs = PairMoments(layers, n, collinear=collinear, rng=rng)
            self.message = EdgeUpdate(layers, n, layers.reach, rng=rng)
            self.node = NodeUpdate(layers, rng=rng)
        self.hop = EdgeUpdate(layers, n, layers.cutoff, rng=rng)
        self.site_norm = Norm(degrees(layers.l_max), sum(both))
        self.site = FeedForward(layers.l_max, both, rng=rng)
        self.readouts = nnx.Dict(
            {
                name: PartReadout(of_part.coupling, layers, self.site.wide, rng=rng)
                for name, of_part in layouts.items()
            }
        )

    def _frames(self, hops: EdgeSet, vectors: Array) -> EdgeFrames:
        if hops.frames.l_max == self.layers.l_max:
            return hops.frames
        return EdgeFrames(frame_rotations(self.layers.l_max, edge_directions(vectors, hops.distance)))

    def _enter(self, x: Array, hidden: Orders) -> tuple[Array, Orders]:
        """The network's features in the head's degrees and channels."""
        more = (self.layers.l_max + 1) ** 2 - x.shape[1]
        x = jnp.pad(x, ((0, 0), (0, more), (0, 0)))
        edges = self.norm_edges(_padded_degrees(hidden, self.layers.l_max))
        return self.enter_nodes(self.norm_nodes(x)), self.enter_edges(edges)[0]

    def _stage(
        self,
        moments: Float[Array, "atoms 3"],
        graph: CrystalGraph,
        y: Array,
        q: Orders,
        hops: EdgeSet,
        near: EdgeSet,
    ) -> Hidden:
        """f(M): messages about the moments, then pairs and atoms."""
        y = y + self.of_atoms(moments, graph.species)
        q = of_each(jnp.add, q, self.of_pairs(moments, hops))
        field, logits = self.message(y, of_each(lambda part: part[graph.near], q), near)
        y = self.node(y, field, logits, near)
        hidden, _ = self.hop(y, q, hops)
        return Hidden(hidden, self.site.hidden(self.site_norm(y)), field)

    def __call__(
        self,
        graph: CrystalGraph,
        x: Array,
        hidden: Orders,
        hops: EdgeSet,
        moments: Float[Array, "atoms 3"],
        *,
        remat: bool = False,
    ) -> tuple[dict[str, tuple[Array, Array]], list[Array]]:
        """{part: (irreps of pairs in their frames, of atoms in the global one)}, and D_l of each pair."""
        frames = self._frames(hops, graph.vectors)
        every = jnp.arange(graph.n_pairs, dtype=jnp.int32)
        mask = graph.pair_mask & ~graph.on_site
        own = EdgeSet(graph, every, mask, frames, self.layers.cutoff)
        y, q = self._enter(x, hidden)
        if not self.config.magnetic:
            found, _ = self.hop(y, q, own)
            even = Hidden(found, self.site.hidden(self.site_norm(y)), found)
            return {name: read(even, own) for name, read in self.readouts.items()}, frames.rotations
        near = EdgeSet(graph, graph.near, graph.near_mask, frames.subset(graph.near), self.layers.reach)
        stage = partial(self._stage, graph=graph, y=y, q=q, hops=own, near=near)
        both = jax.lax.map(jax.checkpoint(stage) if remat else stage, jnp.stack([moments, -moments]))
        even = jax.tree.map(lambda h: 0.5 * (h[0] + h[1]), both)
        odd = jax.tree.map(lambda h: 0.5 * (h[0] - h[1]), both)
        chosen = {part.name: odd if part.odd else even for part in parts_of(self.config)}
        return {n: read(chosen[n], near) for n, read in self.readouts.items()}, frames.rotations
