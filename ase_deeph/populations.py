"""Whose electrons they are: Mulliken and Löwdin charges of atoms, their moments, Mayer bond orders, summed over k.

With P(k) = Σ_n f_n c_n c_n†, S(k) the overlap and w_k the weights of the mesh (Σ w_k = 1)

    Mulliken    N_A = Σ_k w_k Σ_{μ in A} (P S)_μμ                    [J. Chem. Phys. 23, 1833 (1955)]
    moments     m_A = Σ_k w_k Σ_{μ in A} (σ P S)_μμ in μB
    Löwdin      N_A = Σ_k w_k Σ_{μ in A} (S^½ P S^½)_μμ              [J. Chem. Phys. 18, 365 (1950)]
    Mayer       B_AB = Σ_k w_k Σ_{μ in A, ν in B} (P S)_μν (P S)_νμ  [Chem. Phys. Lett. 97, 270 (1983)]

and, where a level holds one electron (collinear spin, spinors), B_AB is twice that sum over the channels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import scipy.linalg as sl

from ase_deeph.dos import orbital_groups
from ase_deeph.electronic_structure import ElectronicStructure
from ase_deeph.kpoints import KPoints
from ase_deeph.pairs import AtomPairs
from ase_deeph.spin_states import spin_rows

_EMPTY = 1e-14
_CHUNK_ENTRIES = 4e6


@dataclass(frozen=True, eq=False)
class Populations:
    """Charges and bond orders of one electronic structure, on its mesh with its occupations.

    The mesh is reduced by time reversal alone: the point group may exchange atoms.

    Parameters
    ----------
    structure : H, S and the filling of the levels.

    Examples
    --------
    Two s orbitals that share one pair of electrons:

    >>> from ase import Atoms
    >>> from ase_deeph import AtomPairs, ElectronicStructure, OrbitalBasis, RealSpaceMatrix
    >>> from ase_deeph.basis import SpeciesBasis
    >>> h2 = Atoms("H2", [[0, 0, 0], [0, 0, 0.74]])
    >>> pairs, basis = AtomPairs.from_atoms(h2, 1.0), OrbitalBasis({"H": SpeciesBasis((0,), 1)})
    >>> h = RealSpaceMatrix(basis, pairs, h2, (-9.0) * ~pairs.on_site)
    >>> Populations(ElectronicStructure(h)).bond_orders().round(6).tolist()
    [[1.0, 1.0], [1.0, 1.0]]
    """

    structure: ElectronicStructure

    def mulliken_charges(self) -> np.ndarray:
        """(n_atoms,) charges in units of e, valence minus Mulliken's electrons: positive where electrons lack."""
        return self._valence - self.mulliken_electrons

    def lowdin_charges(self) -> np.ndarray:
        """(n_atoms,) charges in units of e, valence minus Löwdin's electrons."""
        return self._valence - self.lowdin_electrons

    @cached_property
    def mulliken_electrons(self) -> np.ndarray:
        """(n_atoms,) Mulliken's electrons; they sum to the electrons of the cell."""
        total = np.zeros(len(self._owner))
        for weight, s, c, f in self._filled(self._reduced):
            total += weight * np.real(c.conj() * _times(s, c)) @ f
        return self._by_atom(total)

    @cached_property
    def lowdin_electrons(self) -> np.ndarray:
        """(n_atoms,) Löwdin's electrons; they sum to the electrons of the cell."""
        total = np.zeros(len(self._owner))
        for weight, s, c, f in self._filled(self._reduced):
            total += weight * np.abs(_times(_square_root(s), c)) ** 2 @ f
        return self._by_atom(total)

    def magnetic_moments(self) -> np.ndarray:
        """(n_atoms, 3) Mulliken's moments in μB, positive where spin up prevails; collinear ones along z.

        Of spinors the moments need the whole mesh, as k and -k carry opposite spin without magnetism.

        Raises
        ------
        ValueError : H has no spin.
        """
        structure = self.structure
        spin = structure.hamiltonian.spin
        if spin == "none":
            raise ValueError("magnetic_moments: expected a collinear or spinor Hamiltonian, received none")
        result = np.zeros((len(structure.atoms), 3))
        if spin == "collinear":
            for channel, (weight, s, c, f) in enumerate(self._filled(self._reduced)):
                up_or_down = 1 - 2 * (channel % 2)
                electrons = np.real(c.conj() * _times(s, c)) @ f
                result[:, 2] += up_or_down * weight * self._by_atom(electrons)
            return result
        up, down = spin_rows(structure.hamiltonian)
        for weight, s, c, f in self._filled(replace(structure, symmetry="none")):
            sc = _times(s, c)
            raised, lowered = (c[up].conj() * sc[down]) @ f, (c[down].conj() * sc[up]) @ f
            z = np.real(c[up].conj() * sc[up] - c[down].conj() * sc[down]) @ f
            per_row = np.column_stack([(raised + lowered).real, (raised - lowered).imag, z])
            result += weight * self._members[:, up] @ per_row
        return result

    def bond_orders(self) -> np.ndarray:
        """(n_atoms, n_atoms) Mayer's bond orders between A and all images of B; the diagonal is A's own share."""
        total = np.zeros((len(self.structure.atoms),) * 2)
        for weight, s, c, f in self._filled(self._reduced):
            ps = (c * f) @ _times(s, c).conj().T
            total += weight * self._between_atoms(ps, ps)
        return self._per_pair * total

    def bond_orders_of(self, pairs: AtomPairs) -> np.ndarray:
        """(n_pairs,) Mayer's bond order of each pair (i, j, R), images told apart.

        Raises
        ------
        ValueError : the mesh is too coarse to tell the cells R of these pairs apart.
        """
        cells, cell_of_pair = np.unique(pairs.R, axis=0, return_inverse=True)
        self._check_mesh(cells)
        products = self._products(cells)
        orders = np.empty(len(pairs))
        opposite = {tuple(cell): n for n, cell in enumerate(cells)}
        for n, cell in enumerate(cells):
            mine = cell_of_pair.ravel() == n
            there, back = products[n], products[opposite[tuple(-cell)]]
            between = sum(self._between_atoms(a, b) for a, b in zip(there, back, strict=True))
            orders[mine] = np.asarray(between)[pairs.i[mine], pairs.j[mine]]
        return self._per_pair * orders

    def _products(self, cells: np.ndarray) -> np.ndarray:
        """(n_cells, n_spins, n, n) (P S)(R) = Σ_k w_k exp(-2πi k·R) (P S)(k) over the whole mesh."""
        whole = replace(self.structure, symmetry="none")
        n, n_spins = len(self._owner), whole.n_spins
        total = np.zeros((len(cells), n_spins, n, n), dtype=complex)
        for m, (weight, s, c, f) in enumerate(self._filled(whole)):
            k = whole.mesh.irreducible[m // n_spins]
            ps = (c * f) @ _times(s, c).conj().T
            total[:, m % n_spins] += weight * np.exp(-2j * np.pi * cells @ k)[:, None, None] * ps
        return total

    def _check_mesh(self, cells: np.ndarray) -> None:
        size = self.structure.mesh.size
        width = np.ptp(cells, axis=0) + 1
        if size is None or np.any(width > np.array(size)):
            raise ValueError(
                f"bond_orders_of: pairs in {width.tolist()} cells along the axes need a mesh of at least as many "
                f"k-points, received {size}; use a denser mesh, or bond_orders(), which sums over images"
            )

    @cached_property
    def _reduced(self) -> ElectronicStructure:
        """The same electrons on a mesh that keeps atoms apart."""
        structure = self.structure
        if structure.symmetry != "full" or structure.mesh.size is None:
            return structure
        by_time = replace(structure, symmetry="time-reversal")
        return structure if _same(by_time.mesh, structure.mesh) else by_time

    def _filled(
        self, structure: ElectronicStructure
    ) -> Iterator[tuple[float, np.ndarray | None, np.ndarray, np.ndarray]]:
        """(w_k, S(k), coefficients (n, n_filled), occupations (n_filled,)) for every k, then spin."""
        occupations, mesh = structure.occupation_numbers(), structure.mesh
        n_orbitals = structure.hamiltonian.n_orbitals
        several = max(1, int(_CHUNK_ENTRIES / (structure.n_spins * n_orbitals**2)))
        for start in range(0, len(mesh), several):
            points = range(start, min(start + several, len(mesh)))
            coefficients = structure.eigenstates(mesh.irreducible[points.start : points.stop]).coefficients
            assert coefficients is not None
            for n, at_k in zip(points, np.moveaxis(coefficients, 1, 0), strict=True):
                overlap = structure.overlap
                s = None if overlap is None else np.asarray(overlap.at_k(mesh.irreducible[n]))
                for c, f in zip(at_k, occupations[:, n], strict=True):
                    filled = np.abs(f) > _EMPTY
                    yield float(mesh.weights[n]), s, c[:, : len(f)][:, filled], f[filled]

    @cached_property
    def _owner(self) -> np.ndarray:
        """(n_orbitals,) the atom of each row of H(k)."""
        h = self.structure.hamiltonian
        return orbital_groups(h.basis, h.atoms, "atom", spinor=h.spin == "spinor")[1]

    @cached_property
    def _members(self) -> np.ndarray:
        """(n_atoms, n_orbitals) 1 where an orbital belongs to an atom."""
        return (np.arange(len(self.structure.atoms))[:, None] == self._owner[None, :]).astype(float)

    def _by_atom(self, of_orbitals: np.ndarray) -> np.ndarray:
        return self._members @ of_orbitals

    def _between_atoms(self, there: np.ndarray, back: np.ndarray) -> np.ndarray:
        """(n_atoms, n_atoms) Re Σ_{μ in A, ν in B} there_μν back_νμ."""
        return self._members @ np.real(there * back.T) @ self._members.T

    @property
    def _per_pair(self) -> int:
        return 1 if self.structure.degeneracy == 2 else 2

    @property
    def _valence(self) -> np.ndarray:
        basis = self.structure.hamiltonian.basis
        return np.array([basis[s].valence_electrons for s in self.structure.atoms.get_chemical_symbols()])


def _times(s: np.ndarray | None, c: np.ndarray) -> np.ndarray:
    return c if s is None else s @ c


def _square_root(s: np.ndarray | None) -> np.ndarray | None:
    """S^½ of a positive S, directions below rounding left out."""
    if s is None:
        return None
    values, vectors = sl.eigh(s, check_finite=False)
    return (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.conj().T


def _same(first: KPoints, second: KPoints) -> bool:
    return len(first) == len(second) and bool(np.allclose(first.irreducible, second.irreducible))
