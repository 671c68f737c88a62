"""The training domain of an experiment, for its model file: what its structures and those of its start cover."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping
from functools import lru_cache, reduce
from typing import TYPE_CHECKING, Any

import numpy as np

from ase_deeph.basis import OrbitalBasis
from ase_deeph.domain import TrainingDomain
from trainers.bases import holds

if TYPE_CHECKING:
    from trainers.experiment import Experiment
    from trainers.spin_data import SpinStructure
    from trainers.structures import Structure


def structures_domain(
    structures: Iterable[Structure | SpinStructure],
    basis: OrbitalBasis,
    cutoff: float,
    *,
    magnetic: bool = False,
) -> TrainingDomain:
    """The domain that training structures span together, with their moments for a model that reads them."""
    return reduce(operator.or_, (_of_structure(s, basis, cutoff, magnetic) for s in structures))


def _of_structure(
    structure: Structure | SpinStructure, basis: OrbitalBasis, cutoff: float, magnetic: bool
) -> TrainingDomain:
    graph = structure.graph
    pairs = ~np.asarray(graph.on_site)
    distances = np.linalg.norm(np.asarray(graph.vectors, dtype=float)[pairs], axis=1)
    symbols = np.asarray(basis.symbols)[np.asarray(graph.species)]
    moments = getattr(structure, "moments", None) if magnetic else None
    i, j = np.asarray(graph.i)[pairs], np.asarray(graph.j)[pairs]
    return TrainingDomain.of_neighbours(symbols.tolist(), i, j, distances, cutoff, moments=moments)


@lru_cache(maxsize=1)
def training_domain(experiment: Experiment) -> dict[str, Any]:
    """The domain as JSON values: of the training structures, and of the model that training started from."""
    cutoff = experiment.config.network_config.cutoff
    spin = experiment.config.spin
    magnetic = spin is not None and spin.magnetic_cutoff is not None
    structures = (experiment.train.structures[n] for n in experiment.seen)
    domain = structures_domain(structures, experiment.basis, cutoff, magnetic=magnetic)
    start = experiment.start
    before = None if start is None else start.domain
    if start is not None and not holds(experiment.basis, start.basis):
        before = None  # of species or orbitals that this model does not know
    elif start is not None and _fingerprint(start.provenance) == experiment.data_fingerprint:
        before = None  # the same structures again
    return (domain if before is None else domain | before).to_dict()


def _fingerprint(provenance: Mapping[str, Any]) -> str | None:
    """Of the dataset that a model was trained on, as a run or as a published file tells it."""
    for part in (provenance, provenance.get("training") or {}):
        if "dataset" in part:
            return part["dataset"].get("fingerprint")
    return None
