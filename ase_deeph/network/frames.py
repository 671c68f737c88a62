"""Edge frames that can be differentiated: the turn of a direction moves its frame without twist, at the poles too.

A frame is known up to a turn about its edge, and everything computed in it is indifferent to that turn.  So the
derivative may be taken along any choice; here dQ = (r̂ × dr̂) × Q, which is smooth in every direction, while the
angles that the frame itself is made of are singular along ±z.
"""

from __future__ import annotations

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ase_deeph.harmonics import edge_rotations, rotation_of_degree

_TO_Y = np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])
_TO_X = np.array([[0.0, 0, 1], [1, 0, 0], [0, 1, 0]])


@cache
def generators(l: int) -> np.ndarray:
    """(3, 2l+1, 2l+1) G_a with D_l(turn by ω) = 1 + Σ_a ω_a G_a + ..., antisymmetric, float64."""
    m = np.arange(-l, l + 1)
    about_z = np.zeros((2 * l + 1, 2 * l + 1))
    about_z[l + m, l - m] = -m
    to_x, to_y = rotation_of_degree(l, _TO_X), rotation_of_degree(l, _TO_Y)
    return np.stack([to_x @ about_z @ to_x.T, to_y @ about_z @ to_y.T, about_z])


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def frame_rotations(l_max: int, directions: Float[Array, "n 3"]) -> list[Array]:
    """D_l of the frames of some unit vectors for l = 0 ... l_max, as `harmonics.edge_rotations` gives them.

    Derivatives of any order are right for whatever does not depend on a turn about the edge.
    """
    return edge_rotations(l_max, directions)


@frame_rotations.defjvp
def _without_twist(
    l_max: int, primals: tuple[Array], tangents: tuple[Array]
) -> tuple[list[Array], list[Array]]:
    """dD_l = (r̂ × dr̂) · G_l D_l."""
    (directions,), (change,) = primals, tangents
    rotations = frame_rotations(l_max, directions)
    turn = jnp.cross(directions, change)
    moved = []
    for l, rotation in enumerate(rotations):
        table = generators(l).astype(rotation.dtype)
        moved.append(jnp.einsum("na,abc,ncd->nbd", turn, table, rotation))
    return rotations, moved


def edge_directions(vectors: Float[Array, "n 3"], distance: Float[Array, " n"]) -> Float[Array, "n 3"]:
    """Unit vectors, (0, 0, 1) for a vector of no length, whose gradient is then zero."""
    safe = jnp.where(distance > 0, distance, 1.0)[:, None]
    north = jnp.array([0.0, 0.0, 1.0], dtype=vectors.dtype)
    return jnp.where(distance[:, None] > 0, vectors / safe, north[None])
