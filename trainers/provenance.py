"""Where a model comes from, for its file: how its data were computed, and with which packages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

_PACKAGES = ("ase-deeph", "jax", "flax", "optax", "orbax-checkpoint", "numpy", "ase")
_PER_STRUCTURE = {"sample", "seconds", "kpts", "box", "grid", "n_iterations", "gauge_shift"}
_MEASURED = ("dropped_", "outermost_")


def package_versions() -> dict[str, str]:
    """Versions of the packages that the numbers depend on."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def describe_data(infos: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """What the `info` of all structures has in common, and the recipes they follow from.

    Returns
    -------
    "engine": settings equal in all structures; "recipes": name -> {"seed", "settings", "entries"}, with the
    entries' own words and how many structures of each were used.
    """
    common: dict[str, Any] | None = None
    recipes: dict[str, dict[str, Any]] = {}
    for info in infos:
        own = {k: v for k, v in info.items() if k not in _PER_STRUCTURE and not k.startswith(_MEASURED)}
        common = own if common is None else {k: v for k, v in common.items() if own.get(k) == v}
        sample = info.get("sample")
        if isinstance(sample, Mapping) and "recipe" in sample:
            _add_sample(recipes, sample)
    return {"engine": common or {}, "recipes": recipes}


def _add_sample(recipes: dict[str, dict[str, Any]], sample: Mapping[str, Any]) -> None:
    seed = sample.get("seed")
    recipe = recipes.setdefault(
        str(sample["recipe"]),
        {
            "seed": seed[0] if isinstance(seed, list) and seed else seed,
            "settings": {k: v for k, v in dict(sample.get("settings", {})).items() if k != "kpts"},
            "entries": {},
        },
    )
    entry = dict(sample.get("entry", {}))
    known = recipe["entries"].setdefault(str(entry.pop("name", "unnamed")), {**entry, "used": 0})
    known["used"] += 1
