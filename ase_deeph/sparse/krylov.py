"""Block shift-invert Krylov: the eigenpairs of H c = e S c nearest an energy σ.

The operator (H - σS)^-1 S is Hermitian in the inner product x† S y and has the eigenvalues 1 / (e - σ), so that
those nearest σ come first.  The basis grows by blocks, orthogonalised twice against all of it; when it is full the
best Ritz vectors are kept (thick restart; Wu and Simon, SIAM J. Matrix Anal. Appl. 22, 602).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.linalg as sl
import scipy.sparse as sp

from ase_deeph.sparse.factorisation import Factorisation

RESIDUAL = 1e-9
"""|H c - e S c| in eV at which a pair counts as found, with c† S c = 1."""
_BLOCK = 8
_MAX_RESTARTS = 30
_DEPENDENT = 1e-10


@dataclass(frozen=True, eq=False)
class Pairs:
    """Eigenpairs in ascending order.

    Parameters
    ----------
    energies : (n_states,) eV.
    coefficients : (n_orbitals, n_states), C† S C = 1.
    residuals : (n_states,) |H c - e S c|, eV.
    """

    energies: np.ndarray
    coefficients: np.ndarray
    residuals: np.ndarray

    def subset(self, kept: np.ndarray) -> Pairs:
        """Those that an index or mask selects."""
        return Pairs(self.energies[kept], self.coefficients[:, kept], self.residuals[kept])


class Krylov:
    """A growing Krylov space of one pencil around one energy.

    Parameters
    ----------
    h, s : (n, n) sparse Hermitian.
    energy : σ in eV.
    factors : of H - σS.
    start : (n, m) vectors to begin with (the states of a neighbouring k), random ones if None.
    """

    def __init__(
        self,
        h: sp.csr_matrix,
        s: sp.csr_matrix,
        energy: float,
        factors: Factorisation,
        start: np.ndarray | None = None,
    ) -> None:
        self._h, self._s, self._sigma, self._factors = h, s, energy, factors
        self._dtype = np.result_type(h.dtype, s.dtype)
        self._random = np.random.default_rng(20)
        n = h.shape[0]
        self._v, self._sv = np.zeros((n, 0), self._dtype), np.zeros((n, 0), self._dtype)
        self._projected = np.zeros((0, 0), self._dtype)
        self._next = self._orthonormal(self._noise(_BLOCK) if start is None else self._as_mine(start))

    def _as_mine(self, x: np.ndarray) -> np.ndarray:
        """Vectors of another k-point as a start, never too few."""
        if np.iscomplexobj(x) and not np.issubdtype(self._dtype, np.complexfloating):
            x = np.concatenate([x.real, x.imag], axis=1)
        x = x.astype(self._dtype)
        return x if x.shape[1] >= _BLOCK else np.concatenate([x, self._noise(_BLOCK - x.shape[1])], axis=1)

    def _noise(self, n_columns: int) -> np.ndarray:
        return self._random.standard_normal((self._h.shape[0], n_columns)).astype(self._dtype)

    def find(self, wanted: Callable[[np.ndarray], np.ndarray], n_expected: int) -> Pairs:
        """Eigenpairs among the Ritz values that `wanted` selects, once all of those have converged.

        Parameters
        ----------
        wanted : mask of the eigenvalues, (n,) in eV, that are asked for.
        n_expected : the search goes on until at least so many are found.

        Raises
        ------
        ValueError : not converged, or fewer than expected.
        """
        n = self._h.shape[0]
        largest = min(n, max(10 * _BLOCK, 3 * n_expected + 6 * _BLOCK, self._next.shape[1] * 2))
        pairs, complete = None, False
        if self._v.shape[1] >= n:
            pairs = self._ritz(wanted, n_expected)
            if len(pairs.energies) >= n_expected and bool(np.all(pairs.residuals < RESIDUAL)):
                return pairs
        for _ in range(_MAX_RESTARTS):
            while self._v.shape[1] + self._next.shape[1] <= largest and self._next.shape[1]:
                self._grow()
                if self._v.shape[1] >= min(n, n_expected):
                    pairs = self._ritz(wanted, n_expected)
                    complete = len(pairs.energies) >= n_expected and bool(np.all(pairs.residuals < RESIDUAL))
                    if complete:
                        return pairs
            if self._v.shape[1] >= n:
                break
            if not self._next.shape[1]:
                self.enrich()
            self._restart(max(n_expected + _BLOCK, largest // 2))
        found = 0 if pairs is None else int(np.sum(pairs.residuals < RESIDUAL))
        raise ValueError(
            f"states near {self._sigma:.4f} eV: {found} of {n_expected} found to {RESIDUAL:.0e} eV; "
            "ask for fewer states or move the energy"
        )

    def enrich(self) -> None:
        """A random block into the next step, against states the space has no part in."""
        self._next = self._orthonormal(np.concatenate([self._next, self._noise(_BLOCK)], axis=1))

    def _grow(self) -> None:
        """One block more: V gets the next block Q, the projected operator V† S OP V its rows and columns."""
        q = self._next
        sq = self._s @ q
        self._v, self._sv = np.concatenate([self._v, q], axis=1), np.concatenate([self._sv, sq], axis=1)
        w = self._factors.solve(sq).reshape(q.shape)
        new = self._sv.conj().T @ w
        m = self._projected.shape[0]
        grown = np.zeros((new.shape[0],) * 2, self._dtype)
        grown[:m, :m] = self._projected
        grown[:, m:] = new
        grown[m:, :m] = new[:m].conj().T
        self._projected = 0.5 * (grown + grown.conj().T)
        self._next = self._orthonormal(w)

    def _orthonormal(self, w: np.ndarray) -> np.ndarray:
        """S-orthonormal part of W outside V; directions that vanish are left out."""
        for _ in range(2):
            w = w - self._v @ (self._sv.conj().T @ w)
            lengths = np.sqrt(np.maximum(np.real(np.sum(w.conj() * (self._s @ w), axis=0)), 0.0))
            w = w[:, lengths > 0] / lengths[lengths > 0]
            gram = w.conj().T @ (self._s @ w)
            values, vectors = sl.eigh(0.5 * (gram + gram.conj().T))
            kept = values > _DEPENDENT * max(float(values[-1]), 1e-300) if len(values) else values > 0
            w = w @ (vectors[:, kept] / np.sqrt(values[kept]))
        return w[:, : max(self._h.shape[0] - self._v.shape[1], 0)]

    def _ritz(self, wanted: Callable[[np.ndarray], np.ndarray], n_expected: int) -> Pairs:
        """The wanted pairs of the space, by Rayleigh-Ritz with H itself after one more solve each."""
        theta, y = sl.eigh(self._projected)
        energies = self._sigma + 1 / np.where(theta == 0, 1e-300, theta)
        mask = wanted(energies)
        if int(mask.sum()) < n_expected:
            nearest = np.argsort(np.abs(energies - self._sigma))[:n_expected]
            mask[nearest] = True
        order = np.nonzero(mask)[0][np.argsort(energies[mask])]
        pairs = self._checked(energies[order], self._v @ y[:, order])
        return pairs.subset(wanted(pairs.energies))

    def _checked(self, energies: np.ndarray, x: np.ndarray) -> Pairs:
        residuals = np.linalg.norm(self._h @ x - (self._s @ x) * energies, axis=0)
        return Pairs(energies, x, residuals)

    def _restart(self, n_kept: int) -> None:
        """Keep the Ritz vectors nearest σ."""
        theta, y = sl.eigh(self._projected)
        best = np.sort(np.argsort(-np.abs(theta))[:n_kept])
        self._v, self._sv = self._v @ y[:, best], self._sv @ y[:, best]
        self._projected = np.diag(theta[best]).astype(self._dtype)
        self._next = self._orthonormal(self._next)
