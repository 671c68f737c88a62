"""Feed: a thread makes the next batches and puts them on the device while the device works; waiting is measured."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Generic, TypeVar

import jax
import numpy as np

Job = TypeVar("Job")
DEPTH = 2


class Feed(Generic[Job]):
    """Iterates over (job, made(job)) in the order of the jobs, some of them ahead of time.

    Parameters
    ----------
    make : job -> what is used; runs in one thread, in order.
    jobs : all of them.
    depth : so many are made ahead.

    Attributes
    ----------
    waited : seconds for which the user of the feed had to wait.
    worked : seconds of processor time in the thread.
    """

    def __init__(self, make: Callable[[Job], Any], jobs: Sequence[Job], depth: int = DEPTH) -> None:
        self.make, self.jobs, self.depth = make, jobs, depth
        self.waited = self.worked = 0.0
        self._x64 = jax.dtypes.canonicalize_dtype(np.float64) == np.float64

    def __len__(self) -> int:
        return len(self.jobs)

    def _made(self, job: Job) -> Any:
        began = time.thread_time()
        with jax.enable_x64(self._x64):
            result = self.make(job)
        self.worked += time.thread_time() - began
        return result

    def __iter__(self) -> Iterator[tuple[Job, Any]]:
        pool = ThreadPoolExecutor(1, thread_name_prefix="feed")
        try:
            coming: deque[Future] = deque(pool.submit(self._made, job) for job in self.jobs[: self.depth])
            for n, job in enumerate(self.jobs):
                began = time.perf_counter()
                ready = coming.popleft().result()
                self.waited += time.perf_counter() - began
                if n + self.depth < len(self.jobs):
                    coming.append(pool.submit(self._made, self.jobs[n + self.depth]))
                yield job, ready
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
