"""What a structure must be for H to be predicted: atoms of known elements, at distances that occur."""

from __future__ import annotations

import numpy as np
from ase import Atoms

from ase_deeph.basis import OrbitalBasis
from ase_deeph.pairs import AtomPairs

MINIMUM_DISTANCE = 0.4
"""Å; closer atoms are a mistake in the structure."""


def check_structure(atoms: Atoms, basis: OrbitalBasis) -> None:
    """Raise where a structure cannot be predicted in this basis.

    Raises
    ------
    KeyError : an element that is not in the basis.
    ValueError : no atoms, NaN positions, a periodic axis without a cell vector, atoms closer than 0.4 Å.
    """
    if not len(atoms):
        raise ValueError("atoms: expected at least one atom, received an empty structure")
    basis.species_indices(atoms.get_chemical_symbols())
    close = AtomPairs.from_atoms(atoms, MINIMUM_DISTANCE)
    if len(close) > len(atoms):
        n = int(np.nonzero(~close.on_site)[0][0])
        d = float(np.linalg.norm(close.displacements(atoms)[n]))
        R = tuple(int(c) for c in close.R[n])
        raise ValueError(
            f"atoms {close.i[n]} and {close.j[n]} (R={R}) are {d:.3f} Å apart, closer than the "
            f"{MINIMUM_DISTANCE} Å below which no prediction is made; mend the structure"
        )


def check_dtype(dtype: str) -> None:
    """ValueError unless the precision is "float32" or "float64"."""
    if dtype not in ("float32", "float64"):
        raise ValueError(f"dtype: expected 'float32' or 'float64', received {dtype!r}")
