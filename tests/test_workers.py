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
    """Work that shows, for longer than the test waits."""
    end = time.monotonic() + 200
    while time.monotonic() < end:
        Path(path).write_text(str(time.monotonic()))
        time.sleep(0.02)


def test_a_pool_answers() -> None:
    with workers(2) as pool:
        assert sorted(pool.map(abs, [-1, -2, -3])) == [1, 2, 3]


@pytest.mark.skipif(sys.platform == "win32", reason="kills by signals")
@pytest.mark.parametrize("kill", ["SIGKILL", "SIGTERM"])
def test_workers_end_with_a_killed_parent(tmp_path: Path, kill: str) -> None:
    """Both workers beat, their parent is killed, and the beats stop though the work is not done."""
    (tmp_path / "parent.py").write_text(PARENT)
    root, files = Path(__file__).parents[1], [tmp_path / "a", tmp_path / "b"]
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "parent.py"), *map(str, files)],
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    deadline = time.monotonic() + 120
    try:
        while not all(path.exists() and path.read_text() for path in files):
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        process.send_signal(getattr(signal, kill))
    process.wait(60)
    while True:
        before = [path.read_text() for path in files]
        time.sleep(1.0)
        if [path.read_text() for path in files] == before:
            break
        assert time.monotonic() < deadline, "the workers go on without their parent"
