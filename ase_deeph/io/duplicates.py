"""Structures that a dataset holds twice: found by invariants, confirmed by ASE's structure matching.

spglib reduces every periodic structure to its primitive cell, so that a supercell is known as a copy.  Candidates
have one composition and equal sorted distances; `SymmetryEquivalenceCheck` of ASE then looks for the rotation,
translation and reflection that maps one onto the other.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from math import gcd

import numpy as np
from ase import Atoms
from ase.utils.structure_comparator import SymmetryEquivalenceCheck

from ase_deeph.pairs import AtomPairs

_REACH = 5.0
_SYMMETRY = 1e-3
_VACUUM = 6.0
_SPECTRUM = 1e-2


def duplicates(structures: Iterable[tuple[str, Atoms]], tolerance: float = 0.02) -> list[tuple[str, str]]:
    """(name, name of the earlier one) of each structure that repeats an earlier one.

    Parameters
    ----------
    structures : names and atoms.
    tolerance : Å by which distances of copies may differ.
    """
    known: dict[tuple, list[tuple[str, Atoms, np.ndarray]]] = defaultdict(list)
    matcher = SymmetryEquivalenceCheck(angle_tol=1.0, ltol=0.02, stol=0.02, vol_tol=0.05)
    found = []
    for name, atoms in structures:
        small = _primitive(atoms)
        distances = _distances(small)
        same = known[small.get_chemical_formula(), tuple(small.pbc.tolist())]
        for other, other_atoms, other_distances in same:
            if _close(distances, other_distances, tolerance) and _equal(matcher, small, other_atoms):
                found.append((name, other))
                break
        else:
            same.append((name, small, distances))
    return found


def _primitive(atoms: Atoms) -> Atoms:
    """The primitive cell of a fully periodic structure, others as they are."""
    import spglib

    if (
        not atoms.pbc.all()
        or len(atoms) < 2
        or gcd(*np.unique(atoms.numbers, return_counts=True)[1].tolist()) < 2
    ):
        return atoms
    cell = (atoms.cell.array, atoms.get_scaled_positions(), atoms.numbers)
    reduced = spglib.find_primitive(cell, symprec=_SYMMETRY)
    if reduced is None:
        return atoms
    return Atoms(numbers=reduced[2], scaled_positions=reduced[1], cell=reduced[0], pbc=True)


def _distances(atoms: Atoms) -> np.ndarray:
    """Sorted distances (Å) of neighbours."""
    pairs = AtomPairs.from_atoms(atoms, _REACH)
    return np.sort(np.linalg.norm(pairs.displacements(atoms)[~pairs.on_site], axis=1))


def _close(a: np.ndarray, b: np.ndarray, tolerance: float) -> bool:
    """Whether the distances agree; the last ones may differ in number at the edge of the reach."""
    n = min(int(np.searchsorted(x, _REACH - 2 * tolerance)) for x in (a, b))
    m = max(int(np.searchsorted(x, _REACH - 4 * tolerance)) for x in (a, b))
    return m <= n and bool(np.all(np.abs(a[:n] - b[:n]) < tolerance))


def _equal(matcher: SymmetryEquivalenceCheck, a: Atoms, b: Atoms) -> bool:
    """By ASE for periodic structures; molecules by the spectrum of a matrix of their distances."""
    if a.pbc.any():
        return bool(matcher.compare(_boxed(a), _boxed(b)))
    return len(a) == len(b) and bool(np.allclose(_spectrum(a), _spectrum(b), rtol=_SPECTRUM))


def _spectrum(atoms: Atoms) -> np.ndarray:
    """Eigenvalues of Z_i Z_j exp(-d_ij²/8): the same however a molecule is turned, mirrored or numbered."""
    d = atoms.get_all_distances()
    return np.linalg.eigvalsh(np.outer(atoms.numbers, atoms.numbers) * np.exp(-d * d / 8.0))


def _boxed(atoms: Atoms) -> Atoms:
    """A copy whose open axes have a box, for a matcher that knows periodic cells only."""
    boxed = atoms.copy()
    boxed.calc = None
    cell = boxed.cell.complete().array
    for axis in np.nonzero(~atoms.pbc)[0]:
        unit = cell[axis] / np.linalg.norm(cell[axis])
        cell[axis] = unit * (round(float(np.ptp(atoms.positions @ unit)), 1) + 2 * _VACUUM)
    boxed.set_cell(cell)
    boxed.pbc = True
    return boxed
