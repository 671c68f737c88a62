"""Progress bars on a terminal, and none elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")


def progress(
    items: Iterable[Item], label: str, *, quiet: bool = False, total: int | None = None
) -> Iterable[Item]:
    """The items, with a bar on stderr; silent with `quiet` or when stderr is no terminal."""
    return tqdm(items, desc=label, total=total, disable=quiet or not sys.stderr.isatty(), leave=False)
