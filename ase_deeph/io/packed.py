"""Many structures in one HDF5 file: appended one by one, read in bulk, each under its own checksum.

Appending goes through a journal (io/journal.py): whatever kills the process, at most the structure being written
is lost, and the file stays readable.  The layout is told in io/packed_layout.py.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import h5py
import numpy as np

from ase_deeph.basis import OrbitalBasis, SpeciesBasis
from ase_deeph.io.basis_file import read_basis, write_basis
from ase_deeph.io.journal import JournaledFile, recover
from ase_deeph.io.packed_layout import PARTS, basis_of, checked_format, checksum, lay_out, packed, unpacked
from ase_deeph.reference import ReferenceData

_DAMAGE = (OSError, KeyError, RuntimeError, TypeError, OverflowError)
_SUFFIXES = (".h5", ".hdf5")
_BULK_ENTRIES = 2_000_000


def is_packed(path: str | Path) -> bool:
    """Whether a path means a packed file: it is a file, or its name ends in .h5 or .hdf5."""
    path = Path(path)
    return path.is_file() or (path.suffix in _SUFFIXES and not path.is_dir())


class PackedWriter:
    """Appends structures to a packed file; each is there, whole, when `append` returns.

    Parameters
    ----------
    path : made when absent; an existing packed file is continued.
    dtype : precision of H and S (float64 by default); an existing file keeps its own.
    compression : "gzip", "lzf" (faster, read by h5py alone) or None.
    durable : whether each append waits for the disk, so that a power cut loses no more than a kill does.

    Raises
    ------
    ValueError : the file is no packed file or of another dtype, or another process appends to it.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        dtype: Literal["float32", "float64"] | None = None,
        compression: Literal["gzip", "lzf"] | None = "gzip",
        durable: bool = False,
    ) -> None:
        self.path = Path(path)
        if dtype not in (None, "float32", "float64"):
            raise ValueError(f"dtype: expected 'float32' or 'float64', received {dtype!r}")
        if self.path.is_dir() or not self.path.absolute().parent.is_dir():
            raise ValueError(f"{path}: expected a file in a folder that exists")
        self._file: Any = None
        self._raw = JournaledFile(self.path, durable=durable)
        try:
            fresh = self._raw.seek(0, os.SEEK_END) == 0
            self._file = _opened(self._raw, "w" if fresh else "r+", self.path)
            if fresh:
                lay_out(self._file, dtype or "float64", compression)
                self._save()
            self.dtype = np.dtype(checked_format(self._file, self.path))
            if dtype not in (None, self.dtype.name):
                raise ValueError(
                    f"{path} holds {self.dtype.name}, received dtype {dtype!r}; leave it out, or pack anew"
                )
            self._basis: dict[str, SpeciesBasis] = dict(_basis_in(self._file) or {})
            self._names = set(_names(self._file, self._file["structures"][()]))
        except BaseException:
            self._abandon()
            raise

    def __enter__(self) -> PackedWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self._names)

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def append(self, name: str, data: ReferenceData) -> None:
        """Write one structure; when this returns a kill can no longer lose it.

        Raises
        ------
        ValueError : the name is there already, the orbitals of an element differ from the file's, H and S
            belong to different atoms, or there is neither.
        """
        if name in self._names:
            raise ValueError(f"{self.path}: structure {name!r} is there already; names are unique")
        row, parts = packed(name, data, self.dtype)
        self._share_basis(name, data)
        for part in PARTS:
            target, values = self._file[part], parts[part]
            row[part] = len(target), len(values)
            if len(values):
                target.resize(len(target) + len(values), axis=0)
                target[len(target) - len(values) :] = values
        table = self._file["structures"]
        table.resize(len(table) + 1, axis=0)
        table[-1] = row
        self._save()
        self._names.add(name)

    def _save(self) -> None:
        self._file.flush()
        self._raw.commit()

    def _share_basis(self, name: str, data: ReferenceData) -> None:
        basis = basis_of(data)
        present = {s: basis[s] for s in set(data.atoms.get_chemical_symbols())}
        for symbol, species in present.items():
            if symbol in self._basis and self._basis[symbol].key() != species.key():
                raise ValueError(
                    f"{self.path}: the orbitals of {symbol} in {name!r} differ from the file's; use another file"
                )
        if set(present) - set(self._basis):
            self._basis.update(present)
            if "basis" in self._file:
                del self._file["basis"]
            write_basis(self._file.create_group("basis"), OrbitalBasis(self._basis))

    def close(self) -> None:
        """Give the file back, everything appended on the disk."""
        if self._file:
            self._file.close()
            self._raw.commit()
            self._raw.close()

    def _abandon(self) -> None:
        """Give the file back as it was at the last commit."""
        if self._file is not None:
            self._file.close()
        self._raw.close()


class PackedDataset(Sequence[ReferenceData]):
    """The structures of a packed file, read when asked for; any number of processes may read one file.

    Parameters
    ----------
    path : a file that `PackedWriter` wrote.
    verify : whether every structure read is compared with its checksum.

    Attributes
    ----------
    names : of the structures, in the order of packing.
    basis : the orbitals of all of them; None in an empty file.

    Raises
    ------
    ValueError : no packed file, a newer version, or damage.
    """

    def __init__(self, path: str | Path, *, verify: bool = True) -> None:
        self.path, self.verify = Path(path), verify
        if not self.path.is_file():
            raise ValueError(f"packed dataset {self.path} does not exist; deeph dataset pack makes one")
        self._open()

    def _open(self) -> None:
        recover(self.path)
        self._process, self._stamp = os.getpid(), _stamp(self.path)
        self._raw = self.path.open("rb", buffering=0)
        self._file = _opened(self._raw, "r", self.path)
        try:
            self.dtype = np.dtype(checked_format(self._file, self.path))
        except _DAMAGE as error:
            raise ValueError(f"{self.path}: damaged ({error}); pack it again") from error
        try:
            self.table: np.ndarray = self._file["structures"][()]
            self.names = tuple(_names(self._file, self.table))
            self.basis = _basis_in(self._file)
        except (*_DAMAGE, ValueError) as error:
            raise ValueError(f"{self.path}: damaged ({error}); pack it again") from error
        self._place = {name: n for n, name in enumerate(self.names)}

    def __reduce__(self) -> tuple[type[PackedDataset], tuple[str]]:
        return PackedDataset, (str(self.path),)

    def __repr__(self) -> str:
        return f"PackedDataset({str(self.path)!r}, {len(self)} structures, {self.dtype.name})"

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, key: int | str) -> ReferenceData:  # type: ignore[override]
        """The structure of a position or name.

        Raises
        ------
        KeyError, IndexError : no such structure.
        ValueError : it cannot be read, or does not match its checksum.
        """
        if isinstance(key, str):
            if key not in self._place:
                raise KeyError(f"{self.path} holds no structure {key!r} among its {len(self)}")
            key = self._place[key]
        n = range(len(self))[key]
        return next(self._between(n, n + 1))[1]

    def __iter__(self) -> Iterator[ReferenceData]:
        """Every structure, in bulk: many times faster than one by one."""
        return (data for _, data in self.items())

    def items(self) -> Iterator[tuple[str, ReferenceData]]:
        """(name, data) of every structure, in the order of packing."""
        entries = [self.table[p][:, 1] for p in ("hamiltonian", "hamiltonian_complex", "overlap")]
        sizes = np.sum(entries, axis=0)
        first = 0
        while first < len(self):
            n = int(np.searchsorted(np.cumsum(sizes[first:]), _BULK_ENTRIES, side="right"))
            last = min(first + max(1, n), len(self))
            yield from self._between(first, last)
            first = last

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        self._raw.close()

    def damaged(self) -> list[str]:
        """Names of the structures that cannot be read or do not match their checksum."""
        bad = []
        for n, name in enumerate(self.names):
            try:
                next(self._between(n, n + 1, verify=True))
            except ValueError:
                bad.append(name)
        return bad

    def _between(
        self, first: int, last: int, *, verify: bool | None = None
    ) -> Iterator[tuple[str, ReferenceData]]:
        """Consecutive structures, their arrays read at once; read again where a writer was at work meanwhile."""
        verify = self.verify if verify is None else verify
        if self._process != os.getpid():
            self._open()
        try:
            read = self._read(first, last, verify)
        except ValueError:
            if self._stamp == _stamp(self.path):
                raise
            self.close()
            self._open()
            read = self._read(first, last, verify)
        assert self.basis is not None
        for n, parts in enumerate(read, first):
            try:
                data = unpacked(self.table[n], parts, self.basis)
            except _DAMAGE as error:
                raise ValueError(
                    f"{self.path}: structure {self.names[n]!r} is damaged ({error}); pack it again"
                ) from error
            yield self.names[n], data

    def _read(self, first: int, last: int, verify: bool) -> list[dict[str, np.ndarray]]:
        """The arrays of consecutive structures, verified."""
        try:
            bulk = {part: _rows(self._file[part], self.table[part][first:last]) for part in PARTS}
        except (*_DAMAGE, ValueError) as error:
            raise ValueError(
                f"{self.path}: structures {first} to {last - 1} cannot be read ({error}); pack them again"
            ) from error
        begin = {part: int(self.table[part][first, 0]) for part in PARTS}
        read = []
        for n in range(first, last):
            row, parts = self.table[n], {}
            for part in PARTS:
                start, length = row[part].tolist()
                parts[part] = bulk[part][start - begin[part] : start - begin[part] + length]
            if verify and checksum(row, parts) != row["checksum"].tobytes():
                raise ValueError(
                    f"{self.path}: structure {self.names[n]!r} does not match its checksum; pack it again"
                )
            read.append(parts)
        return read


def read_packed(path: str | Path) -> Iterator[tuple[str, ReferenceData]]:
    """(name, data) of every structure of a packed file, each verified; ValueError when it is damaged."""
    return PackedDataset(path).items()


def _opened(stream: Any, mode: str, path: Path) -> h5py.File:
    """An HDF5 file over a stream of its own.

    HDF5 would share what it caches between all who open one path, and so show an old file after an append.
    """
    try:
        return h5py.File(stream, mode)
    except _DAMAGE as error:
        if mode == "r":
            stream.close()
        raise ValueError(f"{path}: truncated, or no HDF5 file ({error}); pack it again") from error


def _stamp(path: Path) -> tuple[int, int]:
    """Size and time of a file, which an append changes."""
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def _basis_in(file: h5py.File) -> OrbitalBasis | None:
    return read_basis(file["basis"]) if "basis" in file else None


def _rows(dataset: h5py.Dataset, ranges: np.ndarray) -> np.ndarray:
    """The rows of consecutive structures; ValueError when the array ends before them."""
    start, stop = int(ranges[0, 0]), int(ranges[-1].sum())
    if not 0 <= start <= stop <= len(dataset):
        raise ValueError(f"{dataset.name} has {len(dataset)} rows, the table asks for {start} to {stop}")
    return dataset[start:stop]


def _names(file: h5py.File, table: np.ndarray) -> list[str]:
    """The name of each structure."""
    if not len(table):
        return []
    text = _rows(file["text"], table["text"]).tobytes()
    begin = int(table["text"][0, 0])
    return [json.loads(text[a - begin : a - begin + n])["name"] for a, n in table["text"].tolist()]
