"""An operator as one sparse matrix per cell R, the form in which other tools take H, S and positions.

The rows are the orbitals of the home cell in the house order.  Spinors, which the house keeps as
[[uu, ud], [du, dd]] inside each pair block, leave it with the two spins of each orbital side by side:
every tool reads that order.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from ase import Atoms

from ase_deeph.electronic_structure import ElectronicStructure
from ase_deeph.matrix import RealSpaceMatrix, Spin

_VACUUM = 6.0


@dataclass(frozen=True, eq=False)
class OrbitalList:
    """What each row of H(k) is.

    Parameters
    ----------
    atom : (n,) atom index.
    shell : (n,) shell of the atom's species, counted from 0 in the basis' order.
    l, m : (n,) degree and order of its real harmonic (no Condon-Shortley sign).
    spin : (n,) 0 for up, 1 for down; all 0 unless the operator is of spinors.
    """

    atom: np.ndarray
    shell: np.ndarray
    l: np.ndarray
    m: np.ndarray
    spin: np.ndarray

    def __len__(self) -> int:
        return len(self.atom)

    def __getitem__(self, order: np.ndarray) -> OrbitalList:
        """The same orbitals in another order."""
        return OrbitalList(*(column[order] for column in (self.atom, self.shell, self.l, self.m, self.spin)))

    @property
    def phases(self) -> np.ndarray:
        """(n,) (-1)^m: the signs of codes whose real harmonics keep the Condon-Shortley sign."""
        return np.where(self.m % 2, -1.0, 1.0)


def orbital_list(matrix: RealSpaceMatrix) -> OrbitalList:
    """The orbitals of an operator in the order of its rows."""
    rows = []
    for atom, symbol in enumerate(matrix.atoms.get_chemical_symbols()):
        shells = matrix.basis.shells(symbol)
        for spin in range(2 if matrix.spin == "spinor" else 1):
            rows += [(atom, n, l, m, spin) for n, l in enumerate(shells) for m in range(-l, l + 1)]
    return OrbitalList(*np.array(rows, dtype=np.int64).reshape(-1, 5).T)


def spins_side_by_side(orbitals: OrbitalList) -> np.ndarray:
    """(n,) the rows so ordered that the two spins of an orbital follow each other; 0 ... n-1 without spinors."""
    return np.lexsort((orbitals.spin, orbitals.m, orbitals.shell, orbitals.atom))


def by_cell(
    matrix: RealSpaceMatrix, order: np.ndarray | None = None
) -> tuple[np.ndarray, list[list[sp.csr_matrix]]]:
    """M(R) for every cell R of the pair list.

    Parameters
    ----------
    matrix : the operator, of any spin.
    order : (n,) rows and columns in the order wanted; None keeps the house order.

    Returns
    -------
    R (n_R, 3), sorted, with -R for each R; and per spin channel a list of n_R CSR matrices (n, n).
    """
    pattern = matrix.bloch_sum
    new = np.arange(pattern.n) if order is None else np.argsort(order)
    by_R = np.argsort(pattern.cell_of_entry, kind="stable")
    ends = np.cumsum(np.bincount(pattern.cell_of_entry, minlength=len(pattern.cells)))[:-1]
    rows, cols = new[pattern.rows], new[pattern.cols]
    channels = [
        [
            sp.csr_matrix((entries[at], (rows[at], cols[at])), shape=(pattern.n, pattern.n))
            for at in np.split(by_R, ends)
        ]
        for entries in np.atleast_2d(matrix.entries)
    ]
    return pattern.cells, channels


def on_common_pairs(es: ElectronicStructure) -> tuple[RealSpaceMatrix, RealSpaceMatrix | None]:
    """H and S on the same pairs, the union of both; S is None for an orthogonal basis."""
    h, s = es.hamiltonian, es.overlap
    if s is None:
        return h, None
    pairs = h.pairs if h.pairs == s.pairs else h.pairs.union(s.pairs)
    return h.on(pairs), s.on(pairs)


def identity_overlap(hamiltonian: RealSpaceMatrix) -> RealSpaceMatrix:
    """S = 1 on the pairs of a Hamiltonian, for spinors in their form."""
    own, shapes = hamiltonian.pairs.on_site, hamiltonian.block_shapes
    blocks = [np.eye(*shape) * on_site for shape, on_site in zip(shapes, own, strict=True)]
    spin: Spin = "spinor" if hamiltonian.spin == "spinor" else "none"
    return RealSpaceMatrix.from_blocks(hamiltonian.basis, hamiltonian.pairs, hamiltonian.atoms, blocks, spin)


def require_orthogonal(es: ElectronicStructure, tool: str) -> RealSpaceMatrix:
    """The Hamiltonian of an orthogonal basis, for tools that know no overlap.

    Raises
    ------
    ValueError : the basis overlaps.
    """
    s = es.overlap
    if s is not None and not _is_identity(s):
        raise ValueError(
            f"{tool} knows no overlap matrix and S is not 1 here; pass es.orthogonalized(cutoff), "
            "which states its error in the bands, or use a tool that takes S (to_sisl, to_kwant)"
        )
    return es.hamiltonian


def _is_identity(overlap: RealSpaceMatrix) -> bool:
    at_gamma = [
        np.abs(block - np.eye(*block.shape)).max() if own else np.abs(block).max(initial=0.0)
        for own, block in zip(overlap.pairs.on_site, overlap.blocks(), strict=True)
    ]
    return max(at_gamma, default=0.0) < 1e-12


def closed_cell(atoms: Atoms) -> np.ndarray:
    """(3, 3) the cell in Å, with a vector that holds the atoms where an open axis has none."""
    cell = atoms.cell.complete().array
    for axis in np.nonzero(np.linalg.norm(atoms.cell.array, axis=1) < 1e-8)[0]:
        cell[axis] *= np.ptp(atoms.positions @ cell[axis]) + 2 * _VACUUM
    return cell
