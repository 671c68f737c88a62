"""Bloch sums: M(k) = Σ_R exp(+2πi k·R) M(R), the only place with exp(i k·R).

k is fractional, the gauge is that of cells (the phase knows R, not the positions inside the cell).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.sparse as sp


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

    def csr(self, entries: np.ndarray, k: np.ndarray) -> sp.csr_matrix:
        """M(k) as a sparse matrix in CSR form."""
        flat = self._sorted[2]
        elements = self._elements(entries, self.phases(k))
        return sp.csr_matrix((elements, (flat // self.n, flat % self.n)), shape=(self.n, self.n))

    def derivative(self, entries: np.ndarray, k: np.ndarray, cell: np.ndarray) -> np.ndarray:
        """(3, n, n) dM/dk in eV·Å for Cartesian k (Å^-1): Σ_R i (R·cell) exp(+2πi k·R) M(R)."""
        phases = self.phases(k)
        lengths = self.cells @ np.asarray(cell, dtype=float)
        return np.stack([self._dense(self._elements(entries, 1j * lengths[:, a] * phases)) for a in range(3)])
