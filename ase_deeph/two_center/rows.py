"""S(R) of some atoms' rows: the same integrals on a cluster of these atoms and all that they reach."""

from __future__ import annotations

from itertools import product

import numpy as np
from ase import Atoms
from scipy.spatial import cKDTree

from ase_deeph.basis import OrbitalBasis
from ase_deeph.matrix import RealSpaceMatrix
from ase_deeph.pairs import AtomPairs
from ase_deeph.two_center.overlap import complete_overlap
from ase_deeph.two_center.tables import orbital_table, projector_table

_SLACK = 1e-6


def overlap_rows(atoms: Atoms, basis: OrbitalBasis, own: np.ndarray) -> RealSpaceMatrix:
    """The blocks S_ij(R) whose row atom i is one of `own`, equal to those of `overlap` up to rounding.

    Time and memory grow with these atoms and their surface, not with the structure.

    Parameters
    ----------
    own : (n,) distinct atoms.

    Returns
    -------
    A matrix on pairs whose reverse may be absent.

    Raises
    ------
    ValueError, KeyError : as `overlap`.
    """
    atom, R = images_within(atoms, own, _reach(basis, set(atoms.get_chemical_symbols())))
    cluster = Atoms(atoms.numbers[atom], positions=atoms.positions[atom] + R @ atoms.cell.array, pbc=False)
    whole = complete_overlap(cluster, basis, len(own))
    mine = whole.pairs.i < len(own)
    i, j = whole.pairs.i[mine], whole.pairs.j[mine]
    pairs = AtomPairs(atom[i], atom[j], R[j], len(atoms))
    order = pairs.positions_of(np.column_stack([atom[i], atom[j], R[j]]))
    sizes = np.diff(whole.offsets)[mine]
    result = RealSpaceMatrix(basis, pairs, atoms.copy(), np.zeros(int(sizes.sum())))
    target = np.repeat(result.offsets[order] - (np.cumsum(sizes) - sizes), sizes) + np.arange(sizes.sum())
    result.entries[target] = whole.entries[np.repeat(mine, np.diff(whole.offsets))]
    return result


def _reach(basis: OrbitalBasis, symbols: set[str]) -> float:
    """How far (Å) from an atom the atoms are that its rows of S depend on."""
    direct = max(orbital_table(basis, min(a, b), max(a, b)).reach for a in symbols for b in symbols)
    projecting = [s for s in symbols if basis[s].augmentation is not None]
    bond = max((projector_table(basis, c, s).reach for c in projecting for s in symbols), default=0.0)
    return max(direct, 2 * bond) + _SLACK


def images_within(atoms: Atoms, own: np.ndarray, distance: float) -> tuple[np.ndarray, np.ndarray]:
    """Atoms and cells (atom, R) within a distance (Å) of any of `own`; the first are `own` themselves, in cell 0."""
    cell = atoms.cell.complete().array
    heights = 1 / np.linalg.norm(np.linalg.inv(cell), axis=0)
    along = atoms.positions @ np.linalg.inv(cell)
    reach = distance / heights
    low = np.floor(along[own].min(axis=0) - reach - along.max(axis=0)).astype(int)
    high = np.ceil(along[own].max(axis=0) + reach - along.min(axis=0)).astype(int)
    low, high = np.where(atoms.pbc, low, 0), np.where(atoms.pbc, high, 0)
    tree = cKDTree(atoms.positions[own])
    found_atoms, found_cells = [own], [np.zeros((len(own), 3), dtype=np.int64)]
    for R in product(*(range(first, last + 1) for first, last in zip(low, high, strict=True))):
        moved = along + R
        close = np.all(moved >= along[own].min(axis=0) - reach, axis=1)
        close &= np.all(moved <= along[own].max(axis=0) + reach, axis=1)
        if not any(R):
            close[own] = False
        near = np.nonzero(close)[0]
        distances = tree.query(atoms.positions[near] + np.array(R) @ cell, distance_upper_bound=distance)[0]
        near = near[np.isfinite(distances)]
        found_atoms.append(near)
        found_cells.append(np.broadcast_to(np.array(R, dtype=np.int64), (len(near), 3)))
    return np.concatenate(found_atoms), np.concatenate(found_cells)
