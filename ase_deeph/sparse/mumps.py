"""MUMPS: L D L^T of a sparse real symmetric matrix, with its inertia.

The system's library (see `ase_deeph.sparse.mumps_library`) or, where there is none of that release, the package
python-mumps.  MUMPS knows complex symmetric but not Hermitian matrices: A + iB is given as the real symmetric
[[A, -B], [B, A]], which has every eigenvalue twice.  Amestoy et al., SIAM J. Matrix Anal. Appl. 23, 15 (2001).
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import numpy as np
import scipy.sparse as sp

from ase_deeph.sparse.mumps_library import Instance, MumpsError, library

_NEGATIVE_PIVOTS = 12
"""INFOG(12) of MUMPS' guide."""


class Mumps:
    """A factorised matrix.

    Raises
    ------
    MumpsError : the factorisation failed; its `singular` tells why.
    ModuleNotFoundError : neither the library nor the package is installed.
    """

    def __init__(self, a: sp.csr_matrix) -> None:
        self._n, self._is_complex = a.shape[0], np.iscomplexobj(a.data)
        matrix = sp.csr_matrix(sp.bmat([[a.real, -a.imag], [a.imag, a.real]])) if self._is_complex else a
        self._factors = _Package(matrix) if not _has_library() and _has_package() else Instance(matrix)
        count = self._factors.n_negative
        self.n_negative = count // 2 if self._is_complex else count

    def solve(self, b: np.ndarray) -> np.ndarray:
        """x with A x = b."""
        if not self._is_complex:
            return self._factors.solve(np.asfortranarray(b))
        x = self._factors.solve(np.asfortranarray(np.concatenate([b.real, b.imag])))
        return x[: self._n] + 1j * x[self._n :]


class _Package:
    """L D L^T by python-mumps."""

    def __init__(self, a: sp.csr_matrix) -> None:
        import mumps

        self._context: Any = mumps.Context()
        self._context.set_matrix(sp.csc_matrix(a), symmetric=True)
        try:
            self._context.factor()
        except mumps.MUMPSError as error:
            raise MumpsError(int(error.error), 0, a.shape[0]) from error
        self.n_negative = int(self._context.mumps_instance.infog[_NEGATIVE_PIVOTS])

    def solve(self, b: np.ndarray) -> np.ndarray:
        return self._context.solve(b)


def mumps_found() -> str | None:
    """What serves the engine here: the library, the package, or nothing."""
    if _has_library():
        return f"{library()._name}"
    return "python-mumps" if _has_package() else None


def _has_package() -> bool:
    """Whether python-mumps is installed: PyMUMPS, whose module has the same name, is another package."""
    if find_spec("mumps") is None:
        return False
    import mumps

    return hasattr(mumps, "Context")


def _has_library() -> bool:
    try:
        library()
    except ModuleNotFoundError:
        return False
    return True
