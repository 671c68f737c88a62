"""Progress bars on a terminal, and none elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")


def progress(
    items: Iterable[Item], label: str, *, quiet: bool = False, total: int | None = None
) -> Iterable[Item]:
    """The items, with a bar on stderr; silent with `quiet` or when stderr is no terminal."""
    return tqdm(items, desc=label, total=total, disable=quiet or not sys.stderr.isatty(), leave=False)


@contextmanager
def progress_of_large_structures(*, quiet: bool = False) -> Iterator[None]:
    """A bar with the time left for each prediction in chunks made within; none where stderr is no terminal."""
    from ase_deeph.large import told

    with tqdm(desc="H in chunks", disable=quiet or not sys.stderr.isatty(), leave=False) as bar:

        def listen(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n if done >= bar.n else done)

        with told(listen):
            yield
