"""Memory that a CPU's steps use again and again, kept instead of fetched anew for each of them."""

from __future__ import annotations

import ctypes
import platform
from functools import cache

_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8
_NEVER = -1


@cache
def keep_freed_memory() -> bool:
    """Tell this process' malloc to hold on to what is freed, for as long as the process lives.

    XLA frees a step's intermediate arrays when the step ends.  glibc gives blocks of that size back to the
    kernel, which hands them out again page by page and filled with zeros (see benchmarks/README.md for what that
    takes).  Other C libraries are left alone.  To be called before JAX has started its threads: one that allocated
    already keeps its own pool.

    Returns
    -------
    whether malloc took the settings.
    """
    libc = _glibc()
    if libc is None:
        return False
    told = [libc.mallopt(_MMAP_MAX, 0), libc.mallopt(_TRIM_THRESHOLD, _NEVER), libc.mallopt(_ARENA_MAX, 1)]
    return all(told)


def return_freed_memory() -> None:
    """Give all that is held free back to the kernel once, so that it counts as free again."""
    libc = _glibc()
    if libc is not None:
        libc.malloc_trim(0)


@cache
def _glibc() -> ctypes.CDLL | None:
    """This process' C library where it is glibc."""
    if platform.libc_ver()[0] != "glibc":
        return None
    try:
        libc = ctypes.CDLL(None)
        libc.mallopt.argtypes, libc.malloc_trim.argtypes = [ctypes.c_int] * 2, [ctypes.c_size_t]
    except (OSError, AttributeError):
        return None
    return libc
