"""Derivatives of a network's H with respect to the positions of the atoms, forwards and backwards; pure functions.

An atom moves with all its images.  H depends on the vectors of the pairs alone, d = x_j + R·cell - x_i, so that a
displacement u changes them by u_j - u_i.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ase_deeph.graph import CrystalGraph

Apply = Callable[..., Any]


def _of_vectors(apply: Apply, params: Mapping[str, Any], statistics: Any, graph: CrystalGraph) -> Apply:
    return lambda vectors: apply(params, statistics, graph.replace(vectors=vectors))  # type: ignore[attr-defined]


def pushforward(
    apply: Apply,
    params: Mapping[str, Any],
    statistics: Any,
    graph: CrystalGraph,
    displacements: Float[Array, "n atoms 3"],
) -> Float[Array, "n pairs M M"]:
    """Σ_a u_a · ∂H/∂x_a (eV/Å for u without a unit) of n displacements u; H itself is computed once."""
    graph = jax.tree.map(jnp.asarray, graph)
    tangents = displacements[:, graph.j] - displacements[:, graph.i]
    blocks = _of_vectors(apply, params, statistics, graph)
    return jax.vmap(lambda tangent: jax.jvp(blocks, (graph.vectors,), (tangent,))[1])(tangents)


def pullback(
    apply: Apply,
    params: Mapping[str, Any],
    statistics: Any,
    graph: CrystalGraph,
    cotangent: Float[Array, "pairs M M"],
) -> Float[Array, "atoms 3"]:
    """Σ W · ∂H/∂x of every atom: the gradient of Σ W·H over all entries, one backward pass whatever their number."""
    graph = jax.tree.map(jnp.asarray, graph)
    _, back = jax.vjp(_of_vectors(apply, params, statistics, graph), graph.vectors)
    (of_pairs,) = back(cotangent)
    n = graph.n_atoms
    return jax.ops.segment_sum(of_pairs, graph.j, n) - jax.ops.segment_sum(of_pairs, graph.i, n)
