"""The Chebyshev recursion of `ase_deeph.sparse.recursion` compiled by JAX, on its default device, in double precision.

S^-1 is dense or a polynomial, never a factorisation.  A sparse matrix is JAX's BCSR on a CPU, whose product is
as fast as SciPy's; elsewhere its rows are padded to one length and multiplied slot by slot, in memory of one block.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse as sp
from jax.experimental.sparse import BCSR

from ase_deeph.sparse.inverse import Polynomial
from ase_deeph.sparse.polynomials import MatrixFunction
from ase_deeph.sparse.recursion import Recursion


class _Padded(NamedTuple):
    """Rows (n_slots, n) of elements and their columns, zeros at the end."""

    data: jax.Array
    columns: jax.Array

    def __matmul__(self, x: jax.Array) -> jax.Array:
        def add(slot: jax.Array, total: jax.Array) -> jax.Array:
            return total + self.data[slot][:, None] * x[self.columns[slot]]

        return jax.lax.fori_loop(0, len(self.data), add, jnp.zeros_like(x))


_Sparse = BCSR | _Padded


class _Function(NamedTuple):
    """Chebyshev coefficients on [low, high]."""

    low: jax.Array
    high: jax.Array
    coefficients: jax.Array


class _Parts(NamedTuple):
    """Arrays of one pencil; None where S = 1, where S^-1 H is dense, or where S^-1 has no local part."""

    s: _Sparse | None
    h: _Sparse | None
    dense: jax.Array | None
    local: _Sparse | None
    inverse: _Function | None
    root: _Function | None
    center: jax.Array
    half_width: jax.Array


class JaxRecursion:
    """Moments of a pencil whose spectrum and S^-1 SciPy has prepared.

    Parameters
    ----------
    recursion : by SciPy, its S^-1 dense or polynomial.
    padded : rows of one length for the sparse matrices; None where the default device is no CPU.
    """

    def __init__(self, recursion: Recursion, *, padded: bool | None = None) -> None:
        self.center, self.half_width = recursion.center, recursion.half_width
        self._start, self.traces = recursion.start, recursion.traces
        self._dtype = np.result_type(recursion.h.dtype, recursion.s.dtype)
        padded = jax.default_backend() != "cpu" if padded is None else padded
        with jax.enable_x64(True):
            self._parts = _parts(recursion, self._dtype, padded)

    def moments(self, z: np.ndarray, n_moments: int, groups: np.ndarray | None) -> np.ndarray:
        """(n_vectors, n_curves, n_moments), as `Recursion.moments`."""
        parts = self._parts
        if parts.dense is not None:
            z = self._start(z)
        with jax.enable_x64(True):
            y = _root(parts, jnp.asarray(z.astype(self._dtype)))
            if groups is None:
                return np.array(_total(parts, y, n_moments).T[:, None, :])
            n_groups = int(groups.max()) + 1
            found = _projected(parts, y, jnp.asarray(groups), n_moments, n_groups)
            return np.array(found.transpose(2, 1, 0))


def _parts(recursion: Recursion, dtype: np.dtype, padded: bool) -> _Parts:
    def sparse(m: sp.csr_matrix) -> _Sparse:
        m = sp.csr_matrix(m.astype(dtype))
        return _padded(m) if padded else BCSR.from_scipy_sparse(m)

    scalars = jnp.asarray(recursion.center), jnp.asarray(recursion.half_width)
    if recursion.inverse is None:
        return _Parts(None, sparse(recursion.h), None, None, None, None, *scalars)
    if recursion.dense is not None:
        dense = jnp.asarray(recursion.dense.astype(dtype))
        return _Parts(sparse(recursion.s), None, dense, None, None, None, *scalars)
    inverse, root = recursion.inverse.inverse, recursion.inverse.root
    assert isinstance(inverse, Polynomial)
    assert isinstance(root, MatrixFunction)
    local = None if inverse.local is None else sparse(inverse.local)
    functions = _function(inverse.function), _function(root)
    return _Parts(sparse(recursion.s), sparse(recursion.h), None, local, *functions, *scalars)


def _padded(m: sp.csr_matrix) -> _Padded:
    n, lengths = m.shape[0], np.diff(m.indptr)
    shape = (max(int(lengths.max(initial=0)), 1), n)
    data, columns = np.zeros(shape, m.dtype), np.zeros(shape, np.int32)
    rows = np.repeat(np.arange(n), lengths)
    slots = np.arange(m.nnz) - np.repeat(m.indptr[:-1], lengths)
    data[slots, rows], columns[slots, rows] = m.data, m.indices
    return _Padded(jnp.asarray(data), jnp.asarray(columns))


def _function(f: MatrixFunction) -> _Function:
    return _Function(jnp.asarray(f.low), jnp.asarray(f.high), jnp.asarray(f.coefficients))


def _apply(f: _Function, left: _Sparse | None, s: _Sparse, x: jax.Array) -> jax.Array:
    """f(X S) x, or f(S) x without X."""

    def scaled(v: jax.Array) -> jax.Array:
        product = s @ v if left is None else left @ (s @ v)
        return (2 * product - (f.high + f.low) * v) / (f.high - f.low)

    def step(m: jax.Array, state: tuple) -> tuple:
        before, now, total = state
        before, now = now, 2 * scaled(now) - before
        return before, now, total + f.coefficients[m] * now

    total = f.coefficients[0] * x
    if len(f.coefficients) == 1:
        return total
    first = scaled(x)
    return jax.lax.fori_loop(2, len(f.coefficients), step, (x, first, total + f.coefficients[1] * first))[2]


def _metric(parts: _Parts, x: jax.Array) -> jax.Array:
    return x if parts.s is None else parts.s @ x


@jax.jit
def _root(parts: _Parts, z: jax.Array) -> jax.Array:
    """S^-1/2 z; where S is 1 or a dense root was applied, z."""
    if parts.root is None or parts.s is None:
        return z
    return _apply(parts.root, None, parts.s, z)


def _scaled(parts: _Parts, x: jax.Array) -> jax.Array:
    if parts.dense is not None:
        product = parts.dense @ x
    else:
        assert parts.h is not None
        product = parts.h @ x
        if parts.inverse is not None and parts.s is not None:
            product = product if parts.local is None else parts.local @ product
            product = _apply(parts.inverse, parts.local, parts.s, product)
    return (product - parts.center * x) / parts.half_width


def _dots(x: jax.Array, y: jax.Array) -> jax.Array:
    return jnp.real(jnp.sum(x.conj() * y, axis=0))


@partial(jax.jit, static_argnames="n_moments")
def _total(parts: _Parts, y: jax.Array, n_moments: int) -> jax.Array:
    """(n_moments, n_vectors), see `Recursion._total`."""
    first = _scaled(parts, y)
    s_y = _metric(parts, y)
    zeroth, one = _dots(y, s_y), _dots(first, s_y)

    def step(state: tuple[jax.Array, jax.Array], _: None) -> tuple:
        before, now = state
        s_now = _metric(parts, now)
        after = 2 * _scaled(parts, now) - before
        return (now, after), jnp.stack([2 * _dots(now, s_now) - zeroth, 2 * _dots(after, s_now) - one])

    rest: jax.Array
    _, rest = jax.lax.scan(step, (y, first), length=n_moments // 2 - 1)
    return jnp.concatenate([jnp.stack([zeroth, one]), rest.reshape(-1, y.shape[1])])


@partial(jax.jit, static_argnames=("n_moments", "n_groups"))
def _projected(parts: _Parts, y: jax.Array, groups: jax.Array, n_moments: int, n_groups: int) -> jax.Array:
    """(n_moments, n_groups, n_vectors), see `Recursion._projected`."""
    left = _metric(parts, y).conj()

    def by_group(x: jax.Array) -> jax.Array:
        return jax.ops.segment_sum(jnp.real(left * x), groups, n_groups)

    def step(state: tuple[jax.Array, jax.Array], _: None) -> tuple:
        before, now = state
        return (now, 2 * _scaled(parts, now) - before), by_group(now)

    rest: jax.Array
    _, rest = jax.lax.scan(step, (y, _scaled(parts, y)), length=n_moments - 1)
    return jnp.concatenate([by_group(y)[None], rest])
