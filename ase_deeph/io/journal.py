"""A file that changes as a whole: what is written appears at `commit`, or not at all, whatever kills the process.

Written pages are kept in memory.  A commit appends those beyond the old end of the file (nobody knows them yet),
stores those that replace old content in a journal beside the file, and then puts them in place.  A journal that is
found later is put in place again; half a journal is dropped, for nothing of it was in place.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import os
import struct
import time
from pathlib import Path

_PAGE = 4096
_MAGIC = b"ASEDEEPHJ1"
_HEADER = struct.Struct("<10sQQ32s")
_ENTRY = struct.Struct("<Q")
_PATIENCE = 10.0


class JournaledFile(io.RawIOBase):
    """A binary file for one writer, with the methods that h5py's "fileobj" driver calls.

    Parameters
    ----------
    path : opened for reading and writing, made when absent.
    durable : whether a commit waits until the disk has it (safe against power cuts as well as kills).

    Raises
    ------
    ValueError : another process is writing this file.
    """

    def __init__(self, path: str | Path, *, durable: bool = False) -> None:
        self.path, self.durable = Path(path), durable
        self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._fd)
            raise ValueError(f"{self.path}: another process is appending to it; wait until it ends") from None
        _put_in_place(self._fd, self.path)
        self._committed = self._size = os.fstat(self._fd).st_size
        self._pages: dict[int, bytearray] = {}
        self._position = 0

    def readable(self) -> bool:
        """Always."""
        return True

    def writable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def tell(self) -> int:
        """Current position."""
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to a position."""
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = start + offset
        return self._position

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        """Fill a buffer from the current position; the number of bytes that were there."""
        view = memoryview(buffer).cast("B")
        n = max(0, min(len(view), self._size - self._position))
        at = 0
        while at < n:
            page, start = divmod(self._position + at, _PAGE)
            length = min(_PAGE - start, n - at)
            view[at : at + length] = self._page(page)[start : start + length]
            at += length
        self._position += n
        return n

    def write(self, data: bytes | memoryview) -> int:  # type: ignore[override]
        """Keep bytes at the current position until the next commit."""
        view = memoryview(data).cast("B")
        at = 0
        while at < len(view):
            page, start = divmod(self._position + at, _PAGE)
            length = min(_PAGE - start, len(view) - at)
            if page not in self._pages:
                self._pages[page] = bytearray(self._page(page))
            self._pages[page][start : start + length] = view[at : at + length]
            at += length
        self._position += len(view)
        self._size = max(self._size, self._position)
        return len(view)

    def truncate(self, size: int | None = None) -> int:
        """Set the size of the file at the next commit."""
        self._size = self._position if size is None else size
        return self._size

    def flush(self) -> None:
        """Nothing: see `commit`."""

    def _page(self, page: int) -> bytes | bytearray:
        if page in self._pages:
            return self._pages[page]
        return os.pread(self._fd, _PAGE, page * _PAGE).ljust(_PAGE, b"\0")

    def commit(self) -> None:
        """Make everything written so far part of the file, all at once."""
        if not self._pages and self._size == self._committed:
            return
        old = {p: b for p, b in self._pages.items() if p * _PAGE < self._committed}
        for page in sorted(self._pages.keys() - old.keys()):
            os.pwrite(self._fd, self._pages[page], page * _PAGE)
        journal = _journal_of(self.path)
        _write_journal(journal, old, self._size, self.durable)
        if self.durable:
            os.fsync(self._fd)
        journal.with_suffix(".partial").replace(journal)
        for page, content in old.items():
            os.pwrite(self._fd, content, page * _PAGE)
        os.ftruncate(self._fd, self._size)
        if self.durable:
            os.fsync(self._fd)
        journal.unlink()
        self._committed = self._size
        self._pages.clear()

    def close(self) -> None:
        """Give the file back; what was not committed is forgotten."""
        if not self.closed:
            os.fsync(self._fd)
            os.close(self._fd)
        super().close()


def recover(path: str | Path) -> None:
    """Finish the commit that a killed writer left, if any; a living writer's is waited for.

    Raises
    ------
    ValueError : a commit does not end, or the file may not be written to finish it.
    """
    path = Path(path)
    deadline = time.monotonic() + _PATIENCE
    while _journal_of(path).exists():
        try:
            fd = os.open(path, os.O_RDWR)
        except PermissionError:
            raise ValueError(f"{path}: an append was cut short; open it once with write permission") from None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _put_in_place(fd, path)
        except OSError:
            if time.monotonic() > deadline:
                raise ValueError(f"{path}: another process has been writing it for long; try again") from None
            time.sleep(0.01)
        finally:
            os.close(fd)


def _journal_of(path: Path) -> Path:
    return path.with_name(f".{path.name}.journal")


def _write_journal(journal: Path, pages: dict[int, bytearray], size: int, durable: bool) -> None:
    body = b"".join(_ENTRY.pack(page) + bytes(content) for page, content in sorted(pages.items()))
    with journal.with_suffix(".partial").open("wb") as file:
        file.write(_HEADER.pack(_MAGIC, len(pages), size, hashlib.sha256(body).digest()))
        file.write(body)
        file.flush()
        if durable:
            os.fsync(file.fileno())


def _put_in_place(fd: int, path: Path) -> None:
    """Apply a whole journal, drop half a one."""
    journal = _journal_of(path)
    journal.with_suffix(".partial").unlink(missing_ok=True)
    try:
        content = journal.read_bytes()
    except FileNotFoundError:
        return
    header, body = content[: _HEADER.size], content[_HEADER.size :]
    if len(header) == _HEADER.size:
        magic, n, size, digest = _HEADER.unpack(header)
        step = _ENTRY.size + _PAGE
        if magic == _MAGIC and len(body) == n * step and hashlib.sha256(body).digest() == digest:
            for at in range(0, len(body), step):
                (page,) = _ENTRY.unpack_from(body, at)
                os.pwrite(fd, body[at + _ENTRY.size : at + step], page * _PAGE)
            os.ftruncate(fd, size)
            os.fsync(fd)
    journal.unlink()
