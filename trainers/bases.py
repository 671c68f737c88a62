"""One basis for all the datasets of a run: every species, and the same orbitals wherever a species occurs."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from ase_deeph.basis import OrbitalBasis, RadialFunction, SpeciesBasis
from ase_deeph.io.dataset import read_dataset
from ase_deeph.reference import ReferenceData

log = logging.getLogger(__name__)

_RADII = np.linspace(0.05, 6.0, 60)
"""Å; where radial functions are compared."""
_ALIKE = 1e-3
"""Of a function's largest value: what interpolation and another machine's arithmetic may differ by."""


def dataset_basis(root: str | Path, data: Iterable[ReferenceData] = ()) -> OrbitalBasis:
    """The basis of a dataset: root/basis.h5 with its radial functions, else that of its structures.

    Raises
    ------
    ValueError : there is neither, or the file is damaged.
    """
    from ase_deeph.io.deeph import BASIS, read_basis_file

    file = Path(root) / BASIS
    if file.is_file():
        return read_basis_file(file)
    species: dict[str, SpeciesBasis] = {}
    for item in data:
        basis = item.basis or (item.hamiltonian.basis if item.hamiltonian is not None else None)
        species.update(dict(basis) if basis is not None else {})
    if not species:
        raise ValueError(f"dataset {root} has no basis.h5 and its structures name no orbitals")
    basis = OrbitalBasis(species)
    if not basis.has_radial_functions:
        log.warning("dataset %s has no basis.h5: the model will carry no radial functions", root)
    return basis


def common_basis(training: Sequence[Path], validation: Sequence[Path] = ()) -> OrbitalBasis:
    """Every species of the training sets; what the validation sets say of them must agree.

    Raises
    ------
    ValueError : two sets give one species other shells or other radial functions.
    """
    species: dict[str, SpeciesBasis] = {}
    origin: dict[str, Path] = {}
    for n, root in enumerate((*training, *validation)):
        found = dataset_basis(root, (item for _, item in read_dataset([root])))
        for symbol in found:
            if symbol not in species:
                if n < len(training):
                    species[symbol], origin[symbol] = found[symbol], root
                continue  # of validation alone: its structures are refused by name, where there are any
            difference = orbital_difference(species[symbol], found[symbol])
            if difference:
                raise ValueError(
                    f"datasets {origin[symbol]} and {root}: {difference} of {symbol} differ; H of two bases "
                    "cannot be learned together, compute one of the sets again with the other's basis"
                )
            if species[symbol].radial is None:
                species[symbol], origin[symbol] = found[symbol], root
    return OrbitalBasis(species)


def orbital_difference(one: SpeciesBasis, other: SpeciesBasis) -> str:
    """What makes the orbitals of two descriptions of one species different ones; "" where nothing is known to."""
    if one.shells != other.shells:
        return f"the shells {one.shells} and {other.shells}"
    if one.radial is None or other.radial is None:
        return ""
    different = [n for n, pair in enumerate(zip(one.radial, other.radial, strict=True)) if not _alike(*pair)]
    return f"the radial functions of shells {different}" if different else ""


def _alike(one: RadialFunction, other: RadialFunction) -> bool:
    """Whether two radial functions are the same to what matters."""
    a, b = one(_RADII), other(_RADII)
    return bool(np.abs(a - b).max() <= _ALIKE * np.abs(a).max())


def same_orbitals(one: OrbitalBasis, other: OrbitalBasis) -> bool:
    """Whether two bases have the same species with the same orbitals."""
    return set(one) == set(other) and holds(one, other)


def holds(basis: OrbitalBasis, other: OrbitalBasis) -> bool:
    """Whether a basis has every species of another, with the same orbitals."""
    return all(s in basis and not orbital_difference(basis[s], other[s]) for s in other)
