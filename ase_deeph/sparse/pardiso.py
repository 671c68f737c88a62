"""Intel MKL's PARDISO: L D L† of a sparse real symmetric or complex Hermitian matrix, with its inertia.

MKL's C interface is called directly, so that complex Hermitian matrices need no real
embedding and many right-hand sides are solved at once; the package pypardiso only finds the library.
Schenk and Gärtner, Future Generation Computer Systems 20, 475 (2004).
"""

from __future__ import annotations

import ctypes
from functools import cache, cached_property
from typing import Any

import numpy as np
import scipy.sparse as sp

_SYMMETRIC, _HERMITIAN = -2, -4
_ANALYSE_AND_FACTORISE, _SOLVE, _RELEASE = 12, 33, -1
_ERRORS = {-2: "out of memory", -4: "zero pivot", -9: "out of memory", -10: "out of disk"}


class Pardiso:
    """A factorised matrix; its memory is MKL's and is released with the object."""

    def __init__(self, a: sp.csr_matrix) -> None:
        upper = sp.triu(a, format="csr")
        upper.sort_indices()
        self._n, self._dtype = a.shape[0], a.dtype
        self._data = np.ascontiguousarray(upper.data)
        self._starts = upper.indptr.astype(np.int32)
        self._columns = upper.indices.astype(np.int32)
        self._handle = np.zeros(64, dtype=np.int64)
        self._options = np.zeros(64, dtype=np.int32)
        self._type = _HERMITIAN if np.iscomplexobj(self._data) else _SYMMETRIC
        self._options[[0, 1, 9, 10, 12, 20, 34]] = 1, 2, 12, 1, 1, 1, 1
        self._call(_ANALYSE_AND_FACTORISE)

    @cached_property
    def n_negative(self) -> int:
        """Eigenvalues below zero; of a Hermitian A + iB those of [[A, -B], [B, A]], which has each of them twice.

        MKL counts for real matrices only, so that a complex one is factorised once more, at about twice the price.
        """
        if self._type == _SYMMETRIC:
            return int(self._options[22])
        upper = sp.csr_matrix((self._data, self._columns, self._starts), shape=(self._n, self._n))
        a = upper + sp.triu(upper, 1).conj().T
        embedded = Pardiso(sp.csr_matrix(sp.bmat([[a.real, -a.imag], [a.imag, a.real]])))
        return embedded.n_negative // 2

    def solve(self, b: np.ndarray) -> np.ndarray:
        """x with A x = b."""
        b = np.asfortranarray(b, dtype=self._dtype).reshape(self._n, -1, order="F")
        x = np.empty_like(b, order="F")
        self._call(_SOLVE, b, x)
        return x

    def __del__(self) -> None:
        if getattr(self, "_handle", None) is not None and self._handle.any():
            self._call(_RELEASE)

    def _call(self, phase: int, b: np.ndarray | None = None, x: np.ndarray | None = None) -> None:
        n_columns = 1 if b is None else b.shape[1]
        counts = [ctypes.c_int32(value) for value in (1, 1, self._type, phase, self._n, n_columns, 0)]
        most, which, kind, step, n, columns, verbosity = (ctypes.byref(c) for c in counts)
        error = ctypes.c_int32(0)
        _library().pardiso(
            _pointer(self._handle), most, which, kind, step, n,
            _pointer(self._data), _pointer(self._starts), _pointer(self._columns), None, columns,
            _pointer(self._options), verbosity, _pointer(b), _pointer(x), ctypes.byref(error),
        )  # fmt: skip
        if error.value != 0:
            reason = _ERRORS.get(error.value, f"error {error.value}")
            raise ValueError(f"pardiso: {reason} with {self._n} orbitals; try the engine superlu or mumps")


def _pointer(array: np.ndarray | None) -> ctypes.c_void_p | None:
    return None if array is None else array.ctypes.data_as(ctypes.c_void_p)


@cache
def _library() -> Any:
    try:
        import pypardiso
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "the engine pardiso needs pypardiso, which is not installed; install it with: "
            "pip install 'ase-deeph[pardiso]', or take the engine superlu",
            name="pypardiso",
        ) from error
    library = ctypes.CDLL(pypardiso.PyPardisoSolver().libmkl._name)
    library.pardiso.restype = None
    return library
