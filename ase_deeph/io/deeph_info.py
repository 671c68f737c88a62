"""info.json and reference.json of a DeepH folder: JSON objects whose values are checked before anyone uses them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from ase_deeph.basis import OrbitalBasis, SpeciesBasis

_SPINS = ("none", "collinear", "spinor")
_LARGEST_DEGREE = 8
MOMENTS = "initial_magmoms"
"""Key of the atoms' magnetic moments, μ_B, in the order of the atoms."""


def read_object(path: Path) -> dict[str, Any]:
    """The object of a JSON file; ValueError when it is missing, no JSON, or no object."""
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        raise ValueError(f"{path.parent}: expected {path.name}, which is missing") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: expected JSON, {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected a JSON object, received {type(content).__name__}")
    return content


def write_object(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file."""
    path.write_text(json.dumps(content, indent=1) + "\n")


def number_in(content: dict[str, Any], key: str, path: Path) -> float | None:
    """A finite number, None where absent or null; ValueError for anything else."""
    value = content.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{path}: expected a finite number for {key}, received {value!r}; correct it")
    return float(value)


def spin_in(content: dict[str, Any], path: Path) -> str | None:
    """The kind of spin that reference.json names, None where it names none."""
    spin = content.get("spin")
    if spin is not None and spin not in _SPINS:
        raise ValueError(f"{path}: expected spin {', '.join(_SPINS)}, received {spin!r}; correct it")
    return spin


def table_in(content: dict[str, Any], key: str, shape: tuple[int, ...], path: Path) -> np.ndarray | None:
    """Finite numbers of a shape, None where absent; ValueError for anything else."""
    value = content.get(key)
    if value is None:
        return None
    try:
        table = np.array(value, dtype=float)
    except (ValueError, TypeError, OverflowError):
        table = np.array(np.nan)
    if table.shape != shape or not np.all(np.isfinite(table)):
        raise ValueError(f"{path}: expected numbers of shape {shape} for {key}, received {value!r}")
    return table


def restore_structure(atoms: Atoms, content: dict[str, Any], path: Path) -> None:
    """Give the atoms of a POSCAR what it cannot say: open axes, cells without a vector along them, moments."""
    pbc = content.get("pbc")
    if pbc is not None:
        if not isinstance(pbc, list) or len(pbc) != 3 or not all(isinstance(p, bool) for p in pbc):
            raise ValueError(f"{path}: expected three true or false for pbc, received {pbc!r}; correct it")
        atoms.pbc = pbc
    cell = table_in(content, "cell", (3, 3), path)
    if cell is not None:
        atoms.set_cell(cell)
    restore_moments(atoms, content, path)


def moments_of(atoms: Atoms) -> dict[str, Any]:
    """Initial magnetic moments (μ_B, numbers or vectors) as a JSON item; empty where none were set."""
    return {MOMENTS: atoms.get_initial_magnetic_moments().tolist()} if atoms.has("initial_magmoms") else {}


def restore_moments(atoms: Atoms, content: dict[str, Any], path: Path) -> None:
    """The inverse: give the atoms the moments of a JSON object, if any; ValueError when they are none."""
    if content.get(MOMENTS) is None:
        return
    try:
        moments = np.array(content[MOMENTS], dtype=float)
    except (ValueError, TypeError, OverflowError):
        moments = np.array(np.nan)
    if moments.shape not in ((len(atoms),), (len(atoms), 3)) or not np.all(np.isfinite(moments)):
        raise ValueError(
            f"{path}: expected one or three finite numbers for each of {len(atoms)} atoms as {MOMENTS}, "
            f"received {str(content[MOMENTS])[:80]}; correct it"
        )
    atoms.set_initial_magnetic_moments(moments)


def shells_in(content: dict[str, Any], atoms: Atoms, path: Path) -> OrbitalBasis:
    """The shells of every element, without radial functions."""
    shells = content.get("elements_orbital_map")
    wanted = set(atoms.get_chemical_symbols())
    if not isinstance(shells, dict) or wanted - set(shells) or not all(map(_are_degrees, shells.values())):
        raise ValueError(f"{path}: elements_orbital_map must name the shells of every element, has {shells}")
    return OrbitalBasis({s: SpeciesBasis(tuple(l), 0.0) for s, l in shells.items()})


def _are_degrees(shells: Any) -> bool:
    return isinstance(shells, list) and all(type(l) is int and 0 <= l <= _LARGEST_DEGREE for l in shells)
