"""Tasks that are tried again: in a plain loop, or over the workers of a Dask cluster, with the same meaning.

A task that raises ValueError, KeyError or NotImplementedError has a reason of its own and is not tried again;
whatever else it raises, or the death of its worker, is taken for bad luck.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

log = logging.getLogger(__name__)

OWN_FAULT = (ValueError, KeyError, NotImplementedError)
_IN_FLIGHT_PER_THREAD = 3
_LONGEST_REASON = 300

Status = Literal["done", "there", "failed"]
Work = Callable[[str, Any], Status]
"""(name, item) -> "done", or "there" where nothing was left to do; raises where it fails."""


@dataclass(frozen=True)
class Outcome:
    """How a task ended.

    Parameters
    ----------
    name : of the task.
    status : "done", "there" (nothing was left to do) or "failed".
    reason : why it failed, one line.
    """

    name: str
    status: Status
    reason: str = ""


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


def run_all(
    work: Work, items: Iterable[tuple[str, Any]], *, workers: Workers | None = None, retries: int = 2
) -> Iterator[Outcome]:
    """The outcome of each task as it ends; in order where one process does them.

    Parameters
    ----------
    work : a function that can be sent to other processes where there are workers.
    items : (name, item), read while the tasks run; few are held at a time.
    workers : who does them.
    retries : how often a task that failed is tried again.

    Raises
    ------
    ValueError : negative retries, or no scheduler at the address.
    ModuleNotFoundError : workers are wanted and Dask is not installed.
    """
    if retries < 0:
        raise ValueError(f"retries: expected at least 0, received {retries}")
    workers = workers or Workers()
    if workers.n is None and workers.scheduler is None:
        return (_in_turn(work, name, item, retries) for name, item in items)
    return _over_cluster(work, items, workers, retries)


def attempt(work: Work, name: str, item: Any) -> Outcome:
    """One try; what a task is to blame for itself is an outcome, all else is raised."""
    try:
        return Outcome(name, work(name, item))
    except OWN_FAULT as error:
        return _failure(name, error)


def _in_turn(work: Work, name: str, item: Any, retries: int) -> Outcome:
    """Tries in this process until one succeeds or none is left."""
    for left in range(retries, -1, -1):
        try:
            return attempt(work, name, item)
        except Exception as error:
            if not left:
                return _failure(name, error)
            log.warning("%s failed (%s); it is tried again", name, _reason(error))
    raise AssertionError("there is always a last try")


def _over_cluster(
    work: Work, items: Iterable[tuple[str, Any]], workers: Workers, retries: int
) -> Iterator[Outcome]:
    """Tasks handed to a cluster, a few more than it can do at once."""
    distributed = import_distributed()
    with _client(distributed, workers) as client:
        waiting, names, running = iter(items), {}, distributed.as_completed()
        limit = _IN_FLIGHT_PER_THREAD * max(1, sum(client.nthreads().values()))

        def submit_next() -> None:
            for name, item in waiting:
                future = client.submit(attempt, work, name, item, retries=retries, pure=False)
                names[future.key] = name
                running.add(future)
                return

        for _ in range(limit):
            submit_next()
        for future in running:
            name = names.pop(future.key)
            error = future.exception() if future.status == "error" else None
            cancelled = future.status not in ("finished", "error")
            if error is not None or cancelled:
                yield _failure(name, error or RuntimeError("the cluster gave it up"))
            else:
                yield future.result()
            future.release()
            submit_next()


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
                f"scheduler {workers.scheduler}: {_reason(error)}; start one with `dask scheduler`, and workers "
                "with `dask worker ADDRESS`"
            ) from error
        with client:
            yield client
        return
    settings = {"n_workers": workers.n, "threads_per_worker": 1, "processes": True, "dashboard_address": None}
    with distributed.LocalCluster(**settings) as cluster, distributed.Client(cluster) as client:
        yield client


def _failure(name: str, error: BaseException) -> Outcome:
    return Outcome(name, "failed", _reason(error))


def _reason(error: BaseException) -> str:
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    line = " ".join(text.split()) or type(error).__name__
    line = line if isinstance(error, OWN_FAULT) else f"{type(error).__name__}: {line}"
    return line if len(line) <= _LONGEST_REASON else line[: _LONGEST_REASON - 4] + " ..."
