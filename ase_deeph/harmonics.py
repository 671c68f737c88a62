"""Real spherical harmonics in the house order, rotations of orbitals, and edge-aligned frames.

Order inside l: m = -l ... +l, real harmonics without Condon-Shortley sign, so that l = 1 is (y, z, x).
m > 0 goes as cos(mφ), m < 0 as sin(|m|φ), φ about z.  A rotation Q acts on functions as
Y(Q r) = D(Q) Y(r); vectors of coefficients transform with the same D.

The functions of arrays work on NumPy and on JAX arrays alike.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np

Array = Any


def degree_slice(l: int) -> slice:
    """Components of degree l in an array over all degrees 0 ... l_max."""
    return slice(l * l, (l + 1) ** 2)


def _namespace(array: Array) -> Any:
    if isinstance(array, np.ndarray):
        return np
    import jax.numpy as jnp

    return jnp


def _normalisation(l: int, m: int) -> float:
    ratio = math.factorial(l - m) / math.factorial(l + m)
    return math.sqrt((2 * l + 1) / (4 * math.pi) * ratio * (2 if m else 1))


def real_harmonics(l_max: int, unit_vectors: Array) -> Array:
    """Y_lm(r̂) for l = 0 ... l_max, orthonormal on the sphere.

    Y_lm = N_lm P̃_l^m(z) Re (x + iy)^m for m >= 0 and Im (x + iy)^|m| for m < 0, where P̃_l^m(z) is the
    associated Legendre function divided by sin^m θ: a polynomial, so that nothing is singular at the poles.

    Parameters
    ----------
    unit_vectors : (..., 3) NumPy or JAX.

    Returns
    -------
    (..., (l_max + 1)²)
    """
    xp = _namespace(unit_vectors)
    x, y, z = unit_vectors[..., 0], unit_vectors[..., 1], unit_vectors[..., 2]
    cosines, sines = [xp.ones_like(x)], [xp.zeros_like(x)]
    for _ in range(l_max):
        c, s = cosines[-1], sines[-1]
        cosines.append(x * c - y * s)
        sines.append(x * s + y * c)
    columns: dict[tuple[int, int], Array] = {}
    for m in range(l_max + 1):
        below, here = None, xp.ones_like(z) * math.prod(range(2 * m - 1, 0, -2))
        for l in range(m, l_max + 1):
            if l > m:
                previous = 0.0 if below is None else (l + m - 1) * below
                below, here = here, ((2 * l - 1) * z * here - previous) / (l - m)
            scaled = _normalisation(l, m) * here
            columns[l, m] = scaled * cosines[m]
            if m:
                columns[l, -m] = scaled * sines[m]
    return xp.stack([columns[l, m] for l in range(l_max + 1) for m in range(-l, l + 1)], axis=-1)


@cache
def _design_points(l: int) -> tuple[np.ndarray, np.ndarray]:
    """Points on the sphere and the pseudo-inverse of Y_l there."""
    points = np.random.default_rng(7).normal(size=(8 * (2 * l + 1) + 8, 3))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    return points, np.linalg.pinv(real_harmonics(l, points)[:, degree_slice(l)])


def rotation_of_degree(l: int, rotation: np.ndarray) -> np.ndarray:
    """D_l(Q), shape (2l+1, 2l+1) float64, for an orthogonal 3×3 matrix Q, improper ones included.

    Fitted to Y_l(Q r) = D_l(Q) Y_l(r) on more points than unknowns, exact to about 1e-14.
    """
    points, inverse = _design_points(l)
    rotated = real_harmonics(l, points @ np.asarray(rotation, dtype=float).T)[:, degree_slice(l)]
    return (inverse @ rotated).T


@cache
def generators(l: int) -> np.ndarray:
    """(3, 2l+1, 2l+1) G_a with D_l(turn by ω) = 1 + Σ_a ω_a G_a + ..., antisymmetric, float64."""
    m = np.arange(-l, l + 1)
    about_z = np.zeros((2 * l + 1, 2 * l + 1))
    about_z[l + m, l - m] = -m
    to_x = rotation_of_degree(l, np.array([[0.0, 0, 1], [1, 0, 0], [0, 1, 0]]))
    to_y = rotation_of_degree(l, np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]]))
    return np.stack([to_x @ about_z @ to_x.T, to_y @ about_z @ to_y.T, about_z])


def harmonics_gradient(l_max: int, unit_vectors: np.ndarray) -> np.ndarray:
    """(n, 3, (l_max + 1)²) |r| ∂Y_lm(r̂)/∂r of unit vectors (n, 3): Σ_a (r̂ × e_c)_a G_a Y_l."""
    values = real_harmonics(l_max, unit_vectors)
    turns = np.cross(unit_vectors[:, None], np.eye(3)[None])
    degrees = (
        np.einsum("nca,apq,nq->ncp", turns, generators(l), values[:, degree_slice(l)])
        for l in range(l_max + 1)
    )
    return np.concatenate(list(degrees), axis=2)


def rotation_of_shells(shells: tuple[int, ...], rotation: np.ndarray) -> np.ndarray:
    """Block-diagonal D(Q) for the orbitals of a list of shells, shape (n_orbitals, n_orbitals)."""
    from scipy.linalg import block_diag

    return block_diag(*(rotation_of_degree(l, rotation) for l in shells))


@cache
def _tilt_constants(l: int) -> np.ndarray:
    """(2(l+1), (2l+1)²) coefficients of cos kθ (first l+1 rows) and sin kθ in D_l(rotation by θ about y).

    The rotation about y is the rotation about z conjugated by the quarter turn K that takes z to y.
    """
    quarter = rotation_of_degree(l, np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]]))
    n = 2 * l + 1
    m = np.arange(-l, l + 1)
    rows = np.zeros((2, l + 1, n, n))
    for k in range(l + 1):
        rows[0, k] = np.diag((np.abs(m) == k).astype(float))
        if k:
            rows[1, k, l + k, l - k] = -1.0
            rows[1, k, l - k, l + k] = 1.0
    return (quarter @ rows @ quarter.T).reshape(2 * (l + 1), n * n)


def _multiples(c: Array, s: Array, l_max: int) -> tuple[Array, Array]:
    """cos(k t), sin(k t) for k = 0 ... l_max, shape (..., l_max+1), by recursion."""
    xp = _namespace(c)
    cosines, sines = [xp.ones_like(c)], [xp.zeros_like(s)]
    for _ in range(l_max):
        a, b = cosines[-1], sines[-1]
        cosines.append(c * a - s * b)
        sines.append(c * b + s * a)
    return xp.stack(cosines, axis=-1), xp.stack(sines, axis=-1)


def edge_rotations(l_max: int, unit_vectors: Array) -> list[Array]:
    """D_l(Q) for l = 0 ... l_max of the rotation Q = R_z(φ) R_y(θ) that takes ẑ to each direction r̂(θ, φ).

    Coefficients go into the edge's frame by D^T and out of it by D.  At the poles φ is taken as 0; the
    remaining freedom, a turn about the edge, is a symmetry of every SO(2) layer.

    Parameters
    ----------
    unit_vectors : (n, 3) NumPy or JAX.

    Returns
    -------
    list of (n, 2l+1, 2l+1)
    """
    xp = _namespace(unit_vectors)
    x, y, z = unit_vectors[:, 0], unit_vectors[:, 1], unit_vectors[:, 2]
    rho2 = x * x + y * y
    tilted = rho2 > 1e-14
    rho = xp.sqrt(xp.where(tilted, rho2, 1.0))
    cos_phi, sin_phi = xp.where(tilted, x / rho, 1.0), xp.where(tilted, y / rho, 0.0)
    cos_k_theta, sin_k_theta = _multiples(z, xp.where(tilted, rho, 0.0), l_max)
    cos_k_phi, sin_k_phi = _multiples(cos_phi, sin_phi, l_max)
    rotations = []
    for l in range(l_max + 1):
        n, m = 2 * l + 1, np.arange(-l, l + 1)
        waves = xp.concatenate([cos_k_theta[:, : l + 1], sin_k_theta[:, : l + 1]], axis=-1)
        tilt = (waves @ _tilt_constants(l).astype(waves.dtype)).reshape(-1, n, n)
        signed = sin_k_phi[:, np.abs(m)] * (-np.sign(m)).astype(waves.dtype)[None]
        rotations.append(cos_k_phi[:, np.abs(m), None] * tilt + signed[:, :, None] * tilt[:, ::-1])
    return rotations
