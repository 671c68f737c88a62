"""The small text files beside SIESTA's matrices: XV and STRUCT_OUT (structure), EIG (Fermi level)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols
from ase.units import Bohr

from ase_deeph.io.structure_checks import checked

_LARGEST = 256 * 2**20
_FARTHEST = 1e6


def read_structure(folder: Path, label: str) -> Atoms | None:
    """The structure in <label>.XV or <label>.STRUCT_OUT; None when neither is there.

    Raises
    ------
    ValueError : the file is damaged.
    """
    for suffix, reader in ((".XV", _read_xv), (".STRUCT_OUT", _read_struct_out)):
        path = folder / f"{label}{suffix}"
        if path.is_file():
            try:
                return reader(_words(path))
            except (ValueError, IndexError) as error:
                raise ValueError(f"{path}: damaged or not SIESTA's {suffix[1:]} ({error})") from error
    return None


def _words(path: Path) -> list[list[str]]:
    if path.stat().st_size > _LARGEST:
        raise ValueError(f"{path}: {path.stat().st_size} bytes are too many for a structure")
    return [line.split() for line in path.read_text(errors="replace").splitlines() if line.strip()]


def _read_xv(lines: list[list[str]]) -> Atoms:
    """Cell (Bohr, with velocities), number of atoms, then species, Z, position (Bohr) and velocity."""
    cell = np.array([line[:3] for line in lines[:3]], dtype=float) * Bohr
    atoms = _rows(lines)
    return _atoms([int(a[1]) for a in atoms], cell, np.array([a[2:5] for a in atoms], dtype=float) * Bohr)


def _read_struct_out(lines: list[list[str]]) -> Atoms:
    """Cell (Å), number of atoms, then species, Z and fractional position."""
    cell = np.array([line[:3] for line in lines[:3]], dtype=float)
    atoms = _rows(lines)
    fractional = np.array([a[2:5] for a in atoms], dtype=float)
    if not (np.all(np.abs(fractional) < _FARTHEST) and np.all(np.abs(cell) < _FARTHEST)):
        raise ValueError(f"expected numbers below {_FARTHEST:g}, received larger ones, NaN or infinity")
    return _atoms([int(a[1]) for a in atoms], cell, fractional @ cell)


def _rows(lines: list[list[str]]) -> list[list[str]]:
    count = int(lines[3][0])
    rows = lines[4:]
    if count < 1 or len(rows) != count or any(len(row) < 5 for row in rows):
        raise ValueError(f"expected {count} atoms, found {len(rows)} lines")
    return rows


def _atoms(numbers: list[int], cell: np.ndarray, positions: np.ndarray) -> Atoms:
    if min(numbers) < 1 or max(numbers) >= len(chemical_symbols):
        raise ValueError(f"atomic numbers {sorted(set(numbers))}; ghost atoms are not read")
    return checked(Atoms(numbers=numbers, cell=cell, positions=positions, pbc=True))


def read_fermi_level(path: Path) -> float:
    """Line 1 of an EIG file, eV; ValueError when it is no number."""
    with path.open(errors="replace") as stream:
        line = stream.readline(200)
    try:
        level = float(line.split()[0])
    except (ValueError, IndexError):
        raise ValueError(f"{path}: expected the Fermi level on line 1, received {line.strip()!r}") from None
    if not np.isfinite(level):
        raise ValueError(f"{path}: expected a finite Fermi level, received {level}")
    return level
