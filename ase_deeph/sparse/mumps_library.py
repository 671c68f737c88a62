"""MUMPS by its C interface, from a sequential library as Debian packages it (libmumps-scotch-5.5, libmumps-seq-5.5).

The layout of MUMPS' structure changes between its releases: this is that of 5.5, and the library has to write its
own version number at the place where the layout has it, or it is refused.  The structure is followed by room that
no release outgrows.
"""

from __future__ import annotations

import ctypes
import os
from ctypes import POINTER, c_char, c_double, c_int, c_int64, c_void_p
from functools import cache

import numpy as np
import scipy.sparse as sp

RELEASE = "5.5"
LIBRARIES = tuple(f"libdmumps_{kind}-{RELEASE}.so" for kind in ("scotch", "seq"))
_COMMUNICATOR = -987654
_INITIALISE, _END, _FACTORISE, _SOLVE = -1, -2, 4, 3
_SINGULAR = (-6, -10)
_OUT_OF_ROOM = (-8, -9)
_ROOM = (30, 100, 300)
"""Per cent by which the memory of the analysis is exceeded, tried in turn (ICNTL(14))."""


class _Structure(ctypes.Structure):
    """DMUMPS_STRUC_C of MUMPS 5.5."""

    _fields_ = [
        *((name, c_int) for name in ("sym", "par", "job", "comm_fortran")),
        ("icntl", c_int * 60),
        ("keep", c_int * 500),
        ("cntl", c_double * 15),
        ("dkeep", c_double * 230),
        ("keep8", c_int64 * 150),
        *((name, c_int) for name in ("n", "nblk", "nz_alloc", "nz")),
        ("nnz", c_int64),
        ("irn", POINTER(c_int)),
        ("jcn", POINTER(c_int)),
        ("a", POINTER(c_double)),
        ("nz_loc", c_int),
        ("nnz_loc", c_int64),
        *((name, c_void_p) for name in ("irn_loc", "jcn_loc", "a_loc")),
        ("nelt", c_int),
        *((name, c_void_p) for name in ("eltptr", "eltvar", "a_elt", "blkptr", "blkvar", "perm_in")),
        *((name, c_void_p) for name in ("sym_perm", "uns_perm", "colsca", "rowsca")),
        ("colsca_from_mumps", c_int),
        ("rowsca_from_mumps", c_int),
        ("rhs", POINTER(c_double)),
        *((name, c_void_p) for name in ("redrhs", "rhs_sparse", "sol_loc", "rhs_loc")),
        *((name, c_void_p) for name in ("irhs_sparse", "irhs_ptr", "isol_loc", "irhs_loc")),
        *(
            (name, c_int)
            for name in ("nrhs", "lrhs", "lredrhs", "nz_rhs", "lsol_loc", "nloc_rhs", "lrhs_loc")
        ),
        *((name, c_int) for name in ("schur_mloc", "schur_nloc", "schur_lld")),
        *((name, c_int) for name in ("mblock", "nblock", "nprow", "npcol")),
        ("info", c_int * 80),
        ("infog", c_int * 80),
        ("rinfo", c_double * 40),
        ("rinfog", c_double * 40),
        ("deficiency", c_int),
        ("pivnul_list", c_void_p),
        ("mapping", c_void_p),
        ("size_schur", c_int),
        ("listvar_schur", c_void_p),
        ("schur", c_void_p),
        ("instance_number", c_int),
        ("wk_user", c_void_p),
        ("version_number", c_char * 32),
        ("beyond", c_char * 65536),
    ]


class MumpsError(ValueError):
    """MUMPS ended with an error; `singular` where the matrix is the cause."""

    def __init__(self, code: int, detail: int, n: int) -> None:
        super().__init__(
            f"mumps: error {code} ({detail}) with {n} orbitals; try the engine pardiso or superlu"
        )
        self.singular = code in _SINGULAR


class Instance:
    """L D L^T of one real symmetric matrix; its memory is MUMPS' and is released with the object."""

    def __init__(self, a: sp.csr_matrix) -> None:
        upper = sp.triu(a, format="coo")
        self._library = library()
        self._n = a.shape[0]
        self._rows, self._columns = (
            np.ascontiguousarray(i + 1, dtype=np.int32) for i in (upper.row, upper.col)
        )
        self._data = np.ascontiguousarray(upper.data, dtype=float)
        self._structure = _Structure(sym=2, par=1, comm_fortran=_COMMUNICATOR)
        self._call(_INITIALISE)
        self._structure.icntl[0:4] = (0, 0, 0, 0)
        self._check_layout()
        self._structure.icntl[12] = 1
        self._structure.n, self._structure.nnz = self._n, len(self._data)
        self._structure.irn = self._rows.ctypes.data_as(POINTER(c_int))
        self._structure.jcn = self._columns.ctypes.data_as(POINTER(c_int))
        self._structure.a = self._data.ctypes.data_as(POINTER(c_double))
        for room in _ROOM:
            self._structure.icntl[13] = room
            try:
                self._call(_FACTORISE)
                return
            except MumpsError:
                if self._structure.infog[0] not in _OUT_OF_ROOM or room == _ROOM[-1]:
                    raise

    @property
    def n_negative(self) -> int:
        """INFOG(12): negative pivots."""
        return int(self._structure.infog[11])

    def solve(self, b: np.ndarray) -> np.ndarray:
        """x (n, n_columns) with A x = b."""
        x = np.array(b, dtype=float, order="F")
        self._structure.rhs = x.ctypes.data_as(POINTER(c_double))
        self._structure.nrhs = 1 if x.ndim == 1 else x.shape[1]
        self._structure.lrhs = self._n
        self._call(_SOLVE)
        return x

    def __del__(self) -> None:
        if hasattr(self, "_structure"):
            self._structure.job = _END
            self._library.dmumps_c(ctypes.byref(self._structure))

    def _call(self, job: int) -> None:
        self._structure.job = job
        self._library.dmumps_c(ctypes.byref(self._structure))
        code, detail = self._structure.infog[0:2]
        if code < 0:
            raise MumpsError(code, detail, self._n)

    def _check_layout(self) -> None:
        written = bytes(self._structure.version_number).split(b"\0")[0]
        if not written.startswith(RELEASE.encode()):
            raise ModuleNotFoundError(
                f"mumps: expected release {RELEASE} in {self._library._name}, received {written!r}",
                name="mumps",
            )


@cache
def library() -> ctypes.CDLL:
    """The library.

    Raises
    ------
    ModuleNotFoundError : it is not installed.
    """
    for name in LIBRARIES:
        try:
            found = ctypes.CDLL(name, mode=os.RTLD_LAZY)
        except OSError:
            continue
        found.dmumps_c.restype = None
        return found
    raise ModuleNotFoundError(
        f"the engine mumps needs {LIBRARIES[0]} (Debian: apt install libmumps-scotch-5.5) or python-mumps "
        "(conda install python-mumps), neither of which is installed; or take the engine superlu",
        name="mumps",
    )
