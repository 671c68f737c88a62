"""States of finished k-points in a file, so that a killed run goes on where it stopped.

The file is replaced as a whole after every k-point (written beside its place, flushed, moved), so that a run killed
at any moment leaves either the old or the new one. It names the problem it belongs to by a checksum of H, S, the
k-points and what was asked for; a file of another problem is refused, never mixed in.
"""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np


class Checkpoint:
    """Energies, residuals and first band of (spin, k) already done.

    Parameters
    ----------
    path : the file, an .npz; None keeps nothing.
    fingerprint : of the problem, see `fingerprint`.

    Raises
    ------
    ValueError : the file exists and belongs to another problem, or cannot be read.
    """

    def __init__(self, path: str | Path | None, fingerprint: str) -> None:
        self._path = None if path is None else Path(path)
        self._fingerprint = fingerprint
        self._done: dict[str, np.ndarray] = {}
        if self._path is not None and self._path.exists():
            self._done = self._read(self._path)

    def _read(self, path: Path) -> dict[str, np.ndarray]:
        try:
            with np.load(path, allow_pickle=False) as file:
                stored = {name: file[name] for name in file.files}
            owner = str(stored.pop("fingerprint"))
        except (AttributeError, TypeError):
            raise ValueError(
                f"{path}: not a file of finished k-points (an array, not an .npz); delete it to start anew"
            ) from None
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise ValueError(
                f"{path}: not a file of finished k-points ({error}); delete it to start anew"
            ) from None
        if owner != self._fingerprint:
            raise ValueError(
                f"{path}: holds k-points of another structure, model or request; delete it to start anew"
            )
        return stored

    def __len__(self) -> int:
        return len(self._done)

    def get(self, spin: int, k: int) -> tuple[np.ndarray, np.ndarray, int] | None:
        """Energies, residuals and first band of one finished point, None where it is not done."""
        row = self._done.get(f"{spin}_{k}")
        return None if row is None else (row[0, 1:], row[1, 1:], int(row[0, 0]))

    def put(self, spin: int, k: int, energies: np.ndarray, residuals: np.ndarray, first_band: int) -> None:
        """One more point, on disk when this returns."""
        self._done[f"{spin}_{k}"] = np.stack(
            [np.concatenate([[first_band], energies]), np.concatenate([[0.0], residuals])]
        )
        if self._path is None:
            return
        partial = self._path.with_name(f".{self._path.name}.{os.getpid()}.partial")
        try:
            with partial.open("wb") as stream:
                np.savez(stream, fingerprint=np.array(self._fingerprint), **self._done)  # type: ignore[arg-type]
                stream.flush()
                os.fsync(stream.fileno())
            partial.replace(self._path)
        finally:
            partial.unlink(missing_ok=True)

    def remove(self) -> None:
        """The run is complete and its result written elsewhere."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)


def fingerprint(*parts: Any) -> str:
    """SHA-256 of arrays and values, in order."""
    digest = hashlib.sha256()
    for chunk in _bytes_of(parts):
        digest.update(chunk)
    return digest.hexdigest()


def _bytes_of(parts: tuple[Any, ...]) -> Iterator[bytes]:
    for part in parts:
        if isinstance(part, np.ndarray):
            yield f"{part.dtype}{part.shape}".encode()
            yield np.ascontiguousarray(part).tobytes()
        else:
            yield repr(part).encode()
