"""The model file: one HDF5 file with configuration, parameters, statistics, basis and provenance.

Layout: attributes `format`, `version`, `config` and `provenance` (JSON), `checksum`
(SHA-256 of all arrays); groups `parameters` and `statistics` (nested as the dictionaries are, float32) and
`basis` (see basis_file.py).  An energy head, where there is one, is the group `head` with groups of the same two
names, attributes `config` and `reference` (JSON) and a `checksum` of its own, so that older versions read the rest;
a spin head likewise, without `reference`, is the group `spin`, and the version 2, for H without it would be wrong.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ase_deeph.basis import OrbitalBasis
from ase_deeph.io.basis_file import read_basis, write_basis

FORMAT = "ase_deeph Hamiltonian model"
FORMAT_VERSION = 2
_VERSION_WITHOUT_SPIN = 1
_TREES = ("parameters", "statistics")


def _flat(tree: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, np.ndarray]]:
    for key in sorted(tree):
        path = f"{prefix}/{key}"
        if isinstance(tree[key], Mapping):
            yield from _flat(tree[key], path)
        else:
            yield path, np.asarray(tree[key], dtype=np.float32)


def _nested(group: h5py.Group) -> dict[str, Any]:
    return {key: _nested(item) if isinstance(item, h5py.Group) else item[()] for key, item in group.items()}


def _checksum(trees: Mapping[str, Mapping[str, Any]]) -> str:
    digest = hashlib.sha256()
    for name in sorted(trees):
        for path, array in _flat(trees[name], name):
            digest.update(path.encode())
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _write_trees(group: h5py.Group, trees: Mapping[str, Mapping[str, Any]]) -> None:
    """Nested dicts of arrays, and their checksum."""
    group.attrs["checksum"] = _checksum(trees)
    for name, tree in trees.items():
        for where, array in _flat(tree, name):
            options = {"compression": "gzip", "shuffle": True} if array.size > 64 else {}
            group.create_dataset(where, data=array, **options)


def _read_trees(group: h5py.Group, path: Path) -> dict[str, Any]:
    """The inverse; ValueError when an array was altered."""
    trees = {name: _nested(group[name]) for name in _TREES}
    if _checksum(trees) != group.attrs["checksum"]:
        raise ValueError(f"model file {path} is damaged: its arrays do not match its checksum; copy it again")
    return trees


def write_model(
    path: str | Path,
    *,
    config: Mapping[str, Any],
    parameters: Mapping[str, Any],
    statistics: Mapping[str, Any],
    basis: OrbitalBasis,
    provenance: Mapping[str, Any],
    head: Mapping[str, Any] | None = None,
    spin: Mapping[str, Any] | None = None,
) -> None:
    """Write a model file: into a temporary file beside it, then renamed, so that no half file is ever seen.

    HDF5 builds it in memory, for on a full disk HDF5 itself may crash the process.

    Parameters
    ----------
    head : config, reference, parameters and statistics of an energy head; None for none.
    spin : config, parameters and statistics of a spin head; None for none.

    Raises
    ------
    OSError : the folder cannot be written, or the disk is full.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    trees = {"parameters": parameters, "statistics": statistics}
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        file.attrs["format"] = FORMAT
        file.attrs["version"] = _VERSION_WITHOUT_SPIN if spin is None else FORMAT_VERSION
        file.attrs["config"] = json.dumps(dict(config))
        file.attrs["provenance"] = json.dumps(dict(provenance))
        _write_trees(file, trees)
        write_basis(file.create_group("basis"), basis)
        for name, parts in (("head", head), ("spin", spin)):
            if parts is not None:
                group = file.create_group(name)
                for key in parts.keys() - set(_TREES):
                    group.attrs[key] = json.dumps(dict(parts[key]))
                _write_trees(group, {tree: parts[tree] for tree in _TREES})
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as raw:
            raw.write(content.getbuffer())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def read_model(path: str | Path) -> dict[str, Any]:
    """The parts of a model file, by the names `write_model` takes.

    Raises
    ------
    FileNotFoundError : no such file.
    ValueError : not HDF5, not a model file, a newer format, truncated or altered content.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"model file {path} does not exist; `deeph models` lists the models by name")
    try:
        with h5py.File(path, "r") as file:
            return _read_open(file, path)
    except (OSError, RuntimeError, KeyError, TypeError, json.JSONDecodeError, UnicodeDecodeError) as error:
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise ValueError(
            f"model file {path} cannot be read: it is truncated, damaged or no model file ({reason}); "
            "copy or download it again"
        ) from error


def _read_open(file: h5py.File, path: Path) -> dict[str, Any]:
    if file.attrs.get("format") != FORMAT:
        raise ValueError(
            f"{path} is an HDF5 file but no model file: its format is {file.attrs.get('format')!r}"
        )
    version = int(file.attrs["version"])
    if version > FORMAT_VERSION:
        raise ValueError(
            f"model file {path} has format version {version}, newer than the {FORMAT_VERSION} that this version "
            "of ase_deeph reads; upgrade ase-deeph"
        )
    heads: dict[str, dict[str, Any] | None] = {"head": None, "spin": None}
    for name, keys in (("head", ("config", "reference")), ("spin", ("config",))):
        if name in file:
            told = {key: json.loads(file[name].attrs[key]) for key in keys}
            heads[name] = told | _read_trees(file[name], path)
    return {
        "config": json.loads(file.attrs["config"]),
        "provenance": json.loads(file.attrs["provenance"]),
        "basis": read_basis(file["basis"]),
        **heads,
        **_read_trees(file, path),
    }
