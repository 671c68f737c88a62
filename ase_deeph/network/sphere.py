"""Products of functions on the sphere: spherical-harmonic coefficients -> points, multiply, and back, exactly.

The product of functions of degree up to L has, back in degrees up to L, integrals over polynomials; a
quadrature that is exact for their degree makes the map exactly equivariant, inversion included.
"""

from __future__ import annotations

from functools import cache

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ase_deeph.harmonics import real_harmonics

Coefficients = Float[Array, "atoms components channels"]


@cache
def _tables(l_max: int, n_factors: int) -> tuple[np.ndarray, np.ndarray]:
    """(components, points) and (points, components): to a grid and back; one after the other is the identity.

    Gauss-Legendre in z, equal angles in φ; exact for a product of n_factors functions with a harmonic.
    """
    degree = (n_factors + 1) * l_max
    z, share = np.polynomial.legendre.leggauss(degree // 2 + 1)
    phi = 2 * np.pi * np.arange(degree + 1) / (degree + 1)
    rho = np.sqrt(1.0 - z * z)
    points = np.stack(
        [np.outer(rho, np.cos(phi)), np.outer(rho, np.sin(phi)), np.outer(z, np.ones_like(phi))], axis=-1
    ).reshape(-1, 3)
    weights = np.repeat(share * 2 * np.pi / (degree + 1), degree + 1)
    harmonics = real_harmonics(l_max, points)
    unit = np.sqrt(4 * np.pi) / (l_max + 1)
    return unit * harmonics.T, weights[:, None] * harmonics / unit


def on_sphere(
    coefficients: Coefficients, l_max: int, n_factors: int
) -> Float[Array, "atoms points channels"]:
    """Values at the points; of unit variance for coefficients of unit variance."""
    table = _tables(l_max, n_factors)[0].astype(coefficients.dtype)
    return jnp.einsum("sg,nsc->ngc", table, coefficients)


def from_sphere(values: Float[Array, "atoms points channels"], l_max: int, n_factors: int) -> Coefficients:
    """The coefficients of degrees 0 ... l_max of a product of up to n_factors functions."""
    table = _tables(l_max, n_factors)[1].astype(values.dtype)
    return jnp.einsum("gs,ngc->nsc", table, values)
