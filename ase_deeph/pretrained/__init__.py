"""Named models: the registry of those that ship with the package, and of the user's own.

`models.json` beside this file names the models that ship (HDF5 files in the same folder).  Every `NAME.h5` in
a folder of the environment variable ASE_DEEPH_MODELS (several are separated as in PATH) is a model `NAME`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ase_deeph.model import HamiltonianModel

ENVIRONMENT_VARIABLE = "ASE_DEEPH_MODELS"
_HERE = Path(__file__).parent


@dataclass(frozen=True)
class NamedModel:
    """A model that can be asked for by name."""

    name: str
    path: Path
    summary: str
    ships: bool


@cache
def _registry() -> tuple[str, Mapping[str, Mapping[str, str]]]:
    content = json.loads((_HERE / "models.json").read_text(encoding="utf-8"))
    return content["default"], content["models"]


def default_name() -> str:
    """The model that `DeepHCalculator()` loads."""
    return _registry()[0]


def named_models() -> dict[str, NamedModel]:
    """Name -> model, the shipped ones first; a user's model does not replace a shipped one of its name."""
    found = {
        name: NamedModel(name, _HERE / entry["file"], entry["summary"], ships=True)
        for name, entry in _registry()[1].items()
    }
    for folder in filter(None, os.environ.get(ENVIRONMENT_VARIABLE, "").split(os.pathsep)):
        for path in sorted(Path(folder).expanduser().glob("*.h5")):
            found.setdefault(path.stem, NamedModel(path.stem, path, f"in {folder}", ships=False))
    return found


def find(name: str | os.PathLike[str] | None = None) -> Path:
    """The file of a named model, or of a path to one; None is the default model.

    Raises
    ------
    ValueError : neither a known name nor an existing file.
    """
    models = named_models()
    wanted = default_name() if name is None else os.fspath(name)
    path = models[wanted].path if wanted in models else Path(wanted).expanduser()
    if path.is_file():
        return path
    if path.is_dir():
        raise ValueError(
            f"model {wanted!r} is a folder; expected a name ({', '.join(models)}) or an HDF5 file"
        )
    reason = "its file is not installed" if wanted in models else "it is neither a named model nor a file"
    raise ValueError(
        f"model {wanted!r}: {reason}; expected one of {', '.join(models)}, or a path to an HDF5 file"
    )


def load(name: str | os.PathLike[str] | None = None) -> HamiltonianModel:
    """The model of a name or path; None is the default model.

    Raises
    ------
    ValueError : unknown name, missing or corrupt file, or a format newer than this package.
    """
    return HamiltonianModel.load(find(name))


def demo_bands() -> Path:
    """The stored DFT bands that `deeph demo` compares with."""
    return _HERE / "demo_bands.h5"
