"""Factorisations of a Hermitian matrix: solves and the number of negative eigenvalues (Sylvester's inertia).

A = L D L† has as many negative eigenvalues as D, whatever L is.  `factorise` picks an engine by name:

"dense"    LAPACK's Bunch-Kaufman L D L†; always there, O(n²) memory
"superlu"  SciPy's sparse LU without pivoting, whose pivots are D; always there
"pardiso"  supernodal L D L† of Intel MKL, found through the optional package pypardiso
"mumps"    multifrontal L D L† of MUMPS, from the system's library or the optional package python-mumps
"auto"     dense for small matrices, else the first of pardiso and mumps that is installed, else superlu
"""

from __future__ import annotations

import logging
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Literal, Protocol

import numpy as np
import scipy.sparse as sp
from scipy.linalg import get_lapack_funcs
from scipy.sparse.linalg import splu

logger = logging.getLogger(__name__)

Engine = Literal["auto", "dense", "superlu", "mumps", "pardiso"]
ENGINES = ("auto", "dense", "superlu", "mumps", "pardiso")
BACKWARD_ERROR = 1e-11
"""|A x - b| / (|A| |x|) above which a factorisation is not trusted."""
LARGEST_INVERSE = 1e6
_DENSE = 1500
_DENSE_WITHOUT_SUPERNODES = 6000
_NEGLIGIBLE = 1e-14


class Factorisation(Protocol):
    """A factorised Hermitian matrix."""

    @property
    def n_negative(self) -> int:
        """Eigenvalues below zero."""
        ...

    def solve(self, b: np.ndarray) -> np.ndarray:
        """(n, n_columns) x with A x = b."""
        ...


def factorise(
    a: sp.csr_matrix, engine: Engine = "auto", *, largest_inverse: float = LARGEST_INVERSE
) -> Factorisation:
    """A = L D L† with the engine of that name.

    Parameters
    ----------
    a : (n, n) Hermitian; the imaginary part is dropped where it is rounding.
    largest_inverse : |A^-1 b| / |b| for random b above which A counts as singular.

    Raises
    ------
    ValueError : an unknown engine, or a factorisation whose solves miss BACKWARD_ERROR (A is too near singular:
        the energy lies on an eigenvalue; or "superlu" met a small pivot).
    ModuleNotFoundError : "pardiso" or "mumps" without its package.
    """
    a = real_if_possible(a)
    name = chosen_engine(a.shape[0], engine)
    if name == "dense":
        factors: Factorisation = _Dense(a)
    elif name == "superlu":
        factors = _SuperLU(a)
    elif name == "pardiso":
        from ase_deeph.sparse.pardiso import Pardiso

        factors = Pardiso(a)
    else:
        factors = _mumps(a)
    error, inverse = backward_error(a, factors)
    if not (error <= BACKWARD_ERROR and inverse <= largest_inverse):
        raise UnstableFactorisation(
            f"{name}: expected solves to {BACKWARD_ERROR:.0e}, received {error:.1e} with an inverse of "
            f"{inverse:.0e} per eV; move the energy off an eigenvalue, or use another engine"
        )
    return factors


class UnstableFactorisation(ValueError):
    """The matrix is singular to rounding, or the engine met a pivot too small to go on."""


def chosen_engine(n: int, engine: Engine = "auto") -> str:
    """The engine that "auto" stands for with n orbitals; other names are checked.

    Raises
    ------
    ValueError : an unknown name.
    """
    if engine not in ENGINES:
        raise ValueError(f"engine: expected one of {', '.join(ENGINES)}, received {engine!r}")
    if engine != "auto":
        return engine
    if n <= _DENSE:
        return "dense"
    return supernodal_engine() or ("dense" if n <= _DENSE_WITHOUT_SUPERNODES else "superlu")


@cache
def supernodal_engine() -> str | None:
    """The first of pardiso and mumps that is installed, logged; None without either."""
    from ase_deeph.sparse.mumps import mumps_found

    try:
        logger.info("sparse factorisations by pardiso (pypardiso %s)", version("pypardiso"))
        return "pardiso"
    except PackageNotFoundError:
        found = mumps_found()
    if found is None:
        return None
    logger.info("sparse factorisations by mumps (%s)", found)
    return "mumps"


def real_if_possible(a: sp.csr_matrix) -> sp.csr_matrix:
    """The matrix in double precision, real where its imaginary part is rounding (Γ and zone-boundary k)."""
    a = sp.csr_matrix(a)
    if not np.iscomplexobj(a.data):
        return a.astype(float, copy=False)
    scale = float(np.abs(a.data.real).max(initial=0.0))
    if float(np.abs(a.data.imag).max(initial=0.0)) <= _NEGLIGIBLE * max(scale, 1.0):
        return sp.csr_matrix(a.real)
    return a.astype(complex, copy=False)


def backward_error(a: sp.csr_matrix, factors: Factorisation) -> tuple[float, float]:
    """Of two random b: max |A x - b|_∞ / (|A|_∞ |x|_∞), x the solution by the factors, and max |x| / |b|."""
    b = np.random.default_rng(7).standard_normal((a.shape[0], 2)).astype(a.dtype)
    x = factors.solve(b)
    if not np.all(np.isfinite(x)):
        return float("inf"), float("inf")
    norm = float(abs(a).sum(axis=1).max())
    error = np.abs(a @ x - b).max(axis=0) / (norm * np.abs(x).max(axis=0))
    return float(error.max()), float((np.linalg.norm(x, axis=0) / np.linalg.norm(b, axis=0)).max())


def _mumps(a: sp.csr_matrix) -> Factorisation:
    from ase_deeph.sparse.mumps import Mumps
    from ase_deeph.sparse.mumps_library import MumpsError

    try:
        return Mumps(a)
    except MumpsError as error:
        if error.singular:
            raise UnstableFactorisation(str(error)) from error
        raise


class _Dense:
    """Bunch-Kaufman with LAPACK's sytrf or hetrf."""

    def __init__(self, a: sp.csr_matrix) -> None:
        matrix = a.toarray(order="F")
        kind = "he" if np.iscomplexobj(matrix) else "sy"
        factor, work, self._solver = get_lapack_funcs(
            (kind + "trf", kind + "trf_lwork", kind + "trs"), (matrix,)
        )
        size, _ = work(len(matrix), lower=True)
        self._factors, self._pivots, info = factor(
            matrix, lower=True, lwork=int(np.real(size)), overwrite_a=True
        )
        if info < 0:
            raise ValueError(f"dense factorisation: LAPACK refuses argument {-info}")
        self.n_negative = _negative_of_blocks(self._factors, self._pivots)

    def solve(self, b: np.ndarray) -> np.ndarray:
        """x with A x = b."""
        x, _ = self._solver(self._factors, self._pivots, b, lower=True)
        return x


def _negative_of_blocks(factors: np.ndarray, pivots: np.ndarray) -> int:
    """Negative eigenvalues of Bunch-Kaufman's D: every 2 x 2 block (a pair of negative pivots) has exactly one."""
    diagonal = np.real(np.diagonal(factors))
    single = pivots > 0
    return int(np.sum(diagonal[single] < 0)) + int(np.sum(~single)) // 2


class _SuperLU:
    """A P = L U with pivots kept on the diagonal, U = D L†; refused by `factorise` where that is unstable."""

    def __init__(self, a: sp.csr_matrix) -> None:
        try:
            self._lu = splu(
                sp.csc_matrix(a),
                permc_spec="MMD_AT_PLUS_A",
                diag_pivot_thresh=0.0,
                options={"SymmetricMode": True, "Equil": False},
            )
        except RuntimeError as error:
            raise UnstableFactorisation(f"superlu: {error}; move the energy off an eigenvalue") from error
        if not np.array_equal(self._lu.perm_r, self._lu.perm_c):
            raise UnstableFactorisation(
                "superlu: a pivot left the diagonal, so that eigenvalues cannot be counted; use another engine"
            )
        self.n_negative = int(np.sum(np.real(self._lu.U.diagonal()) < 0))

    def solve(self, b: np.ndarray) -> np.ndarray:
        """x with A x = b."""
        return self._lu.solve(np.ascontiguousarray(b))
