"""Spin heads: a Hamiltonian network and what is added to it so that H is collinear or a spinor matrix."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ase import Atoms
from flax import nnx
from jaxtyping import Array, Float

from ase_deeph.graph import CrystalGraph
from ase_deeph.harmonics import edge_rotations
from ase_deeph.matrix import RealSpaceMatrix
from ase_deeph.network import Network, Parameters, check_parameters, merged, with_string_keys
from ase_deeph.network.elct import safe_norm
from ase_deeph.network.readout import out_of_frames
from ase_deeph.network.spin import Part, PartLayout, SpinStage, parts_of
from ase_deeph.network.spin_config import SpinConfig
from ase_deeph.network.spin_statistics import (
    SPIN_RIDGE,
    WEIGHTED,
    SpinSample,
    empty_part,
    fit_linear,
    fit_part,
    linear_blocks,
    scales_like,
    weights_of,
)
from ase_deeph.network.statistics import Statistics, denormalised
from ase_deeph.pairs import AtomPairs
from ase_deeph.pauli import from_pauli, pauli_parts

__all__ = ["SpinConfig", "SpinHead", "SpinNetwork"]

_TURNS = 3
Sample = tuple[CrystalGraph, np.ndarray, np.ndarray]
"""(graph, moments (n_atoms, 3) μ_B, target (n_pairs, n_parts, M, M) eV) of one structure, unpadded."""


@dataclass(frozen=True, eq=False)
class SpinHead:
    """A trained head: what a model file holds beside the Hamiltonian network.

    Parameters
    ----------
    config : the architecture.
    params : nested dict of arrays.
    statistics : means and scales of each part.
    """

    config: SpinConfig
    params: Mapping[str, Any]
    statistics: Mapping[str, Any]


class SpinNetwork:
    """A Hamiltonian network with a spin head as pure functions of the parameters of both.

    What it writes are real matrices, `parts` of H = A_0 ⊗ 1 + Σ_s A_s ⊗ σ_s:

        "collinear"               A_0, A_z                       (H of spin up A_0 + A_z, of spin down A_0 - A_z)
        "spinor"                  Re A_0, Im A_x, Im A_y, Im A_z            (no moments: the others are zero)
        "spinor" with moments     these, Re A_x, Re A_y, Re A_z, Im A_0

    Parameters
    ----------
    config : the head's architecture.
    backbone : the Hamiltonian network.

    Raises
    ------
    ValueError : a network of kind "e3", or a magnetic cutoff beyond its message cutoff.
    """

    def __init__(self, config: SpinConfig, backbone: Network) -> None:
        if backbone.config.kind != "elct":
            raise ValueError(
                f"spin: expected a Hamiltonian network of kind 'elct', received {backbone.config.kind!r}"
            )
        config.layers(backbone.config, 0)
        self.config, self.backbone = config, backbone
        self.parts = parts_of(config)
        self.layouts = {part.name: PartLayout(backbone.layout, part) for part in self.parts}

    @property
    def n_parts(self) -> int:
        """Real matrices per pair."""
        added = sum(3 if part.vector else 1 for part in self.parts)
        return added + 1 - any(part.name == "even" for part in self.parts)

    def _module(self, seed: int) -> nnx.Module:
        rng = np.random.default_rng(seed)
        return SpinStage(self.config, self.backbone.config, self.backbone.layout, rng=rng)

    @cached_property
    def _split(self) -> tuple[Any, Any]:
        return nnx.split(nnx.eval_shape(lambda: self._module(0)))

    def init(self, seed: int) -> Parameters:
        """Fresh parameters of the head: nested dicts with string keys, float32 leaves."""
        return with_string_keys(nnx.to_pure_dict(nnx.split(self._module(seed))[1]))

    def check(self, params: Mapping[str, Any]) -> None:
        """ValueError unless the parameters have the names and shapes of this head."""
        check_parameters(self._split, params)

    def empty_statistics(self) -> Statistics:
        """Zero means and unit scales of each part."""
        return {name: empty_part(layout) for name, layout in self.layouts.items()}

    def fit_statistics(
        self, samples: Iterable[Sample], backbone: Statistics | None = None
    ) -> dict[str, Statistics]:
        """{"backbone", "head"}: means and scales of all parts over a training set, in closed form.

        Parameters
        ----------
        backbone : the statistics of the Hamiltonian network where it has them; None: fitted too, by turns with
            the mean of A_0 that depends on the moments.
        """
        kept = list(samples)
        even: Statistics = {}
        turns = _TURNS if backbone is None and "even" in self.layouts else 1
        for _ in range(turns):
            structural = backbone or self._fit_backbone(kept, even)
            if "even" in self.layouts:
                even = self._fit_even(kept, structural)
        head = {
            part.name: even
            if part.name == "even"
            else self._fit(self.layouts[part.name], [self._labelled(part, s) for s in kept])
            for part in self.parts
        }
        return {"backbone": structural, "head": head}

    def _fit_backbone(self, samples: Sequence[Sample], even: Statistics) -> Statistics:
        """Statistics of A_0 less its mean that depends on the moments."""

        def spinless() -> Iterator[tuple[CrystalGraph, np.ndarray]]:
            for graph, moments, target in samples:
                mean: Any = 0.0
                if even:
                    common = self._weighted_mean(self.layouts["even"], even, graph, moments)[:, 0]
                    species = np.asarray(graph.species)
                    mean = np.asarray(
                        self.backbone.layout.to_species(
                            jnp.asarray(common), species[np.asarray(graph.i)], species[np.asarray(graph.j)]
                        )
                    )
                yield graph, np.asarray(target[:, 0], dtype=float) - mean

        return self.backbone.fit_statistics(spinless(), SPIN_RIDGE)

    def _fit_even(self, samples: Sequence[Sample], backbone: Statistics) -> Statistics:
        """The mean of A_0 that depends on the moments, beside one that does not; scales are shares of its scales."""
        of_part, n = self.layouts["even"], self.backbone.layout.coupling.n_orbitals**2
        rest = []
        for graph, moments, target in samples:
            rotations = self._rotations(graph)
            with jax.enable_x64(True):
                exact = jax.tree.map(jnp.asarray, replace(graph, vectors=np.asarray(graph.vectors, float)))
                hop, site = jnp.zeros((graph.n_pairs, n)), jnp.zeros((graph.n_atoms, n))
                mean = self.backbone.finished(backbone, exact, hop, site, rotations)
            left = np.asarray(target, dtype=float)
            left = left - np.pad(np.asarray(mean)[:, None], ((0, 0), (0, left.shape[1] - 1), (0, 0), (0, 0)))
            rest.append(self._labelled(of_part.part, (graph, moments, left)))
        tables = self._fit_weighted(of_part, rest)
        return {**scales_like(of_part, backbone), **tables}

    def _where(self, part: Part) -> slice:
        """The matrices of a part among all."""
        order = {"even": 0, "orbit": 1, "odd": 4, "current": 7}
        if self.config.kind == "collinear":
            order["odd"] = 1
        return slice(order[part.name], order[part.name] + (3 if part.vector else 1))

    def _labelled(self, part: Part, sample: Sample) -> tuple[CrystalGraph, np.ndarray, np.ndarray]:
        """(graph, moments along the part's components, (n_pairs, s, c, c) target over the common shells)."""
        graph, moments, target = sample
        species = np.asarray(graph.species)
        i, j = species[np.asarray(graph.i)], species[np.asarray(graph.j)]
        chosen = np.moveaxis(target[:, self._where(part)], 1, 0)
        common = [self.backbone.layout.to_common(np.asarray(t, dtype=float), i, j) for t in chosen]
        return graph, moments, np.stack(common, axis=1)

    def _fit(self, of_part: PartLayout, labelled: Sequence[Any]) -> Statistics:
        layout, part = self.backbone.layout, of_part.part
        tables: Statistics = {}
        if part.name in WEIGHTED:
            tables = self._fit_weighted(of_part, labelled)
            labelled = [(g, m, t - self._weighted_mean(of_part, tables, g, m)) for g, m, t in labelled]
        cutoff = self.backbone.config.cutoff
        samples = [
            SpinSample(layout, of_part.coupling, graph, target if part.vector else target[:, 0], cutoff)
            for graph, _, target in labelled
        ]
        return {**fit_part(of_part, samples), **tables}

    def _fit_weighted(self, of_part: PartLayout, labelled: Sequence[Any]) -> Statistics:
        """The tables of a mean that depends on the moments."""
        assert self.config.magnetic_cutoff is not None
        layout, cutoff, single = self.backbone.layout, self.backbone.config.cutoff, []
        for graph, moments, target in labelled:
            for s in range(target.shape[1]):
                sample = SpinSample(layout, layout.coupling, graph, target[:, s], cutoff)
                weights = weights_of(of_part.part, np.asarray(moments, dtype=float), sample.i, sample.j)
                single.append((sample, weights.component(s)))
        return fit_linear(of_part, single, self.config.magnetic_cutoff)

    def _rotations(self, graph: CrystalGraph) -> list[Array]:
        """D_l of the pairs of an unpadded structure, in double precision."""
        vectors = np.asarray(graph.vectors, dtype=float)
        length = np.linalg.norm(vectors, axis=1, keepdims=True)
        directions = np.where(length > 0, vectors / np.maximum(length, 1e-12), [0.0, 0.0, 1.0])
        with jax.enable_x64(True):
            found = edge_rotations(self.backbone.layout.coupling.l_max, directions)
            return [jnp.asarray(r) for r in found]

    def _weighted_mean(
        self, of_part: PartLayout, tables: Statistics, graph: CrystalGraph, moments: np.ndarray
    ) -> np.ndarray:
        """The mean that depends on the moments, of an unpadded structure, in double precision."""
        rotations = self._rotations(graph)
        with jax.enable_x64(True):
            exact = jax.tree.map(jnp.asarray, replace(graph, vectors=np.asarray(graph.vectors, float)))
            weights = weights_of(of_part.part, jnp.asarray(moments, dtype=float), exact.i, exact.j)
            coupling = self.backbone.layout.coupling
            return np.asarray(linear_blocks(tables, coupling, exact, weights, rotations, self._cutoffs))

    @property
    def _cutoffs(self) -> tuple[float, float]:
        own = self.backbone.config.cutoff
        return own, self.config.magnetic_cutoff or own

    def apply(
        self,
        params: Mapping[str, Any],
        statistics: Mapping[str, Any],
        graph: CrystalGraph,
        moments: Float[Array, "atoms 3"],
        *,
        remat: bool = False,
    ) -> Float[Array, "pairs parts M M"]:
        """The parts of H in eV on every pair, zero on padding; runs in the precision of graph.vectors.

        Hermiticity and time reversal hold exactly: see network/spin.py.

        Parameters
        ----------
        params, statistics : {"backbone": of the Hamiltonian network, "head": of the head}.
        moments : μ_B, zero on padding; not read without a magnetic cutoff.
        remat : a gradient computes the inside of each block twice instead of keeping it.
        """
        graph = jax.tree.map(jnp.asarray, graph)
        dtype = graph.vectors.dtype
        moments = jnp.asarray(moments, dtype=dtype)
        with jax.default_matmul_precision("highest"):
            network = merged(self.backbone._split, params["backbone"], dtype)
            x, hidden, hops = network.trunk(graph, remat=remat)
            zero = self.backbone.finished(statistics["backbone"], graph, *network.read(x, hidden, hops))
            stage = merged(self._split, params["head"], dtype)
            irreps, rotations = stage(graph, x, hidden, hops, moments, remat=remat)
            found = {
                part.name: self._finished(
                    part, statistics["head"][part.name], graph, moments, irreps[part.name], rotations
                )
                for part in self.parts
            }
        even = found.pop("even", None)
        zero = zero[:, None] if even is None else zero[:, None] + even
        return jnp.concatenate([zero, *(found[p.name] for p in self.parts if p.name in found)], axis=1)

    def _finished(
        self,
        part: Part,
        statistics: Statistics,
        graph: CrystalGraph,
        moments: Array,
        irreps: tuple[Array, Array],
        rotations: list[Array],
    ) -> Float[Array, "pairs s M M"]:
        """Irreps of one part -> its blocks in eV, with its symmetry under transposition, over species' orbitals."""
        of_part: Any = self.layouts[part.name]
        own = {key: value for key, value in statistics.items() if not key.startswith("linear")}
        distance, cutoff = safe_norm(graph.vectors), self.backbone.config.cutoff
        hop, site = denormalised(own, of_part, graph, *irreps, rotations, distance, cutoff)
        hop = out_of_frames(hop, rotations, of_part.coupling)
        blocks = of_part.coupling.to_block(jnp.where(graph.on_site[:, None], site[graph.i], hop))
        blocks = blocks if part.vector else blocks[:, None]
        if part.name in WEIGHTED:
            weights = weights_of(part, moments, graph.i, graph.j)
            coupling = self.backbone.layout.coupling
            blocks = blocks + linear_blocks(statistics, coupling, graph, weights, rotations, self._cutoffs)
        reverse = jnp.swapaxes(blocks[graph.reverse], 2, 3)
        blocks = 0.5 * (blocks + reverse if part.symmetry > 0 else blocks - reverse)
        blocks = jnp.where(graph.pair_mask[:, None, None, None], blocks, 0.0)
        species = graph.species[graph.i], graph.species[graph.j]
        layout = self.backbone.layout
        return jnp.stack([layout.to_species(blocks[:, s], *species) for s in range(blocks.shape[1])], axis=1)

    def matrix(self, pairs: AtomPairs, atoms: Atoms, parts: np.ndarray) -> RealSpaceMatrix:
        """H(R) from its parts on the pairs of a structure."""
        basis, parts = self.backbone.basis, np.moveaxis(np.asarray(parts, dtype=float), 1, 0)
        if self.config.kind == "collinear":
            return from_pauli(basis, pairs, atoms, parts, "collinear")
        pauli = parts[:4] * np.array([1.0, 1j, 1j, 1j])[:, None, None, None]
        if self.config.magnetic:
            pauli[1:] += parts[4:7]
            pauli[0] += 1j * parts[7]
        return from_pauli(basis, pairs, atoms, pauli, "spinor")

    def target(self, matrix: RealSpaceMatrix) -> tuple[np.ndarray, float]:
        """(n_pairs, n_parts, M, M) labels of this head, and the largest entry in eV that it cannot have.

        Raises
        ------
        ValueError : a matrix of another kind of spin.
        """
        if matrix.spin != self.config.kind:
            raise ValueError(
                f"expected a Hamiltonian of spin {self.config.kind!r}, received {matrix.spin!r}; set [spin] kind"
            )
        pauli = pauli_parts(matrix)
        if self.config.kind == "collinear":
            return np.moveaxis(pauli, 0, 1), 0.0
        zero, vector = pauli[:1], pauli[1:]
        if self.config.magnetic:
            return np.moveaxis(np.concatenate([zero.real, vector.imag, vector.real, zero.imag]), 0, 1), 0.0
        broken = max(float(np.abs(a).max(initial=0.0)) for a in (vector.real, zero.imag))
        return np.moveaxis(np.concatenate([zero.real, vector.imag]), 0, 1), broken
