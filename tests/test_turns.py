"""Benchmarks in turns: only one process runs at a time, and its clock leaves out what it was stopped for."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
from turns import in_turns

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows does not stop processes by signals")

OWN = 1.5


def busy(name: str, folder: Path, clock: Callable[[], float]) -> tuple[str, list[float], float]:
    """Monotonic times at which this process ran, over OWN seconds of its own clock once both are there."""
    (folder / name).touch()
    while len(list(folder.iterdir())) < 2:
        time.sleep(1e-3)
    began, ran = clock(), []
    while clock() - began < OWN:
        ran.append(time.monotonic())
        time.sleep(1e-3)
    return name, ran, clock() - began


def ends(seconds: float, clock: Callable[[], float]) -> None:
    """A process that dies after so long."""
    time.sleep(seconds)
    os._exit(3)


def test_turns_do_not_overlap_and_clocks_stop(tmp_path: Path) -> None:
    """Each has its OWN seconds, over about twice as long, and never while the other runs."""
    found = dict(in_turns(busy, [("a", tmp_path), ("b", tmp_path)], seconds=0.1))
    assert [found[n][0] for n in (0, 1)] == ["a", "b"]
    both = sorted((t, n) for n, (_, ran, _) in found.items() for t in ran)
    changes = sum(one[1] != other[1] for one, other in pairwise(both))
    assert 3 <= changes <= 60
    for _, ran, own in found.values():
        # stopped at least twice within, for turns of the other
        assert OWN <= own < ran[-1] - ran[0] - 0.15


def test_a_process_that_dies_is_told() -> None:
    """No result is a RuntimeError with the exit code, and the other, stopped or not, does not stay."""
    term = signal.getsignal(signal.SIGTERM)
    with pytest.raises(RuntimeError, match="job 0 ended with 3 and no result"):
        list(in_turns(ends, [(0.5,), (600.0,)], seconds=0.1))
    assert not multiprocessing.active_children()
    assert signal.getsignal(signal.SIGTERM) == term
