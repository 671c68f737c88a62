"""Worker processes that end with the process that asked for them, even when it is killed."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager


@contextmanager
def workers(n: int) -> Iterator[ProcessPoolExecutor]:
    """A pool of n fresh interpreters.

    `ProcessPoolExecutor` alone leaves its workers behind when this process is killed: they finish what was handed out,
    into a folder where the next call may work already, and then wait for ever. An external program that a worker has
    started (CP2K) still ends by itself.
    """
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(n, mp_context=spawn, initializer=_end_with_parent) as pool:
        yield pool


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, name="end-with-parent", daemon=True).start()
