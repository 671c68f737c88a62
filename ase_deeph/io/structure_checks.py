"""A structure read from a file: finite, with a cell of sensible volume along periodic axes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from ase import Atoms

_NEAREST, _FARTHEST = 0.1, 1e6
_FARTHEST_CELL = 10_000
ASE_COMPLAINTS = (
    ValueError,
    LookupError,
    StopIteration,
    RuntimeError,
    TypeError,
    ArithmeticError,
    AssertionError,
)
"""What ASE raises over a damaged file."""


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


def check_cells(R: np.ndarray) -> None:
    """ValueError when a file names a cell absurdly far away, the most negative integer (its own negative) included."""
    far = R[np.any((R > _FARTHEST_CELL) | (R < -_FARTHEST_CELL), axis=1)]
    if len(far):
        raise ValueError(f"the cell R = {tuple(far[0].tolist())} is absurdly far; the file is damaged")


def check_poscar(path: Path) -> None:
    """ValueError when a POSCAR announces more atoms than it has lines: they would be allocated before being missed."""
    lines = path.read_text(errors="replace").splitlines()
    for line in lines[5:8]:
        words = [word for word in line.split() if word.lstrip("+-").isdigit()]
        if words and len(words) == len(line.split()) and not 0 < sum(map(int, words)) <= len(lines):
            raise ValueError(f"{' '.join(words)[:60]} atoms announced in a file of {len(lines)} lines")
