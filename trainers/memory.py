"""What a training step needs of memory, known before the first one runs, against what is free."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from trainers.allocator import return_freed_memory

_GIB = 2.0**30


def bytes_of(tree: Any) -> int:
    """Bytes of all arrays of a tree."""
    return sum(
        int(np.prod(leaf.shape)) * np.dtype(leaf.dtype).itemsize
        for leaf in jax.tree.leaves(tree)
        if hasattr(leaf, "dtype")
    )


def needed(compiled: Iterable[Any], held: Any) -> int:
    """Bytes beyond those in use: the largest compiled step's own, and an update of what is held.

    Parameters
    ----------
    compiled : gradients of the shapes in use, as JAX compiled them.
    held : parameters, optimizer state and averages, of which an update makes a second copy at worst.

    Returns
    -------
    0 when the compiler does not say.
    """
    largest = 0
    for one in compiled:
        analysis = one.memory_analysis()
        if analysis is not None:
            batches = 3 * analysis.argument_size_in_bytes
            largest = max(largest, analysis.temp_size_in_bytes + analysis.output_size_in_bytes + batches)
    return largest + bytes_of(held) if largest else 0


def free(device: Any) -> int | None:
    """Bytes that are free on a device (for a CPU: of the machine, or of this container); None when unknown."""
    statistics = device.memory_stats() if device.platform != "cpu" else None
    if statistics and "bytes_limit" in statistics:
        return int(statistics["bytes_limit"] - statistics["bytes_in_use"])
    if device.platform == "cpu":
        return_freed_memory()
    found = [value for value in (_machine_free(), _container_free()) if value is not None]
    return min(found) if found else None


def _machine_free() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    kib = [int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
    return kib[0] * 1024 if kib else None


def _container_free() -> int | None:
    """The control group's limit less its use, Linux."""
    group = Path("/sys/fs/cgroup")
    try:
        limit, used = (group / "memory.max").read_text(), (group / "memory.current").read_text()
        return int(limit) - int(used)
    except (OSError, ValueError):
        return None


def peak(device: Any) -> int:
    """Most bytes in use so far: of a device, on a CPU of this process."""
    statistics = device.memory_stats() if device.platform != "cpu" else None
    if statistics and "peak_bytes_in_use" in statistics:
        return int(statistics["peak_bytes_in_use"])
    try:
        import resource
    except ImportError:  # not on Windows
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def gib(n_bytes: float) -> str:
    """Bytes in GiB for a message."""
    return f"{n_bytes / _GIB:.2f} GiB"


def complaint(wanted: int, available: int | None, *, batch: int, pairs: int, remat: bool) -> str:
    """Why a batch cannot fit and what to lower, in one line; "" when it fits or nothing is known."""
    if available is None or wanted <= available:
        return ""
    advice = [f"[training] batch (now {batch}, with accumulate in its place)"] if batch > 1 else []
    advice += [] if remat else ["or set [training] remat = true"]
    advice += ["[network] channels or l_max"]
    return (
        f"a batch of {pairs} pairs needs {gib(wanted)} of memory, {gib(available)} are free; lower "
        + ", ".join(advice)
    )


def explained(error: Exception) -> Exception:
    """A failure of the device: one line with a remedy where memory ran out, else the error itself."""
    if "RESOURCE_EXHAUSTED" not in str(error):
        return error
    first = str(error).splitlines()[0][:160]
    return ValueError(
        f"the device ran out of memory ({first}); lower [training] batch, with accumulate in its place, or set "
        "[training] remat = true"
    )
