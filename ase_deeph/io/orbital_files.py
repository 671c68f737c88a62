"""Numerical orbitals that HPRO reads: SIESTA's .ion text, .ion.nc, .ion.xml, and GPAW's .basis."""

from __future__ import annotations

import gzip
import re
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from ase.data import atomic_numbers
from ase.units import Bohr

from ase_deeph.basis import GridRadial, RadialFunction
from ase_deeph.io.siesta_ion import radial_function, read_ion

_LARGEST = 64 * 2**20
_FEWEST = 8


@dataclass(frozen=True, eq=False)
class ElementOrbitals:
    """The radial functions of one element, in the order of the file; valence electrons 0 where it tells none."""

    path: Path
    radial: tuple[RadialFunction, ...]
    valence_electrons: float


def orbitals_in(folder: Path) -> dict[str, ElementOrbitals]:
    """Element -> orbitals, of every orbital file in a folder.

    Raises
    ------
    FileNotFoundError : no such folder.
    ValueError : a file is damaged, or an element has two.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder} of orbital files")
    found: dict[str, ElementOrbitals] = {}
    texts = {path.name.split(".")[0] for path in folder.glob("*.ion")}
    for path in sorted(p for p in folder.iterdir() if p.is_file()):
        name, stem = path.name, path.name.split(".")[0]
        if name.endswith((".ion.nc", ".ion.xml")):
            if stem in texts or (name.endswith(".xml") and (folder / f"{stem}.ion.nc").is_file()):
                continue
            ion = read_ion(path)
            symbol, basis = ion.symbol, ion.basis
            orbitals = ElementOrbitals(path, basis.radial or (), basis.valence_electrons)
        elif name.endswith((".ion", ".basis", ".basis.gz")):
            symbol = stem
            orbitals = read_orbitals(path)
        else:
            continue
        if symbol not in atomic_numbers:
            raise ValueError(f"{path}: expected a name that begins with an element, as Si.ion")
        if symbol in found:
            raise ValueError(
                f"{path} and {found[symbol].path.name} both hold orbitals of {symbol}; keep the one HPRO was given"
            )
        found[symbol] = orbitals
    return found


def read_orbitals(path: Path) -> ElementOrbitals:
    """Read one .ion text of SIESTA or one .basis of GPAW (also compressed).

    Raises
    ------
    ValueError : the file is damaged or of another kind.
    """
    if path.stat().st_size > _LARGEST:
        raise ValueError(f"{path}: {path.stat().st_size} bytes are too many for an orbital file")
    try:
        if path.suffix == ".ion":
            return _read_ion_text(path)
        return _read_basis(path)
    except (ElementTree.ParseError, ValueError, KeyError, IndexError, OSError, EOFError) as error:
        reason = re.sub(r"\s+", " ", str(error))[:200] or type(error).__name__
        raise ValueError(f"{path}: damaged or not an orbital file ({reason})") from error


def _read_ion_text(path: Path) -> ElementOrbitals:
    """SIESTA's text: "l n z polarised population #orbital", "points step cutoff", then rows of r and φ / r^l."""
    lines = path.read_text(errors="replace").splitlines()
    valence = next((float(line.split()[0]) for line in lines if "# Valence charge" in line), 0.0)
    if not 0 <= valence < 200:
        raise ValueError(f"{valence:g} valence electrons")
    radial = []
    for at, line in enumerate(lines):
        if "#orbital l, n, z" not in line:
            continue
        l, points = int(line.split()[0]), int(lines[at + 1].split()[0])
        if not 0 <= l <= 8 or not _FEWEST <= points <= len(lines):
            raise ValueError(f"an orbital of l = {l} on {points} points")
        table = np.array([row.split() for row in lines[at + 2 : at + 2 + points]], dtype=float)
        step = float(lines[at + 1].split()[2]) / (points - 1)
        if table.shape != (points, 2) or not 1e-5 < step < 1.0:
            raise ValueError(f"an orbital has {len(table)} rows, not {points}, or the spacing {step:g}")
        if np.abs(table[:, 0] - step * np.arange(points)).max() > 1e-5:
            raise ValueError("the points of an orbital are not equidistant from 0")
        radial.append(radial_function(l, step, table[:, 1]))
    if not radial:
        raise ValueError("no orbital in it")
    return ElementOrbitals(path, tuple(radial), valence)


def _read_basis(path: Path) -> ElementOrbitals:
    """GPAW's XML: R(r) of each function on the grid r = d·i, in Bohr."""
    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    if len(content) > _LARGEST:
        raise ValueError(f"{len(content)} bytes when unpacked")
    root = ElementTree.fromstring(content)
    steps = {}
    for grid in root.iter("radial_grid"):
        if grid.attrib["eq"] != "r=d*i" or int(grid.attrib["istart"]) != 0:
            raise ValueError(
                f"a grid {grid.attrib['eq']} from point {grid.attrib['istart']}, expected r=d*i from 0"
            )
        steps[grid.attrib["id"]] = float(grid.attrib["d"])
    radial = []
    for node in root.iter("basis_function"):
        l, step = int(node.attrib["l"]), steps[node.attrib["grid"]]
        values = np.array((node.text or "").split(), dtype=float)
        if not 0 <= l <= 8 or not 1e-5 < step < 1.0 or not np.all(np.abs(values) < 1e6):
            raise ValueError(f"a function of l = {l}, spacing {step:g}")
        radial.append(GridRadial(l, step * np.arange(len(values)) * Bohr, values * Bohr**-1.5))
    if not radial:
        raise ValueError("no basis_function in it")
    return ElementOrbitals(path, tuple(radial), 0.0)
