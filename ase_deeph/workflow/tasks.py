"""Tasks that are tried again: in a plain loop, or over the workers of a Dask cluster, with the same meaning.

A task that raises ValueError, KeyError or NotImplementedError has a reason of its own and is not tried again;
whatever else it raises, or the death of its worker, is taken for bad luck.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from typing import Any

from ase_deeph.workflow.attempts import Outcome, Status, Work, after_tries, attempt, failure, reason_of
from ase_deeph.workflow.cluster import Workers, over_cluster

__all__ = ["Outcome", "Status", "Work", "Workers", "run_all"]

log = logging.getLogger(__name__)


def run_all(
    work: Work, items: Iterable[tuple[str, Any]], *, workers: Workers | None = None, retries: int = 2
) -> Iterator[Outcome]:
    """The outcome of each task as it ends; in order where one process does them.

    Parameters
    ----------
    work : a function that can be sent to other processes where there are workers.
    items : (name, item), read while the tasks run; few are held at a time.
    workers : who does them; a cluster is started, or joined, by this call, and left when the iterator ends.
    retries : how often a task that failed, or whose worker died, is tried again.  Once a worker died, the tasks
        that were lost with it go on one at a time, and that first loss is not counted: so no task fails for
        another one that kills workers.

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
    return over_cluster(work, items, workers, retries)


def _in_turn(work: Work, name: str, item: Any, retries: int) -> Outcome:
    """Tries in this process until one succeeds or none is left."""
    for tries in range(1, retries + 2):
        try:
            return after_tries(attempt(work, name, item), tries)
        except Exception as error:
            if tries > retries:
                return failure(name, error)
            log.warning("%s failed (%s); it is tried again", name, reason_of(error))
    raise AssertionError("there is always a last try")
