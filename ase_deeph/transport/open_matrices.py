"""H and S of a device, opened along the directions of its leads: blocks that wrap round them are dropped."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import scipy.sparse as sp

from ase_deeph.electronic_structure import ElectronicStructure
from ase_deeph.matrix import RealSpaceMatrix
from ase_deeph.transport.cells import as_real, phase_factors
from ase_deeph.transport.contact import Contact
from ase_deeph.transport.lead import AXES

logger = logging.getLogger(__name__)

_SHORTCUT = 0.01
_NEGLIGIBLE = 1e-6


@dataclass(frozen=True, eq=False)
class SparsePattern:
    """Where the blocks with R = 0 along the open axes stand in a sparse matrix, sorted once for every k.

    Parameters
    ----------
    order : (n_kept,) the entries that are kept, by row and column.
    starts : (n_elements,) first of those that add up to each element.
    indices, indptr : columns and row ends of the matrix in CSR form.
    cell_of_entry : (n_kept,) row of `cells` of each entry in that order.
    cells : (n_cells, 3) integer R.
    """

    order: np.ndarray
    starts: np.ndarray
    indices: np.ndarray
    indptr: np.ndarray
    cell_of_entry: np.ndarray
    cells: np.ndarray

    @classmethod
    def of(cls, matrix: RealSpaceMatrix, axes: Sequence[int]) -> SparsePattern:
        """Of a RealSpaceMatrix opened along some axes."""
        whole = matrix.bloch_sum
        kept = np.nonzero(~np.any(whole.cells[:, list(axes)] != 0, axis=1)[whole.cell_of_entry])[0]
        place = whole.rows[kept].astype(np.int64) * whole.n + whole.cols[kept]
        by_place = np.argsort(place, kind="stable")
        place = place[by_place]
        starts = np.nonzero(np.diff(place, prepend=-1))[0]
        rows, columns = np.divmod(place[starts], whole.n)
        order = kept[by_place]
        indptr = np.searchsorted(rows, np.arange(whole.n + 1))
        return cls(
            order,
            starts,
            columns.astype(np.int32),
            indptr.astype(np.int32),
            whole.cell_of_entry[order],
            whole.cells,
        )

    def matrix(self, entries: np.ndarray, kperp: np.ndarray) -> sp.csr_matrix:
        """(n, n) matrix at a transverse k from all entries; real where k and the entries are."""
        weighted = entries[self.order]
        if np.any(kperp):
            weighted = weighted * phase_factors(self.cells, kperp)[self.cell_of_entry]
        if len(self.starts) < len(weighted):
            weighted = np.add.reduceat(weighted, self.starts)
        n = len(self.indptr) - 1
        return sp.csr_matrix((as_real(weighted), self.indices, self.indptr), shape=(n, n))


@dataclass(frozen=True, eq=False)
class DeviceMatrices:
    """H (each spin channel) and S of a device, opened along the leads' axes; those at Γ are kept.

    Parameters
    ----------
    h, s : (n_spins, n_entries) and (n_entries,) Hermitian entries on the same pairs.
    pattern : their places.
    """

    h: np.ndarray
    s: np.ndarray
    pattern: SparsePattern
    _at_gamma: dict[int, tuple[sp.csr_matrix, sp.csr_matrix]] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, es: ElectronicStructure, axes: Sequence[int]) -> DeviceMatrices:
        """Of an electronic structure."""
        h, s = es.hamiltonian, es.overlap
        if s is not None and s.pairs != h.pairs:
            union = h.pairs.union(s.pairs)
            h, s = h.on(union), s.on(union)
        h = h.hermitian_part()
        return cls(
            np.atleast_2d(h.entries),
            _unit_entries(h) if s is None else s.hermitian_part().entries,
            SparsePattern.of(h, axes),
        )

    @property
    def n_spins(self) -> int:
        """Channels of H."""
        return len(self.h)

    def at(self, kperp: np.ndarray, spin: int) -> tuple[sp.csr_matrix, sp.csr_matrix]:
        """Sparse H and S at a transverse k; do not change them."""
        if np.any(kperp):
            return self.pattern.matrix(self.h[spin], kperp), self.pattern.matrix(self.s, kperp)
        if spin not in self._at_gamma:
            s = self._at_gamma[0][1] if 0 in self._at_gamma else self.pattern.matrix(self.s, kperp)
            self._at_gamma[spin] = self.pattern.matrix(self.h[spin], kperp), s
        return self._at_gamma[spin]

    def moved(self, shift: float) -> DeviceMatrices:
        """H -> H + shift·S (eV)."""
        if shift == 0:
            return self
        gamma = {spin: (_sum(h, s, shift), s) for spin, (h, s) in self._at_gamma.items()}
        return DeviceMatrices(self.h + shift * self.s, self.s, self.pattern, gamma)


@dataclass(frozen=True, eq=False)
class FixedMatrices:
    """H (each spin channel) and S given as matrices, without transverse k."""

    h: list[sp.csr_matrix]
    s: sp.csr_matrix

    @property
    def n_spins(self) -> int:
        """Channels of H."""
        return len(self.h)

    def at(self, kperp: np.ndarray, spin: int) -> tuple[sp.csr_matrix, sp.csr_matrix]:
        """Sparse H and S; ValueError for any k but 0."""
        if np.any(kperp):
            raise ValueError(f"kperp: a device from matrices knows k = 0 alone, received {kperp.tolist()}")
        return self.h[spin], self.s

    def moved(self, shift: float) -> FixedMatrices:
        """H -> H + shift·S (eV)."""
        return FixedMatrices([_sum(h, self.s, shift) for h in self.h], self.s) if shift else self


def _sum(h: sp.csr_matrix, s: sp.csr_matrix, shift: float) -> sp.csr_matrix:
    return sp.csr_matrix(h + shift * s)


def _unit_entries(matrix: RealSpaceMatrix) -> np.ndarray:
    """The identity on a matrix' pairs."""
    whole = matrix.bloch_sum
    home = ~np.any(whole.cells != 0, axis=1)
    return ((whole.rows == whole.cols) & home[whole.cell_of_entry]).astype(float)


def check_wrapping(es: ElectronicStructure, contacts: Sequence[Contact]) -> None:
    """Every block that wraps round an open axis must join the end layers of two leads, and nothing else.

    Raises
    ------
    ValueError : the cell is too short, or bonds are cut where no lead is attached.
    """
    ends = {(c.axis, c.sign): c.atoms for c in contacts}
    worst = 0.0
    for matrix in (es.hamiltonian, es.overlap):
        if matrix is None:
            continue
        pairs, sizes = matrix.pairs, matrix.block_norms()
        for axis in sorted({c.axis for c in contacts}):
            across = np.nonzero((pairs.R[:, axis] > 0) & (sizes > _NEGLIGIBLE))[0]
            high = np.isin(pairs.i[across], ends.get((axis, 1), ()))
            low = np.isin(pairs.j[across], ends.get((axis, -1), ()))
            lost = across[~(high & low & (pairs.R[across, axis] == 1))]
            if len(lost):
                pair = lost[int(np.argmax(sizes[lost]))]
                worst = max(worst, float(sizes[pair]))
                if sizes[pair] > _SHORTCUT:
                    raise ValueError(_too_short(es, axis, int(pairs.i[pair]), int(pairs.j[pair]), worst))
    if worst > 0:
        logger.warning(
            "device: blocks up to %.1e that wrap round it were dropped beyond the leads' layers", worst
        )


def _too_short(es: ElectronicStructure, axis: int, i: int, j: int, size: float) -> str:
    symbols = es.atoms.get_chemical_symbols()
    return (
        f"device: atom {i} ({symbols[i]}) is coupled (up to {size:.2g}) to atom {j} ({symbols[j]}) across the cell's "
        f"{AXES[axis]} boundary, and they are not both in end layers of leads; attach a lead at both ends, or "
        "lengthen the device by a cell of the lead at each end"
    )
