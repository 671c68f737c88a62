"""Blocks between cells along one direction: H(R) summed over the transverse cells, grouped to principal layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.linalg as sl

from ase_deeph.bloch import BlochSum

_NONE = np.zeros(0, dtype=int)


def phase_factors(cells: np.ndarray, k: Sequence[float] | np.ndarray) -> np.ndarray:
    """(n_cells,) exp(+2πi k·R) for integer cells (n_cells, 3); real where every phase is ±1 or k is 0."""
    factors = BlochSum(_NONE, _NONE, _NONE, np.asarray(cells), 0).phases(np.asarray(k, dtype=float))
    return as_real(factors)


def as_real(matrix: np.ndarray) -> np.ndarray:
    """The real part where the imaginary part is rounding: real arithmetic is twice as fast."""
    if not np.iscomplexobj(matrix):
        return matrix
    scale = max(1.0, float(np.abs(matrix.real).max(initial=0.0)))
    return matrix.real.copy() if float(np.abs(matrix.imag).max(initial=0.0)) < 1e-15 * scale else matrix


@dataclass(frozen=True, eq=False)
class Layer:
    """One principal layer of a lead and its coupling to the next: x1 = ⟨layer n|X|layer n+1⟩.

    Parameters
    ----------
    h0, h1 : (n, n) eV.
    s0, s1 : (n, n) dimensionless.
    """

    h0: np.ndarray
    h1: np.ndarray
    s0: np.ndarray
    s1: np.ndarray

    def pencil(self, energy: float) -> tuple[np.ndarray, np.ndarray]:
        """H - E S of the layer and of its coupling."""
        return self.h0 - energy * self.s0, self.h1 - energy * self.s1

    def overlap_at(self, phase: float) -> np.ndarray:
        """S of a Bloch state whose phase grows by `phase` radians from layer to layer."""
        hop = self.s1 * np.exp(1j * phase)
        return self.s0 + hop + hop.conj().T


@dataclass(frozen=True, eq=False)
class CellBlocks:
    """H_r and S_r = ⟨cell 0|·|cell r⟩ along the transport direction, at one transverse k and one spin.

    Parameters
    ----------
    r : (n_r,) integers, symmetric about 0.
    h, s : (n_r, N, N) eV and dimensionless.
    """

    r: np.ndarray
    h: np.ndarray
    s: np.ndarray

    @property
    def n(self) -> int:
        """Orbitals of the primitive cell."""
        return int(self.h.shape[-1])

    @property
    def is_real(self) -> bool:
        """Whether H and S are real, so that E(-k) = E(k)."""
        return not (np.iscomplexobj(self.h) or np.iscomplexobj(self.s))

    @cached_property
    def _matrices_by_cell(self) -> dict[int, tuple[np.ndarray, np.ndarray]]:
        return {int(r): (h, s) for r, h, s in zip(self.r, self.h, self.s, strict=True)}

    def at_k(self, k: float) -> tuple[np.ndarray, np.ndarray]:
        """H(k) and S(k) at a fractional k along the direction: Σ_r exp(+2πi k r) X_r."""
        factors = phase_factors(np.outer(self.r, [1, 0, 0]), [k, 0.0, 0.0])
        return np.tensordot(factors, self.h, 1), np.tensordot(factors, self.s, 1)

    def eigenvalues(self, k: float) -> np.ndarray:
        """(N,) ascending levels in eV of H(k) c = e S(k) c.

        Raises
        ------
        ValueError : S(k) is not positive definite.
        """
        h, s = self.at_k(k)
        try:
            return sl.eigh(
                0.5 * (h + h.conj().T),
                0.5 * (s + s.conj().T),
                eigvals_only=True,
                check_finite=False,
                overwrite_a=True,
                overwrite_b=True,
            )
        except np.linalg.LinAlgError:
            raise ValueError(overlap_message(float(sl.eigvalsh(self.at_k(k)[1])[0]), k)) from None

    def reversed(self) -> CellBlocks:
        """The same cells counted in the opposite direction."""
        return CellBlocks(-self.r, self.h, self.s)

    def rehomed(self, home: np.ndarray) -> CellBlocks:
        """The blocks when orbital a is taken from cell home[a]: X'_ab(r) = X_ab(r + home[b] - home[a])."""
        move = home[None, :] - home[:, None]
        steps = np.unique(move)
        if np.array_equal(steps, [0]):
            return self
        reach = int(np.abs(self.r).max()) + int(np.abs(steps).max())
        wanted = np.arange(-reach, reach + 1)
        h = np.zeros((len(wanted), self.n, self.n), self.h.dtype)
        s = np.zeros((len(wanted), self.n, self.n), self.s.dtype)
        for step in steps:
            mask = move == step
            for place, r in enumerate(wanted):
                if int(r + step) in self._matrices_by_cell:
                    of_h, of_s = self._matrices_by_cell[int(r + step)]
                    h[place][mask], s[place][mask] = of_h[mask], of_s[mask]
        return CellBlocks(wanted, h, s)

    def reach(self, tolerance: float) -> int:
        """Cells over which the longest H or S block stretches."""
        sizes = np.maximum(np.abs(self.h).max(axis=(1, 2)), np.abs(self.s).max(axis=(1, 2)))
        return int(np.abs(self.r[sizes > tolerance]).max(initial=0))

    def principal_layer(self, n_cells: int) -> Layer:
        """n_cells primitive cells as one layer, coupled to the next one alone; farther blocks must be zero."""
        return Layer(
            self._assembled(0, n_cells, 0),
            self._assembled(0, n_cells, n_cells),
            self._assembled(1, n_cells, 0),
            self._assembled(1, n_cells, n_cells),
        )

    def _assembled(self, which: int, n_cells: int, distance: int) -> np.ndarray:
        dtype = (self.h, self.s)[which].dtype
        matrix = np.zeros((n_cells, self.n, n_cells, self.n), dtype)
        for row in range(n_cells):
            for column in range(n_cells):
                found = self._matrices_by_cell.get(column - row + distance)
                if found is not None:
                    matrix[row, :, column] = found[which]
        return matrix.reshape(n_cells * self.n, n_cells * self.n)


def overlap_message(smallest: float, k: float) -> str:
    """The error line for an overlap that is not positive definite."""
    return (
        f"lead overlap: expected a positive definite S(k), received smallest eigenvalue {smallest:.2e} at "
        f"k = {k:.4f}; check that S reaches as far as the orbitals overlap and that H and S share one basis"
    )
