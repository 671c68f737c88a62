"""Bloch sums: M(k) = Σ_R exp(+2πi k·R) M(R), the only place with exp(i k·R).

k is fractional, the gauge is that of cells (the phase knows R, not the positions inside the cell).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.sparse as sp

_CHUNK = 4_000_000
"""Elements of M(k) held at once while many k are summed together."""


@dataclass(frozen=True, eq=False)
class BlochSum:
    """The sparsity pattern of a real-space operator, sorted once so that every k costs one pass.

    Parameters
    ----------
    rows, cols : (n_entries,) orbital indices of each entry in the home cell's matrix.
    cell_of_entry : (n_entries,) which row of `cells` each entry belongs to.
    cells : (n_cells, 3) integer R.
    n : number of orbitals.
    """

    rows: np.ndarray
    cols: np.ndarray
    cell_of_entry: np.ndarray
    cells: np.ndarray
    n: int

    @cached_property
    def _sorted(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Order of entries by (row, col), start of each distinct element, and the flat element index."""
        flat = self.rows.astype(np.int64) * self.n + self.cols
        order = np.argsort(flat, kind="stable")
        flat = flat[order]
        starts = (
            np.nonzero(np.concatenate([[True], flat[1:] != flat[:-1]]))[0] if len(flat) else np.zeros(0, int)
        )
        return order, starts, flat[starts]

    def phases(self, k: np.ndarray) -> np.ndarray:
        """(n_cells,) exp(+2πi k·R) for a fractional k (3,)."""
        return np.exp(2j * np.pi * (self.cells @ np.asarray(k, dtype=float)))

    def _elements(self, entries: np.ndarray, factor: np.ndarray) -> np.ndarray:
        order, starts, _ = self._sorted
        if not len(order):
            return np.zeros(0, dtype=complex)
        weighted = entries[order] * factor[self.cell_of_entry[order]]
        return np.add.reduceat(weighted, starts)

    def _dense(self, elements: np.ndarray) -> np.ndarray:
        matrix = np.zeros(self.n * self.n, dtype=complex)
        matrix[self._sorted[2]] = elements
        return matrix.reshape(self.n, self.n)

    def dense(self, entries: np.ndarray, k: np.ndarray) -> np.ndarray:
        """(n, n) complex M(k) from the entries (n_entries,)."""
        return self._dense(self._elements(entries, self.phases(k)))

    def dense_at_each(self, entries: np.ndarray, kpts: np.ndarray) -> Iterator[np.ndarray]:
        """(n, n) complex M(k) at each of (n_kpts, 3), many k in one product: M = phases (k x cells) M(R)."""
        if len(self.cells) * self.n**2 > _CHUNK:
            yield from self._sparse_at_each(entries, kpts)
            return
        of_cells = np.zeros((len(self.cells), self.n, self.n), dtype=entries.dtype)
        of_cells[self.cell_of_entry, self.rows, self.cols] = entries
        of_cells = of_cells.reshape(len(self.cells), -1)
        several = max(1, _CHUNK // self.n**2)
        for start in range(0, len(kpts), several):
            yield from self._product(self._angles(kpts[start : start + several]).T, of_cells)

    def _sparse_at_each(self, entries: np.ndarray, kpts: np.ndarray) -> Iterator[np.ndarray]:
        """The same where most elements of the M(R) are zero."""
        order, starts, flat = self._sorted
        shape, ends = (len(flat), len(self.cells)), np.append(starts, len(order))
        by_cell = sp.csr_matrix((entries[order], self.cell_of_entry[order], ends), shape=shape)
        several = max(1, _CHUNK // max(len(flat), 1))
        for start in range(0, len(kpts), several):
            angles = self._angles(kpts[start : start + several])
            for real, imaginary in zip(
                (by_cell @ np.cos(angles)).T, (by_cell @ np.sin(angles)).T, strict=True
            ):
                yield self._dense(_complex(real, imaginary))

    def _angles(self, kpts: np.ndarray) -> np.ndarray:
        """(n_cells, n_kpts) 2π k·R."""
        return 2 * np.pi * (self.cells @ kpts.T)

    def _product(self, angles: np.ndarray, of_cells: np.ndarray) -> Iterator[np.ndarray]:
        """(n, n) matrices of (n_kpts, n_cells) angles and (n_cells, n²) M(R)."""
        for real, imaginary in zip(np.cos(angles) @ of_cells, np.sin(angles) @ of_cells, strict=True):
            yield _complex(real, imaginary).reshape(self.n, self.n)

    def csr(self, entries: np.ndarray, k: np.ndarray) -> sp.csr_matrix:
        """M(k) as a sparse matrix in CSR form."""
        flat = self._sorted[2]
        elements = self._elements(entries, self.phases(k))
        return sp.csr_matrix((elements, (flat // self.n, flat % self.n)), shape=(self.n, self.n))

    def derivative(self, entries: np.ndarray, k: np.ndarray, cell: np.ndarray) -> np.ndarray:
        """(3, n, n) dM/dk in eV·Å for Cartesian k (Å^-1): Σ_R i (R·cell) exp(+2πi k·R) M(R)."""
        return np.stack([self.along(entries, k, lengths, 1) for lengths in (self.cells @ np.asarray(cell)).T])

    def along(self, entries: np.ndarray, k: np.ndarray, lengths: np.ndarray, order: int) -> np.ndarray:
        """(n, n) the n-th derivative of M(k) along a direction: Σ_R (i l_R)^order exp(+2πi k·R) M(R).

        Parameters
        ----------
        lengths : (n_cells,) l_R = (R·cell)·direction, Å, for each row of `cells`.
        """
        return self._dense(self._elements(entries, (1j * lengths) ** order * self.phases(k)))


def _complex(real: np.ndarray, imaginary: np.ndarray) -> np.ndarray:
    """real + i imaginary, either of them complex where M(R) is."""
    if np.iscomplexobj(real):
        return real + 1j * imaginary
    both = np.empty(real.shape, dtype=complex)
    both.real, both.imag = real, imaginary
    return both
