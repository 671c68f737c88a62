"""ABACUS's numerical orbitals: <element>_..._2s2p1d.orb, radial functions χ(r) in Bohr on an equidistant grid."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from ase.units import Bohr
from scipy.integrate import simpson

from ase_deeph.basis import GridRadial

_LARGEST = 64 * 2**20
_LETTERS = "spdfghi"


def read_orb(path: Path) -> tuple[GridRadial, ...]:
    """The radial functions of one element in ABACUS's order (l, then zeta), normalised as ABACUS does.

    Raises
    ------
    ValueError : the file is damaged or of another kind.
    """
    if path.stat().st_size > _LARGEST:
        raise ValueError(f"{path}: {path.stat().st_size} bytes are too many for an orbital file")
    text = path.read_text(errors="replace")
    try:
        points = int(_header(r"^\s*Mesh\s+(\d+)", text))
        step = float(_header(r"^\s*dr\s+(\S+)", text))
        expected = [int(n) for n in re.findall(r"Number of [A-Z]orbital-->\s*(\d+)", text)]
        if not 8 <= points <= len(text) or not 0 < step < 1 or not expected:
            raise ValueError(f"{points} points of spacing {step} and {expected} orbitals")
        found = [_orbital(part, points, step) for part in re.split(r"Type\s+L\s+N\s", text)[1:]]
    except (ValueError, IndexError) as error:
        raise ValueError(f"{path}: damaged or not an ABACUS orbital file ({error})") from error
    found.sort(key=lambda item: item[:2])
    wanted = [(l, n) for l, count in enumerate(expected) for n in range(count)]
    if [item[:2] for item in found] != wanted:
        raise ValueError(f"{path}: {expected} orbitals per l were announced, found {len(found)}")
    return tuple(item[2] for item in found)


def shells_in_name(name: str) -> tuple[int, ...] | None:
    """l of each shell from a file name as C_gga_8au_100Ry_2s2p1d.orb; None when it does not tell."""
    match = re.search(rf"_((?:\d+[{_LETTERS}])+)\.orb$", name)
    if match is None:
        return None
    parts = re.findall(rf"(\d+)([{_LETTERS}])", match.group(1))
    return tuple(_LETTERS.index(letter) for count, letter in parts for _ in range(min(int(count), 50)))


def _header(pattern: str, text: str) -> str:
    match = re.search(pattern, text, flags=re.MULTILINE)
    if match is None:
        raise ValueError(f"expected a header line like {pattern!r}")
    return match.group(1)


def _orbital(part: str, points: int, step: float) -> tuple[int, int, GridRadial]:
    words = part.split()
    l, zeta = int(words[1]), int(words[2])
    values = np.array(words[3:], dtype=float)
    if not 0 <= l < len(_LETTERS) or len(values) != points or not np.all(np.abs(values) < 1e6):
        raise ValueError(f"an orbital of l = {l} has {len(values)} values for {points} points")
    r = step * np.arange(points)
    norm = float(simpson(r * r * values * values, dx=step))
    if not 1e-6 < norm < 1e6:
        raise ValueError(f"an orbital of l = {l} has the norm {norm:g}")
    return l, zeta, GridRadial(l, r * Bohr, values / np.sqrt(norm) * Bohr**-1.5)
