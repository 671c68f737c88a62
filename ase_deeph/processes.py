"""Several processes, perhaps on several hosts, that work together: joining, and rows of arrays shared among them.

Each is started with the same command; JAX carries what they tell one another (NCCL between GPUs, Gloo between CPUs).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import jax
import numpy as np


def join_processes(coordinator: str, process: int | None, n_processes: int | None) -> None:
    """Become one of several processes that work together; before anything asks JAX for its devices.

    Parameters
    ----------
    coordinator : host:port of process 0, or "auto" where the batch system says it all (Slurm, MPI, ...).

    Raises
    ------
    ValueError : the processes do not find each other.
    """
    if coordinator != "auto" and (process is None or n_processes is None):
        raise ValueError("--coordinator HOST:PORT needs --process-id I and --num-processes N")
    if coordinator == "auto" and (process, n_processes) != (None, None):
        raise ValueError(
            "--coordinator auto asks the batch system; leave --process-id and --num-processes out"
        )
    if coordinator != "auto" and not coordinator.rpartition(":")[2].isdigit():
        raise ValueError(f"--coordinator: expected HOST:PORT or auto, received {coordinator!r}")
    try:
        if coordinator == "auto":
            jax.distributed.initialize()
        else:
            jax.distributed.initialize(coordinator, n_processes, process)
    except (RuntimeError, ValueError) as error:
        raise ValueError(
            f"--coordinator {coordinator}: {str(error).splitlines()[0]}; start every process with the same "
            "address and a number of its own"
        ) from None


def is_first_process() -> bool:
    """Whether this process writes what is written once."""
    return jax.process_index() == 0


def of_each_process(array: np.ndarray) -> np.ndarray:
    """(n_processes, ...) the arrays of all processes, of one shape and type; type and bits are kept."""
    array = np.ascontiguousarray(array)
    if jax.process_count() == 1:
        return array[None]
    from jax.experimental.multihost_utils import process_allgather

    found = np.ascontiguousarray(process_allgather(array.reshape(-1).view(np.uint8)))
    return found.view(array.dtype).reshape(-1, *array.shape)


def rows_of_all(rows: np.ndarray) -> np.ndarray:
    """The rows of all processes, one below the other, however many each has."""
    counts = of_each_process(np.array([len(rows)]))[:, 0]
    padded = np.zeros((int(counts.max()), *rows.shape[1:]), dtype=rows.dtype)
    padded[: len(rows)] = rows
    return np.concatenate([own[:n] for own, n in zip(of_each_process(padded), counts, strict=True)])


@contextmanager
def together(what: str) -> Iterator[None]:
    """A block that every process runs, perhaps with nothing to do; it ends for all at once.

    Raises
    ------
    OSError : the block failed on another process (where it failed, that exception).
    """
    error: Exception | None = None
    try:
        yield
    except Exception as raised:
        error = raised
    failed = np.nonzero(of_each_process(np.array([error is not None]))[:, 0])[0]
    if error is not None:
        raise error
    if len(failed):
        raise OSError(f"{what}: process {failed[0]} failed; its own message says why")
