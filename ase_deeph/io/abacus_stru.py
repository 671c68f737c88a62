"""ABACUS's STRU (structure, names of orbital files), INPUT, and what running_*.log tells."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers
from ase.units import Bohr

from ase_deeph.io.structure_checks import checked

_LARGEST = 512 * 2**20
_FARTHEST = 1e6
_BLOCKS = (
    "ATOMIC_SPECIES",
    "NUMERICAL_ORBITAL",
    "NUMERICAL_DESCRIPTOR",
    "LATTICE_CONSTANT",
    "LATTICE_VECTORS",
    "LATTICE_PARAMETERS",
    "ATOMIC_POSITIONS",
    "ABFS_ORBITAL",
    "ABFS_JLES_ORBITAL",
    "PAW_FILES",
)


@dataclass(frozen=True, eq=False)
class AbacusStructure:
    """The atoms, and the orbital file of each element (empty where STRU names none)."""

    atoms: Atoms
    orbital_files: Mapping[str, str]


@dataclass(frozen=True)
class AbacusLog:
    """From running_*.log: zeta counts per l and valence electrons per element, cell (Å), electrons, Fermi level."""

    zetas: Mapping[str, tuple[int, ...]]
    valence: Mapping[str, float]
    cell: np.ndarray | None
    n_electrons: float | None
    fermi_level: float | None
    version: str | None


def read_input(path: Path) -> dict[str, str]:
    """Keyword -> first word of INPUT, lower case keys; empty when the file is absent."""
    if not path.is_file():
        return {}
    words = [_bare(line).split() for line in _text(path).splitlines()]
    return {w[0].lower(): w[1] for w in words if len(w) > 1}


def _text(path: Path) -> str:
    if path.stat().st_size > _LARGEST:
        raise ValueError(f"{path}: {path.stat().st_size} bytes are more than this reader takes")
    return path.read_text(errors="replace")


def _bare(line: str) -> str:
    return re.split(r"#|//", line, maxsplit=1)[0].strip()


def read_stru(path: Path, latname: str = "none") -> AbacusStructure:
    """Read STRU; `latname` is INPUT's name of the lattice where STRU gives parameters instead of vectors.

    Raises
    ------
    ValueError : it is damaged, or the lattice is one whose vectors this reader does not know.
    """
    blocks: dict[str, list[str]] = {}
    for line in filter(None, map(_bare, _text(path).splitlines())):
        if line.split()[0] in _BLOCKS:
            current = blocks.setdefault(line.split()[0], [])
        elif blocks:
            current.append(line)
    try:
        labels = [line.split()[0] for line in blocks["ATOMIC_SPECIES"]]
        constant = float(blocks["LATTICE_CONSTANT"][0].split()[0]) * Bohr
        if not 1e-3 < constant < _FARTHEST:
            raise ValueError(f"a lattice constant of {constant:g} Å")
        cell = constant * _lattice(blocks, latname)
        atoms = _positions(blocks["ATOMIC_POSITIONS"], cell, constant)
    except KeyError as error:
        raise ValueError(f"{path}: expected a block {error}") from error
    except (ValueError, IndexError) as error:
        raise ValueError(f"{path}: damaged or not a STRU file ({error})") from error
    files = [line.split()[0] for line in blocks.get("NUMERICAL_ORBITAL", [])]
    return AbacusStructure(atoms, {element(a): f for a, f in zip(labels, files, strict=False)})


def element(label: str) -> str:
    """The element a label begins with (Mo1, Fe_up); ValueError when there is none."""
    match = re.match(r"[A-Z][a-z]?", label)
    for length in (2, 1):
        if match and match.group()[:length] in atomic_numbers:
            return match.group()[:length]
    raise ValueError(f"label {label!r} names no element")


def _lattice(blocks: Mapping[str, list[str]], latname: str) -> np.ndarray:
    if "LATTICE_VECTORS" in blocks:
        rows = [line.split()[:3] for line in blocks["LATTICE_VECTORS"][:3]]
        return _sensible(np.array(rows, dtype=float).reshape(3, 3))
    parameters = [float(w) for line in blocks.get("LATTICE_PARAMETERS", []) for w in line.split()]
    if latname not in _LATTICES:
        raise ValueError(f"lattice {latname!r} is unknown here; give LATTICE_VECTORS and latname none")
    n_parameters, vectors = _LATTICES[latname]
    if len(parameters) < n_parameters:
        raise ValueError(f"lattice {latname!r} takes {n_parameters} parameters, received {parameters}")
    return _sensible(np.array(vectors(*parameters[:n_parameters]), dtype=float))


def _sensible(table: np.ndarray) -> np.ndarray:
    """The numbers themselves; ValueError when one is absurd or not finite."""
    if not np.all(np.abs(table) < _FARTHEST):
        raise ValueError(f"expected numbers below {_FARTHEST:g}, received larger ones, NaN or infinity")
    return table


def _trigonal(cosine: float) -> list[list[float]]:
    if not -0.5 < cosine < 1.0:
        raise ValueError(f"trigonal lattice: expected a cosine in (-0.5, 1), received {cosine}")
    x, y, z = np.sqrt((1 - cosine) / 2), np.sqrt((1 - cosine) / 6), np.sqrt((1 + 2 * cosine) / 3)
    return [[x, -y, z], [0.0, 2 * y, z], [-x, -y, z]]


_LATTICES: Mapping[str, tuple[int, Callable[..., list[list[float]]]]] = {
    "sc": (0, lambda: [[1, 0, 0], [0, 1, 0], [0, 0, 1]]),
    "fcc": (0, lambda: [[-0.5, 0, 0.5], [0, 0.5, 0.5], [-0.5, 0.5, 0]]),
    "bcc": (0, lambda: [[0.5, 0.5, 0.5], [-0.5, 0.5, 0.5], [-0.5, -0.5, 0.5]]),
    "hexagonal": (1, lambda c: [[1, 0, 0], [-0.5, np.sqrt(0.75), 0], [0, 0, c]]),
    "trigonal": (1, _trigonal),
    "st": (1, lambda c: [[1, 0, 0], [0, 1, 0], [0, 0, c]]),
    "bct": (1, lambda c: [[0.5, -0.5, c / 2], [0.5, 0.5, c / 2], [-0.5, -0.5, c / 2]]),
    "so": (2, lambda b, c: [[1, 0, 0], [0, b, 0], [0, 0, c]]),
}


def _positions(lines: list[str], cell: np.ndarray, constant: float) -> Atoms:
    kind, at = lines[0].split()[0], 1
    units = {"Cartesian": constant, "Cartesian_angstrom": 1.0, "Cartesian_au": Bohr, "Direct": None}
    if kind not in units:
        raise ValueError(f"positions of kind {kind!r} are unknown; expected one of {', '.join(units)}")
    symbols: list[str] = []
    coordinates: list[list[float]] = []
    while at < len(lines):
        symbol, count = element(lines[at].split()[0]), int(lines[at + 2].split()[0])
        rows = lines[at + 3 : at + 3 + count]
        if not 0 <= count == len(rows):
            raise ValueError(f"expected {count} atoms of {symbol}, found {len(rows)} lines")
        symbols += [symbol] * count
        coordinates += [[float(w) for w in row.split()[:3]] for row in rows]
        at += 3 + count
    scale = units[kind]
    table = _sensible(np.array(coordinates, dtype=float).reshape(len(symbols), 3))
    positions = table @ cell if scale is None else table * scale
    if not symbols:
        raise ValueError("no atoms")
    return checked(Atoms(symbols, cell=cell, positions=positions, pbc=True))


def read_log(folder: Path) -> AbacusLog:
    """What the (first) running_*.log of a folder tells; nothing of it is required."""
    paths = sorted(folder.glob("running_*.log"))
    if not paths:
        return AbacusLog({}, {}, None, None, None, None)
    text = _text(paths[0])
    zetas: dict[str, tuple[int, ...]] = {}
    sections = re.split(r"atom label\s*=\s*(\w+)", text)
    for label, section in zip(sections[1::2], sections[2::2], strict=True):
        counts = re.findall(r"L=(\d+), number of zeta\s*=\s*(\d+)", section.split("READING", 1)[0][:4000])
        by_l = {int(l): int(n) for l, n in counts if int(l) < 12}
        zetas[element(label)] = tuple(by_l.get(l, 0) for l in range(max(by_l, default=-1) + 1))
    found = re.findall(r"electron number of element (\w+)\s*=\s*([\d.]+)", text)
    valence: dict[str, float] = {}
    for label, number in found:
        valence.setdefault(element(label), float(number))
    return AbacusLog(
        {s: z for s, z in zetas.items() if z},
        valence,
        _logged_cell(text),
        _last(r"number of electrons:?\s*=\s*([\d.]+)", text),
        _last(r"EFERMI\s*=\s*(-?[\d.]+(?:[eE][-+]?\d+)?)\s*eV", text),
        next(iter(re.findall(r"ABACUS (v[\w.]+)", text)), None),
    )


def _last(pattern: str, text: str) -> float | None:
    found = re.findall(pattern, text)
    return float(found[-1]) if found else None


def _logged_cell(text: str) -> np.ndarray | None:
    """Å; the vectors in units of the lattice constant, times it."""
    constant = _last(r"lattice constant \(Bohr\)\s*=\s*([\d.]+)", text)
    block = re.search(
        r"Lattice vectors:[^\n]*\n((?:[ \t]*[-+.\deE]+[ \t]+[-+.\deE]+[ \t]+[-+.\deE]+[ \t]*\n){3})", text
    )
    if constant is None or block is None:
        return None
    return np.array(block.group(1).split(), dtype=float).reshape(3, 3) * constant * Bohr
