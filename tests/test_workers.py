"""Worker processes end with the process that asked for them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ase_deeph.workers import workers

PARENT = """
import sys
from ase_deeph.workers import workers
from tests.test_workers import beats
if __name__ == "__main__":
    with workers(2) as pool:
        for path in sys.argv[1:]:
            pool.submit(beats, path)
"""


def beats(path: str) -> None:
    """Work without end that shows."""
    while True:
        Path(path).write_text(str(time.monotonic()))
        time.sleep(0.02)


def test_a_pool_answers() -> None:
    with workers(2) as pool:
        assert sorted(pool.map(abs, [-1, -2, -3])) == [1, 2, 3]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_workers_end_with_a_killed_parent(tmp_path: Path, number: signal.Signals) -> None:
    """Both workers beat, their parent is killed, and the beats stop though the work has no end."""
    (tmp_path / "parent.py").write_text(PARENT)
    root, files = Path(__file__).parents[1], [tmp_path / "a", tmp_path / "b"]
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "parent.py"), *map(str, files)],
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    deadline = time.monotonic() + 120
    while not all(path.exists() and path.read_text() for path in files):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(number)
    process.wait()
    while True:
        before = [path.read_text() for path in files]
        time.sleep(1.0)
        if [path.read_text() for path in files] == before:
            break
        assert time.monotonic() < deadline, "the workers go on without their parent"
