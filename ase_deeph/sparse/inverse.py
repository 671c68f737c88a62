"""S^-1 and a root of it on blocks of vectors, by whichever way suits the size of the overlap.

"dense"       Cholesky S = L L†; (n, n) in memory, for a few thousand orbitals in many pairs
"factors"     a sparse factorisation, see `ase_deeph.sparse.factorisation`; memory grows a little faster than n
"polynomial"  p(X S) X, with X the inverses of S in the neighbourhood of every few orbitals and p the
              Chebyshev polynomial of 1/t: products with sparse matrices alone, memory of n

S falls off with distance and so does its inverse: X S is close to 1 (eigenvalues 0.77 to 1.23 for a carbon basis whose
S has a condition number of 150), and 9 terms with X do what takes 159 in S itself. p(X S) X is Hermitian as X is,
which keeps recursions with it stable. Other local inverses of S: Ozaki, Phys. Rev. B 64, 195110.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import scipy.linalg as sl
import scipy.sparse as sp

from ase_deeph.sparse.factorisation import Engine, factorise, supernodal_engine
from ase_deeph.sparse.polynomials import MatrixFunction, Operator, lanczos_range, power

logger = logging.getLogger(__name__)

Way = Literal["dense", "factors", "polynomial"]
_DENSE = 4000
_DENSE_PER_ENTRY = 20
"""Orbitals, and elements of a dense matrix for each stored one of S, up to which dense products are cheaper."""
_FACTORS = 30_000
_SMALLEST_RECIPROCAL = 1e-10
_TOLERANCE = 1e-8
_ROOT_TOLERANCE = 1e-9
_GROUP = 8
_CUTS = (1e-5, 0.0)
"""Elements of S that a neighbourhood may leave out."""


@dataclass(frozen=True, eq=False)
class Polynomial:
    """p(X S) X; without X (None) it is p(S).

    Parameters
    ----------
    s, local : S and X.
    function : p of X S.
    """

    s: sp.csr_matrix
    local: sp.csr_matrix | None
    function: MatrixFunction

    def __call__(self, b: np.ndarray) -> np.ndarray:
        """x with S x = b."""
        return self.function(b if self.local is None else self.local @ b)


@dataclass(frozen=True, eq=False)
class OverlapInverse:
    """S^-1 and one of its roots.

    Parameters
    ----------
    way : "dense", "factors" or "polynomial".
    inverse : b -> S^-1 b for (n, n_vectors).
    root : z -> F z with F F† = S^-1.
    """

    way: Way
    inverse: Operator
    root: Operator


def overlap_inverse(s: sp.csr_matrix, way: Way | None = None, engine: Engine = "auto") -> OverlapInverse:
    """The inverse of an overlap, the way logged.

    Parameters
    ----------
    s : (n, n) Hermitian, positive.
    way : None takes dense up to 4,000 orbitals where S stores a twentieth of its elements at least, then
        factors up to 30,000 where pardiso or mumps is installed, else the polynomial.
    engine : of the factors; one that is named is used, whatever n is ("dense" is the first way).

    Raises
    ------
    ValueError : S is not positive, or too near singular.
    """
    if way is not None and way not in get_args(Way):
        raise ValueError(f"way: expected one of {', '.join(get_args(Way))} or None, received {way!r}")
    way = way or _chosen(s, engine)
    logger.info("S^-1 of %d orbitals, %d elements each: %s", s.shape[0], s.nnz // max(s.shape[0], 1), way)
    if way == "dense":
        return _dense(s)
    root = inverse_root(s)
    if way == "factors":
        return OverlapInverse(way, factorise(s, engine).solve, root)
    return OverlapInverse(way, inverse_polynomial(s), root)


def _chosen(s: sp.csr_matrix, engine: Engine) -> Way:
    if engine != "auto":
        return "dense" if engine == "dense" else "factors"
    if prefers_dense(s):
        return "dense"
    return "factors" if s.shape[0] <= _FACTORS and supernodal_engine() else "polynomial"


def prefers_dense(s: sp.csr_matrix) -> bool:
    """Whether (n, n) arrays fit well and their products are cheaper than sparse ones."""
    n = s.shape[0]
    return n <= _DENSE and n * n <= _DENSE_PER_ENTRY * s.nnz


def _dense(s: sp.csr_matrix) -> OverlapInverse:
    try:
        factor = sl.cholesky(s.toarray(), lower=True, check_finite=False)
    except np.linalg.LinAlgError as error:
        raise ValueError(f"overlap: expected a positive matrix, received one that is not: {error}") from error
    (pocon,) = sl.get_lapack_funcs(("pocon",), (factor,))
    reciprocal, _ = pocon(factor, float(abs(s).sum(axis=0).max()), uplo="L")
    if not reciprocal > _SMALLEST_RECIPROCAL:
        raise ValueError(
            f"overlap: expected a condition number below {1 / _SMALLEST_RECIPROCAL:.0e}, received about "
            f"{1 / max(reciprocal, 1e-300):.0e}; use a smaller basis"
        )
    return OverlapInverse(
        "dense",
        lambda b: sl.cho_solve((factor, True), b, check_finite=False),
        lambda z: sl.solve_triangular(factor, z, trans="C", lower=True, check_finite=False),
    )


def inverse_root(s: sp.csr_matrix) -> MatrixFunction:
    """S^-1/2 as a polynomial of S, confirmed by S S^-1/2 S^-1/2 x = x."""
    probe = _probe(s)

    def wrong(root: MatrixFunction) -> float:
        return float(np.linalg.norm(s @ root(root(probe)) - probe) / np.linalg.norm(probe))

    ends = lanczos_range(lambda x: s @ x, s.shape[0], s.dtype)
    return power(lambda x: s @ x, s.shape[0], ends, -0.5, wrong, _ROOT_TOLERANCE)


def inverse_polynomial(s: sp.csr_matrix) -> Polynomial:
    """S^-1 as a polynomial of X S, or where no local inverse X is close enough to S^-1, of S itself."""
    probe = _probe(s)
    for cut in _CUTS:
        local = _local_inverse(s, cut)

        def apply(x: np.ndarray, local: sp.csr_matrix = local) -> np.ndarray:
            return local @ (s @ x)

        def wrong(p: MatrixFunction, local: sp.csr_matrix = local) -> float:
            return float(np.linalg.norm(s @ p(local @ probe) - probe) / np.linalg.norm(probe))

        ends = lanczos_range(apply, s.shape[0], s.dtype, metric=lambda x: s @ x)
        if ends[0] - ends[2] > 0.1 * ends[1]:
            function = power(apply, s.shape[0], ends, -1.0, wrong, _TOLERANCE)
            logger.info("X S within %.3f to %.3f: %d terms", *ends[:2], len(function.coefficients))
            return Polynomial(s, local, function)

    def wrong_alone(p: MatrixFunction) -> float:
        return float(np.linalg.norm(s @ p(probe) - probe) / np.linalg.norm(probe))

    ends = lanczos_range(lambda x: s @ x, s.shape[0], s.dtype)
    return Polynomial(s, None, power(lambda x: s @ x, s.shape[0], ends, -1.0, wrong_alone, _TOLERANCE))


def _probe(s: sp.csr_matrix) -> np.ndarray:
    return np.random.default_rng(4).standard_normal((s.shape[0], 1)).astype(s.dtype)


def _local_inverse(s: sp.csr_matrix, cut: float) -> sp.csr_matrix:
    """X, its columns for every few orbitals those of the inverse of S among the orbitals that overlap them.

    Overlaps below `cut` make no neighbours; the Hermitian part is returned.
    """
    n = s.shape[0]
    neighbours = sp.csr_matrix(abs(s) > cut)
    rows, columns, data = [], [], []
    for start in range(0, n, _GROUP):
        group = np.arange(start, min(start + _GROUP, n), dtype=s.indices.dtype)
        near = np.union1d(
            neighbours.indices[neighbours.indptr[start] : neighbours.indptr[group[-1] + 1]], group
        )
        unit = (near[:, None] == group).astype(s.dtype)
        try:
            factor = sl.cho_factor(s[near][:, near].toarray(), check_finite=False)
        except np.linalg.LinAlgError as error:
            raise ValueError(
                f"overlap: expected a positive matrix, received one that is not: {error}"
            ) from error
        data.append(sl.cho_solve(factor, unit, check_finite=False).ravel())
        rows.append(np.repeat(near, len(group)))
        columns.append(np.tile(group, len(near)))
    x = sp.csr_matrix((np.concatenate(data), (np.concatenate(rows), np.concatenate(columns))), shape=s.shape)
    return sp.csr_matrix(0.5 * (x + x.conj().T))
