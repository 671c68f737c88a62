"""Edge frames that can be differentiated: the turn of a direction moves its frame without twist, at the poles too.

A frame is known up to a turn about its edge, and everything computed in it is indifferent to that turn.  So the
derivative may be taken along any choice; here dQ = (r̂ × dr̂) × Q, which is smooth in every direction, while the
angles that the frame itself is made of are singular along ±z.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ase_deeph.harmonics import edge_rotations, generators


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
