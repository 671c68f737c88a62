"""CP2K's files of basis sets and pseudopotentials: entries by element and name, contracted Gaussians in Å.

A contracted shell is R(r) = N r^l Σ_k c_k n_k exp(-a_k r²), n_k normalises each primitive and N the sum (what CP2K
calls norm type 2).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from ase.data import atomic_numbers
from ase.units import Bohr
from scipy.special import gamma

from ase_deeph.basis import GaussianRadial, SpeciesBasis

_LARGEST_L, _MOST = 8, 100
_LARGEST_FILE = 20_000_000


def plain(name: str) -> str:
    """A name without case, hyphens, underscores and spaces, as PySCF compares them."""
    return re.sub(r"[-_ ]", "", name).lower()


def entry_of(text: str, symbol: str, names: Iterable[str]) -> list[str] | None:
    """The lines of one entry, its header first; None where the file has none of the (plain) names.

    Parameters
    ----------
    text : a file of basis sets or pseudopotentials, both have headers "C DZVP-GTH-q4 DZVP-GTH".
    symbol : element.
    names : in the spelling of `plain`.
    """
    wanted = set(names)
    found: list[str] = []
    for line in text.splitlines():
        words = re.split(r"[#!]", line, maxsplit=1)[0].split()
        if not words:
            continue
        if words[0].capitalize() in atomic_numbers:
            if found:
                return found
            if words[0].capitalize() == symbol and wanted & {plain(word) for word in words[1:]}:
                found.append(" ".join(words))
        elif found:
            found.append(" ".join(words))
    return found or None


def text_of(path: Path) -> str:
    """A text file of sensible size; ValueError for others."""
    if path.stat().st_size > _LARGEST_FILE:
        raise ValueError(
            f"{path}: {path.stat().st_size} bytes are too many for a basis or input file of CP2K"
        )
    return path.read_text(errors="replace")


def charges_named(header: str) -> set[int]:
    """The valence electrons that an entry's names tell ("-q4")."""
    return {int(q) for q in re.findall(r"-q(\d+)\b", header)}


def shells_of(entry: Sequence[str]) -> list[GaussianRadial]:
    """The shells of an entry in the order CP2K numbers them.

    Raises
    ------
    ValueError : the entry is truncated or no basis set.
    """
    try:
        numbers = iter([float(word) for line in entry[1:] for word in line.split()])
        shells: list[GaussianRadial] = []
        for _ in range(_count(numbers)):
            shells += _one_set(numbers)
    except (StopIteration, ValueError) as error:
        reason = str(error) or "it ends too early"
        raise ValueError(f"basis set {entry[0]!r}: not in CP2K's format, {reason}") from error
    if not shells:
        raise ValueError(f"basis set {entry[0]!r}: expected at least one shell")
    return shells


def _count(numbers: Iterable[float]) -> int:
    value = next(iter(numbers))
    if not 0 <= value <= _MOST or value != int(value):
        raise ValueError(f"{value:g} is no count")
    return int(value)


def _one_set(numbers: Iterable[float]) -> list[GaussianRadial]:
    """One set: n, l_min, l_max, number of exponents, shells per l, then rows of exponent and coefficients."""
    _, lowest, highest, n_exponents = (_count(numbers) for _ in range(4))
    if lowest > highest or highest > _LARGEST_L or n_exponents == 0:
        raise ValueError(f"l = {lowest} ... {highest} with {n_exponents} exponents is no set")
    degrees = [l for l in range(lowest, highest + 1) for _ in range(_count(numbers))]
    width = 1 + len(degrees)
    table = np.array([next(iter(numbers)) for _ in range(n_exponents * width)]).reshape(n_exponents, width)
    if np.any(table[:, 0] <= 0) or not np.all(np.abs(table) < 1e8):
        raise ValueError("exponents and coefficients are not sensible numbers")
    return [contracted(l, table[:, 0] / Bohr**2, table[:, 1 + n]) for n, l in enumerate(degrees)]


def contracted(l: int, exponents: np.ndarray, coefficients: np.ndarray) -> GaussianRadial:
    """The normalised shell from coefficients of normalised primitives; exponents in Å^-2."""
    power = l + 1.5
    primitive = np.sqrt(2 * (2 * exponents) ** power / gamma(power))
    mean = np.add.outer(exponents, exponents) / 2
    overlap = (np.sqrt(np.multiply.outer(exponents, exponents)) / mean) ** power
    norm = float(coefficients @ overlap @ coefficients)
    if not norm > 0:
        raise ValueError("a shell vanishes")
    return GaussianRadial(l, exponents, coefficients * primitive / np.sqrt(norm))


def by_degree(degrees: Sequence[int]) -> list[int]:
    """Where each shell of CP2K stands in ours, sorted by l as PySCF's are: place of shell n."""
    order = sorted(range(len(degrees)), key=lambda n: (degrees[n], n))
    return [order.index(n) for n in range(len(degrees))]


def species_basis(shells: Sequence[GaussianRadial], valence_electrons: float) -> SpeciesBasis:
    """Shells sorted by l."""
    ordered = tuple(sorted(shells, key=lambda shell: shell.l))
    return SpeciesBasis(tuple(shell.l for shell in ordered), valence_electrons, ordered)


def valence_electrons(entry: Sequence[str]) -> int:
    """Σ of the electrons per l on the first line of a pseudopotential's entry."""
    words = entry[1].split() if len(entry) > 1 else []
    if not words or not all(word.isdigit() for word in words):
        raise ValueError(f"pseudopotential {entry[0]!r}: expected its electrons per l on the next line")
    return sum(int(word) for word in words)


def core_exponent(entry: Sequence[str]) -> float:
    """1 / (2 r_loc²) in Bohr^-2, the exponent of the core's charge."""
    try:
        return 0.5 / float(entry[2].split()[0]) ** 2
    except (IndexError, ValueError, ZeroDivisionError) as error:
        raise ValueError(f"pseudopotential {entry[0]!r}: expected its radius on the third line") from error
