"""Fourier-Bessel transforms of radial functions, and the two-centre integrals they give at any distance.

With F(q) = ∫ r² R(r) j_l(qr) dr the overlap of φ_a at the origin and φ_b at d is

    ⟨φ_a|φ_b(r - d)⟩ = Σ_L I_L(d) Σ_M G^{LM}_{ab} Y_LM(d̂),
    I_L(d) = 8 (-1)^((l_a - l_b - L)/2) ∫ q² F_a(q) F_b(q) j_L(qd) dq,

L = |l_a - l_b|, ... l_a + l_b by twos.  F of a function of finite range is entire, so the equidistant sum
over q is exact once its step is below 2π over (range of a + range of b + d).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache

import numpy as np

from ase_deeph.basis import GaussianRadial, GridRadial, RadialFunction
from ase_deeph.harmonics import degree_slice, real_harmonics

_GRID_Q_MAX = 80.0
_PANEL = 0.015
_GAUSS_POINTS = 4
_SERIES_BELOW = 2.0


def spherical_bessel(l_max: int, x: np.ndarray) -> np.ndarray:
    """j_l(x) for l = 0 ... l_max and x >= 0, shape (l_max + 1, *x.shape), to 1e-12 for l <= 8.

    Upward recursion j_{l+1} = (2l + 1)/x j_l - j_{l-1} where it is stable, the power series below.
    """
    x = np.asarray(x, dtype=float)
    values = np.empty((l_max + 1, *x.shape))
    small = x < _SERIES_BELOW + l_max / 2
    safe = np.where(small, 1.0, x)
    sine, cosine = np.sin(safe), np.cos(safe)
    values[0] = sine / safe
    if l_max:
        values[1] = (sine / safe - cosine) / safe
    for l in range(1, l_max):
        values[l + 1] = (2 * l + 1) / safe * values[l] - values[l - 1]
    near = x[small]
    for l in range(l_max + 1):
        values[l][small] = _bessel_series(l, near)
    return values


def _bessel_series(l: int, x: np.ndarray) -> np.ndarray:
    """j_l(x) = x^l Σ_k (-x²/2)^k / (k! (2l + 2k + 1)!!)."""
    term = x**l / math.prod(range(2 * l + 1, 0, -2))
    total = term.copy()
    for k in range(1, 22):
        term = term * (-0.5 * x * x) / (k * (2 * l + 2 * k + 1))
        total += term
    return total


def _quadrature(function: GridRadial) -> tuple[np.ndarray, np.ndarray]:
    """Gauss-Legendre nodes and weights on panels that end at knots of the radial spline."""
    wanted = np.arange(0.0, function.cutoff, _PANEL)
    edges = np.unique(np.append(function.r[np.searchsorted(function.r, wanted)], function.cutoff))
    x, w = np.polynomial.legendre.leggauss(_GAUSS_POINTS)
    half = 0.5 * np.diff(edges)[:, None]
    return (edges[:-1, None] + half * (x + 1)).ravel(), (half * w).ravel()


def transform(function: RadialFunction, q: np.ndarray) -> np.ndarray:
    """F(q) = ∫ r² R(r) j_l(qr) dr in Å^(3/2), for q in Å^-1; closed form for Gaussians."""
    l = function.l
    if isinstance(function, GaussianRadial):
        a = function.exponents
        weights = function.coefficients * math.sqrt(math.pi) / (2 ** (l + 2) * a ** (l + 1.5))
        return q**l * (np.exp(-np.multiply.outer(q * q, 0.25 / a)) @ weights)
    r, w = _quadrature(function)
    return spherical_bessel(l, np.multiply.outer(q, r))[l] @ (w * r * r * function(r))


def raised_transform(function: RadialFunction, degree: int, q: np.ndarray) -> np.ndarray:
    """∫ r² [r R(r)] j_degree(qr) dr in Å^(5/2) for degree = l ± 1: the transform of a shell of r times φ.

    For Gaussians and degree = l - 1, r² exp(-a r²) is -d/da of exp(-a r²), and so are the transforms.
    """
    if isinstance(function, GridRadial):
        r, w = _quadrature(function)
        return spherical_bessel(degree, np.multiply.outer(q, r))[degree] @ (w * r**3 * function(r))
    if degree > function.l:
        return transform(GaussianRadial(degree, function.exponents, function.coefficients), q)
    a = function.exponents
    falling = np.exp(-np.multiply.outer(q * q, 0.25 / a))
    factor = (degree + 1.5) / a - np.multiply.outer(q * q, 0.25 / a**2)
    weights = function.coefficients * math.sqrt(math.pi) / (2 ** (degree + 2) * a ** (degree + 1.5))
    return q**degree * ((falling * factor) @ weights)


def largest_wavevector(functions: Sequence[RadialFunction]) -> float:
    """q (Å^-1) beyond which the transforms are negligible."""
    gaussians = [f.exponents.max() for f in functions if isinstance(f, GaussianRadial)]
    numerical = [_GRID_Q_MAX for f in functions if isinstance(f, GridRadial)]
    return max([*numerical, *(math.sqrt(4 * 40.0 * a) for a in gaussians)])


@cache
def gaunt(l_a: int, l_b: int, L: int) -> np.ndarray:
    """G[m_a, m_b, M] = ∫ Y_{l_a m_a} Y_{l_b m_b} Y_LM over the sphere, by exact quadrature."""
    degree = l_a + l_b + L
    z, w = np.polynomial.legendre.leggauss(degree // 2 + 1)
    phi = 2 * np.pi * np.arange(degree + 1) / (degree + 1)
    rho = np.sqrt(1 - z * z)
    points = np.stack(
        [np.outer(rho, np.cos(phi)), np.outer(rho, np.sin(phi)), np.outer(z, np.ones_like(phi))], axis=-1
    ).reshape(-1, 3)
    weights = np.repeat(w, degree + 1) * 2 * np.pi / (degree + 1)
    harmonics = real_harmonics(max(l_a, l_b, L), points)
    parts = [harmonics[:, degree_slice(l)] for l in (l_a, l_b, L)]
    values = np.einsum("p,pa,pb,pM->abM", weights, *parts)
    return np.where(np.abs(values) < 1e-14, 0.0, values)


def coupled_degrees(l_a: int, l_b: int) -> range:
    """L = |l_a - l_b|, ... l_a + l_b by twos: those that parity allows."""
    return range(abs(l_a - l_b), l_a + l_b + 1, 2)


def radial_integrals(
    row_transforms: np.ndarray,
    col_transforms: np.ndarray,
    l_a: int,
    l_b: int,
    q: np.ndarray,
    bessel: np.ndarray,
) -> np.ndarray:
    """I_L(d) of all pairs of functions with l_a and l_b.

    Parameters
    ----------
    row_transforms, col_transforms : (n_rows, n_q), (n_cols, n_q) F(q) on the equidistant q (from 0).
    bessel : (L_max + 1, n_q, n_d) j_L(q d).

    Returns
    -------
    (n_L, n_rows, n_cols, n_d)
    """
    step = q[1] - q[0]
    products = row_transforms[:, None] * col_transforms[None, :] * (q * q * step)
    signs = [(-1.0) ** ((l_a - l_b - L) // 2) for L in coupled_degrees(l_a, l_b)]
    return np.stack(
        [8 * sign * (products @ bessel[L]) for sign, L in zip(signs, coupled_degrees(l_a, l_b), strict=True)]
    )
