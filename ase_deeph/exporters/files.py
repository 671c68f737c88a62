"""Files that appear complete or not at all: written beside their place, then moved there."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replaced_file(path: str | Path) -> Iterator[Path]:
    """A hidden path beside `path`, of the same suffix, that takes its place when the block ends well.

    Raises
    ------
    ValueError : the folder of `path` does not exist, or `path` is a folder.
    """
    path = Path(path)
    if path.is_dir() or not path.parent.is_dir():
        raise ValueError(f"{path}: expected a file in a folder that exists; make {path.parent} first")
    partial = path.with_name(f".partial-{uuid.uuid4().hex[:8]}{path.suffix}")
    try:
        yield partial
        with partial.open("rb") as stream:
            os.fsync(stream.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
