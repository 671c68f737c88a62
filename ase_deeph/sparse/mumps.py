"""MUMPS: L D L^T of a sparse real symmetric matrix, with its inertia, through the package python-mumps.

MUMPS knows complex symmetric but not Hermitian matrices: A + iB is given as the real symmetric [[A, -B], [B, A]],
which has every eigenvalue twice.  Amestoy et al., SIAM J. Matrix Anal. Appl. 23, 15 (2001).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp

_NEGATIVE_PIVOTS = 12
"""INFOG(12) of MUMPS' guide."""


class Mumps:
    """A factorised matrix."""

    def __init__(self, a: sp.csr_matrix) -> None:
        self._n, self._is_complex = a.shape[0], np.iscomplexobj(a.data)
        matrix = sp.bmat([[a.real, -a.imag], [a.imag, a.real]]) if self._is_complex else a
        self._context = _package().Context()
        self._context.set_matrix(sp.csc_matrix(matrix), symmetric=True)
        self._context.factor()
        count = int(self._context.mumps_instance.infog[_NEGATIVE_PIVOTS])
        self.n_negative = count // 2 if self._is_complex else count

    def solve(self, b: np.ndarray) -> np.ndarray:
        """x with A x = b."""
        if not self._is_complex:
            return self._context.solve(np.asfortranarray(b))
        x = self._context.solve(np.asfortranarray(np.concatenate([b.real, b.imag])))
        return x[: self._n] + 1j * x[self._n :]


def _package() -> Any:
    try:
        import mumps
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "the engine mumps needs python-mumps, which is not installed; install it from conda-forge "
            "(conda install python-mumps), or take the engine superlu",
            name="mumps",
        ) from error
    return mumps
