"""What Quantum ESPRESSO's <prefix>.save tells: electrons, Fermi level, total energy, valence of each UPF file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from ase import Atoms
from ase.units import Bohr, Hartree

SCHEMA = "data-file-schema.xml"
_LARGEST = 256 * 2**20
_SAME_PLACE = 1e-3


@dataclass(frozen=True)
class PlaneWaveRun:
    """Totals of a plane-wave run; absent parts are None.

    Parameters
    ----------
    n_electrons : electrons of the cell.
    fermi_level : eV; for fixed occupations the middle between the highest occupied and the lowest empty level.
    energy : total energy in eV.
    valence_electrons : of each element, from its UPF file.
    """

    n_electrons: float | None = None
    fermi_level: float | None = None
    energy: float | None = None
    valence_electrons: Mapping[str, float] = field(default_factory=dict)


def read_run(place: Path, atoms: Atoms, *, needed: bool) -> PlaneWaveRun:
    """Read a .save folder or its schema file.

    Raises
    ------
    FileNotFoundError : it is needed and absent.
    ValueError : it is damaged, or of another structure.
    """
    path = place / SCHEMA if place.is_dir() else place
    if not path.is_file():
        if needed:
            raise FileNotFoundError(f"{path} is absent; give Quantum ESPRESSO's <prefix>.save")
        return PlaneWaveRun(valence_electrons=_valences(place))
    try:
        return _read(path, atoms)
    except (ElementTree.ParseError, ValueError, AttributeError, TypeError, IndexError) as error:
        reason = re.sub(r"\s+", " ", str(error))[:200]
        raise ValueError(f"{path}: damaged, or of another calculation ({reason})") from error


def _read(path: Path, atoms: Atoms) -> PlaneWaveRun:
    if path.stat().st_size > _LARGEST:
        raise ValueError(f"{path.stat().st_size} bytes are too many")
    output = ElementTree.parse(path).getroot().find("output")
    if output is None:
        raise ValueError("<output> is missing; the run did not end")
    _check_structure(output, atoms)
    bands = output.find("band_structure")
    return PlaneWaveRun(
        n_electrons=_number(bands, "nelec"),
        fermi_level=_fermi_level(bands),
        energy=_scaled(_number(output, "total_energy/etot")),
        valence_electrons=_valences(path.parent),
    )


def _number(node: ElementTree.Element | None, name: str) -> float | None:
    found = None if node is None else node.find(name)
    if found is None or not found.text:
        return None
    value = float(found.text)
    if not np.isfinite(value):
        raise ValueError(f"<{name}> is {value}")
    return value


def _scaled(value: float | None) -> float | None:
    return None if value is None else value * Hartree


def _fermi_level(bands: ElementTree.Element | None) -> float | None:
    level = _number(bands, "fermi_energy")
    if level is None:
        top, bottom = _number(bands, "highestOccupiedLevel"), _number(bands, "lowestUnoccupiedLevel")
        level = top if bottom is None or top is None else 0.5 * (top + bottom)
    return _scaled(level)


def _check_structure(output: ElementTree.Element, atoms: Atoms) -> None:
    """ValueError unless cell and atoms are those of the matrices, whatever cell each atom is in."""
    structure = output.find("atomic_structure")
    if structure is None:
        raise ValueError("<atomic_structure> is missing")
    cell = np.array([[float(x) for x in structure.findtext(f"cell/a{n}", "").split()] for n in (1, 2, 3)])
    found = structure.findall("atomic_positions/atom")
    symbols = [re.match(r"[A-Z][a-z]?", atom.attrib["name"]) for atom in found]
    names = [match.group() if match else "" for match in symbols]
    if cell.shape != (3, 3) or sorted(names) != sorted(atoms.get_chemical_symbols()):
        raise ValueError(f"it is of {len(names)} atoms {sorted(set(names))}, the matrices of {atoms.symbols}")
    if np.abs(cell * Bohr - atoms.cell.array).max() > _SAME_PLACE:
        raise ValueError("its cell is not that of the matrices")
    places = np.array([[float(x) for x in (atom.text or "").split()] for atom in found]) * Bohr
    apart = (places[:, None] - atoms.positions[None]) @ np.linalg.inv(atoms.cell.array)
    near = np.linalg.norm((apart - np.rint(apart)) @ atoms.cell.array, axis=2).min(axis=0)
    if near.max() > _SAME_PLACE:
        raise ValueError(f"an atom of the matrices is {near.max():.3f} Å from the nearest of the run")


def _valences(folder: Path) -> dict[str, float]:
    """Valence electrons by element from the UPF files of a folder (version 2 has them as attributes)."""
    found: dict[str, float] = {}
    if not folder.is_dir():
        return found
    for path in sorted(p for p in folder.iterdir() if p.suffix.lower() == ".upf"):
        with path.open(errors="replace") as file:
            text = file.read(100_000)
        element = re.search(r'\belement\s*=\s*"\s*([A-Z][a-z]?)\s*"', text)
        valence = re.search(r'\bz_valence\s*=\s*"\s*([-+.\deEdD]+)\s*"', text)
        if element is None or valence is None:
            continue
        value = float(valence.group(1).lower().replace("d", "e"))
        if not 0 < value < 200 or found.setdefault(element.group(1), value) != value:
            raise ValueError(f"{path.name}: {value:g} valence electrons, or another than a second file says")
    return found
