"""Rows of named arrays in one HDF5 file: a row is there, whole, when `append` returns, whatever kills the process.

    /                attributes format = "ase_deeph.electronic_trajectory", version = 1, description (JSON)
    /fixed/NAME      what holds for every frame: numbers, pbc, k-points, energies of the DOS
    /frames/NAME     one row per frame, every array as long as the others

Each append is one commit of io/journal.py.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ase_deeph.io.journal import JournaledFile

FORMAT, VERSION = "ase_deeph.electronic_trajectory", 1
DAMAGE = (OSError, KeyError, RuntimeError, TypeError, OverflowError)
_CHUNK_BYTES = 8192
_MOST_ROWS = 1024


class FrameFile:
    """Appends rows for one writer.

    Parameters
    ----------
    path : made when absent; an existing file is continued.
    durable : whether an append waits for the disk, so that a power cut loses no more than a kill does.

    Raises
    ------
    ValueError : no file of this kind, damage, or another process appends to it.
    """

    def __init__(self, path: str | Path, *, durable: bool = False) -> None:
        self.path = Path(path)
        if self.path.is_dir() or not self.path.absolute().parent.is_dir():
            raise ValueError(f"{path}: expected a file in a folder that exists")
        self._raw = JournaledFile(self.path, durable=durable)
        self._half_written = False
        try:
            self.is_new = self._raw.seek(0, os.SEEK_END) == 0
            self._file = opened(self._raw, "w" if self.is_new else "r+", self.path)
            if not self.is_new:
                check_format(self._file, self.path)
        except BaseException:
            self._raw.close()
            raise
        self._columns: dict[str, h5py.Dataset] = dict(self._file.get("frames", {}).items())
        self._shapes = {name: column.shape[1:] for name, column in self._columns.items()}
        self._n = len(self._columns["step"]) if self._columns else 0

    def __len__(self) -> int:
        return self._n

    @property
    def description(self) -> dict[str, Any]:
        """What was written down when the file was made."""
        return json.loads(str(self._file.attrs["description"]))

    def describe(self, description: Mapping[str, Any], fixed: Mapping[str, np.ndarray]) -> None:
        """Say what the file holds; appears with the first frame."""
        self._file.attrs.update(format=FORMAT, version=VERSION, description=json.dumps(dict(description)))
        for name, values in fixed.items():
            self._file[f"fixed/{name}"] = values

    def fixed(self, name: str) -> np.ndarray:
        """What holds for every frame."""
        return self._file[f"fixed/{name}"][()]

    def column(self, name: str, start: int = 0) -> np.ndarray:
        """Rows of one array, from `start` (negative: from the end)."""
        return self._columns[name][start:]

    def append(self, row: Mapping[str, np.ndarray]) -> None:
        """One more frame.

        Raises
        ------
        ValueError : an array of another shape than in the frames before, or other names.
        """
        self._check(row)
        self._half_written = True
        for name in row.keys() - self._columns.keys():
            self._columns[name] = self._new_column(name, row[name])
            self._shapes[name] = row[name].shape
        for name, values in row.items():
            self._columns[name].resize(self._n + 1, axis=0)
            self._columns[name][self._n] = values
        self._file.flush()
        self._raw.commit()
        self._n += 1
        self._half_written = False

    def _new_column(self, name: str, values: np.ndarray) -> h5py.Dataset:
        return self._file.create_dataset(
            f"frames/{name}",
            (0, *values.shape),
            values.dtype,
            maxshape=(None, *values.shape),
            chunks=(_rows_per_chunk(values), *(max(1, n) for n in values.shape)),
        )

    def _check(self, row: Mapping[str, np.ndarray]) -> None:
        if not self._n:
            return
        if self._columns.keys() != row.keys():
            raise ValueError(
                f"{self.path}: frames hold {', '.join(self._columns)}; received {', '.join(row)}"
            )
        for name, values in row.items():
            if self._shapes[name] != values.shape:
                raise ValueError(
                    f"{self.path}: {name} has shape {self._shapes[name]} in the frames before, received "
                    f"{values.shape}; what is recorded must keep its shape"
                )

    def close(self) -> None:
        """Give the file back; a frame that failed is forgotten, and a new file without frames removed."""
        if self._file:
            self._file.close()
            if self._n and not self._half_written:
                self._raw.commit()
            self._raw.close()
            if not self._n and self.is_new:
                self.path.unlink(missing_ok=True)


def _rows_per_chunk(values: np.ndarray) -> int:
    return int(np.clip(_CHUNK_BYTES // max(values.nbytes, 1), 1, _MOST_ROWS))


def opened(stream: Any, mode: str, path: Path) -> h5py.File:
    """An HDF5 file over a stream of its own; ValueError when it is none."""
    try:
        return h5py.File(stream, mode)
    except DAMAGE as error:
        raise ValueError(f"{path}: truncated, or no HDF5 file ({error})") from error


def check_format(file: h5py.File, path: Path) -> None:
    """ValueError for a file of another kind, or of a newer version."""
    if file.attrs.get("format") != FORMAT:
        raise ValueError(f"{path} is no electronic trajectory; ElectronicTrajectory(...) writes them")
    version = file.attrs.get("version")
    if not isinstance(version, int | np.integer) or version > VERSION:
        raise ValueError(f"{path}: expected version <= {VERSION}, received {version}; update ase-deeph")
