"""Networks: graph -> blocks of H, exactly Hermitian, equivariant under rotations, inversion and relabelling."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float

from ase_deeph.basis import OrbitalBasis
from ase_deeph.graph import CrystalGraph
from ase_deeph.network.config import NetworkConfig
from ase_deeph.network.elct import ELCT, safe_norm
from ase_deeph.network.layout import OrbitalLayout
from ase_deeph.network.so2 import EdgeFrames
from ase_deeph.network.statistics import (
    RIDGE,
    Statistics,
    denormalised,
    empty_statistics,
    fit_statistics,
)

__all__ = ["Network", "NetworkConfig", "build_network"]

Parameters = dict[str, Any]


class Network:
    """A network as pure functions of its parameters.

    Parameters
    ----------
    config : the architecture.
    basis : the orbitals it writes blocks for.
    """

    def __init__(self, config: NetworkConfig, basis: OrbitalBasis) -> None:
        self.config, self.basis = config, basis
        self.layout = OrbitalLayout(basis)

    def _module(self, seed: int) -> nnx.Module:
        if self.config.kind == "e3":
            from ase_deeph.network.e3 import E3

            return E3(self.config, self.layout, rng=np.random.default_rng(seed))
        return ELCT(self.config, self.layout, rng=np.random.default_rng(seed))

    @cached_property
    def _split(self) -> tuple[Any, Any]:
        return nnx.split(nnx.eval_shape(lambda: self._module(0)))

    def init(self, seed: int) -> Parameters:
        """Fresh parameters: nested dicts with string keys, float32 leaves."""
        return with_string_keys(nnx.to_pure_dict(nnx.split(self._module(seed))[1]))

    def module(self, params: Mapping[str, Any], dtype: Any) -> Any:
        """The module with these parameters in a precision; to be made and used inside a traced function."""
        return merged(self._split, params, dtype)

    def check(self, params: Mapping[str, Any]) -> None:
        """ValueError unless the parameters have the names and shapes of this network."""
        check_parameters(self._split, params)

    def empty_statistics(self) -> Statistics:
        """Zero means and unit scales."""
        return empty_statistics(self.layout)

    def fit_statistics(
        self, samples: Iterable[tuple[CrystalGraph, np.ndarray]], ridge: float = RIDGE
    ) -> Statistics:
        """Means and scales of a training set's targets (see statistics.py)."""
        return fit_statistics(self.layout, self.config.cutoff, samples, ridge)

    def apply(
        self, params: Mapping[str, Any], statistics: Statistics, graph: CrystalGraph, *, remat: bool = False
    ) -> Float[Array, "pairs M M"]:
        """Blocks of H in eV on every pair, zero on padding; runs in the precision of graph.vectors.

        H_ij(R) = H_ji(-R)^T holds exactly.  Dot products are asked for in full precision on every device (within a
        `products` block those with weights as it says).
        With remat a gradient computes the inside of each block twice instead of keeping it.
        """
        graph = jax.tree.map(jnp.asarray, graph)
        with jax.default_matmul_precision("highest"):
            module = self.module(params, graph.vectors.dtype)
            return self.finished(statistics, graph, *module(graph, remat=remat))

    def finished(
        self, statistics: Statistics, graph: CrystalGraph, hop: Array, site: Array, rotations: list[Array]
    ) -> Float[Array, "pairs M M"]:
        """What the module returns -> blocks of H in eV."""
        blocks = self.one_sided(statistics, graph, hop, site, rotations)
        blocks = 0.5 * (blocks + jnp.swapaxes(blocks[graph.reverse], 1, 2))
        blocks = jnp.where(graph.pair_mask[:, None, None], blocks, 0.0)
        return self.layout.to_species(blocks, graph.species[graph.i], graph.species[graph.j])

    def one_sided(
        self, statistics: Statistics, graph: CrystalGraph, hop: Array, site: Array, rotations: list[Array]
    ) -> Float[Array, "pairs n n"]:
        """Blocks over the common shells in the global frame, each from its own side: H is their Hermitian part."""
        distance = safe_norm(graph.vectors)
        hop, site = denormalised(
            statistics, self.layout, graph, hop, site, rotations, distance, self.config.cutoff
        )
        coupling = self.layout.coupling
        blocks = EdgeFrames.blocks_out_of(rotations, coupling.to_block(hop), self.layout.shells)
        return jnp.where(graph.on_site[:, None, None], coupling.to_block(site)[graph.i], blocks)

    def features(
        self, params: Mapping[str, Any], graph: CrystalGraph, n_blocks: int
    ) -> Float[Array, "atoms components channels"]:
        """Natural-parity features of the atoms after the first n_blocks blocks, in the precision of graph.vectors.

        Raises
        ------
        ValueError : the architecture has no such blocks.
        """
        if self.config.kind != "elct" or n_blocks > self.config.n_blocks:
            raise ValueError(
                f"potential backbone_blocks = {n_blocks}: the Hamiltonian network ({self.config.kind}) has "
                f"{self.config.n_blocks if self.config.kind == 'elct' else 0} blocks to read from; lower it"
            )
        graph = jax.tree.map(jnp.asarray, graph)
        with jax.default_matmul_precision("highest"):
            return self.module(params, graph.vectors.dtype).features(graph, n_blocks)

    def orbital_mask(self, graph: CrystalGraph) -> Bool[Array, "pairs M M"]:
        """True where a pair is real and both orbitals exist."""
        graph = jax.tree.map(jnp.asarray, graph)
        mask = self.layout.mask(graph.species[graph.i], graph.species[graph.j])
        return mask & graph.pair_mask[:, None, None]


def check_parameters(split: tuple[Any, Any], params: Mapping[str, Any]) -> None:
    """ValueError unless the parameters have the names and shapes of a split module."""
    expected, received = _shapes(with_string_keys(nnx.to_pure_dict(split[1]))), _shapes(params)
    wrong = sorted(set(expected.items()) ^ set(received.items()))
    if wrong:
        name = wrong[0][0]
        raise ValueError(
            f"parameters: {name} has shape {received.get(name, 'none')}, the network of this version expects "
            f"{expected.get(name, 'no such parameter')}; the model was made by another version, train it again"
        )


def merged(split: tuple[Any, Any], params: Mapping[str, Any], dtype: Any) -> Any:
    """The module of a split one with these parameters, in a precision."""
    graphdef, abstract = split
    values = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype=dtype), dict(params))
    nnx.replace_by_pure_dict(abstract, nnx.restore_int_paths(values))
    return nnx.merge(graphdef, abstract)


def with_string_keys(tree: Any) -> Any:
    """Nested dicts whose keys are strings."""
    if isinstance(tree, Mapping):
        return {str(key): with_string_keys(value) for key, value in tree.items()}
    return tree


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_flatten_with_path(dict(tree))[0]
    return {jax.tree_util.keystr(path): tuple(leaf.shape) for path, leaf in leaves}


def build_network(config: NetworkConfig, basis: OrbitalBasis) -> Network:
    """The network of a configuration for a basis; ValueError when they do not fit."""
    network = Network(config, basis)
    if config.l_max < network.layout.coupling.l_max:
        raise ValueError(
            f"network l_max: shells up to l = {network.layout.coupling.l_max // 2} need at least "
            f"{network.layout.coupling.l_max}, received {config.l_max}"
        )
    return network
