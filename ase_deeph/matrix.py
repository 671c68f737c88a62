"""RealSpaceMatrix: an operator in the orbital basis as blocks ⟨i, 0|M|j, R⟩ on atom pairs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
import scipy.sparse as sp
from ase import Atoms

from ase_deeph.basis import OrbitalBasis
from ase_deeph.bloch import BlochSum
from ase_deeph.pairs import AtomPairs

Spin = Literal["none", "collinear", "spinor"]


@dataclass(frozen=True, eq=False)
class RealSpaceMatrix:
    """Blocks of an operator on atom pairs: M_ij(R) = ⟨i, 0|M|j, R⟩.

    Parameters
    ----------
    basis : the orbitals of each species.
    pairs : the atom pairs, in their canonical order.
    atoms : the structure, positions in Å.
    entries : row-major blocks one after the other in pair order; eV (or dimensionless for S).
        spin "none": (total,); "collinear": (2, total); "spinor": complex (4 total,), each block
        [[uu, ud], [du, dd]] with spin outermost.
    spin : "none", "collinear" or "spinor".

    Raises
    ------
    ValueError : when the number of entries does not fit basis, pairs and spin.
    """

    basis: OrbitalBasis
    pairs: AtomPairs
    atoms: Atoms
    entries: np.ndarray
    spin: Spin = "none"

    def __post_init__(self) -> None:
        if self.spin not in ("none", "collinear", "spinor"):
            raise ValueError(f"spin: expected 'none', 'collinear' or 'spinor', received {self.spin!r}")
        if self.pairs.n_atoms != len(self.atoms):
            raise ValueError(
                f"pairs of {self.pairs.n_atoms} atoms given for a structure of {len(self.atoms)}"
            )
        total = int(self.offsets[-1])
        shape = (2, total) if self.spin == "collinear" else (total,)
        if np.shape(self.entries) != shape:
            raise ValueError(
                f"entries: expected shape {shape} for {len(self.pairs)} pairs in {self.basis}, "
                f"received {np.shape(self.entries)}"
            )

    def __repr__(self) -> str:
        return (
            f"RealSpaceMatrix({self.atoms.get_chemical_formula()}, {len(self.pairs)} pairs, "
            f"{self.n_orbitals} orbitals, spin={self.spin!r})"
        )

    @cached_property
    def rows_per_atom(self) -> np.ndarray:
        """(n_atoms,) rows per atom, doubled for spinors."""
        return self.basis.orbital_counts(self.atoms.get_chemical_symbols()) * (
            2 if self.spin == "spinor" else 1
        )

    @property
    def n_orbitals(self) -> int:
        """Rows of M(k): orbitals of the cell (twice that for spinors)."""
        return int(self.rows_per_atom.sum())

    @cached_property
    def block_shapes(self) -> np.ndarray:
        """(n_pairs, 2) rows and columns of each block."""
        return np.column_stack([self.rows_per_atom[self.pairs.i], self.rows_per_atom[self.pairs.j]])

    @cached_property
    def offsets(self) -> np.ndarray:
        """(n_pairs + 1,) first entry of each block, and the total."""
        return np.concatenate([[0], np.cumsum(self.block_shapes.prod(axis=1))]).astype(np.int64)

    @cached_property
    def _shape_groups(self) -> list[tuple[tuple[int, int], np.ndarray, np.ndarray]]:
        """(shape, pairs of that shape, their entries (n, rows*cols)) so that loops run over shapes, not pairs."""
        shapes, inverse = np.unique(self.block_shapes, axis=0, return_inverse=True)
        groups = []
        for n, (rows, cols) in enumerate(shapes):
            members = np.nonzero(inverse.ravel() == n)[0]
            where = self.offsets[members][:, None] + np.arange(rows * cols)
            groups.append(((int(rows), int(cols)), members, where))
        return groups

    @classmethod
    def from_blocks(
        cls,
        basis: OrbitalBasis,
        pairs: AtomPairs,
        atoms: Atoms,
        blocks: Sequence[np.ndarray],
        spin: Spin = "none",
    ) -> RealSpaceMatrix:
        """From one array per pair, in pair order (collinear: (2, rows, cols) each)."""
        if len(blocks) != len(pairs):
            raise ValueError(f"blocks: expected one for each of {len(pairs)} pairs, received {len(blocks)}")
        if spin == "collinear":
            entries = np.concatenate([np.reshape(b, (2, -1)) for b in blocks], axis=1)
        else:
            entries = np.concatenate([np.ravel(b) for b in blocks])
        return cls(basis, pairs, atoms, entries, spin)

    @classmethod
    def from_padded_blocks(
        cls, basis: OrbitalBasis, pairs: AtomPairs, atoms: Atoms, blocks: np.ndarray
    ) -> RealSpaceMatrix:
        """From (n_pairs, M, M) blocks whose rows and columns beyond a species' orbitals are padding."""
        shapeless = cls._zeros(basis, pairs, atoms)
        for (rows, cols), members, where in shapeless._shape_groups:
            shapeless.entries[where] = blocks[members, :rows, :cols].reshape(len(members), -1)
        return shapeless

    @classmethod
    def _zeros(cls, basis: OrbitalBasis, pairs: AtomPairs, atoms: Atoms) -> RealSpaceMatrix:
        counts = basis.orbital_counts(atoms.get_chemical_symbols())
        total = int((counts[pairs.i] * counts[pairs.j]).sum())
        return cls(basis, pairs, atoms, np.zeros(total))

    def padded_blocks(self, size: int | None = None) -> np.ndarray:
        """(n_pairs, M, M) blocks padded with zeros to M = size or the largest species (spin "none")."""
        if self.spin != "none":
            raise ValueError(f"padded_blocks: expected spin 'none', received {self.spin!r}")
        size = size or self.basis.max_orbitals
        blocks = np.zeros((len(self.pairs), size, size), dtype=self.entries.dtype)
        for (rows, cols), members, where in self._shape_groups:
            blocks[members, :rows, :cols] = self.entries[where].reshape(-1, rows, cols)
        return blocks

    def block_at(self, n: int) -> np.ndarray:
        """The block of the n-th pair, (n_i, n_j) (collinear: (2, n_i, n_j)); a view, not a copy."""
        rows, cols = self.block_shapes[n]
        part = self.entries[..., self.offsets[n] : self.offsets[n + 1]]
        return part.reshape(*part.shape[:-1], rows, cols)

    def block(self, i: int, j: int, R: tuple[int, int, int]) -> np.ndarray:
        """⟨i, 0|M|j, R⟩, shape (n_i, n_j) (collinear: (2, n_i, n_j)); KeyError when the pair is absent."""
        return self.block_at(self.pairs.index(i, j, R))

    def blocks(self) -> Iterator[np.ndarray]:
        """The blocks in pair order."""
        return (self.block_at(n) for n in range(len(self.pairs)))

    def block_norms(self) -> np.ndarray:
        """(n_pairs,) largest absolute entry of each block."""
        largest = np.abs(self.entries)
        largest = largest.max(axis=0) if self.spin == "collinear" else largest
        return np.maximum.reduceat(largest, self.offsets[:-1]) if len(self.pairs) else np.zeros(0)

    @cached_property
    def bloch_sum(self) -> BlochSum:
        """The sorted sparsity pattern that M(k) is summed with."""
        starts = np.concatenate([[0], np.cumsum(self.rows_per_atom)])
        total = int(self.offsets[-1])
        rows, cols = np.empty(total, dtype=np.int32), np.empty(total, dtype=np.int32)
        cell_of_entry = np.empty(total, dtype=np.int32)
        cells, cell_of_pair = np.unique(self.pairs.R, axis=0, return_inverse=True)
        for (n_rows, n_cols), members, where in self._shape_groups:
            within = np.arange(n_rows * n_cols)
            rows[where] = starts[self.pairs.i[members]][:, None] + within // n_cols
            cols[where] = starts[self.pairs.j[members]][:, None] + within % n_cols
            cell_of_entry[where] = cell_of_pair.ravel()[members][:, None]
        return BlochSum(rows, cols, cell_of_entry, cells, self.n_orbitals)

    def at_k(
        self, k: Sequence[float], format: Literal["dense", "csr"] = "dense"
    ) -> np.ndarray | sp.csr_matrix:
        """M(k) = Σ_R exp(+2πi k·R) M(R) for a fractional k.

        Returns
        -------
        (n, n) complex array, or a CSR matrix; for collinear spin (2, n, n), or a list of two CSR matrices.

        Raises
        ------
        ValueError : k is not three finite numbers, or the format is unknown.
        """
        point = np.asarray(k, dtype=float)
        if point.shape != (3,) or not np.all(np.isfinite(point)):
            raise ValueError(f"k: expected three finite fractional coordinates, received {k}")
        if format not in ("dense", "csr"):
            raise ValueError(f"format: expected 'dense' or 'csr', received {format!r}")
        build = self.bloch_sum.dense if format == "dense" else self.bloch_sum.csr
        if self.spin != "collinear":
            return build(self.entries, point)
        channels = [build(channel, point) for channel in self.entries]
        return np.stack(channels) if format == "dense" else channels

    def at_each_k(self, kpts: np.ndarray) -> Iterator[np.ndarray]:
        """Dense M(k), as `at_k` gives it, at each of (n_kpts, 3) finite fractional k-points, one at a time."""
        if self.spin != "collinear":
            return self.bloch_sum.dense_at_each(self.entries, kpts)
        channels = (self.bloch_sum.dense_at_each(channel, kpts) for channel in self.entries)
        return (np.stack(pair) for pair in zip(*channels, strict=True))

    @cached_property
    def _transposition(self) -> np.ndarray:
        """(total,) which entry of the reverse pair holds each entry's transpose."""
        source = np.empty(int(self.offsets[-1]), dtype=np.int64)
        reverse = self.pairs.reverse
        for (rows, cols), members, where in self._shape_groups:
            within = np.arange(rows * cols)
            source[where] = self.offsets[reverse[members]][:, None] + (within % cols) * rows + within // cols
        return source

    def transpose_conj(self) -> RealSpaceMatrix:
        """The adjoint: M†_ij(R) = M_ji(-R)†."""
        return replace(self, entries=np.conj(self.entries[..., self._transposition]))

    def hermitian_part(self) -> RealSpaceMatrix:
        """(M + M†) / 2."""
        return replace(self, entries=0.5 * (self.entries + self.transpose_conj().entries))

    def hermiticity_error(self) -> float:
        """max |M - M†| over all entries."""
        return float(np.abs(self.entries - self.transpose_conj().entries).max(initial=0.0))

    def max_abs(self) -> float:
        """Largest absolute entry."""
        return float(np.abs(self.entries).max(initial=0.0))

    def on(self, pairs: AtomPairs) -> RealSpaceMatrix:
        """The same operator on other pairs: absent blocks are zero there.

        Raises
        ------
        ValueError : when a pair with a non-zero block is not among the new ones.
        """
        if pairs == self.pairs:
            return self
        position = pairs.indices_of(self.pairs)
        lost = np.nonzero((position < 0) & (self.block_norms() > 0))[0]
        if len(lost):
            named = ", ".join(
                f"({self.pairs.i[n]}, {self.pairs.j[n]}, R={tuple(int(x) for x in self.pairs.R[n])})"
                for n in lost[:5]
            )
            raise ValueError(
                f"{len(lost)} pairs with non-zero blocks are not among the {len(pairs)} pairs asked for: {named}"
                f"{' ...' if len(lost) > 5 else ''}; use pairs that include them, or restricted_to(...)"
            )
        return self.restricted_to(pairs)

    def restricted_to(self, pairs: AtomPairs) -> RealSpaceMatrix:
        """The blocks on other pairs, those outside them discarded on purpose; absent blocks are zero."""
        source = self.pairs.indices_of(pairs)
        shape = (2, 0) if self.spin == "collinear" else (0,)
        counts = self.rows_per_atom[pairs.i] * self.rows_per_atom[pairs.j]
        entries = np.zeros((*shape[:-1], int(counts.sum())), dtype=self.entries.dtype)
        result = RealSpaceMatrix(self.basis, pairs, self.atoms, entries, self.spin)
        for (rows, cols), members, where in result._shape_groups:
            known = source[members] >= 0
            start = self.offsets[source[members[known]]]
            entries[..., where[known]] = self.entries[..., start[:, None] + np.arange(rows * cols)]
        return result

    def cut(self, distance: float) -> RealSpaceMatrix:
        """The blocks of pairs closer than a distance in Å, the others discarded on purpose."""
        near = np.linalg.norm(self.pairs.displacements(self.atoms), axis=1) < distance
        return self.restricted_to(self.pairs.select(near))

    def _combined(self, other: RealSpaceMatrix, sign: float) -> RealSpaceMatrix:
        if not isinstance(other, RealSpaceMatrix):
            return NotImplemented
        if other.basis.symbols != self.basis.symbols or not np.array_equal(
            self.rows_per_atom, other.rows_per_atom
        ):
            raise ValueError(f"sum of matrices: {self} and {other} have different orbitals")
        pairs = self.pairs if self.pairs == other.pairs else self.pairs.union(other.pairs)
        mine, theirs = self.on(pairs), other.on(pairs)
        return replace(mine, entries=mine.entries + sign * theirs.entries)

    def __add__(self, other: RealSpaceMatrix) -> RealSpaceMatrix:
        return self._combined(other, 1.0)

    def __sub__(self, other: RealSpaceMatrix) -> RealSpaceMatrix:
        return self._combined(other, -1.0)

    def __mul__(self, factor: float) -> RealSpaceMatrix:
        if not np.isscalar(factor):
            return NotImplemented
        return replace(self, entries=self.entries * factor)

    __rmul__ = __mul__

    def __neg__(self) -> RealSpaceMatrix:
        return self * -1.0


def gauge_shift(hamiltonian: RealSpaceMatrix, overlap: RealSpaceMatrix) -> float:
    """The μ (eV) that minimises |H - μ S|² over all entries: μ = ⟨H, S⟩ / ⟨S, S⟩; S of the spin of H."""
    s = overlap.on(overlap.pairs.union(hamiltonian.pairs))
    h = hamiltonian.on(s.pairs)
    return float(np.sum(np.real(h.entries * s.entries)) / np.sum(np.abs(s.entries) ** 2))
