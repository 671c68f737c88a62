"""Chebyshev recursion of one pencil, T_m(A) y with A = (S^-1 H - b) / a, by SciPy or by JAX."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Literal

import numpy as np
import scipy.sparse as sp

from ase_deeph.sparse.inverse import OverlapInverse, Way, overlap_inverse, prefers_dense
from ase_deeph.sparse.polynomials import lanczos_range
from ase_deeph.sparse.states import Pencil

if TYPE_CHECKING:
    from ase_deeph.sparse.recursion_jax import JaxRecursion

logger = logging.getLogger(__name__)

Backend = Literal["auto", "scipy", "jax"]
BACKENDS = ("auto", "scipy", "jax")
_MARGIN = 1.01
_NARROWEST = 1.0
"""eV, half the width of the spectrum at least: of H = E S there is none."""
_TRACE_BYTES = 5e8
"""Of the polynomials that an exact trace keeps."""


class Recursion:
    """The recursion by SciPy, and the parts of it that JAX takes over.

    Parameters
    ----------
    pencil : H and S; its engine serves S^-1, see `ase_deeph.sparse.inverse`.
    way : of S^-1, None for the one that suits its size.

    Attributes
    ----------
    center, half_width : b and a in eV.
    inverse : of S, None where S = 1.
    dense : (n, n) S^-1 H where S^-1 is dense, else None.
    """

    def __init__(self, pencil: Pencil, way: Way | None = None) -> None:
        self.h, self.s = pencil.h, pencil.s
        n, dtype = self.h.shape[0], np.result_type(self.h.dtype, self.s.dtype)
        self.inverse: OverlapInverse | None = None
        self.dense: np.ndarray | None = None
        if (self.s - sp.identity(n)).count_nonzero() > 0:
            self.inverse = overlap_inverse(self.s, way, pencil.engine)
            if self.inverse.way == "dense":
                self.dense = self.inverse.inverse(self.h.toarray())
        low, high, error = lanczos_range(self._operator, n, dtype, metric=lambda x: self.s @ x)
        self.center = 0.5 * (low + high)
        self.half_width = max(_MARGIN * (0.5 * (high - low) + error), _NARROWEST)

    def moments(self, z: np.ndarray, n_moments: int, groups: np.ndarray | None) -> np.ndarray:
        """(n_vectors, n_curves, n_moments) of vectors z (n, n_vectors); groups (n,) as in `kpm.moments`."""
        y = self.start(z)
        return self._total(y, n_moments) if groups is None else self._projected(y, n_moments, groups)

    def traces(self, n_moments: int) -> np.ndarray | None:
        """(n_moments,) Tr T_m(A) of a dense A, by about 2 √n_moments matrix products; None where A is not dense.

        Tr T_iK+j = 2 Tr T_iK T_j - Tr T_iK-j, with T_j kept for j < K and T_iK made in steps of T_K.
        """
        if self.dense is None:
            return None
        n = len(self.dense)
        a = (self.dense - self.center * np.eye(n)) / self.half_width
        n_kept = max(int(min(np.sqrt(n_moments), _TRACE_BYTES / a.nbytes)), 2)
        kept = np.empty((n_kept + 1, n, n), a.dtype)
        kept[0], kept[1] = np.eye(n), a
        for j in range(2, n_kept + 1):
            kept[j] = 2 * (a @ kept[j - 1]) - kept[j - 2]
        step, kept = kept[n_kept].copy(), kept[:n_kept]
        found = np.zeros(n_moments + n_kept)
        found[:n_kept] = np.real(np.trace(kept, axis1=1, axis2=2))
        before, now = np.eye(n, dtype=a.dtype), step
        for first in range(n_kept, n_moments, n_kept):
            pairs = np.real(kept.reshape(n_kept, -1) @ now.T.ravel())
            found[first] = pairs[0]
            found[first + 1 : first + n_kept] = 2 * pairs[1:] - found[first - 1 : first - n_kept : -1]
            before, now = now, 2 * (step @ now) - before
        return found[:n_moments]

    def start(self, z: np.ndarray) -> np.ndarray:
        """y = F z with F F† = S^-1."""
        return z if self.inverse is None else self.inverse.root(z.astype(self.s.dtype))

    def _operator(self, x: np.ndarray) -> np.ndarray:
        if self.dense is not None:
            return self.dense @ x
        hx = self.h @ x
        return hx if self.inverse is None else self.inverse.inverse(hx)

    def _scaled(self, x: np.ndarray) -> np.ndarray:
        return (self._operator(x) - self.center * x) / self.half_width

    def _projected(self, y: np.ndarray, n_moments: int, groups: np.ndarray) -> np.ndarray:
        members = members_of(groups)
        left = (self.s @ y).conj()
        before, now = y, self._scaled(y)
        found = [members @ np.real(left * y)]
        for _ in range(1, n_moments):
            found.append(members @ np.real(left * now))
            before, now = now, 2 * self._scaled(now) - before
        return np.array(found).transpose(2, 1, 0)

    def _total(self, y: np.ndarray, n_moments: int) -> np.ndarray:
        """By μ_2m = 2 t_m† S t_m - μ_0 and μ_2m+1 = 2 t_m+1† S t_m - μ_1, t_m = T_m(A) y."""
        found = np.empty((y.shape[1], n_moments))
        before, now = y, self._scaled(y)
        s_before = self.s @ before
        found[:, 0] = _dots(y, s_before)
        found[:, 1] = _dots(now, s_before)
        for m in range(1, n_moments // 2):
            s_now = self.s @ now
            found[:, 2 * m] = 2 * _dots(now, s_now) - found[:, 0]
            before, now = now, 2 * self._scaled(now) - before
            found[:, 2 * m + 1] = 2 * _dots(now, s_now) - found[:, 1]
        return found[:, None, :]


def recursion_by(pencil: Pencil, backend: Backend) -> Recursion | JaxRecursion:
    """The recursion of a pencil by the backend of that name; "auto" is JAX where its default device is no CPU.

    Raises
    ------
    ValueError : an unknown name.
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend: expected one of {', '.join(BACKENDS)}, received {backend!r}")
    if backend == "auto":
        import jax

        backend = "scipy" if jax.default_backend() == "cpu" else "jax"
    logger.info("kernel polynomials of %d orbitals by %s", pencil.h.shape[0], backend)
    if backend == "scipy":
        return Recursion(pencil)
    from ase_deeph.sparse.recursion_jax import JaxRecursion

    return JaxRecursion(Recursion(pencil, "dense" if prefers_dense(pencil.s) else "polynomial"))


def members_of(groups: np.ndarray) -> sp.csr_matrix:
    """(n_groups, n) one for each orbital of a group."""
    return sp.csr_matrix((np.ones(len(groups)), (groups, np.arange(len(groups)))))


def _dots(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.real(np.sum(x.conj() * y, axis=0))
