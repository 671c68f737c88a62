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
    kernel, which hands them out again page by page and filled with zeros: a fifth of a step's time.  Other C
    libraries are left alone.

    Returns
    -------
    whether malloc was told so.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    told = [mallopt(_MMAP_MAX, 0), mallopt(_TRIM_THRESHOLD, _NEVER), mallopt(_ARENA_MAX, 1)]
    return all(told)
