"""Reference data -> structures and padded batches with energies, forces and stresses, any of which may be absent."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import struct
from jaxtyping import Array, Float, Int

from ase_deeph.basis import OrbitalBasis
from ase_deeph.graph import CrystalGraph, batch
from ase_deeph.potential import EnergyNetwork
from ase_deeph.reference import ReferenceData
from trainers.structures import read_dataset

log = logging.getLogger(__name__)

Numbers = Array | np.ndarray


@dataclass(frozen=True, eq=False)
class EnergyStructure:
    """One example for an energy head.

    Parameters
    ----------
    name : the id, unique in a dataset.
    graph : unpadded, as the head sees it.
    energy : eV, None where it is unknown.
    forces : (n_atoms, 3) eV/Å or None.
    virial : (3, 3) dE/dε = stress · volume, eV, or None.
    info : how the reference was computed.
    """

    name: str
    graph: CrystalGraph
    energy: float | None
    forces: np.ndarray | None
    virial: np.ndarray | None
    info: Mapping[str, Any] = field(default_factory=dict)

    @property
    def size(self) -> tuple[int, int, int]:
        """(atoms, pairs, near pairs)."""
        return self.graph.n_atoms, self.graph.n_pairs, self.graph.n_near


@struct.dataclass
class EnergyBatch:
    """A padded disjoint graph of up to n structures with labels (a JAX pytree); absent labels are zero.

    Attributes
    ----------
    graph : the structures, padded.
    structure : structure of each atom, n for padding.
    n_atoms : (n,) atoms of each structure.
    energy, has_energy : (n,) eV beyond the species' reference energies; 1 where there is one, else 0.
    forces, has_forces : (atoms, 3) eV/Å; (n,).
    virial, has_virial : (n, 3, 3) eV; (n,).
    weight : 1 for each structure that is there, 0 for an empty place.
    total : structures of the whole update that this batch is a part of.
    """

    graph: CrystalGraph
    structure: Int[Numbers, " atoms"]
    n_atoms: Float[Numbers, " n"]
    energy: Float[Numbers, " n"]
    has_energy: Float[Numbers, " n"]
    forces: Float[Numbers, "atoms 3"]
    has_forces: Float[Numbers, " n"]
    virial: Float[Numbers, "n 3 3"]
    has_virial: Float[Numbers, " n"]
    weight: Float[Numbers, " n"]
    total: Float[Numbers, ""]


def make_energy_structure(
    name: str, data: ReferenceData, network: EnergyNetwork, dtype: type = np.float32
) -> EnergyStructure:
    """An example of a reference calculation.

    Raises
    ------
    ValueError : it has neither energy nor forces, a label is not finite or of the wrong shape, or an element is
        not in the model's basis.
    """
    atoms, energy, forces, stress = data.atoms, data.energy, data.forces, data.stress
    if energy is None and forces is None:
        raise ValueError(
            f"structure {name}: it has neither energy nor forces, one of which [potential] needs"
        )
    for what, value, shape in (
        ("energy", energy, ()),
        ("forces", forces, (len(atoms), 3)),
        ("stress", stress, (6,)),
    ):
        if value is not None and np.shape(value) != shape:
            raise ValueError(
                f"structure {name}: expected {what} of shape {shape}, received {np.shape(value)}"
            )
        if value is not None and not np.all(np.isfinite(value)):
            raise ValueError(f"structure {name}: its {what} holds NaN or infinity; regenerate it")
    try:
        graph = network.graph(atoms, dtype)
    except KeyError as error:
        raise ValueError(f"structure {name}: {error.args[0]}") from error
    virial = None
    if stress is not None and all(atoms.pbc):
        virial = np.asarray(stress)[np.array([[0, 5, 4], [5, 1, 3], [4, 3, 2]])] * atoms.get_volume()
    own_forces = None if forces is None else np.asarray(forces, dtype=float)
    return EnergyStructure(
        name, graph, None if energy is None else float(energy), own_forces, virial, data.info
    )


def load_energy_structures(
    roots: Sequence[str | Path],
    network: EnergyNetwork,
    *,
    dtype: type = np.float32,
    progress: Callable[[Iterable, str], Iterable] = lambda items, _: items,
) -> list[EnergyStructure]:
    """Every structure of some datasets, in order of name."""
    items = progress(read_dataset(roots), "reading")
    return [make_energy_structure(name, data, network, dtype) for name, data in items]


def fit_reference(structures: Sequence[EnergyStructure], basis: OrbitalBasis) -> dict[str, float]:
    """Energy of each species, eV, by least squares over the structures with an energy; 0 without any."""
    known = [s for s in structures if s.energy is not None]
    if not known:
        log.warning("no structure has an energy: the head learns forces alone, its energy has no zero")
        return dict.fromkeys(basis.symbols, 0.0)
    counts = np.array([np.bincount(s.graph.species, minlength=len(basis)) for s in known], dtype=float)
    energies = np.linalg.lstsq(counts, np.array([s.energy for s in known]), rcond=None)[0]
    return {symbol: float(e) for symbol, e in zip(basis.symbols, energies, strict=True)}


def label_scale(structures: Sequence[EnergyStructure], reference: np.ndarray) -> float:
    """Root mean square of all force components, eV/Å; without any, of energies per atom beyond the reference, eV."""
    forces = [s.forces.ravel() for s in structures if s.forces is not None]
    if forces:
        values = np.concatenate(forces)
    else:
        values = np.array([energy_beyond(s, reference) / s.graph.n_atoms for s in structures])
    return max(float(np.sqrt(np.mean(values**2))), 1e-3)


def energy_beyond(structure: EnergyStructure, reference: np.ndarray) -> float:
    """E - Σ_i E_species(i), eV; 0 where the energy is unknown."""
    if structure.energy is None:
        return 0.0
    return structure.energy - float(reference[structure.graph.species].sum())


def pad_energy_batch(
    structures: Sequence[EnergyStructure], shape: tuple[int, int, int], n: int, reference: np.ndarray
) -> EnergyBatch:
    """A batch of exactly this shape with room for n structures."""
    graph = batch([s.graph for s in structures]).pad(*shape)
    dtype = np.asarray(graph.vectors).dtype
    structure = np.full(graph.n_atoms, n, dtype=np.int32)
    forces = np.zeros((graph.n_atoms, 3), dtype=dtype)
    sizes, energy, flags = np.ones(n, dtype=dtype), np.zeros(n, dtype=dtype), np.zeros((3, n), dtype=dtype)
    virial = np.zeros((n, 3, 3), dtype=dtype)
    at = 0
    for place, s in enumerate(structures):
        where = slice(at, at + s.graph.n_atoms)
        structure[where], sizes[place], at = place, s.graph.n_atoms, where.stop
        energy[place] = energy_beyond(s, reference)
        flags[:, place] = [s.energy is not None, s.forces is not None, s.virial is not None]
        if s.forces is not None:
            forces[where] = s.forces
        if s.virial is not None:
            virial[place] = s.virial
    weight = (np.arange(n) < len(structures)).astype(dtype)
    total = np.asarray(len(structures), dtype=dtype)
    return EnergyBatch(
        graph, structure, sizes, energy, flags[0], forces, flags[1], virial, flags[2], weight, total
    )


def energy_fingerprint(structures: Iterable[EnergyStructure]) -> str:
    """SHA-256 of names, geometries and labels: equal for equal data."""
    digest = hashlib.sha256()
    for s in sorted(structures, key=lambda s: s.name):
        digest.update(f"{s.name}\t{s.energy!r}".encode())
        labels = [a for a in (s.forces, s.virial) if a is not None]
        for array in jax.tree.map(np.ascontiguousarray, [s.graph.species, s.graph.vectors, *labels]):
            digest.update(array.tobytes())
    return digest.hexdigest()
