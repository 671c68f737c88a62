"""From matrix elements between single orbitals, in any code's order, to blocks on atom pairs.

A code's orbital p is ours number place[p] times sign[p]; R is translated by the reader.  The pair list is the union
of what H and S hold, both directions, and every atom with itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms

from ase_deeph.basis import OrbitalBasis
from ase_deeph.io.structure_checks import check_cells
from ase_deeph.matrix import RealSpaceMatrix, Spin
from ase_deeph.pairs import AtomPairs

_LARGEST = 1e9


@dataclass(frozen=True, eq=False)
class Elements:
    """Elements ⟨row, 0|M|column, R⟩ of an operator between single orbitals.

    Parameters
    ----------
    rows, columns : (n,) orbitals in the house order.
    R : (n, 3) cell of the column orbital.
    values : (n_components, n): one component; two for collinear spin; four for spinors (uu, ud, du, dd).
    """

    rows: np.ndarray
    columns: np.ndarray
    R: np.ndarray
    values: np.ndarray

    def __post_init__(self) -> None:
        n = len(self.rows)
        if len(self.columns) != n or self.R.shape != (n, 3) or self.values.shape[1:] != (n,):
            raise ValueError(
                f"elements: {n} rows, {len(self.columns)} columns, {len(self.R)} cells and "
                f"{self.values.shape} values do not belong together; the file is damaged"
            )
        if not np.all(np.abs(self.values) < _LARGEST):
            raise ValueError(
                f"elements: expected numbers below {_LARGEST:g}, received larger ones, NaN or infinity; the file is "
                "damaged"
            )
        check_cells(self.R)

    def relabelled(self, shifts: np.ndarray, atom_of: np.ndarray) -> Elements:
        """With R' = R + shift of the row's atom - shift of the column's: atoms moved by whole cells."""
        moved = self.R + shifts[atom_of[self.rows]] - shifts[atom_of[self.columns]]
        return Elements(self.rows, self.columns, moved, self.values)

    def with_reverse(self) -> Elements:
        """With ⟨column, 0|M|row, -R⟩ = ⟨row, 0|M|column, R⟩* added where the file holds one triangle only."""
        own = (self.rows == self.columns) & np.all(self.R == 0, axis=1)
        key = _element_codes(self)
        back = Elements(self.columns, self.rows, -self.R, np.conj(self.values))
        absent = ~own & ~np.isin(_element_codes(back), key)
        return Elements(
            np.concatenate([self.rows, back.rows[absent]]),
            np.concatenate([self.columns, back.columns[absent]]),
            np.concatenate([self.R, back.R[absent]]),
            np.concatenate([self.values, back.values[:, absent]], axis=1),
        )


def orbital_atoms(atoms: Atoms, basis: OrbitalBasis) -> np.ndarray:
    """(n_orbitals,) the atom of each orbital of the cell."""
    return np.repeat(np.arange(len(atoms)), basis.orbital_counts(atoms.get_chemical_symbols()))


def matrices_from_elements(
    atoms: Atoms, basis: OrbitalBasis, overlap: Elements, hamiltonian: Elements | None, spin: Spin
) -> tuple[RealSpaceMatrix, RealSpaceMatrix | None]:
    """S(R) and H(R) on the union of their pairs.

    Raises
    ------
    ValueError : an orbital out of range, or an element that appears twice.
    """
    pairs = _pairs_of(atoms, basis, [overlap] if hamiltonian is None else [overlap, hamiltonian])
    S = _matrix(atoms, basis, pairs, overlap, "none")
    return S, None if hamiltonian is None else _matrix(atoms, basis, pairs, hamiltonian, spin)


def _element_codes(elements: Elements) -> np.ndarray:
    """One integer per element."""
    n = int(max(elements.rows.max(initial=0), elements.columns.max(initial=0))) + 1
    return _codes(elements.rows, elements.columns, elements.R, n)


def _codes(first: np.ndarray, second: np.ndarray, R: np.ndarray, n: int) -> np.ndarray:
    reach = int(np.abs(R).max(initial=0))
    width = 2 * reach + 1
    if float(n) ** 2 * float(width) ** 3 > 2**62:
        raise ValueError(
            f"elements: {n} orbitals in {width} cells per axis cannot be numbered; the file is damaged"
        )
    code = first.astype(np.int64) * n + second
    for axis in range(3):
        code = code * width + (R[:, axis] + reach)
    return code


def _pairs_of(atoms: Atoms, basis: OrbitalBasis, sources: Sequence[Elements]) -> AtomPairs:
    atom_of = orbital_atoms(atoms, basis)
    own = np.arange(len(atoms))
    keys = [np.column_stack([own, own, np.zeros((len(atoms), 3), dtype=np.int64)])]
    for elements in sources:
        _check_range(elements, len(atom_of))
        i, j = atom_of[elements.rows], atom_of[elements.columns]
        first = np.unique(_codes(i, j, elements.R, len(atoms)), return_index=True)[1]
        key = np.column_stack([i[first], j[first], elements.R[first]])
        keys += [key, np.column_stack([key[:, 1], key[:, 0], -key[:, 2:]])]
    unique = np.unique(np.concatenate(keys), axis=0)
    return AtomPairs(unique[:, 0], unique[:, 1], unique[:, 2:], len(atoms))


def _check_range(elements: Elements, n_orbitals: int) -> None:
    both = np.concatenate([elements.rows, elements.columns])
    if len(both) and (both.min() < 0 or both.max() >= n_orbitals):
        raise ValueError(
            f"elements: expected orbitals 0 ... {n_orbitals - 1}, received {both.min()} ... {both.max()}; "
            "matrix and structure do not belong together"
        )


def _matrix(
    atoms: Atoms, basis: OrbitalBasis, pairs: AtomPairs, elements: Elements, spin: Spin
) -> RealSpaceMatrix:
    """Scatter elements into the blocks of their pairs."""
    symbols = atoms.get_chemical_symbols()
    counts, first = basis.orbital_counts(symbols), basis.offsets(symbols)
    atom_of = orbital_atoms(atoms, basis)
    i, j = atom_of[elements.rows], atom_of[elements.columns]
    row, column = elements.rows - first[i], elements.columns - first[j]
    codes, start, inverse = np.unique(
        _codes(i, j, elements.R, len(atoms)), return_index=True, return_inverse=True
    )
    named = AtomPairs(i[start], j[start], elements.R[start], len(atoms))
    in_order = np.lexsort(np.column_stack([i[start], j[start], elements.R[start]]).T[::-1])
    position = np.empty(len(codes), dtype=np.int64)
    position[in_order] = pairs.indices_of(named)
    pair = position[inverse.ravel()]
    n_spins = 2 if spin == "spinor" else 1
    sizes = n_spins**2 * counts[pairs.i] * counts[pairs.j]
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    total = int(offsets[-1])
    slot = offsets[pair] + row * (n_spins * counts[j]) + column
    if len(slot) and np.bincount(slot).max() > 1:
        raise ValueError("elements: an element appears twice; the file is damaged")
    if spin == "spinor":
        entries = np.zeros(total, dtype=complex)
        for component, value in enumerate(elements.values):
            down_row, down_column = divmod(component, 2)
            entries[slot + down_row * counts[i] * 2 * counts[j] + down_column * counts[j]] = value
        return RealSpaceMatrix(basis, pairs, atoms, entries, spin)
    dense = np.zeros((len(elements.values), total))
    dense[:, slot] = elements.values
    return RealSpaceMatrix(basis, pairs, atoms, dense if spin == "collinear" else dense[0], spin)


def house_order(
    atom: np.ndarray, shell: np.ndarray, m: np.ndarray, odd_signs: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Where each orbital of a code stands in our order, and its sign.

    Parameters
    ----------
    atom, shell, m : (n,) atom, running number of the shell inside the atom, and m of each orbital of the code.
    odd_signs : (n,) whether the code's harmonic has the opposite sign of ours.

    Returns
    -------
    place (n,), sign (n,) such that φ_code[p] = sign[p] φ_ours[place[p]].
    """
    order = np.lexsort([m, shell, atom])
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.arange(len(order))
    return place, np.where(odd_signs, -1.0, 1.0)
