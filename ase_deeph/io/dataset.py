"""Datasets: named structures in folders or packed files, read in one way and divided by the hash of their names."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from ase_deeph.io.packed import is_packed, read_packed
from ase_deeph.reference import ReferenceData

Reader = Callable[[Path], ReferenceData]


def structure_folders(root: str | Path) -> list[Path]:
    """The structure folders of a dataset: those of root/dft, or of root itself, sorted by name.

    Raises
    ------
    ValueError : the root does not exist or holds no structure folder.
    """
    root = Path(root)
    if not root.is_dir():
        raise ValueError(f"dataset {root} does not exist; give a folder made by `deeph dataset generate`")
    home = root / "dft" if (root / "dft").is_dir() else root
    folders = sorted(
        p for p in home.iterdir() if p.is_dir() and not p.name.startswith((".", "_")) and _is_complete(p)
    )
    if not folders and _is_complete(root):
        raise ValueError(f"dataset {root} is the folder of one structure; give the folder above it")
    if not folders:
        raise ValueError(
            f"dataset {root} holds no structure folder (looked for POSCAR or info.json in {home}/*/)"
        )
    return folders


def _is_complete(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ("POSCAR", "info.json", "lat.dat"))


def read_dataset(
    roots: Sequence[str | Path], reader: Reader | None = None
) -> Iterator[tuple[str, ReferenceData]]:
    """(id, data) of every structure of some datasets; a second root's ids are told apart.

    Parameters
    ----------
    roots : folders (read in order of name) and packed files (in order of packing).
    reader : of a structure folder; the DeepH format if None.

    Raises
    ------
    ValueError : a root without structures, a folder that cannot be read, or a damaged packed file.
    """
    seen: set[str] = set()
    for n, root in enumerate(roots):
        if Path(root).resolve() in [Path(other).resolve() for other in roots[:n]]:
            raise ValueError(f"dataset {root} appears twice; give each root once")
        for own, data in read_packed(root) if is_packed(root) else _read_folders(root, reader):
            name = own if own not in seen else f"{Path(root).name}/{own}"
            if name in seen:
                raise ValueError(
                    f"structure {name!r} of {root} appears twice in the dataset; give each root once"
                )
            seen.add(name)
            yield name, data


def _read_folders(root: str | Path, reader: Reader | None) -> Iterator[tuple[str, ReferenceData]]:
    if reader is None:
        from ase_deeph.io.deeph import read_deeph

        reader = read_deeph
    for folder in structure_folders(root):
        try:
            yield folder.name, reader(folder)
        except (KeyError, OSError, ValueError) as error:
            raise ValueError(f"structure folder {folder} cannot be read: {error}") from error


def split_score(name: str) -> float:
    """A number in [0, 1) that depends on the name alone: the first 64 bits of its SHA-256.

    A displaced pair, "x-plus" and "x-minus" as recipes name them, has the score of "x": its two structures are near
    copies, of which one in training would give the other away.
    """
    pair = name.removesuffix("-plus").removesuffix("-minus")
    return int.from_bytes(hashlib.sha256(pair.encode()).digest()[:8], "big") / 2.0**64


def split(names: Sequence[str], fraction: float) -> tuple[list[int], list[int]]:
    """Positions of (training, validation) structures; a structure never changes sides when others are added.

    A name is held out when its hash falls below the fraction.  When none does but the fraction is positive,
    the one with the smallest hash is.  The two structures of a displaced pair stay together (`split_score`).

    Raises
    ------
    ValueError : nothing would be left for training.
    """
    scores = np.array([split_score(name) for name in names])
    held = scores < fraction
    if fraction > 0 and not held.any() and len(set(scores.tolist())) > 1:
        held = scores == scores.min()
    if held.all():
        raise ValueError(
            f"validation_fraction {fraction} leaves none of {len(names)} structures for training; "
            "lower it or add structures"
        )
    return list(np.nonzero(~held)[0]), list(np.nonzero(held)[0])
