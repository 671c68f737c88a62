"""How exactly features are multiplied by weights: in full precision, or in an accelerator's faster products.

Only products of the features of atoms and edges with learnt weights (kind "elct") may be inexact.  Radial functions,
turns into frames, norms and couplings are always asked for in full precision, so that symmetries hold as ever.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Products = Literal["float32", "tf32"]
_PRECISION = {"float32": jax.lax.Precision.HIGHEST, "tf32": jax.lax.Precision.HIGH}
_in_force: ContextVar[Products] = ContextVar("products", default="float32")


@contextmanager
def products(kind: Products) -> Iterator[None]:
    """Within the block `weighed` multiplies so; to be entered inside a traced function.

    Parameters
    ----------
    kind : "float32", or "tf32": mantissas of 10 bits, summed in float32, on devices that have such products; others,
        CPUs among them, multiply in float32 all the same.

    Raises
    ------
    ValueError : another kind.
    """
    if kind not in _PRECISION:
        raise ValueError(f"products: expected {' or '.join(get_args(Products))}, received {kind!r}")
    token = _in_force.set(kind)
    try:
        yield
    finally:
        _in_force.reset(token)


def weighed(x: Float[Array, "*n rows"], weight: Float[Array, "rows columns"]) -> Float[Array, "*n columns"]:
    """x @ weight, as exact as the block around asks for; so are the two products of its gradient."""
    return jnp.matmul(x, weight, precision=_PRECISION[_in_force.get()])
