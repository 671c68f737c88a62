"""HamiltonianModel: a trained network with its basis; atoms -> H(R), and S(R) from the radial functions."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
from ase import Atoms

from ase_deeph.basis import OrbitalBasis
from ase_deeph.domain import TrainingDomain
from ase_deeph.graph import CrystalGraph, ShapeLadder
from ase_deeph.io.model_file import FORMAT_VERSION, read_model, write_model
from ase_deeph.large import LARGE, PAIRS_PER_CHUNK, LargePrediction
from ase_deeph.matrix import RealSpaceMatrix, Spin
from ase_deeph.moments import has_moments, magnetic_moments
from ase_deeph.network import Network, NetworkConfig, build_network
from ase_deeph.network.chunked import ChunkedNetwork, EdgeMemory
from ase_deeph.network.statistics import Statistics
from ase_deeph.network.tangents import pullback, pushforward
from ase_deeph.pairs import AtomPairs
from ase_deeph.potential import EnergyConfig, EnergyHead, EnergyNetwork, Potential, potential_of
from ase_deeph.predictable import check_dtype, check_structure
from ase_deeph.spin import SpinConfig, SpinHead, SpinNetwork

__all__ = ["FORMAT_VERSION", "HamiltonianModel"]

log = logging.getLogger(__name__)

Dtype = Literal["float32", "float64"]


@dataclass(frozen=True, eq=False)
class HamiltonianModel:
    """A network, its parameters and the basis it writes H in: model(atoms) -> RealSpaceMatrix.

    Parameters
    ----------
    config : architecture; its cutoff (Å) is the range of H.
    basis : orbitals, with radial functions where S of new structures is wanted.
    params : nested dict of arrays.
    statistics : means and scales of the targets.
    provenance : where data and parameters come from, JSON-serialisable.
    head : the energy head, None where there is none.
    spin_head : what makes H collinear or a spinor matrix, None for a H without spin.
    """

    config: NetworkConfig
    basis: OrbitalBasis
    params: Mapping[str, Any]
    statistics: Statistics
    provenance: Mapping[str, Any] = field(default_factory=dict)
    head: EnergyHead | None = None
    spin_head: SpinHead | None = None
    _shapes: ShapeLadder = field(default_factory=ShapeLadder, init=False, repr=False)
    _potential_shapes: ShapeLadder = field(default_factory=ShapeLadder, init=False, repr=False)
    _large: dict[Any, LargePrediction] = field(default_factory=dict, init=False, repr=False)
    _told: set[str] = field(default_factory=set, init=False, repr=False)

    def __repr__(self) -> str:
        name = self.provenance.get("name", "unnamed")
        return f"HamiltonianModel({name!r}, {self.basis}, cutoff={self.cutoff} Å)"

    @property
    def cutoff(self) -> float:
        """Range of H in Å."""
        return self.config.cutoff

    @cached_property
    def domain(self) -> TrainingDomain | None:
        """What the structures it was trained on have in common; None where its file does not say.

        Raises
        ------
        ValueError : the provenance's "domain" is none.
        """
        content = self.provenance.get("domain")
        return None if content is None else TrainingDomain.from_dict(content)

    @cached_property
    def network(self) -> Network:
        """The network as pure functions."""
        return build_network(self.config, self.basis)

    @property
    def spin(self) -> Spin:
        """The kind of spin of H: "none", "collinear" or "spinor"."""
        return "none" if self.spin_head is None else self.spin_head.config.kind

    @property
    def magnetic(self) -> bool:
        """Whether H depends on the atoms' initial magnetic moments."""
        return self.spin_head is not None and self.spin_head.config.magnetic

    @cached_property
    def spin_network(self) -> SpinNetwork:
        """The network with its spin head as pure functions.

        Raises
        ------
        ValueError : the model has none.
        """
        if self.spin_head is None:
            raise ValueError(
                f"model {self.provenance.get('name', 'unnamed')!r} has no spin head; H has no spin"
            )
        return SpinNetwork(self.spin_head.config, self.network)

    @cached_property
    def _predict(self) -> Any:
        return jax.jit(self.network.apply if self.spin_head is None else self.spin_network.apply)

    @cached_property
    def energy_network(self) -> EnergyNetwork:
        """The energy head as pure functions.

        Raises
        ------
        ValueError : the model has none.
        """
        if self.head is None:
            raise ValueError(
                f"model {self.provenance.get('name', 'unnamed')!r} has no energy head: its file holds H alone; "
                "train one with a [potential] section, or give the calculator a forcefield"
            )
        return EnergyNetwork(self.head.config, self.network)

    @cached_property
    def _derivatives(self) -> Any:
        return jax.jit(self.energy_network.derivatives)

    @cached_property
    def pushforward(self) -> Any:
        """Compiled network/tangents.py: (params, statistics, graph, displacements) -> derivatives of the blocks."""
        return jax.jit(partial(pushforward, self.network.apply))

    @cached_property
    def pullback(self) -> Any:
        """Compiled network/tangents.py: (params, statistics, graph, cotangent) -> gradient on the positions."""
        return jax.jit(partial(pullback, self.network.apply))

    @property
    def n_compilations(self) -> int:
        """How many padded shapes of H, and of energy and forces, have been compiled so far."""
        heads = self._derivatives._cache_size() if "_derivatives" in self.__dict__ else 0
        return int(self._predict._cache_size() + heads)

    @property
    def potential_properties(self) -> frozenset[str]:
        """What `potential` gives, by ASE's names; empty without an energy head."""
        return frozenset() if self.head is None else frozenset({"energy", "forces", "stress"})

    @property
    def n_parameters(self) -> int:
        """Trained numbers."""
        of_spin = {} if self.spin_head is None else dict(self.spin_head.params)
        return sum(int(np.size(leaf)) for leaf in jax.tree.leaves([dict(self.params), of_spin]))

    def check(self, atoms: Atoms) -> None:
        """Raise where the structure cannot be predicted.

        Raises
        ------
        KeyError : an element that the model does not know.
        ValueError : no atoms, NaN positions, a periodic axis without a cell vector, atoms closer than 0.4 Å.
        """
        check_structure(atoms, self.basis)

    def __call__(self, atoms: Atoms, *, dtype: Dtype = "float32") -> RealSpaceMatrix:
        """H(R) of a structure, eV, exactly Hermitian, on every pair closer than the cutoff.

        Parameters
        ----------
        dtype : precision of the network; the blocks come back in float64.

        Raises
        ------
        KeyError, ValueError : see `check`; also atoms without initial magnetic moments for a model that reads them.
        """
        check_dtype(dtype)
        self.check(atoms)
        pairs = AtomPairs.from_atoms(atoms, self.cutoff)
        if len(pairs) >= LARGE and self.config.kind == "elct" and self.spin_head is None:
            return self.large_prediction().on(pairs, atoms, dtype=dtype)
        graph = CrystalGraph.from_atoms(
            atoms, pairs, self.basis, message_cutoff=self.config.reach, dtype=np.dtype(dtype).type
        )
        padded = graph.pad(*self._shapes.shape(graph))
        params, statistics, moments = self._spin_arguments(atoms, padded)
        with jax.enable_x64(dtype == "float64"):
            blocks = np.asarray(self._predict(params, statistics, padded, *moments), dtype=float)
        blocks = blocks[: len(pairs)]
        if not np.all(np.isfinite(blocks)):
            raise ValueError(
                "the network returned NaN or infinity: the model file is unusable, or this structure's positions "
                "or moments are far from any that it knows"
            )
        if self.spin_head is not None:
            return self.spin_network.matrix(pairs, atoms.copy(), blocks)
        return RealSpaceMatrix.from_padded_blocks(self.basis, pairs, atoms.copy(), blocks)

    def large_prediction(
        self,
        *,
        pairs_per_chunk: int = PAIRS_PER_CHUNK,
        edges: EdgeMemory = "stored",
        devices: tuple[Any, ...] | None = None,
    ) -> LargePrediction:
        """The prediction of H in chunks: time and memory linear in the atoms; what large structures take anyway.

        Parameters
        ----------
        pairs_per_chunk : how many pairs go through the network at a time.
        edges : "stored", or "rebuilt" in each layer: slower, without the memory of the edges' features.
        devices : those that share the chunks; JAX's default device if None.

        Raises
        ------
        ValueError : the model has a spin head or is of kind "e3", or an argument makes no sense.
        """
        if self.spin_head is not None:
            raise ValueError("large_prediction: expected a model without a spin head, received one with it")
        key = (pairs_per_chunk, edges, devices)
        if key not in self._large:
            network = ChunkedNetwork(self.network, self.params, self.statistics, edges=edges, devices=devices)
            self._large[key] = LargePrediction(network, pairs_per_chunk, ShapeLadder())
        return self._large[key]

    def _spin_arguments(self, atoms: Atoms, graph: CrystalGraph) -> tuple[Any, Any, tuple[np.ndarray, ...]]:
        """Parameters, statistics and moments (none without a spin head) as the compiled network takes them."""
        if not self.magnetic and has_moments(atoms) and atoms.get_initial_magnetic_moments().any():
            self._log_once("the model reads no magnetic moments; those of the atoms change nothing")
        if self.spin_head is None:
            return self.params, self.statistics, ()
        params = {"backbone": self.params, "head": self.spin_head.params}
        statistics = {"backbone": self.statistics, "head": self.spin_head.statistics}
        moments = np.zeros((graph.n_atoms, 3), dtype=np.asarray(graph.vectors).dtype)
        if self.magnetic:
            moments[: len(atoms)] = magnetic_moments(atoms, self.spin_head.config.kind)
        return params, statistics, (moments,)

    def _log_once(self, remark: str) -> None:
        """A warning that this model gives once."""
        if remark not in self._told:
            self._told.add(remark)
            log.warning("%s: %s", self.provenance.get("name", "unnamed"), remark)

    def potential(self, atoms: Atoms, *, dtype: Dtype = "float32", stress: bool | None = None) -> Potential:
        """Energy, forces and stress of a structure; forces are exact derivatives, hence conservative.

        Parameters
        ----------
        dtype : precision of the networks; sums over atoms are in double precision.
        stress : None: where the cell is periodic in 3D.

        Raises
        ------
        ValueError : the model has no energy head, or a stress was asked for a cell that is not periodic in 3D.
        KeyError, ValueError : see `check`.
        """
        check_dtype(dtype)
        network, head = self.energy_network, self.head
        assert head is not None
        if stress and not all(atoms.pbc):
            raise ValueError(
                f"stress: expected a cell periodic in 3D, received pbc = {atoms.pbc.tolist()}; leave stress=None"
            )
        self.check(atoms)
        graph = network.graph(atoms, np.dtype(dtype).type)
        padded = graph.pad(*self._potential_shapes.shape(graph))
        with jax.enable_x64(dtype == "float64"):
            found = self._derivatives(head.params, head.statistics, self.params, padded)
            energies, forces, virials = (np.asarray(a, dtype=float)[: len(atoms)] for a in found)
        if not (np.all(np.isfinite(energies)) and np.all(np.isfinite(forces))):
            raise ValueError(
                "the energy head returned NaN or infinity for this structure; the model file is unusable"
            )
        energies = energies + head.reference_energies(self.basis)[graph.species]
        periodic = bool(all(atoms.pbc))
        return potential_of(atoms, energies, forces, virials, stress=periodic if stress is None else stress)

    def overlap(self, atoms: Atoms) -> RealSpaceMatrix:
        """S(R) of a structure by two-centre integrals of the model's radial functions; no DFT run.

        Raises
        ------
        ValueError : the model's basis carries no radial functions.
        """
        from ase_deeph.two_center import overlap

        self.check(atoms)
        return overlap(atoms, self.basis)

    def save(self, path: str | Path) -> None:
        """Write the model to one HDF5 file, atomically."""
        write_model(
            path,
            config=self.config.to_dict(),
            parameters=self.params,
            statistics=self.statistics,
            basis=self.basis,
            provenance=self.provenance,
            head=None if self.head is None else _head_parts(self.head),
            spin=None if self.spin_head is None else _spin_parts(self.spin_head),
        )

    @classmethod
    def load(cls, path: str | Path) -> HamiltonianModel:
        """Read a model file.

        Raises
        ------
        FileNotFoundError : no such file.
        ValueError : truncated, damaged, no model file, written by a newer version, or parts that do not fit.
        """
        parts = read_model(path)
        model = cls(
            config=NetworkConfig.from_dict(parts["config"]),
            basis=parts["basis"],
            params=parts["parameters"],
            statistics=parts["statistics"],
            provenance=parts["provenance"],
            head=_head(parts["head"]),
            spin_head=_spin_head(parts["spin"]),
        )
        model.network.check(model.params)
        try:
            _ = model.domain
            if model.spin_head is not None:
                model.spin_network.check(model.spin_head.params)
            if model.head is not None:
                model.energy_network.check(model.head.params)
                model.head.reference_energies(model.basis)
        except (AttributeError, ValueError) as error:
            raise ValueError(f"model file {path}: {error}; copy or download it again") from error
        return model


def _head_parts(head: EnergyHead) -> dict[str, Any]:
    """A head as write_model takes it."""
    return {
        "config": head.config.to_dict(),
        "reference": {symbol: float(energy) for symbol, energy in head.reference.items()},
        "parameters": head.params,
        "statistics": head.statistics,
    }


def _head(parts: Mapping[str, Any] | None) -> EnergyHead | None:
    """The inverse of _head_parts."""
    if parts is None:
        return None
    config = EnergyConfig.from_dict(parts["config"])
    return EnergyHead(config, parts["parameters"], parts["statistics"], parts["reference"])


def _spin_parts(head: SpinHead) -> dict[str, Any]:
    """A spin head as write_model takes it."""
    return {"config": head.config.to_dict(), "parameters": head.params, "statistics": head.statistics}


def _spin_head(parts: Mapping[str, Any] | None) -> SpinHead | None:
    """The inverse of _spin_parts."""
    if parts is None:
        return None
    return SpinHead(SpinConfig.from_dict(parts["config"]), parts["parameters"], parts["statistics"])
