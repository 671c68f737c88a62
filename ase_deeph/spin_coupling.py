"""Coupling of shells and spin: (l1 ⊗ l2) ⊗ 1 of the three matrices A_x, A_y, A_z before σ <-> irreps J.

A Hamiltonian with spin is H = A_0 ⊗ 1 + Σ_s A_s ⊗ σ_s.  σ is an axial vector: under a proper rotation A_s turns as
block and vector together, under inversion it gains (-1)^(l1 + l2) as A_0 does.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ase_deeph.coupling import BlockCoupling, BlockPath, real_clebsch_gordan

Array = Any

VECTOR_ORDER = (1, 2, 0)
"""Which Cartesian component is each component of degree 1: (y, z, x)."""


@dataclass(frozen=True)
class SpinCoupling:
    """The change of basis between (3, n, n) blocks A_s over a list of shells and their irreps.

    Parameters
    ----------
    shells : angular momenta of rows and of columns alike.
    """

    shells: tuple[int, ...]

    @cached_property
    def _paths_and_degrees(self) -> tuple[tuple[BlockPath, int], ...]:
        """Every path (its L is the degree J of the whole) with the position of the block's own path."""
        found = [
            (BlockPath(p.a, p.b, J, (self.shells[p.a] + self.shells[p.b] + J) % 2 == 0), n)
            for n, p in enumerate(self._blocks.paths)
            for J in range(abs(p.L - 1), p.L + 2)
        ]
        return tuple(sorted(found, key=lambda f: (f[0].L, not f[0].natural, f[0].a, f[0].b, f[1])))

    @cached_property
    def _blocks(self) -> BlockCoupling:
        return BlockCoupling(self.shells)

    @property
    def paths(self) -> tuple[BlockPath, ...]:
        """Every (a, b, J), sorted by J, natural parity first: the order of the irreps."""
        return tuple(path for path, _ in self._paths_and_degrees)

    @property
    def l_max(self) -> int:
        """Largest J, twice the largest l and one."""
        return self._blocks.l_max + 1

    @property
    def n_orbitals(self) -> int:
        """Rows of a block."""
        return self._blocks.n_orbitals

    @cached_property
    def path_of_component(self) -> np.ndarray:
        """(3 n_orbitals²,) which path each irrep component belongs to."""
        return np.concatenate([np.full(2 * p.L + 1, n, dtype=np.int32) for n, p in enumerate(self.paths)])

    @cached_property
    def matrix(self) -> np.ndarray:
        """(3 n_orbitals², 3 n_orbitals²) orthogonal T: irreps = T · ravel(A_x, A_y, A_z)."""
        blocks, n = self._blocks, self.n_orbitals**2
        rows = []
        for path, of_block in self._paths_and_degrees:
            members = blocks.matrix[blocks.path_of_component == of_block]
            L = blocks.paths[of_block].L
            mixed = np.einsum("msM,mb->Msb", real_clebsch_gordan(L, 1, path.L), members)
            part = np.zeros_like(mixed)
            part[:, VECTOR_ORDER, :] = mixed
            rows.append(part.reshape(2 * path.L + 1, 3 * n))
        return np.concatenate(rows)

    def to_irreps(self, blocks: Array) -> Array:
        """(..., 3, n, n) blocks -> (..., 3 n²) irrep components in the order of `paths`, m = -J ... J inside each."""
        flat = blocks.reshape(*blocks.shape[:-3], -1)
        return flat @ self.matrix.T.astype(blocks.dtype)

    def to_block(self, irreps: Array) -> Array:
        """(..., 3 n²) irrep components -> (..., 3, n, n) blocks, the inverse of `to_irreps`."""
        flat = irreps @ self.matrix.astype(irreps.dtype)
        return flat.reshape(*irreps.shape[:-1], 3, self.n_orbitals, self.n_orbitals)
