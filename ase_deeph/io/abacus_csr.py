"""ABACUS's sparse text of H(R) and S(R): data-HR-sparse_SPIN0.csr (3.0 ... 3.10) and hrs1_nao.csr (later).

Per cell R the values, column indices and row pointers of a CSR matrix; in the later layout with comment lines, values
over several lines, and the structure in the header.  Complex numbers are written (re,im).  Units are left as in
the file (Ry).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

_LARGEST = 8 * 2**30
_LARGEST_VALUE = 1e9


@dataclass(frozen=True, eq=False)
class SparseText:
    """The elements of one file: row and column in the code's order, R (n, 3), values real or complex."""

    dimension: int
    rows: np.ndarray
    columns: np.ndarray
    R: np.ndarray
    values: np.ndarray


def read_sparse(path: Path) -> SparseText:
    """Read one matrix; of several ionic steps the last.

    Raises
    ------
    ValueError : the file is truncated, damaged or of another kind.
    """
    if path.stat().st_size > _LARGEST:
        raise ValueError(f"{path}: {path.stat().st_size} bytes are more than this reader takes")
    text = path.read_text(errors="replace")
    try:
        return _later_layout(text) if "number of localized basis" in text[:4000] else _first_layout(text)
    except (ValueError, IndexError, OverflowError) as error:
        raise ValueError(f"{path}: damaged or not ABACUS's sparse matrix ({error})") from error


def _first_layout(text: str) -> SparseText:
    """STEP: n / Matrix Dimension of H(R): n / Matrix number of H(R): n, then four lines per cell."""
    at = text.rfind("Matrix Dimension of")
    if at < 0:
        raise ValueError("expected 'Matrix Dimension of' in the header")
    lines = text[at:].splitlines()
    dimension, n_cells = (int(line.rsplit(":", 1)[1]) for line in lines[:2])
    _check_header(dimension, n_cells, len(text))
    parts, at = [], 2
    for _ in range(n_cells):
        *R, count = (int(word) for word in lines[at].split())
        if len(R) != 3 or count < 0:
            raise ValueError(f"expected 'R1 R2 R3 count', received {lines[at][:60]!r}")
        at += 1
        if count:
            parts.append(_block(dimension, R, count, lines[at : at + 3]))
            at += 3
    if any(line.strip() for line in lines[at:]):
        raise ValueError(f"{n_cells} cells were announced, more follow")
    return _joined(dimension, parts)


def _later_layout(text: str) -> SparseText:
    """Headers '# number of ...', the structure, then cells with commented blocks that span lines."""
    text = text[max(text.rfind("--- Ionic Step"), 0) :]
    dimension, n_cells = (
        int(_match(rf"^\s*(\d+)\s*# number of {what}", text))
        for what in ("localized basis", "Bravais lattice")
    )
    _check_header(dimension, n_cells, len(text))
    body = text[text.index("row pointers.") :].split("\n", 2)[2]
    pieces = re.split(r"^\s*# CSR (?:values|column indices|row pointers)\s*$", body, flags=re.MULTILINE)
    if len(pieces) != 3 * n_cells + 1:
        raise ValueError(f"{n_cells} cells were announced, found {(len(pieces) - 1) / 3:g}")
    header, parts = pieces[0], []
    for n in range(n_cells):
        *R, count = (int(word) for word in header.split())
        if len(R) != 3 or count < 0:
            raise ValueError(f"expected 'R1 R2 R3 count', received {header.strip()[:60]!r}")
        values, columns, rest = pieces[3 * n + 1 : 3 * n + 4]
        words = rest.split()
        pointers, header = " ".join(words[: dimension + 1]), " ".join(words[dimension + 1 :])
        if count:
            parts.append(_block(dimension, R, count, [values, columns, pointers]))
    if header:
        raise ValueError(f"{n_cells} cells were announced, more follow")
    return _joined(dimension, parts)


def _match(pattern: str, text: str) -> str:
    found = re.search(pattern, text[:20_000], flags=re.MULTILINE)
    if not found:
        raise ValueError(f"expected a header line like {pattern!r}")
    return found.group(1)


def _check_header(dimension: int, n_cells: int, size: int) -> None:
    if not 0 < dimension <= size or not 0 < n_cells <= size:
        raise ValueError(f"dimension {dimension} and {n_cells} cells are impossible in {size} characters")


def _block(
    dimension: int, R: list[int], count: int, lines: list[str]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Rows, columns, R and values of one cell."""
    if len(lines) != 3:
        raise ValueError(f"the block of R = {R} is cut short")
    values = _numbers(lines[0])
    columns = np.array(lines[1].split(), dtype=np.int64)
    pointers = np.array(lines[2].split(), dtype=np.int64)
    sound = (
        bool(np.all(np.abs(values) < _LARGEST_VALUE))
        and len(values) == len(columns) == count
        and len(pointers) == dimension + 1
        and pointers[0] == 0
        and pointers[-1] == count
        and np.all(np.diff(pointers) >= 0)
        and columns.min() >= 0
        and columns.max() < dimension
    )
    if not sound:
        raise ValueError(
            f"the block of R = {R} has {len(values)} values, {len(columns)} columns and {len(pointers)} pointers "
            f"for {count} elements of {dimension} rows, or numbers out of range"
        )
    rows = np.repeat(np.arange(dimension), np.diff(pointers))
    return rows, columns, np.broadcast_to(np.array(R, dtype=np.int64), (count, 3)), values


def _numbers(line: str) -> np.ndarray:
    """Real numbers, or complex ones written (re,im)."""
    if "(" not in line:
        return np.array(line.split(), dtype=float)
    words = re.sub(r"[(),]", " ", line).split()
    flat = np.array(words, dtype=float)
    if len(flat) % 2 or line.count("(") != len(flat) // 2:
        raise ValueError(f"complex numbers are damaged near {line[:40]!r}")
    return flat[::2] + 1j * flat[1::2]


def _joined(dimension: int, parts: list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]) -> SparseText:
    if not parts:
        raise ValueError("no cell holds an element")
    rows, columns, R, values = (np.concatenate(column) for column in zip(*parts, strict=True))
    return SparseText(dimension, rows, columns, R, values)
