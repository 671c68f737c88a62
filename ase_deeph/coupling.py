"""Coupling of shells: a block l1 ⊗ l2 of a matrix <-> its irreps L = |l1 - l2| ... l1 + l2 (Wigner-Eckart).

Block and irreps carry the same norm: B[m1, m2] = Σ_LM C(l1 m1 l2 m2 | L M) y_LM with orthogonal C.
The parity of an irrep under inversion is (-1)^(l1 + l2): "natural" when that equals (-1)^L, else "pseudo".
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property
from math import factorial, sqrt
from typing import Any

import numpy as np

Array = Any


def _complex_clebsch_gordan(l1: int, m1: int, l2: int, m2: int, L: int, M: int) -> float:
    """⟨l1 m1 l2 m2 | L M⟩ by Racah's formula (Varshalovich et al. 1988, eq. 8.2.1(3))."""
    if m1 + m2 != M or not abs(l1 - l2) <= L <= l1 + l2:
        return 0.0
    f = factorial
    square = (2 * L + 1) * f(L + l1 - l2) * f(L - l1 + l2) * f(l1 + l2 - L) / f(l1 + l2 + L + 1)
    square *= f(L + M) * f(L - M) * f(l1 - m1) * f(l1 + m1) * f(l2 - m2) * f(l2 + m2)
    total = 0.0
    for k in range(max(0, l2 - L - m1, l1 + m2 - L), min(l1 + l2 - L, l1 - m1, l2 + m2) + 1):
        below = f(k) * f(l1 + l2 - L - k) * f(l1 - m1 - k) * f(l2 + m2 - k)
        total += (-1) ** k / (below * f(L - l2 + m1 + k) * f(L - l1 - m2 + k))
    return sqrt(square) * total


def _real_from_complex(l: int) -> np.ndarray:
    """(2l+1, 2l+1) U with Y^real_m = Σ_m' U[m, m'] Y^complex_m' (complex ones with Condon-Shortley sign)."""
    u = np.zeros((2 * l + 1, 2 * l + 1), dtype=complex)
    u[l, l] = 1.0
    for m in range(1, l + 1):
        u[l + m, l + m], u[l + m, l - m] = (-1) ** m / sqrt(2), 1 / sqrt(2)
        u[l - m, l - m], u[l - m, l + m] = 1j / sqrt(2), -1j * (-1) ** m / sqrt(2)
    return u


@cache
def real_clebsch_gordan(l1: int, l2: int, L: int) -> np.ndarray:
    """C[m1, m2, M], shape (2l1+1, 2l2+1, 2L+1), for real harmonics; Σ_m1m2 C C = 1 for every M.

    Invariant under D_l1 ⊗ D_l2 ⊗ D_L of proper rotations; C(l2, l1, L) is its transpose times (-1)^(l1+l2+L).
    """
    table = np.zeros((2 * l1 + 1, 2 * l2 + 1, 2 * L + 1))
    for m1 in range(-l1, l1 + 1):
        for m2 in range(-l2, l2 + 1):
            if abs(m1 + m2) <= L:
                value = _complex_clebsch_gordan(l1, m1, l2, m2, L, m1 + m2)
                table[l1 + m1, l2 + m2, L + m1 + m2] = value
    u1, u2, u3 = _real_from_complex(l1), _real_from_complex(l2), _real_from_complex(L)
    rotated = np.einsum("am,bn,co,mno->abc", u1, u2, u3.conj(), table)
    return np.ascontiguousarray(rotated.real if (l1 + l2 + L) % 2 == 0 else rotated.imag)


@dataclass(frozen=True)
class BlockPath:
    """One irrep of a block: shells a and b (positions in the shell list) coupled to degree L."""

    a: int
    b: int
    L: int
    natural: bool


@dataclass(frozen=True)
class BlockCoupling:
    """The change of basis between a block over a list of shells and its irreps.

    Parameters
    ----------
    shells : angular momenta of rows and of columns alike.
    """

    shells: tuple[int, ...]

    @cached_property
    def paths(self) -> tuple[BlockPath, ...]:
        """Every (a, b, L), sorted by L, natural parity first: the order of the irreps."""
        found = [
            BlockPath(a, b, L, (la + lb + L) % 2 == 0)
            for a, la in enumerate(self.shells)
            for b, lb in enumerate(self.shells)
            for L in range(abs(la - lb), la + lb + 1)
        ]
        return tuple(sorted(found, key=lambda p: (p.L, not p.natural, p.a, p.b)))

    @property
    def l_max(self) -> int:
        """Largest L, twice the largest l."""
        return 2 * max(self.shells)

    @property
    def n_orbitals(self) -> int:
        """Rows of a block."""
        return sum(2 * l + 1 for l in self.shells)

    @cached_property
    def path_of_component(self) -> np.ndarray:
        """(n_orbitals²,) which path each irrep component belongs to."""
        return np.concatenate([np.full(2 * p.L + 1, n, dtype=np.int32) for n, p in enumerate(self.paths)])

    @cached_property
    def matrix(self) -> np.ndarray:
        """(n_orbitals², n_orbitals²) orthogonal T: irreps = T · ravel(block)."""
        n = self.n_orbitals
        ends = np.cumsum([2 * l + 1 for l in self.shells])
        starts = ends - [2 * l + 1 for l in self.shells]
        rows = []
        for path in self.paths:
            la, lb = self.shells[path.a], self.shells[path.b]
            part = np.zeros((2 * path.L + 1, n, n))
            part[:, starts[path.a] : ends[path.a], starts[path.b] : ends[path.b]] = np.moveaxis(
                real_clebsch_gordan(la, lb, path.L), -1, 0
            )
            rows.append(part.reshape(2 * path.L + 1, n * n))
        return np.concatenate(rows)

    def to_irreps(self, blocks: Array) -> Array:
        """(..., n, n) blocks -> (..., n²) irrep components in the order of `paths`, m = -L ... L inside each."""
        flat = blocks.reshape(*blocks.shape[:-2], -1)
        return flat @ self.matrix.T.astype(blocks.dtype)

    def to_block(self, irreps: Array) -> Array:
        """(..., n²) irrep components -> (..., n, n) blocks, the inverse of `to_irreps`."""
        flat = irreps @ self.matrix.astype(irreps.dtype)
        return flat.reshape(*irreps.shape[:-1], self.n_orbitals, self.n_orbitals)
