"""Tasks over the workers of a Dask cluster, submitted again by the client where a try or its answer was lost."""

from __future__ import annotations

import logging
import time
from asyncio import CancelledError
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ase_deeph.workflow.attempts import Outcome, Work, after_tries, attempt, failure, reason_of

log = logging.getLogger(__name__)

_IN_FLIGHT_PER_THREAD = 2
_POLL, _LOOK, _ANSWER, _GONE = 0.02, 5.0, 30.0, 300.0
"""Seconds: between looks for an ended task, and for workers; for an answer; without any worker or scheduler."""


@dataclass(frozen=True)
class Workers:
    """Who does the tasks; by default this process, one after the other.

    Parameters
    ----------
    n : processes of a Dask cluster started on this machine for the run; None: none is started.
    scheduler : address of the scheduler of a running Dask cluster, such as "tcp://host:8786".

    Raises
    ------
    ValueError : both, or n below 1.
    """

    n: int | None = None
    scheduler: str | None = None

    def __post_init__(self) -> None:
        if self.n is not None and self.scheduler is not None:
            raise ValueError("workers: expected a number of workers or a scheduler, received both")
        if self.n is not None and self.n < 1:
            raise ValueError(f"workers: expected at least 1, received {self.n}")


def over_cluster(
    work: Work, items: Iterable[tuple[str, Any]], workers: Workers, retries: int
) -> Iterator[Outcome]:
    """Tasks handed to a cluster, a few more than it can do at once; it is there when this returns.

    Raises
    ------
    ValueError : no scheduler at the address.
    ModuleNotFoundError : Dask is not installed.
    """
    outcomes = _with_client(import_distributed(), work, items, workers, retries)
    next(outcomes)
    return outcomes


def _with_client(
    distributed: Any, work: Work, items: Iterable[tuple[str, Any]], workers: Workers, retries: int
) -> Iterator[Any]:
    """None once the cluster is there, then the outcomes; the cluster is left when this ends or is dropped."""
    with _client(distributed, workers) as client:
        yield None
        yield from _Flight(distributed, client, work, items, retries).outcomes()


@dataclass
class _Task:
    """A task, how often it ran and failed by itself, and whether it may only run with no other beside it."""

    name: str
    item: Any
    runs: int = 0
    failures: int = 0
    alone: bool = False


class _ClusterGone(Exception):
    """No scheduler, or no worker, for longer than one waits for it."""


class _Flight:
    """The tasks of a run: in flight, to be tried again, to be tried alone, and not yet read."""

    def __init__(
        self, distributed: Any, client: Any, work: Work, items: Iterable[tuple[str, Any]], retries: int
    ) -> None:
        self._client, self._work, self._retries = client, work, retries
        self._killed = distributed.KilledWorker
        self._fresh = iter(items)
        self._again: deque[_Task] = deque()
        self._suspects: deque[_Task] = deque()
        self._flying: dict[Any, tuple[_Task, Any]] = {}
        self._ended = distributed.as_completed(loop=client.loop, with_results=False, raise_errors=False)
        self._threads, self._looked, self._seen = 0, 0.0, 0.0

    def outcomes(self) -> Iterator[Outcome]:
        """Each task's outcome as it ends; where the cluster is lost the rest have failed."""
        try:
            while self._submit():
                future = self._next_ended()
                task, _ = self._flying.pop(future.key)
                outcome = self._outcome(task, future)
                future.release()
                if outcome is not None:
                    yield outcome
        except _ClusterGone as error:
            left = [*(task for task, _ in self._flying.values()), *self._again, *self._suspects]
            for name in [task.name for task in left]:
                yield Outcome(name, "failed", str(error))
            for name, _ in self._fresh:
                yield Outcome(name, "failed", str(error))

    def _submit(self) -> bool:
        """Hand over as many tasks as the workers can take; whether any is in flight."""
        self._look()
        while self._client.status != "running":
            time.sleep(_POLL)
            self._look()
        while len(self._flying) < _IN_FLIGHT_PER_THREAD * max(1, self._threads):
            task = self._next_task()
            if task is None:
                break
            future = self._client.submit(attempt, self._work, task.name, task.item, pure=False)
            self._flying[future.key] = task, future
            self._ended.add(future)
        return bool(self._flying)

    def _next_task(self) -> _Task | None:
        """The next task that may start now; suspects wait until nothing flies, and all others for them."""
        if any(task.alone for task, _ in self._flying.values()):
            return None
        if self._suspects:
            return None if self._flying else self._suspects.popleft()
        if self._again:
            return self._again.popleft()
        return next((_Task(name, item) for name, item in self._fresh), None)

    def _next_ended(self) -> Any:
        """The next future that ended in whatever way."""
        while not self._ended.has_ready():
            self._look()
            time.sleep(_POLL)
        return next(self._ended)

    def _look(self) -> None:
        """Count the threads of the workers, now and then; raises where there have been none for long."""
        if self._client.status in ("closing", "closed"):
            raise _ClusterGone("the scheduler was lost; call again once it runs")
        now = time.monotonic()
        if self._looked and now - self._looked < _LOOK:
            return
        self._threads = self._count_threads()
        self._looked = now
        if self._threads:
            self._seen = now
        if self._seen and now - self._seen > _GONE:
            raise _ClusterGone(f"no worker for {_GONE:.0f} seconds; start some and call again")

    def _count_threads(self) -> int:
        try:
            counts = self._client.sync(self._client.scheduler.ncores, callback_timeout=_ANSWER)
        except (Exception, CancelledError) as error:
            log.warning("the scheduler does not answer (%s)", reason_of(error))
            return 0
        if not counts:
            log.warning("the cluster has no worker at the moment")
        return sum(counts.values())

    def _outcome(self, task: _Task, future: Any) -> Outcome | None:
        """How a task ended; None where it is tried again."""
        task.runs += 1
        error: BaseException | None = None
        try:
            if future.status == "finished":
                return after_tries(future.result(timeout=_ANSWER), task.runs)
            if future.status == "error":
                error = future.exception(timeout=_ANSWER)
        except (Exception, CancelledError) as lost:
            log.warning("%s: its answer was lost (%s)", task.name, reason_of(lost))
        if error is None or isinstance(error, self._killed):
            return self._after_death(task)
        task.failures += 1
        if task.failures > self._retries:
            return failure(task.name, error)
        log.warning("%s failed (%s); it is tried again", task.name, reason_of(error))
        (self._suspects if task.alone else self._again).append(task)
        return None

    def _after_death(self, task: _Task) -> Outcome | None:
        """Another try, alone, for a task that was lost with its worker; only a loss when alone was its own."""
        task.failures += task.alone
        if task.failures > self._retries:
            return Outcome(task.name, "failed", f"its worker died in the last of {task.runs} tries")
        log.warning("%s was lost with its worker; it is tried again, alone", task.name)
        task.alone = True
        self._suspects.append(task)
        return None


def import_distributed() -> Any:
    """Dask's scheduler package.

    Raises
    ------
    ModuleNotFoundError : it is not installed.
    """
    try:
        import distributed
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "tasks over workers need Dask; install it with: pip install 'ase-deeph[workflow]'",
            name="distributed",
        ) from error
    return distributed


@contextmanager
def _client(distributed: Any, workers: Workers) -> Iterator[Any]:
    """A client of the cluster; one started here ends with the block."""
    if workers.scheduler is not None:
        try:
            client = distributed.Client(workers.scheduler, timeout="20s")
        except (OSError, TimeoutError, ValueError) as error:
            raise ValueError(
                f"scheduler {workers.scheduler}: {reason_of(error)}; start one with `dask scheduler`, and workers "
                "with `dask worker ADDRESS`"
            ) from error
        with client:
            yield client
        return
    settings = {
        "n_workers": workers.n,
        "threads_per_worker": 1,
        "processes": True,
        "dashboard_address": "127.0.0.1:0",
        "scheduler_kwargs": {"allowed_failures": 0},
    }
    with distributed.LocalCluster(**settings) as cluster, distributed.Client(cluster) as client:
        yield client
