"""States of H c = e S c near an energy or in a window, proved complete by counting, with their band index.

The number of eigenvalues below E is the number of negative eigenvalues of H - E S (Sylvester's law, S > 0); the
counts at both ends of an interval say how many states it holds, and how many lie below it.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from ase_deeph.sparse.factorisation import (
    LARGEST_INVERSE,
    Engine,
    Factorisation,
    UnstableFactorisation,
    factorise,
    real_if_possible,
)
from ase_deeph.sparse.krylov import Krylov, Pairs

logger = logging.getLogger(__name__)

_DEGENERATE = 1e-5
"""Levels closer than this in eV are not separated by the edge of a window."""
_EXTRA = 4
_NUDGES = (0.0, 1e-6, -1e-6, 1e-4, -1e-4, 1e-3, -1e-3)
_LARGEST_SHIFTED = 1e4
"""Of |(H - σS)^-1| for a Krylov search: nearer an eigenvalue the others drown in its rounding errors."""
_RETRIES = 3


@dataclass(frozen=True, eq=False)
class States:
    """Consecutive eigenstates of one pencil.

    Parameters
    ----------
    energies : (n_states,) eV, ascending.
    coefficients : (n_orbitals, n_states), C† S C = 1.
    residuals : (n_states,) |H c - e S c| in eV.
    first_band : number of states below the first of these: the band index of energies[0], from 0.
    """

    energies: np.ndarray
    coefficients: np.ndarray
    residuals: np.ndarray
    first_band: int


@dataclass(frozen=True, eq=False)
class Pencil:
    """H and S of one k-point and spin, real where they can be.

    Parameters
    ----------
    h, s : (n, n) sparse Hermitian, eV and dimensionless.
    engine : see `ase_deeph.sparse.factorisation`.
    """

    h: sp.csr_matrix
    s: sp.csr_matrix
    engine: Engine = "auto"

    @classmethod
    def of(cls, h: sp.csr_matrix, s: sp.csr_matrix | None, engine: Engine = "auto") -> Pencil:
        """From H and S, None for the identity; the Hermitian parts are taken."""
        s = sp.identity(h.shape[0], format="csr") if s is None else s
        if h.shape != s.shape or h.shape[0] != h.shape[1]:
            raise ValueError(f"overlap: expected the Hamiltonian's shape {h.shape}, received {s.shape}")
        if not (np.all(np.isfinite(h.data)) and np.all(np.isfinite(s.data))):
            raise ValueError("H or S: expected finite numbers, received NaN or infinity")
        h, s = (real_if_possible(sp.csr_matrix(0.5 * (m + m.conj().T))) for m in (h, s))
        return cls(h, s, engine)

    def factorised(
        self, energy: float, largest_inverse: float = LARGEST_INVERSE, side: int = 0
    ) -> tuple[float, Factorisation]:
        """H - E S factorised, E moved by up to 1 meV where it lies on an eigenvalue; E and the factors.

        A side of -1 or 1 moves E only down or up: levels may lie closer than that, so that whoever counts has
        to count at the energy returned, and to have the levels up to the energy asked for.
        """
        for nudge in (n for n in _NUDGES if n * side >= 0):
            try:
                shifted = sp.csr_matrix(self.h - (energy + nudge) * self.s)
                return energy + nudge, factorise(shifted, self.engine, largest_inverse=largest_inverse)
            except UnstableFactorisation as error:
                reason = error
        raise reason

    def count_below(self, energy: float) -> int:
        """Number of states below an energy in eV, by one factorisation (on a level: below or above it)."""
        return self.factorised(energy)[1].n_negative

    def count_beside(self, energy: float, side: int) -> tuple[float, int]:
        """An energy, moved down (side -1) or up (1) where it lies on a level, and the states below that."""
        moved, factors = self.factorised(energy, side=side)
        return moved, factors.n_negative


def states_near(pencil: Pencil, energy: float, n_states: int, *, start: np.ndarray | None = None) -> States:
    """The n states nearest an energy, none missed.

    The Krylov search is checked by the counts on both sides of the interval that the states found fill; a state
    that it missed is searched for again.

    Parameters
    ----------
    energy : σ in eV.
    start : (n_orbitals, m) vectors to begin with, such as the states of a k-point nearby.

    Raises
    ------
    ValueError : more states than orbitals, no convergence, or counts that cannot be matched.
    """
    n = pencil.h.shape[0]
    if not 1 <= n_states <= n:
        raise ValueError(f"states: expected 1 to {n}, the orbitals, received {n_states}")
    n_found = min(n_states + _EXTRA, n)
    sigma, factors = pencil.factorised(energy, _LARGEST_SHIFTED)
    krylov = Krylov(pencil.h, pencil.s, sigma, factors, start)
    for _ in range(_RETRIES):
        pairs = krylov.find(_nearest(energy, n_found), n_found)
        radius = _separating_radius(np.abs(pairs.energies - energy), n_states, complete=n_found == n)
        if radius is None:
            n_found = min(2 * n_found, n)
            continue
        low, below = pencil.count_beside(energy - radius, -1)
        high, above = pencil.count_beside(energy + radius, 1)
        inside = pairs.subset((pairs.energies > low) & (pairs.energies < high))
        expected = above - below
        if len(inside.energies) == expected:
            return _chosen(inside, energy, n_states, below)
        logger.warning("%d states within %.6f eV of %.6f eV, %d found; searching again",
                       expected, radius, energy, len(inside.energies))  # fmt: skip
        krylov.enrich()
        n_found = min(n, n_found + max(expected - len(inside.energies), 0))
    raise ValueError(
        f"states near {energy:.4f} eV: those found do not match the count of states; ask for a few more states"
    )


def states_within(pencil: Pencil, low: float, high: float, *, start: np.ndarray | None = None) -> States:
    """All states between two energies, as many as the counts at both ends say.

    An end that lies on a level is counted up to 1 meV outside; states found there are left out again.

    Raises
    ------
    ValueError : an empty interval, or a state that the counts promise was not found.
    """
    if not low < high:
        raise ValueError(f"window: expected LOW < HIGH, received {low} {high}")
    ends = low, high
    low, below = pencil.count_beside(low, -1)
    high, above = pencil.count_beside(high, 1)
    expected = above - below
    if expected == 0:
        n, dtype = pencil.h.shape[0], np.result_type(pencil.h.dtype, pencil.s.dtype)
        return States(np.zeros(0), np.zeros((n, 0), dtype), np.zeros(0), below)
    sigma, factors = pencil.factorised(0.5 * (low + high), _LARGEST_SHIFTED)
    krylov = Krylov(pencil.h, pencil.s, sigma, factors, start)
    for _ in range(_RETRIES):
        pairs = krylov.find(lambda e: (e > low) & (e < high), expected)
        if len(pairs.energies) == expected:
            kept = (pairs.energies >= ends[0]) & (pairs.energies <= ends[1])
            below += int(np.sum(pairs.energies < ends[0]))
            pairs = pairs.subset(kept)
            return States(pairs.energies, pairs.coefficients, pairs.residuals, below)
        krylov.enrich()
    raise ValueError(
        f"window {low:.4f} to {high:.4f} eV: {expected} states counted, {len(pairs.energies)} found"
    )


class _nearest:
    """Mask of the n energies nearest one."""

    def __init__(self, energy: float, n: int) -> None:
        self._energy, self._n = energy, n

    def __call__(self, energies: np.ndarray) -> np.ndarray:
        mask = np.zeros(len(energies), dtype=bool)
        mask[np.argsort(np.abs(energies - self._energy))[: self._n]] = True
        return mask


def _separating_radius(distances: np.ndarray, n_states: int, *, complete: bool) -> float | None:
    """A radius with at least n states inside and none near it; None where the levels found do not show one."""
    distances = np.sort(distances)
    gaps = np.diff(distances)[n_states - 1 :]
    wide = np.nonzero(gaps > _DEGENERATE)[0]
    if len(wide):
        last = n_states - 1 + int(wide[0])
        return float(0.5 * (distances[last] + distances[last + 1]))
    return float(distances[-1]) + 1.0 if complete else None


def _chosen(inside: Pairs, energy: float, n_states: int, below: int) -> States:
    """The n nearest of a complete interval; they are consecutive."""
    kept = np.sort(np.argsort(np.abs(inside.energies - energy), kind="stable")[:n_states])
    pairs = inside.subset(kept)
    return States(pairs.energies, pairs.coefficients, pairs.residuals, below + int(kept[0]))
