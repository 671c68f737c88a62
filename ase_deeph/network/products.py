"""How exactly features are multiplied by weights: in full precision, or in an accelerator's faster products.

Only products of the features of atoms and edges with learnt weights (kind "elct") may be inexact.  Radial functions,
turns into frames, norms and couplings are always asked for in full precision, so that symmetries hold as ever.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Products = Literal["float32", "tf32", "bfloat16"]
_PRECISION = {"float32": jax.lax.Precision.HIGHEST, "tf32": jax.lax.Precision.HIGH}
_in_force: ContextVar[Products] = ContextVar("products", default="float32")


@contextmanager
def products(kind: Products) -> Iterator[None]:
    """Within the block `weighed` multiplies so; to be entered inside a traced function.

    Parameters
    ----------
    kind : "float32"; "tf32": 10 bits of mantissa stored, summed in float32, on devices that have such products; others,
        CPUs among them, multiply in float32 all the same; "bfloat16": 7 bits stored, summed in float32, on all devices
        (measured to be faster on a CPU with AMX; float32 features alone, no forward-mode derivative).

    Raises
    ------
    ValueError : another kind.
    """
    if kind not in get_args(Products):
        raise ValueError(f"products: expected {' or '.join(get_args(Products))}, received {kind!r}")
    token = _in_force.set(kind)
    try:
        yield
    finally:
        _in_force.reset(token)


def weighed(x: Float[Array, "*n rows"], weight: Float[Array, "rows columns"]) -> Float[Array, "*n columns"]:
    """x @ weight, as exact as the block around asks for; so are the two products of its gradient."""
    kind = _in_force.get()
    if kind == "bfloat16":
        return _rounded(x, weight)
    return jnp.matmul(x, weight, precision=_PRECISION[kind])


def rounded_einsum(subscripts: str, *factors: Array) -> Array:
    """einsum of factors rounded to bfloat16, summed in float32."""
    rounded = (factor.astype(jnp.bfloat16) for factor in factors)
    return jnp.einsum(subscripts, *rounded, preferred_element_type=jnp.float32)


@jax.custom_vjp
def _rounded(x: Float[Array, "*n rows"], weight: Float[Array, "rows columns"]) -> Float[Array, "*n columns"]:
    return rounded_einsum("...a,ab->...b", x, weight)


def _rounded_forward(x: Array, weight: Array) -> tuple[Array, tuple[Array, Array]]:
    return _rounded(x, weight), (x, weight)


def _rounded_backward(kept: tuple[Array, Array], slope: Array) -> tuple[Array, Array]:
    x, weight = kept
    n = math.prod(x.shape[:-1])
    rows, slopes = (a.reshape(n, a.shape[-1]) for a in (x, slope))
    return rounded_einsum("...b,ab->...a", slope, weight), rounded_einsum("na,nb->ab", rows, slopes)


_rounded.defvjp(_rounded_forward, _rounded_backward)
