"""Processes that take turns on one core: each is stopped while another runs, and its clock stops with it.

What slows a machine down for minutes (its neighbours, its temperature) then falls on all of them at the same time,
which it does not when one runs after the other; side by side they would slow each other down, and not alike. For POSIX
systems; where a process cannot be given a core (macOS) they still run one at a time.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

_CONTEXT = multiprocessing.get_context("spawn")


@dataclass(frozen=True)
class OwnClock:
    """Monotonic seconds without those for which this process was stopped, to some milliseconds.

    Parameters
    ----------
    stopped : shared number, seconds; written while the process is stopped.
    """

    stopped: Any

    def __call__(self) -> float:
        while True:
            before, now = self.stopped.value, time.monotonic()
            if self.stopped.value == before:
                return now - before


@dataclass
class _Turn:
    process: BaseProcess
    answer: Connection
    theirs: Connection
    stopped: Any
    stopped_at: float = 0.0

    def run(self, seconds: float) -> bool:
        """Let it run for so long; True when it has answered (or ended) before."""
        if self.process.pid is None:
            self.process.start()
            self.theirs.close()
        else:
            self.stopped.value += time.monotonic() - self.stopped_at
            os.kill(self.process.pid, signal.SIGCONT)
        if self.answer.poll(seconds):
            return True
        os.kill(self.process.pid, signal.SIGSTOP)
        if hasattr(os, "waitid"):  # until it has stopped (or ended)
            os.waitid(os.P_PID, self.process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        self.stopped_at = time.monotonic()
        return False

    def result(self) -> Any:
        """What it answered."""
        try:
            result = self.answer.recv()
        except EOFError:
            self.process.join()
            raise RuntimeError(
                f"{self.process.name} ended with {self.process.exitcode} and no result"
            ) from None
        self.process.join()
        return result


def _call(
    function: Callable[..., Any], job: tuple, stopped: Any, answer: Connection, core: int | None
) -> None:
    if sys.platform == "linux":
        # a stopped process cannot notice that its parent was killed: the kernel is asked to end it (PR_SET_PDEATHSIG)
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    if core is not None:
        # before JAX counts the cores and makes as many threads
        os.sched_setaffinity(0, {core})
    answer.send(function(*job, OwnClock(stopped)))


def _exit(number: int, _: Any) -> None:
    raise SystemExit(128 + number)


def in_turns(
    function: Callable[..., Any], jobs: Sequence[tuple], seconds: float = 10.0
) -> Iterator[tuple[int, Any]]:
    """(n, function(*jobs[n], clock)) as they end, each job in a process of its own, all on one core, one at a time.

    Called from the main thread.

    Parameters
    ----------
    function : of a module that can be imported; its last argument is the process' OwnClock.
    jobs : arguments, which can be pickled.
    seconds : length of a turn.

    Raises
    ------
    RuntimeError : a process ended without a result; what it wrote says why.
    """
    core = max(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
    turns = {}
    for n, job in enumerate(jobs):
        answer, theirs = _CONTEXT.Pipe(duplex=False)
        stopped = _CONTEXT.Value("d", 0.0, lock=False)
        process = _CONTEXT.Process(target=_call, args=(function, job, stopped, theirs, core), name=f"job {n}")
        turns[n] = _Turn(process, answer, theirs, stopped)
    before = signal.signal(signal.SIGTERM, _exit)  # or the others would stay when this process is told to end
    try:
        while turns:
            for n, turn in list(turns.items()):
                if turn.run(seconds):
                    yield n, turn.result()
                    del turns[n]
    finally:
        for turn in turns.values():
            if turn.process.pid is not None:
                turn.process.kill()
                turn.process.join()
        signal.signal(signal.SIGTERM, before)
