"""Tables of two-centre integrals over distance, and the blocks they give for any displacement vectors.

Every I_L(d) of two sets of radial functions (fourier.py) is held as one piecewise quintic polynomial on an
equidistant grid, so that a block costs one gather and one contraction with Gaunt coefficients and Y_LM(d̂).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from scipy.interpolate import make_interp_spline

from ase_deeph.basis import OrbitalBasis, RadialFunction
from ase_deeph.harmonics import degree_slice, real_harmonics
from ase_deeph.two_center.fourier import (
    coupled_degrees,
    gaunt,
    largest_wavevector,
    radial_integrals,
    raised_transform,
    spherical_bessel,
    transform,
)

Array = Any

_STEP = 0.025
_NEGLIGIBLE = 1e-11
_MARGIN = 8


@dataclass(frozen=True, eq=False)
class TwoCenterTable:
    """Two-centre integrals of row functions at the origin with column functions at d.

    Parameters
    ----------
    row_degrees, col_degrees : l of each radial function.
    step : grid spacing in Å.
    reach : distance in Å beyond which every integral is zero (below 1e-11).
    coefficients : (n_intervals + 1, 6, n_channels) of (d - d_n)^5 ... 1, the last interval zero; a channel
        is one (row function, column function, L), grouped by (l_row, l_col), then L, row, column.
    """

    row_degrees: tuple[int, ...]
    col_degrees: tuple[int, ...]
    step: float
    reach: float
    coefficients: np.ndarray

    @cached_property
    def degree_pairs(self) -> tuple[tuple[int, int], ...]:
        """The distinct (l_row, l_col), sorted."""
        return tuple((a, b) for a in sorted(set(self.row_degrees)) for b in sorted(set(self.col_degrees)))

    @cached_property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of a block."""
        return sum(2 * l + 1 for l in self.row_degrees), sum(2 * l + 1 for l in self.col_degrees)

    @cached_property
    def block_order(self) -> np.ndarray:
        """(rows * columns,) where each element of a block stands among the concatenated shell blocks."""
        n_rows, n_cols = self.shape
        element = np.arange(n_rows * n_cols).reshape(n_rows, n_cols)
        parts = []
        for a, b in self.degree_pairs:
            rows, cols = _orbitals_of(self.row_degrees, a), _orbitals_of(self.col_degrees, b)
            parts.append(element[np.ix_(rows.ravel(), cols.ravel())].ravel())
        return np.argsort(np.concatenate(parts))

    def radial(self, distances: Array, xp: Any = np) -> Array:
        """(n, n_channels) I_L(d) at distances (n,) in Å."""
        n_intervals = len(self.coefficients) - 1
        scaled = distances / self.step
        interval = xp.minimum(xp.floor(scaled), n_intervals).astype(int)
        local = (distances - interval * self.step)[:, None]
        pieces = xp.asarray(self.coefficients)[interval]
        value = pieces[:, 0]
        for power in range(1, 6):
            value = value * local + pieces[:, power]
        return value

    def blocks(self, vectors: Array, xp: Any = np) -> Array:
        """(n, rows, columns) integrals for displacement vectors (n, 3) in Å, NumPy or JAX arrays."""
        squared = xp.sum(vectors * vectors, axis=-1)
        apart = squared > 0
        distances = xp.where(apart, xp.sqrt(xp.where(apart, squared, 1.0)), 0.0)
        unit = vectors / xp.where(apart, distances, 1.0)[:, None]
        return self.contracted(self.radial(distances, xp), real_harmonics(self.L_max, unit), xp)

    @property
    def L_max(self) -> int:
        """Largest degree that two shells couple to."""
        return max(a + b for a, b in self.degree_pairs)

    def contracted(self, radial: Array, harmonics: Array, xp: Any = np) -> Array:
        """(n, rows, columns) from I_L (n, n_channels) and Y_LM (n, (L_max + 1)²)."""
        parts, start = [], 0
        for a, b in self.degree_pairs:
            shape = (self.row_degrees.count(a), self.col_degrees.count(b))
            part = 0.0
            for L in coupled_degrees(a, b):
                stop = start + shape[0] * shape[1]
                angular = harmonics[:, degree_slice(L)] @ gaunt(a, b, L).reshape(-1, 2 * L + 1).T
                strength = radial[:, start:stop].reshape(-1, shape[0], 1, shape[1], 1)
                part = part + strength * angular.reshape(-1, 1, 2 * a + 1, 1, 2 * b + 1)
                start = stop
            parts.append(part.reshape(len(radial), -1))  # type: ignore[attr-defined]
        flat = xp.concatenate(parts, axis=1)[:, self.block_order]
        return flat.reshape(-1, *self.shape)


def _orbitals_of(degrees: Sequence[int], l: int) -> np.ndarray:
    """(n_shells of l, 2l + 1) orbital indices."""
    starts = np.concatenate([[0], np.cumsum([2 * d + 1 for d in degrees])])[:-1]
    chosen = starts[[n for n, d in enumerate(degrees) if d == l]]
    return chosen[:, None] + np.arange(2 * l + 1)


def build_table(
    rows: Sequence[RadialFunction], cols: Sequence[RadialFunction], step: float = _STEP
) -> TwoCenterTable:
    """Tabulate the integrals of two sets of radial functions up to the sum of their ranges."""
    q, distances = _grids(rows, cols, step)
    row_transforms = np.stack([transform(f, q) for f in rows])
    col_transforms = np.stack([transform(f, q) for f in cols])
    sets = (tuple(f.l for f in rows), row_transforms), (tuple(f.l for f in cols), col_transforms)
    return _tabulated(*sets, q, distances)


def build_raised_table(
    rows: Sequence[RadialFunction], cols: Sequence[RadialFunction], step: float = _STEP
) -> TwoCenterTable:
    """Tabulate the integrals of the shells of r φ, row after row l - 1 (where there is one) and l + 1."""
    q, distances = _grids(rows, cols, step)
    shells = [(f, degree) for f in rows for degree in raised_degrees(f.l)]
    row_transforms = np.stack([raised_transform(f, degree, q) for f, degree in shells])
    col_transforms = np.stack([transform(f, q) for f in cols])
    sets = (tuple(degree for _, degree in shells), row_transforms), (tuple(f.l for f in cols), col_transforms)
    return _tabulated(*sets, q, distances)


def raised_degrees(l: int) -> tuple[int, ...]:
    """The degrees that a component of r couples with l: l - 1 and l + 1."""
    return (l - 1, l + 1) if l else (1,)


def _grids(
    rows: Sequence[RadialFunction], cols: Sequence[RadialFunction], step: float
) -> tuple[np.ndarray, np.ndarray]:
    """Equidistant q (Å^-1) fine enough for the ranges, and the distances (Å) of the table."""
    longest = max(f.cutoff for f in rows) + max(f.cutoff for f in cols)
    q_step = np.pi / (1.1 * longest + _MARGIN * step)
    q = np.arange(0.0, min(largest_wavevector(rows), largest_wavevector(cols)) + q_step, q_step)
    return q, step * np.arange(int(np.ceil(longest / step)) + _MARGIN)


def _tabulated(
    rows: tuple[tuple[int, ...], np.ndarray],
    cols: tuple[tuple[int, ...], np.ndarray],
    q: np.ndarray,
    distances: np.ndarray,
) -> TwoCenterTable:
    """The table of two sets of (degrees, transforms on q)."""
    (row_degrees, row_transforms), (col_degrees, col_transforms) = rows, cols
    bessel = spherical_bessel(max(row_degrees) + max(col_degrees), np.multiply.outer(q, distances))
    channels, parities = [], []
    for a in sorted(set(row_degrees)):
        for b in sorted(set(col_degrees)):
            chosen_rows = row_transforms[[n for n, l in enumerate(row_degrees) if l == a]]
            chosen_cols = col_transforms[[n for n, l in enumerate(col_degrees) if l == b]]
            values = radial_integrals(chosen_rows, chosen_cols, a, b, q, bessel)
            channels.append(values.reshape(-1, len(distances)))
            parities.extend([(-1.0) ** (a + b)] * len(channels[-1]))
    step = float(distances[1] - distances[0])
    return _interpolated(row_degrees, col_degrees, step, np.concatenate(channels), np.array(parities))


def _interpolated(
    row_degrees: tuple[int, ...],
    col_degrees: tuple[int, ...],
    step: float,
    values: np.ndarray,
    parities: np.ndarray,
) -> TwoCenterTable:
    """Quintic splines through the values, continued to d < 0 by parity so that the slope at 0 is right."""
    large = np.nonzero(np.abs(values).max(axis=0) > _NEGLIGIBLE)[0]
    last = min((large[-1] if len(large) else 0) + 1, values.shape[1] - 1)
    mirrored = (values * parities[:, None])[:, _MARGIN:0:-1]
    data = np.concatenate([mirrored, values], axis=1).T
    grid = step * np.arange(-_MARGIN, values.shape[1])
    spline = make_interp_spline(grid, data, k=5)
    coefficients = np.zeros((last + 1, 6, len(values)))
    for power in range(6):
        coefficients[:last, 5 - power] = spline(grid[_MARGIN : _MARGIN + last], nu=power) / math.factorial(
            power
        )
    coefficients[0, 5] = values[:, 0]
    coefficients.setflags(write=False)
    return TwoCenterTable(row_degrees, col_degrees, step, last * step, coefficients)


@lru_cache(maxsize=512)
def orbital_table(basis: OrbitalBasis, row: str, col: str) -> TwoCenterTable:
    """⟨orbitals of row|orbitals of col at d⟩, built once per process.

    Raises
    ------
    ValueError : a species carries no radial functions.
    """
    return build_table(_radial(basis, row), _radial(basis, col))


@lru_cache(maxsize=512)
def raised_table(basis: OrbitalBasis, row: str, col: str) -> TwoCenterTable:
    """⟨shells of r·(orbitals of row)|orbitals of col at d⟩ in Å, built once per process."""
    return build_raised_table(_radial(basis, row), _radial(basis, col))


@lru_cache(maxsize=512)
def projector_table(basis: OrbitalBasis, row: str, col: str) -> TwoCenterTable:
    """⟨PAW projectors of row|orbitals of col at d⟩, built once per process."""
    augmentation = basis[row].augmentation
    assert augmentation is not None
    return build_table(augmentation.projectors, _radial(basis, col))


@lru_cache(maxsize=512)
def delta_overlap_factor(basis: OrbitalBasis, symbol: str) -> tuple[np.ndarray, np.ndarray]:
    """W (n, n_projectors) and σ (n,) = ±1 with ΔO = W^T diag(σ) W over projectors with their m.

    Raises
    ------
    ValueError : ΔO is not symmetric or couples projector shells of different l.
    """
    augmentation = basis[symbol].augmentation
    assert augmentation is not None
    degrees = np.array([p.l for p in augmentation.projectors])
    delta = augmentation.delta_overlap
    foreign = degrees[:, None] != degrees[None, :]
    if np.any(delta[foreign]) or not np.allclose(delta, delta.T, rtol=0, atol=1e-10):
        raise ValueError(
            f"delta_overlap of {symbol}: expected a symmetric matrix that couples projectors of equal l "
            f"only, received {delta.tolist()} for l = {degrees.tolist()}"
        )
    values, vectors = np.linalg.eigh(0.5 * (delta + delta.T))
    starts = np.concatenate([[0], np.cumsum(2 * degrees + 1)])
    rows, signs = [], []
    for value, vector in zip(values, vectors.T, strict=True):
        l = int(degrees[np.argmax(np.abs(vector))])
        if abs(value) < 1e-14:
            continue
        part = np.zeros((2 * l + 1, starts[-1]))
        for p in np.nonzero(degrees == l)[0]:
            part[:, starts[p] : starts[p + 1]] = np.sqrt(abs(value)) * vector[p] * np.eye(2 * l + 1)
        rows.append(part)
        signs.append(np.full(2 * l + 1, np.sign(value)))
    if not rows:
        return np.zeros((0, starts[-1])), np.zeros(0)
    return np.concatenate(rows), np.concatenate(signs)


def _radial(basis: OrbitalBasis, symbol: str) -> Sequence[RadialFunction]:
    radial = basis[symbol].radial
    if radial is None:
        raise ValueError(
            f"overlap: the basis of {symbol} carries no radial functions, so S(R) cannot be computed; "
            "read them from the DFT code, or give the overlap matrix itself"
        )
    return radial
