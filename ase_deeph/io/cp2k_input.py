"""CP2K's input (or restart) file: its tree of sections, and the structure and basis sets it names."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from ase.cell import Cell
from ase.units import Bohr

from ase_deeph.io.cp2k_basis import text_of

_UNITS = {"angstrom": 1.0, "bohr": Bohr}
_DEEPEST = 50
_SINGLE_POINTS = ("ENERGY", "ENERGY_FORCE", "WFN_OPT", "WAVEFUNCTION_OPTIMIZATION")


@dataclass(frozen=True, eq=False)
class Section:
    """A section: its parameter, its keywords with their values in order, its subsections."""

    name: str
    parameter: str = ""
    keywords: list[tuple[str, str]] = field(default_factory=list)
    sections: list[Section] = field(default_factory=list)

    def value(self, keyword: str) -> str | None:
        """The value of a keyword, None where absent."""
        return next((value for name, value in self.keywords if name == keyword), None)

    def values(self, keyword: str) -> list[str]:
        """All values of a keyword that may be repeated."""
        return [value for name, value in self.keywords if name == keyword]

    def all(self, *path: str) -> Iterator[Section]:
        """The subsections under a path of names."""
        for section in self.sections:
            if section.name == path[0]:
                yield from section.all(*path[1:]) if len(path) > 1 else (section,)

    def one(self, *path: str) -> Section | None:
        """The first of them, None where absent."""
        return next(self.all(*path), None)


def read_input(path: Path) -> Section:
    """The tree of an input file.

    Raises
    ------
    ValueError : no such file, sections that do not close, or directives beyond @SET and ${variables}.
    """
    if not path.is_file():
        raise ValueError(
            f"{path}: the input file that the log names is absent; put it (or the .restart) beside the log"
        )
    root = Section("")
    open_sections = [root]
    for line in _lines(path):
        words = line.split(None, 1)
        head, rest = words[0].upper(), words[1].strip() if len(words) > 1 else ""
        if head.startswith("&END"):
            closed = open_sections.pop()
            if closed is root or (rest and rest.split()[0].upper() != closed.name):
                raise ValueError(f"{path}: {line!r} closes no open section")
        elif head.startswith("&"):
            section = Section(head[1:], rest)
            open_sections[-1].sections.append(section)
            open_sections.append(section)
            if len(open_sections) > _DEEPEST:
                raise ValueError(f"{path}: sections nest too deeply; the file is damaged")
        else:
            open_sections[-1].keywords.append((head, rest))
    if len(open_sections) != 1:
        raise ValueError(f"{path}: section &{open_sections[-1].name} does not end; the file is truncated")
    return root


def _lines(path: Path) -> Iterator[str]:
    """Lines without comments, variables replaced."""
    variables: dict[str, str] = {}
    for raw in text_of(path).splitlines():
        line = re.split(r"[#!]", raw, maxsplit=1)[0].strip()
        if line.upper().startswith("@SET"):
            words = line.split(None, 2)
            variables[words[1].upper() if len(words) > 1 else ""] = words[2] if len(words) > 2 else ""
            continue
        if line.startswith("@"):
            raise ValueError(
                f"{path}: {line[:60]!r} is not understood; give the .restart file CP2K writes, or expand it"
            )
        line = re.sub(r"\$\{?(\w+)\}?", lambda m: variables.get(m[1].upper(), m[0]), line)
        if line:
            yield line


def force_section(path: Path, root: Section) -> Section:
    """&FORCE_EVAL of a single point; ValueError for runs that move atoms and for several of them."""
    general = root.one("GLOBAL")
    kind = (general.value("RUN_TYPE") if general else None) or "ENERGY_FORCE"
    if kind.upper() not in _SINGLE_POINTS:
        raise ValueError(
            f"{path}: RUN_TYPE {kind} moves atoms; read a single point (ENERGY_FORCE) of its result"
        )
    found = list(root.all("FORCE_EVAL"))
    if len(found) != 1 or found[0].one("SUBSYS", "CELL") is None or found[0].one("DFT") is None:
        raise ValueError(
            f"{path}: expected one &FORCE_EVAL with &DFT and &SUBSYS &CELL, found {len(found)} &FORCE_EVAL"
        )
    return found[0]


def cell_of(path: Path, force: Section) -> tuple[np.ndarray, np.ndarray]:
    """(3, 3) lattice in Å and (3,) whether each axis is periodic.

    Raises
    ------
    ValueError : no vectors, bad numbers, or more than one unit cell.
    """
    section = force.one("SUBSYS", "CELL")
    assert section is not None
    if (section.value("MULTIPLE_UNIT_CELL") or "1 1 1").split() != ["1", "1", "1"]:
        raise ValueError(f"{path}: MULTIPLE_UNIT_CELL is not supported; write the whole cell")
    lengths = section.value("ABC")
    if lengths is not None:
        angles = section.value("ALPHA_BETA_GAMMA")
        degrees = [90.0] * 3 if angles is None else _numbers(path, angles, "ALPHA_BETA_GAMMA")
        if not all(0 < angle < 180 for angle in degrees):
            raise ValueError(f"{path}: ALPHA_BETA_GAMMA {angles} are no angles of a cell in degrees")
        lattice = Cell.fromcellpar([*_numbers(path, lengths, "ABC"), *degrees]).array
        lattice = np.where(np.abs(lattice) < 1e-12 * np.abs(lattice).max(), 0.0, lattice)
    else:
        vectors = [section.value(name) for name in "ABC"]
        if any(vector is None for vector in vectors):
            raise ValueError(f"{path}: &CELL has neither ABC nor A, B and C; give the vectors there")
        lattice = np.array([_numbers(path, vector or "", "&CELL") for vector in vectors])
    periodic = (section.value("PERIODIC") or "XYZ").upper()
    return lattice, np.array([axis in periodic for axis in "XYZ"]) & (periodic != "NONE")


def _numbers(path: Path, text: str, what: str) -> list[float]:
    """Three numbers, in Å after a unit in brackets."""
    bracket = re.match(r"\s*\[(\w+)\]", text)
    unit = bracket[1].lower() if bracket else "angstrom"
    words = text[bracket.end() if bracket else 0 :].split()
    try:
        scale = 1.0 if unit in ("deg",) else _UNITS[unit]
        numbers = [scale * float(word.replace("D", "E")) for word in words]
    except (KeyError, ValueError):
        numbers = []
    if len(numbers) != 3 or not all(abs(x) < 1e6 for x in numbers):
        raise ValueError(
            f"{path}: {what}: expected three numbers in Å, bohr or degrees, received {text[:60]!r}"
        )
    return numbers


def positions_of(path: Path, force: Section, lattice: np.ndarray) -> np.ndarray | None:
    """(n_atoms, 3) Å as &COORD gives them; None where another file has them or they are moved."""
    subsystem = force.one("SUBSYS")
    section = force.one("SUBSYS", "COORD")
    if section is None or subsystem is None or subsystem.one("TOPOLOGY", "CENTER_COORDINATES") is not None:
        return None
    unit = (section.value("UNIT") or "angstrom").lower().strip("[]")
    if unit not in _UNITS:
        raise ValueError(f"{path}: &COORD UNIT {unit!r}; expected angstrom or bohr")
    scaled = section.value("SCALED")
    fractional = scaled is not None and scaled.upper() not in ("F", ".FALSE.", "FALSE", "NO", "OFF")
    rows = [value for name, value in section.keywords if name not in ("UNIT", "SCALED")]
    found = np.array([_numbers(path, " ".join(row.split()[:3]), "&COORD") for row in rows]).reshape(-1, 3)
    return found @ lattice if fractional else found * _UNITS[unit]


def basis_names(path: Path, force: Section) -> tuple[dict[str, str], list[str]]:
    """Basis set of each kind (its name in capitals), and the files they are in."""
    files = [value.strip("'\"") for dft in force.all("DFT") for value in dft.values("BASIS_SET_FILE_NAME")]
    names: dict[str, str] = {}
    for kind in force.all("SUBSYS", "KIND"):
        sets = [value.split() for value in kind.values("BASIS_SET")]
        orbital = [words[-1] for words in sets if len(words) == 1 or (words and words[0].upper() == "ORB")]
        if len(orbital) != 1:
            raise ValueError(
                f"{path}: &KIND {kind.parameter}: expected one orbital BASIS_SET, found {len(orbital)}"
            )
        names[kind.parameter.upper()] = orbital[0]
    return names, files or ["BASIS_SET"]
