"""Energies of atoms from a model's head, and their exact derivatives: forces and stress."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ase import Atoms
from ase.stress import full_3x3_to_voigt_6_stress
from flax import nnx
from jaxtyping import Array, Float

from ase_deeph.basis import OrbitalBasis
from ase_deeph.graph import CrystalGraph, ShapeLadder
from ase_deeph.harmonics import degree_slice
from ase_deeph.network import Network, Parameters, check_parameters, merged, with_string_keys
from ase_deeph.network.energy import AtomicEnergies
from ase_deeph.network.energy_config import EnergyConfig
from ase_deeph.network.nodes import degrees
from ase_deeph.pairs import AtomPairs

__all__ = ["EnergyConfig", "EnergyHead", "EnergyNetwork", "Potential"]


@dataclass(frozen=True, eq=False)
class Potential:
    """Energy of a structure and its derivatives.

    Parameters
    ----------
    energy : eV.
    forces : (n_atoms, 3) -dE/dx, eV/Å.
    stress : (6,) dE/dε / volume, Voigt order and sign of ASE, eV/Å³; None for a cell not periodic in 3D.
    energies : (n_atoms,) eV, their sum is the energy.
    """

    energy: float
    forces: np.ndarray
    stress: np.ndarray | None
    energies: np.ndarray


@dataclass(frozen=True, eq=False)
class EnergyHead:
    """A trained head: what a model file holds beside the Hamiltonian network.

    Parameters
    ----------
    config : the architecture.
    params : nested dict of arrays.
    statistics : scale (eV), and mean and scale of the features that are read (see EnergyNetwork).
    reference : energy of each species, eV, to which the head adds.
    """

    config: EnergyConfig
    params: Mapping[str, Any]
    statistics: Mapping[str, Any]
    reference: Mapping[str, float]

    def reference_energies(self, basis: OrbitalBasis) -> np.ndarray:
        """(n_species,) in the order of the basis, eV.

        Raises
        ------
        ValueError : a species of the basis has none.
        """
        missing = sorted(set(basis.symbols) - set(self.reference))
        if missing:
            raise ValueError(
                f"the energy head has no reference energy of {', '.join(missing)}; train it again"
            )
        return np.array([self.reference[s] for s in basis.symbols], dtype=float)


class EnergyNetwork:
    """An energy head as pure functions of its parameters and those of the network it reads.

    Parameters
    ----------
    config : the architecture.
    backbone : the Hamiltonian network.

    Raises
    ------
    ValueError : the head reads more blocks than the Hamiltonian network has.
    """

    def __init__(self, config: EnergyConfig, backbone: Network) -> None:
        self.config, self.backbone = config, backbone
        blocks = backbone.config.n_blocks if backbone.config.kind == "elct" else 0
        if config.backbone_blocks > blocks:
            raise ValueError(
                f"potential backbone_blocks: the Hamiltonian network ({backbone.config.kind}) has {blocks} "
                f"blocks to read from, received {config.backbone_blocks}"
            )

    @property
    def n_features(self) -> int:
        """Channels that are read from the backbone."""
        return self.backbone.config.channels if self.config.backbone_blocks else 0

    @property
    def message_cutoff(self) -> float:
        """Å; pairs within it carry the backbone's messages."""
        return self.backbone.config.reach if self.config.backbone_blocks else 0.0

    def graph(self, atoms: Atoms, dtype: type = np.float32) -> CrystalGraph:
        """What the head sees of a structure, unpadded and without on-site pairs."""
        pairs = AtomPairs.from_atoms(atoms, max(self.config.cutoff, self.message_cutoff))
        pairs = pairs.select(~pairs.on_site)
        return CrystalGraph.from_atoms(
            atoms, pairs, self.backbone.basis, message_cutoff=self.message_cutoff, dtype=dtype
        )

    def _module(self, seed: int) -> nnx.Module:
        n_species = len(self.backbone.basis)
        return AtomicEnergies(self.config, n_species, self.n_features, rng=np.random.default_rng(seed))

    @cached_property
    def _split(self) -> tuple[Any, Any]:
        return nnx.split(nnx.eval_shape(lambda: self._module(0)))

    def init(self, seed: int) -> Parameters:
        """Fresh parameters: nested dicts with string keys, float32 leaves."""
        return with_string_keys(nnx.to_pure_dict(nnx.split(self._module(seed))[1]))

    def check(self, params: Mapping[str, Any]) -> None:
        """ValueError unless the parameters have the names and shapes of this head."""
        check_parameters(self._split, params)

    def empty_statistics(self) -> dict[str, np.ndarray]:
        """Unit scales and zero means."""
        statistics: dict[str, np.ndarray] = {"scale": np.ones((), dtype=np.float32)}
        if self.n_features:
            statistics["feature_mean"] = np.zeros(self.n_features, dtype=np.float32)
            statistics["feature_scale"] = np.ones((self.config.l_max + 1, self.n_features), dtype=np.float32)
        return statistics

    def fit_statistics(
        self, backbone: Mapping[str, Any], graphs: Iterable[CrystalGraph], scale: float
    ) -> dict[str, np.ndarray]:
        """Mean (of scalars) and root mean square of the features that are read, over some unpadded structures.

        Parameters
        ----------
        backbone : parameters of the Hamiltonian network.
        scale : eV; what the head's numbers are multiplied by.
        """
        statistics = {**self.empty_statistics(), "scale": np.array(scale, dtype=np.float32)}
        if not self.n_features:
            return statistics
        ladder, features = ShapeLadder(), jax.jit(self.raw_features)
        found = [np.asarray(features(backbone, g.pad(*ladder.shape(g))))[: g.n_atoms] for g in graphs]
        rows = np.concatenate(found).astype(float)
        mean = rows[:, 0].mean(axis=0)
        rows[:, 0] -= mean
        l = degrees(self.config.l_max)
        squares = np.stack([(rows[:, l == n] ** 2).mean(axis=(0, 1)) for n in range(self.config.l_max + 1)])
        floor = 0.1 * np.sqrt(squares.mean()) + 1e-12
        statistics["feature_mean"] = mean.astype(np.float32)
        statistics["feature_scale"] = np.maximum(np.sqrt(squares), floor).astype(np.float32)
        return statistics

    def raw_features(self, backbone: Mapping[str, Any], graph: CrystalGraph) -> Float[Array, "atoms s n"]:
        """The backbone's features in the head's degrees, zero where the backbone has none."""
        found = self.backbone.features(backbone, graph, self.config.backbone_blocks)
        size = (self.config.l_max + 1) ** 2
        found = found[:, :size]
        return jnp.pad(found, ((0, 0), (0, size - found.shape[1]), (0, 0)))

    def energies(
        self,
        params: Mapping[str, Any],
        statistics: Mapping[str, Any],
        backbone: Mapping[str, Any],
        graph: CrystalGraph,
    ) -> Float[Array, " atoms"]:
        """Energies of the atoms beyond their species' reference, eV, zero on padding."""
        graph = jax.tree.map(jnp.asarray, graph)
        dtype = graph.vectors.dtype
        table = {key: jnp.asarray(value, dtype=dtype) for key, value in statistics.items()}
        features = None
        if self.n_features:
            features = self.raw_features(backbone, graph)
            features = features.at[:, degree_slice(0)].add(-table["feature_mean"][None, None])
            features = features / table["feature_scale"][degrees(self.config.l_max)][None]
        with jax.default_matmul_precision("highest"):
            energies = merged(self._split, params, dtype)(graph, features)
        return jnp.where(graph.atom_mask, table["scale"] * energies, 0.0)

    def derivatives(
        self,
        params: Mapping[str, Any],
        statistics: Mapping[str, Any],
        backbone: Mapping[str, Any],
        graph: CrystalGraph,
    ) -> tuple[Float[Array, " atoms"], Float[Array, "atoms 3"], Float[Array, "atoms 3 3"]]:
        """(energies, forces, virials) of the atoms: with g_p = ∂E/∂d_p of each pair p = (i, j),

        F_i = Σ_p∋i g_p - Σ_p∋j g_p, so that ΣF = 0, and W_i = Σ_p∋i d_p ⊗ g_p, so that dE/dε = Σ_i W_i.
        """
        graph = jax.tree.map(jnp.asarray, graph)

        def total(vectors: Float[Array, "pairs 3"]) -> tuple[Float[Array, ""], Float[Array, " atoms"]]:
            energies = self.energies(params, statistics, backbone, replace(graph, vectors=vectors))
            return jnp.sum(energies), energies

        (_, energies), slope = jax.value_and_grad(total, has_aux=True)(graph.vectors)
        slope = jnp.where(graph.pair_mask[:, None], slope, 0.0)
        n = graph.n_atoms
        forces = jax.ops.segment_sum(slope, graph.i, n) - jax.ops.segment_sum(slope, graph.j, n)
        virials = jax.ops.segment_sum(graph.vectors[:, :, None] * slope[:, None, :], graph.i, n)
        return energies, forces, virials


def potential_of(
    atoms: Atoms, energies: np.ndarray, forces: np.ndarray, virials: np.ndarray, *, stress: bool
) -> Potential:
    """The totals of a structure from numbers of its atoms (reference energies included)."""
    tensor = np.sum(virials, axis=0)
    voigt = None
    if stress:
        voigt = full_3x3_to_voigt_6_stress(0.5 * (tensor + tensor.T) / atoms.get_volume())
    return Potential(float(np.sum(energies)), forces, voigt, energies)
