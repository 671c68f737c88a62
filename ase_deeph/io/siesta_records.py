"""Fortran's unformatted records, never more of them in memory than the file holds."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np

_MARK = 4


class FortranRecords:
    """The records of a file in order, each framed by its length in bytes (4-byte marks, either byte order).

    Raises
    ------
    ValueError : the marks do not frame the file: it is truncated, damaged, or of another kind.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._data = np.fromfile(path, dtype=np.uint8)
        self.order = self._byte_order()
        self._starts, self._lengths = self._framed()
        self._next = 0

    def _mark(self, at: int, order: str) -> int:
        return int(self._data[at : at + _MARK].view(f"{order}i4")[0])

    def _byte_order(self) -> Literal["<", ">"]:
        size = len(self._data)
        orders: tuple[Literal["<", ">"], ...] = ("<", ">")
        for order in orders:
            if size >= 2 * _MARK:
                length = self._mark(0, order)
                end = _MARK + length
                if 0 <= length <= size - 2 * _MARK and self._mark(end, order) == length:
                    return order
        raise ValueError(
            f"{self.path}: expected Fortran records, the first is not framed; the file is damaged"
        )

    def _framed(self) -> tuple[list[int], list[int]]:
        starts: list[int] = []
        lengths: list[int] = []
        at, size = 0, len(self._data)
        while at < size:
            length = self._mark(at, self.order) if at + _MARK <= size else -1
            end = at + _MARK + length
            if length < 0 or end + _MARK > size or self._mark(end, self.order) != length:
                raise ValueError(
                    f"{self.path}: record {len(starts) + 1} is cut short or damaged; copy it again"
                )
            starts.append(at + _MARK)
            lengths.append(length)
            at = end + _MARK
        return starts, lengths

    def __len__(self) -> int:
        return len(self._starts)

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return len(self._data)

    def next_length(self) -> int:
        """Bytes of the next record, -1 at the end of the file."""
        return self._lengths[self._next] if self._next < len(self) else -1

    def take(self, *parts: tuple[str, int]) -> list[np.ndarray]:
        """The next record as arrays of (dtype, count); ValueError unless they fill it exactly."""
        wanted = sum(np.dtype(kind).itemsize * int(count) for kind, count in parts)
        if any(count < 0 for _, count in parts) or self.next_length() != wanted:
            raise ValueError(
                f"{self.path}: record {self._next + 1} has {self.next_length()} bytes, expected {wanted}; "
                "the file is damaged or of an unknown layout"
            )
        at, arrays = self._starts[self._next], []
        self._next += 1
        for kind, count in parts:
            size = np.dtype(kind).itemsize * int(count)
            raw = self._data[at : at + size].tobytes()
            arrays.append(np.frombuffer(raw, dtype=np.dtype(kind).newbyteorder(self.order)).astype(kind))
            at += size
        return arrays

    def take_rows(self, kind: str, counts: np.ndarray) -> np.ndarray:
        """One record per row, concatenated."""
        rows = [self.take((kind, int(count)))[0] for count in counts]
        return np.concatenate(rows) if rows else np.zeros(0, dtype=kind)
