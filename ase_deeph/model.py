"""HamiltonianModel: a trained network with its basis; atoms -> H(R), and S(R) from the radial functions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
from ase import Atoms

from ase_deeph.basis import OrbitalBasis
from ase_deeph.domain import TrainingDomain
from ase_deeph.graph import CrystalGraph, bucket_size
from ase_deeph.io.model_file import FORMAT_VERSION, read_model, write_model
from ase_deeph.matrix import RealSpaceMatrix
from ase_deeph.network import Network, NetworkConfig, build_network
from ase_deeph.network.statistics import Statistics
from ase_deeph.pairs import AtomPairs

__all__ = ["FORMAT_VERSION", "HamiltonianModel"]

MINIMUM_DISTANCE = 0.4
_HEADROOM = 1.08
_LARGEST_WASTE = 1.6

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
    """

    config: NetworkConfig
    basis: OrbitalBasis
    params: Mapping[str, Any]
    statistics: Statistics
    provenance: Mapping[str, Any] = field(default_factory=dict)
    _shapes: list[tuple[int, int, int]] = field(default_factory=list, init=False, repr=False)

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

    @cached_property
    def _predict(self) -> Any:
        return jax.jit(self.network.apply)

    @property
    def n_compilations(self) -> int:
        """How many padded shapes have been compiled so far."""
        return int(self._predict._cache_size())

    @property
    def n_parameters(self) -> int:
        """Trained numbers."""
        return sum(int(np.size(leaf)) for leaf in jax.tree.leaves(dict(self.params)))

    def check(self, atoms: Atoms) -> None:
        """Raise where the structure cannot be predicted.

        Raises
        ------
        KeyError : an element that the model does not know.
        ValueError : no atoms, NaN positions, a periodic axis without a cell vector, atoms closer than 0.4 Å.
        """
        if not len(atoms):
            raise ValueError("atoms: expected at least one atom, received an empty structure")
        self.basis.species_indices(atoms.get_chemical_symbols())
        close = AtomPairs.from_atoms(atoms, MINIMUM_DISTANCE)
        if len(close) > len(atoms):
            n = int(np.nonzero(~close.on_site)[0][0])
            d = float(np.linalg.norm(close.displacements(atoms)[n]))
            R = tuple(int(c) for c in close.R[n])
            raise ValueError(
                f"atoms {close.i[n]} and {close.j[n]} (R={R}) are {d:.3f} Å apart, closer than the "
                f"{MINIMUM_DISTANCE} Å below which no prediction is made; mend the structure"
            )

    def _padded_shape(self, graph: CrystalGraph) -> tuple[int, int, int]:
        """A compiled shape that holds the graph without much waste, or the next one of the ladder."""
        need = (graph.n_atoms + 1, graph.n_pairs + 1, graph.n_near)
        for shape in sorted(self._shapes, key=lambda s: s[1]):
            if (
                all(s >= n for s, n in zip(shape, need, strict=True))
                and shape[1] <= _LARGEST_WASTE * need[1] + 64
            ):
                return shape
        new = (
            bucket_size(need[0]),
            bucket_size(int(_HEADROOM * need[1]), smallest=64),
            bucket_size(int(_HEADROOM * need[2]), smallest=64),
        )
        self._shapes.append(new)
        return new

    def __call__(self, atoms: Atoms, *, dtype: Dtype = "float32") -> RealSpaceMatrix:
        """H(R) of a structure, eV, exactly Hermitian, on every pair closer than the cutoff.

        Parameters
        ----------
        dtype : precision of the network; the blocks come back in float64.

        Raises
        ------
        KeyError, ValueError : see `check`.
        """
        if dtype not in ("float32", "float64"):
            raise ValueError(f"dtype: expected 'float32' or 'float64', received {dtype!r}")
        self.check(atoms)
        pairs = AtomPairs.from_atoms(atoms, self.cutoff)
        graph = CrystalGraph.from_atoms(
            atoms, pairs, self.basis, message_cutoff=self.config.reach, dtype=np.dtype(dtype).type
        )
        padded = graph.pad(*self._padded_shape(graph))
        with jax.enable_x64(dtype == "float64"):
            blocks = np.asarray(self._predict(self.params, self.statistics, padded), dtype=float)
        blocks = blocks[: len(pairs)]
        if not np.all(np.isfinite(blocks)):
            raise ValueError(
                "the network returned NaN or infinity for this structure; the model file is unusable"
            )
        return RealSpaceMatrix.from_padded_blocks(self.basis, pairs, atoms.copy(), blocks)

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
        )
        model.network.check(model.params)
        try:
            _ = model.domain
        except (AttributeError, ValueError) as error:
            raise ValueError(f"model file {path}: {error}; copy or download it again") from error
        return model
