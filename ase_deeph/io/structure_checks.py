"""A structure read from a file: finite, with a cell of sensible volume along periodic axes."""

from __future__ import annotations

import numpy as np
from ase import Atoms

_NEAREST, _FARTHEST = 0.1, 1e6


def checked(atoms: Atoms) -> Atoms:
    """The structure itself.

    Raises
    ------
    ValueError : numbers are not finite, the periodic cell has no volume, or two atoms sit on one place.
    """
    for name, lengths in (("positions", atoms.positions), ("cell", atoms.cell.array)):
        if not np.all(np.abs(lengths) < _FARTHEST):
            raise ValueError(
                f"{name}: expected numbers below {_FARTHEST:g} Å, received larger ones, NaN or infinity"
            )
    if atoms.pbc.any() and not abs(np.linalg.det(atoms.cell.array)) > 1e-3:
        raise ValueError(f"the cell {atoms.cell.array.tolist()} has no volume")
    if 1 < len(atoms) <= 500:
        apart = np.linalg.norm(atoms.positions[:, None] - atoms.positions, axis=2)
        if apart[np.triu_indices(len(atoms), 1)].min() < _NEAREST:
            raise ValueError(f"two atoms are closer than {_NEAREST} Å")
    return atoms
