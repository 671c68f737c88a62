"""A recipe of given structures, written to a file that `deeph dataset generate` takes."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ase import Atoms

from ase_deeph.dft.recipe import ENGINES, Recipe, StructureEntry

Engine = tuple[str, Mapping[str, Any]]


def write_selection(
    path: str | Path,
    structures: Sequence[tuple[str, Atoms]],
    *,
    engine: Engine = ("gpaw", {}),
    kpts: Mapping[str, tuple[int, int, int]] | None = None,
) -> Recipe:
    """Write structures to NAME.xyz and the recipe that computes each of them to `path`, NAME.toml.

    Parameters
    ----------
    structures : (name, atoms); the names become ids of the data set.
    engine : its name and settings.
    kpts : k-mesh of the structures that have one of their own.

    Returns
    -------
    The recipe, as `read_recipe` gives it.

    Raises
    ------
    ValueError : no structures, names that are no folder names or appear twice, or an unknown engine.
    """
    path = Path(path)
    frames = path.with_suffix(".xyz")
    if path.suffix != ".toml":
        raise ValueError(f"{path}: expected a recipe's name to end in .toml")
    recipe = Recipe(
        name=path.stem,
        seed=0,
        entries=tuple(
            StructureEntry(
                name,
                "file",
                options={"path": frames.name, "frame": n},
                kpts=(kpts or {}).get(name),
            )
            for n, (name, _) in enumerate(structures)
        ),
        engine=engine[0],
        settings=dict(engine[1]),
        folder=path.parent,
    )
    write_frames(frames, structures)
    _replace(path, lambda partial: partial.write_text(as_toml(recipe), encoding="utf-8"))
    return recipe


def write_frames(path: Path, structures: Sequence[tuple[str, Atoms]]) -> None:
    """Write structures and their names, nothing else, in the format of the suffix (.xyz is extended XYZ)."""
    from ase.io import write

    frames = []
    for name, atoms in structures:
        bare = Atoms(numbers=atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
        bare.info["name"] = name
        frames.append(bare)
    kind = "extxyz" if path.suffix in (".xyz", ".extxyz") else None
    _replace(path, lambda partial: write(partial, frames, format=kind))


def engine_of(provenance: Mapping[str, Any]) -> Engine | None:
    """The engine and settings that a model's data were computed with, from its provenance; None if it is silent."""
    published = provenance.get("engine")
    if isinstance(published, Mapping) and published.get("name") in ENGINES:
        return published["name"], {k: v for k, v in published.items() if k != "name"}
    data = provenance.get("dataset")
    if not isinstance(data, Mapping) or not isinstance(data.get("engine"), Mapping):
        return None
    recipes = list((data.get("recipes") or {}).values())
    name = data["engine"].get("engine")
    if name not in ENGINES or not recipes or any(r["settings"] != recipes[0]["settings"] for r in recipes):
        return None
    return name, dict(recipes[0]["settings"])


def as_toml(recipe: Recipe) -> str:
    """The text of a recipe whose entries are all of builder "file"."""
    lines = [f"name = {_value(recipe.name)}", f"seed = {recipe.seed}", "", "[engine]"]
    lines += _pairs({"name": recipe.engine, **recipe.settings})
    for entry in recipe.entries:
        own = {"name": entry.name, "builder": entry.builder, **entry.options, "kpts": entry.kpts}
        lines += ["", "[[structures]]", *_pairs(own)]
    return "\n".join(lines) + "\n"


def _pairs(table: Mapping[str, Any]) -> list[str]:
    return [f"{_key(key)} = {_value(value)}" for key, value in table.items() if value is not None]


def _key(key: str) -> str:
    return key if key.replace("_", "").replace("-", "").isalnum() and key.isascii() else json.dumps(key)


def _value(value: Any) -> str:
    """A TOML value; strings, numbers and truth values are written as in JSON."""
    if isinstance(value, Mapping):
        return "{ " + ", ".join(_pairs(value)) + " }" if value else "{}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_value(v) for v in value) + "]"
    if isinstance(value, (str, bool, int)):
        return json.dumps(value, ensure_ascii=False)
    return repr(float(value))


def _replace(path: Path, write: Callable[[Path], Any]) -> None:
    """Write a file beside its place, then move it there."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".partial-", suffix=path.suffix)
    os.close(handle)
    partial = Path(name)
    try:
        write(partial)
        partial.chmod(0o644)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
