"""FHI-aims's text files: rs_indices.out, rs_*.out, basis-indices.out, geometry.in, control.in, aims.out."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers

from ase_deeph.io.structure_checks import checked

_LARGEST = 8 * 2**30
_LARGEST_VALUE = 1e9
_FARTHEST = 1e6
_UNUSED_CELL = 999_999_999
_HEADERS = ("n_hamiltonian_matrix_size:", "n_cells_in_hamiltonian:", "n_basis:")
_SECTIONS = ("cell_index", "index_hamiltonian(1,:,:)", "index_hamiltonian(2,:,:)", "column_index_hamiltonian")


@dataclass(frozen=True, eq=False)
class AimsPattern:
    """Which element each number of rs_overlap.out and rs_hamiltonian.out is.

    Parameters
    ----------
    n_basis : orbitals of the cell.
    n_values : numbers in a matrix file.
    places : (n,) position of each element in it.
    rows, columns : (n,) orbitals, columns ≤ rows.
    R : (n, 3) cells with FHI-aims's sign.
    """

    n_basis: int
    n_values: int
    places: np.ndarray
    rows: np.ndarray
    columns: np.ndarray
    R: np.ndarray


@dataclass(frozen=True, eq=False)
class AimsOrbitals:
    """(n_basis,) atom, l and m of each orbital, and the running number of its shell in its atom."""

    atom: np.ndarray
    shell: np.ndarray
    l: np.ndarray
    m: np.ndarray


def _text(path: Path) -> str:
    if not path.is_file():
        raise ValueError(f"{path.parent}: expected {path.name}, which is missing (output_rs_matrices plain)")
    if path.stat().st_size > _LARGEST:
        raise ValueError(f"{path}: {path.stat().st_size} bytes are more than this reader takes")
    return path.read_text(errors="replace")


def read_pattern(path: Path) -> AimsPattern:
    """Read rs_indices.out; ValueError when it is damaged."""
    text = _text(path)
    try:
        return _pattern(text)
    except (ValueError, IndexError, OverflowError) as error:
        raise ValueError(f"{path}: damaged or not FHI-aims's rs_indices.out ({error})") from error


def _pattern(text: str) -> AimsPattern:
    at = [text.find(f"{name}\n") for name in _SECTIONS]
    at[0] = text.find("cell_index")
    at[3] = text.find(_SECTIONS[3])
    if min(at) < 0 or at != sorted(at):
        raise ValueError(f"expected the sections {', '.join(_SECTIONS)} in this order")
    n_values, n_cells, n_basis = (int(_after(name, text[: at[0]])) for name in _HEADERS)
    if not (0 < n_values <= len(text) and 0 < n_cells <= len(text) and 0 < n_basis <= len(text)):
        raise ValueError(f"{n_values} values, {n_cells} cells and {n_basis} orbitals are impossible")
    ends = [*at[1:], len(text)]
    parts = [
        np.array(text[start + len(name) : end].split(), dtype=np.int64)
        for name, start, end in zip(_SECTIONS, at, ends, strict=True)
    ]
    sizes = [3 * n_cells, n_cells * n_basis, n_cells * n_basis, n_values]
    if [len(part) for part in parts] != sizes:
        raise ValueError(f"sections hold {[len(part) for part in parts]} numbers, expected {sizes}")
    cells = parts[0].reshape(n_cells, 3)
    first, last = parts[1], parts[2]
    held = (first > 0) & (last >= first)
    if (
        np.any(last > n_values)
        or np.any((first > 0) & (last < first - 1))
        or np.any((first <= 0) & (last > 0))
    ):
        raise ValueError("index_hamiltonian points outside the matrix")
    counts = np.where(held, last - first + 1, 0)
    if counts.sum() > n_values:
        raise ValueError("index_hamiltonian names more elements than the matrix has")
    owner = np.repeat(np.arange(n_cells * n_basis), counts)
    within = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
    places = first[owner] - 1 + within
    columns, rows, cell = parts[3][places] - 1, owner % n_basis, owner // n_basis
    if len(columns) == 0 or columns.min() < 0 or columns.max() >= n_basis or np.any(columns > rows):
        raise ValueError("column_index_hamiltonian is out of range")
    if np.abs(cells[cell]).max() >= _UNUSED_CELL:
        raise ValueError("an unused cell holds elements")
    return AimsPattern(n_basis, n_values, places, rows, columns, cells[cell])


def _after(name: str, text: str) -> str:
    found = re.search(rf"{re.escape(name)}\s*(\d+)", text)
    if found is None:
        raise ValueError(f"expected {name} in the header")
    return found.group(1)


def read_values(path: Path, pattern: AimsPattern) -> np.ndarray:
    """The elements of one matrix file, in the order of the pattern; ValueError when it does not fit."""
    words = _text(path).split()
    if len(words) != pattern.n_values:
        raise ValueError(
            f"{path}: {len(words)} numbers, rs_indices.out says {pattern.n_values}; truncated or of another run"
        )
    try:
        values = np.array(words, dtype=float)
    except ValueError as error:
        raise ValueError(f"{path}: damaged ({error})") from error
    if not np.all(np.abs(values) < _LARGEST_VALUE):
        raise ValueError(f"{path}: numbers that are not finite or beyond {_LARGEST_VALUE:g}; it is damaged")
    return values[pattern.places]


def read_orbitals(path: Path) -> AimsOrbitals:
    """Read basis-indices.out; an orbital of a type, n and l seen before begins another shell.

    Raises
    ------
    ValueError : it is damaged, or a shell is not m = -l ... l.
    """
    lines = [line.split() for line in _text(path).splitlines()]
    rows = [words for words in lines if words and words[0].isdigit()]
    try:
        numbers = np.array([[w[0], *w[2:6]] for w in rows], dtype=np.int64).reshape(len(rows), 5)
        if (
            not len(rows)
            or any(len(w) != 6 for w in rows)
            or np.any(numbers[:, 0] != np.arange(1, len(rows) + 1))
        ):
            raise ValueError("expected lines 'fn type atom n l m' numbered from 1")
        return _orbitals([w[1] for w in rows], numbers[:, 1] - 1, *numbers[:, 2:].T)
    except (ValueError, IndexError, OverflowError) as error:
        raise ValueError(f"{path}: damaged or not FHI-aims's basis-indices.out ({error})") from error


def _orbitals(
    kinds: list[str], atom: np.ndarray, n: np.ndarray, l: np.ndarray, m: np.ndarray
) -> AimsOrbitals:
    if l.min() < 0 or l.max() > 8 or np.any(np.abs(m) > l) or atom.min() < 0:
        raise ValueError("atoms, l or m out of range")
    seen: dict[tuple, int] = {}
    numbers: dict[int, dict[tuple, int]] = {}
    shell = np.empty(len(l), dtype=np.int64)
    for p, kind in enumerate(kinds):
        function = (int(atom[p]), kind, int(n[p]), int(l[p]))
        repeat = seen[(*function, int(m[p]))] = seen.get((*function, int(m[p])), -1) + 1
        of_atom = numbers.setdefault(function[0], {})
        shell[p] = of_atom.setdefault((*function, repeat), len(of_atom))
    sizes = np.unique(np.column_stack([atom, shell, l]), axis=0, return_counts=True)
    if np.any(sizes[1] != 2 * sizes[0][:, 2] + 1):
        raise ValueError("an orbital of some shell is missing")
    return AimsOrbitals(atom, shell, l, m)


def read_fermi_level(folder: Path) -> float | None:
    """The last chemical potential in aims.out, eV; None when there is none."""
    path = folder / "aims.out"
    if not path.is_file():
        return None
    found = re.findall(
        r"Chemical potential \(Fermi level\)[^:\n]*:\s*(-?\d+\.\d+(?:[eE][-+]?\d+)?)", _text(path)
    )
    return float(found[-1]) if found else None


def read_charge(folder: Path) -> float:
    """The charge of the cell in control.in, 0 when it does not say."""
    path = folder / "control.in"
    if not path.is_file():
        return 0.0
    found = re.findall(r"^\s*charge\s+(\S+)", _text(path), flags=re.MULTILINE)
    try:
        return float(found[-1]) if found else 0.0
    except ValueError:
        raise ValueError(f"{path}: expected a number after 'charge', received {found[-1]!r}") from None


def read_geometry(path: Path) -> Atoms:
    """Read geometry.in: lattice_vector, atom and atom_frac; the rest describes no structure and is passed over.

    Raises
    ------
    ValueError : it is damaged, names an unknown element, or holds ghost atoms (empty).
    """
    lines = [line.split("#", 1)[0].split() for line in _text(path).splitlines()]
    try:
        return _geometry([words for words in lines if words])
    except (ValueError, IndexError) as error:
        raise ValueError(f"{path}: damaged or not FHI-aims's geometry.in ({error})") from error


def _geometry(lines: list[list[str]]) -> Atoms:
    if any(words[0] == "empty" for words in lines):
        raise ValueError("ghost atoms (empty) are not read")
    cell = np.array([w[1:4] for w in lines if w[0] == "lattice_vector"], dtype=float).reshape(-1, 3)
    placed = [w for w in lines if w[0] in ("atom", "atom_frac")]
    unknown = sorted({w[4] for w in placed} - set(atomic_numbers))
    fractional = np.array([w[0] == "atom_frac" for w in placed])
    if not placed or unknown or len(cell) not in (0, 3) or (fractional.any() and not len(cell)):
        raise ValueError(f"{len(cell)} lattice vectors, {len(placed)} atoms, unknown elements {unknown}")
    positions = np.array([w[1:4] for w in placed], dtype=float)
    if not (np.all(np.abs(positions) < _FARTHEST) and np.all(np.abs(cell) < _FARTHEST)):
        raise ValueError(f"expected lengths below {_FARTHEST:g} Å, received larger ones, NaN or infinity")
    if len(cell):
        positions[fractional] = positions[fractional] @ cell
    return checked(
        Atoms(
            [w[4] for w in placed], positions=positions, cell=cell if len(cell) else None, pbc=len(cell) == 3
        )
    )
