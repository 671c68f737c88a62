"""H c = e S c for many dense matrices at once in JAX, double precision, and when that beats LAPACK one by one.

S = L L†, A = L^-1 H L^-†, A x = e x, c = L^-† x, each step batched.  Golub and Van Loan, Matrix Computations, 8.7.2.
"""

from __future__ import annotations

import logging
import time
from functools import cache, partial
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg as sl

logger = logging.getLogger(__name__)

DenseEngine = Literal["auto", "lapack", "jax"]
DENSE_ENGINES = ("auto", "lapack", "jax")
_BATCH_BYTES = 512e6
_COPIES = 8
_SAMPLE = 8


def chosen_engine(n: int, n_matrices: int, engine: DenseEngine = "auto", *, vectors: bool = False) -> str:
    """Which of "lapack" and "jax" is taken, logged for eight matrices or more.

    "auto" is LAPACK where JAX's default device is a CPU (its eigensolver there is LAPACK too, and computes the
    vectors in any case); on another device both are timed once per process and size class of n.

    Raises
    ------
    ValueError : an unknown name.
    """
    if engine not in DENSE_ENGINES:
        raise ValueError(f"engine: expected one of {', '.join(DENSE_ENGINES)}, received {engine!r}")
    if engine != "auto":
        name: str = engine
    elif jax.default_backend() == "cpu" or n_matrices < _SAMPLE:
        name = "lapack"
    else:
        name = _faster(1 << max(n - 1, 1).bit_length(), vectors)
    level = logging.INFO if n_matrices >= _SAMPLE else logging.DEBUG
    logger.log(level, "%d eigenproblems of %d orbitals by %s", n_matrices, n, name)
    return name


def batch_size(n: int) -> int:
    """Matrices of one batch, so that its arrays take about half a gigabyte."""
    return max(int(_BATCH_BYTES / (_COPIES * 16 * max(n, 1) ** 2)), 1)


def solve_batch(
    h: np.ndarray, s: np.ndarray | None, *, vectors: bool, smallest: float
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
    """All eigenpairs of each matrix.

    Parameters
    ----------
    h, s : (n_matrices, n, n) Hermitian; s None means the identity.
    smallest : 1 / cond(S) above which a matrix is trusted, by the bound |L^-1|² of Frobenius for |S^-1|.

    Returns
    -------
    energies : (n_matrices, n) ascending.
    coefficients : (n_matrices, n, n) with C† S C = 1, or None.
    trusted : (n_matrices,) False where S is near singular or not positive; those are to be solved otherwise.
    """
    with jax.enable_x64(True):
        if s is None:
            e, c = _plain(jnp.asarray(h), vectors)
            trusted = np.ones(len(h), dtype=bool)
        else:
            e, c, reciprocal = _generalised(jnp.asarray(h), jnp.asarray(s), vectors)
            trusted = np.array(reciprocal > smallest)
        return np.array(e), None if c is None else np.array(c), trusted


@partial(jax.jit, static_argnames="vectors")
def _plain(h: jax.Array, vectors: bool) -> tuple[jax.Array, jax.Array | None]:
    if not vectors:
        return jnp.linalg.eigvalsh(h), None
    e, c = jnp.linalg.eigh(h)
    return e, c


@partial(jax.jit, static_argnames="vectors")
def _generalised(h: jax.Array, s: jax.Array, vectors: bool) -> tuple[jax.Array, jax.Array | None, jax.Array]:
    """Also the lower bound of 1 / cond(S), 0 where S is not positive."""
    factor = jnp.linalg.cholesky(s)
    positive = jnp.all(jnp.isfinite(factor), axis=(1, 2))
    identity = jnp.eye(h.shape[-1], dtype=h.dtype)
    factor = jnp.where(positive[:, None, None], factor, identity)
    inverse = jax.vmap(lambda f: jax.scipy.linalg.solve_triangular(f, identity, lower=True))(factor)
    a = inverse @ h @ inverse.conj().swapaxes(1, 2)
    e, x = _plain(0.5 * (a + a.conj().swapaxes(1, 2)), vectors)
    norms = jnp.abs(s).sum(axis=1).max(axis=1) * jnp.sum(jnp.abs(inverse) ** 2, axis=(1, 2))
    c = None if x is None else inverse.conj().swapaxes(1, 2) @ x
    return e, c, jnp.where(positive, 1 / norms, 0.0)


@cache
def _faster(n: int, vectors: bool) -> str:
    """Of matrices of size n, the second call of each timed."""
    random = np.random.default_rng(0)
    m = random.standard_normal((min(_SAMPLE, batch_size(n)), n, n)) + 0j
    h, s = m + m.conj().swapaxes(1, 2), m @ m.conj().swapaxes(1, 2) / n + np.eye(n)

    def lapack() -> None:
        for one, overlap in zip(h, s, strict=True):
            sl.eigh(one, overlap, eigvals_only=not vectors, driver="gvd" if vectors else None)

    seconds = []
    for run in (lapack, lambda: solve_batch(h, s, vectors=vectors, smallest=0.0)):
        run()
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    logger.info("%d orbitals: %.3f s by LAPACK, %.3f s by JAX for %d", n, *seconds, len(h))
    return "lapack" if seconds[0] <= seconds[1] else "jax"
