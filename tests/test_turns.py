"""Benchmarks in turns: only one process runs at a time, and its clock leaves out what it was stopped for."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
from turns import in_turns

OWN = 1.5


def busy(name: str, clock: Callable[[], float]) -> tuple[str, list[float], float]:
    """Monotonic times at which this process ran, over OWN seconds of its own clock."""
    began, ran = clock(), []
    while clock() - began < OWN:
        ran.append(time.monotonic())
        time.sleep(1e-3)
    return name, ran, clock() - began


def ends(code: int, clock: Callable[[], float]) -> None:
    """A process that dies."""
    os._exit(code)


def test_turns_do_not_overlap_and_clocks_stop() -> None:
    """Each has its OWN seconds, over about twice as long, and never while the other runs."""
    found = dict(in_turns(busy, [("a",), ("b",)], seconds=0.1))
    assert [found[n][0] for n in (0, 1)] == ["a", "b"]
    both = sorted((t, n) for n, (_, ran, _) in found.items() for t in ran)
    changes = sum(one[1] != other[1] for one, other in pairwise(both))
    assert 3 <= changes <= 60
    for _, ran, own in found.values():
        # stopped at least twice within, for turns of the other
        assert OWN <= own < ran[-1] - ran[0] - 0.15


def test_a_process_that_dies_is_told() -> None:
    """No result is a RuntimeError with the exit code, and the others do not stay."""
    with pytest.raises(RuntimeError, match="job 0 ended with 3 and no result"):
        list(in_turns(ends, [(3,), (3,)], seconds=30))
