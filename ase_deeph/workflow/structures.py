"""Named structures of a trajectory, a packed dataset, or a folder of structure files or of DeepH folders."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from ase import Atoms
from ase.io import iread, read
from ase.io.formats import UnknownFileTypeError

from ase_deeph.io.dataset import structure_folders
from ase_deeph.io.deeph import INFO, STRUCTURE, read_deeph
from ase_deeph.io.packed import PackedDataset, is_packed

_HDF5 = (".h5", ".hdf5")


class NamedStructures(Sequence[str]):
    """Names of structures; `items` reads them one after the other.

    Parameters
    ----------
    names : unique, and fit to be names of folders.
    items : makes a fresh iterator of (name, atoms or the exception that reading them raised).
    """

    def __init__(
        self, names: Sequence[str], items: Callable[[], Iterator[tuple[str, Atoms | Exception]]]
    ) -> None:
        self.names, self.items = tuple(names), items

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, n: int) -> str:  # type: ignore[override]
        return self.names[n]


def holds_many(path: str | Path) -> bool:
    """Whether a path can only mean several structures: a packed dataset, or a folder that is no DeepH folder."""
    path = Path(path)
    if path.is_dir():
        return not (path / INFO).is_file() and not (path / "lat.dat").is_file()
    return path.suffix in _HDF5 and is_packed(path)


def named_structures(path: str | Path) -> NamedStructures:
    """The structures of a path, each with a name: its folder's, its file's, or the number of its frame.

    Parameters
    ----------
    path : a packed dataset; a folder of DeepH folders, or of files that ASE reads; or one file of many frames.

    Raises
    ------
    ValueError : the path does not exist or holds no structure.
    """
    path = Path(path)
    if not path.exists():
        raise ValueError(
            f"structures {str(path)!r} do not exist; give a folder, a trajectory or a packed dataset"
        )
    if path.is_dir():
        return _of_folder(path)
    return _of_packed(path) if path.suffix in _HDF5 else _of_trajectory(path)


def _of_folder(folder: Path) -> NamedStructures:
    try:
        found = structure_folders(folder)
        return _of_paths([p.name for p in found], found, _of_deeph_folder)
    except ValueError:
        files = sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))
    if not files:
        raise ValueError(f"folder {folder} holds neither DeepH folders nor structure files")
    stems = [p.stem for p in files]
    names = [p.name if stems.count(p.stem) > 1 else p.stem for p in files]
    return _of_paths(names, files, _one_structure)


def _of_deeph_folder(folder: Path) -> Atoms:
    alone = (folder / STRUCTURE).is_file() and not (folder / INFO).is_file()
    return _one_structure(folder / STRUCTURE) if alone else read_deeph(folder).atoms


def _one_structure(path: Path) -> Atoms:
    try:
        found = read(path)
    except UnknownFileTypeError as error:
        raise ValueError(f"{path}: no structure file that ASE knows") from error
    assert isinstance(found, Atoms)
    return found


def _of_paths(names: list[str], paths: list[Path], reader: Callable[[Path], Atoms]) -> NamedStructures:
    def items() -> Iterator[tuple[str, Atoms | Exception]]:
        for name, path in zip(names, paths, strict=True):
            try:
                yield name, reader(path)
            except Exception as error:
                yield name, ValueError(f"{path}: cannot be read ({error})")

    return NamedStructures(names, items)


def _of_trajectory(path: Path) -> NamedStructures:
    try:
        n = sum(1 for _ in iread(path, index=":"))
    except Exception as error:
        raise ValueError(f"cannot read structures from {str(path)!r}: {error}") from error
    if not n:
        raise ValueError(f"{path} holds no structure")
    names = [f"{path.stem}-{frame:0{max(4, len(str(n - 1)))}d}" for frame in range(n)]
    return NamedStructures(names, lambda: zip(names, iread(path, index=":"), strict=False))


def _of_packed(path: Path) -> NamedStructures:
    dataset = PackedDataset(path)
    names = [re.sub(r"[^\w.+-]", "_", name) for name in dataset.names]
    if len(set(names)) < len(names):
        raise ValueError(f"{path}: names of structures differ only in characters that no folder may have")
    if not names:
        raise ValueError(f"{path} holds no structure")
    return NamedStructures(
        names, lambda: ((name, data.atoms) for name, data in zip(names, dataset, strict=True))
    )
