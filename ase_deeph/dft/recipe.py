"""Recipes: a TOML file that names the structures of a data set, each derived from (seed, entry, index)."""

from __future__ import annotations

import json
import tomllib
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from ase_deeph.dft.builders import BUILDERS, build, random_direction, rattled, rippled, strained
from ase_deeph.dft.moments import PATTERNS, with_moments

ENGINES = ("gpaw", "pyscf", "cp2k")


@dataclass(frozen=True)
class StructureEntry:
    """One kind of structure and how its samples differ.

    Parameters
    ----------
    name : label, part of every id.
    builder : "graphene", "bilayer", "chain", "honeycomb", "bulk", "file", ... (see builders.py).
    count : number of samples.
    options : the builder's own arguments (supercell, indices, registry, ...).
    supercell : repetitions along the three axes, applied after the builder.
    rattle : (low, high) standard deviation of Gaussian displacements in Å; each sample draws one value.
    strain : (low, high) of the two or three diagonal strains along periodic axes.
    shear : largest shear of a layer or crystal (symmetric, uniform in -shear ... shear).
    ripple_amplitude : (low, high) in Å of a sinusoidal out-of-plane wave commensurate with the cell.
    ripple_waves : largest number of wavelengths per cell vector.
    kpts : k-mesh of these structures; None leaves it to the engine.
    displacement : Å; above 0 each sample becomes two, moved by plus and by minus a random direction in which an
        atom goes so far (root mean square): a displaced pair, from which dH/dR is learnt.
    moments : patterns of initial magnetic moments, "ferro", "antiferro" (signs in turn) or "random" signs; with
        several, consecutive samples are one geometry in each of them.  Empty: no moments.
    moment : their size in μB, of all atoms or {element = size}.
    """

    name: str
    builder: str
    count: int = 1
    options: Mapping[str, Any] = field(default_factory=dict)
    supercell: tuple[int, int, int] = (1, 1, 1)
    rattle: tuple[float, float] = (0.0, 0.0)
    strain: tuple[float, float] = (0.0, 0.0)
    shear: float = 0.0
    ripple_amplitude: tuple[float, float] = (0.0, 0.0)
    ripple_waves: int = 1
    kpts: tuple[int, int, int] | None = None
    displacement: float = 0.0
    moments: tuple[str, ...] = ()
    moment: float | Mapping[str, float] = 1.0

    def __post_init__(self) -> None:
        if self.builder not in BUILDERS:
            raise ValueError(
                f"recipe entry {self.name!r}: builder is one of {', '.join(BUILDERS)}, not {self.builder!r}"
            )
        if not self.name or any(c in self.name for c in "/\\ ") or self.name.startswith("."):
            raise ValueError(f"recipe entry: a name has no spaces and slashes, received {self.name!r}")
        if isinstance(self.count, bool) or not isinstance(self.count, int) or self.count < 1:
            raise ValueError(f"recipe entry {self.name!r}: expected count >= 1, received {self.count!r}")
        if isinstance(self.displacement, bool) or not self.displacement >= 0:
            raise ValueError(
                f"recipe entry {self.name!r}: expected displacement >= 0, received {self.displacement!r}"
            )
        object.__setattr__(self, "moments", _patterns(self.moments, self.name))
        for key in ("rattle", "strain", "ripple_amplitude"):
            object.__setattr__(self, key, _interval(getattr(self, key), f"recipe entry {self.name!r}: {key}"))
        object.__setattr__(self, "supercell", _repetitions(self.supercell, self.name, "supercell"))
        if self.kpts is not None:
            object.__setattr__(self, "kpts", _repetitions(self.kpts, self.name, "kpts"))

    @property
    def signs(self) -> tuple[int, ...]:
        """Of the displacements of each sample: (0,), or (1, -1) for a displaced pair."""
        return (1, -1) if self.displacement else (0,)


@dataclass(frozen=True)
class Recipe:
    """A data set: its seed, engine settings and entries.

    Parameters
    ----------
    name : of the data set.
    seed : non-negative integer from which all samples derive.
    entries : what to build.
    engine : "gpaw", "pyscf" or "cp2k".
    settings : keyword arguments of run_gpaw, run_pyscf or run_cp2k (basis, xc, h, kpts, ...).
    folder : where relative structure files are looked up.
    """

    name: str
    seed: int
    entries: tuple[StructureEntry, ...]
    engine: str = "gpaw"
    settings: Mapping[str, Any] = field(default_factory=dict)
    folder: Path = Path()

    def __post_init__(self) -> None:
        if self.engine not in ENGINES:
            raise ValueError(f"recipe: expected engine {' or '.join(ENGINES)}, received {self.engine!r}")
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or self.seed < 0:
            raise ValueError(f"recipe: expected a non-negative integer seed, received {self.seed!r}")
        names = [entry.name for entry in self.entries]
        twice = sorted({name for name in names if names.count(name) > 1})
        if not names or twice:
            raise ValueError(f"recipe: expected entries with distinct names, received {twice or 'none'}")

    def samples(self) -> Iterator[Sample]:
        """Every sample, round robin over the entries, so that a part of a data set is already balanced."""
        for index in range(max(entry.count for entry in self.entries)):
            for entry in self.entries:
                if index < entry.count:
                    yield from (Sample(self, entry, index, sign) for sign in entry.signs)

    def __len__(self) -> int:
        return sum(entry.count * len(entry.signs) for entry in self.entries)


@dataclass(frozen=True)
class Sample:
    """One structure of a recipe, named but not yet built; sign: which of a displaced pair, 0 for neither."""

    recipe: Recipe
    entry: StructureEntry
    index: int
    sign: int = 0

    @property
    def name(self) -> str:
        """Entry name and index, the same for both of a displaced pair."""
        return f"{self.entry.name}-{self.index:03d}"

    @property
    def id(self) -> str:
        """Folder name: the name, and which of a displaced pair."""
        return self.name + {0: "", 1: "-plus", -1: "-minus"}[self.sign]

    @property
    def pair(self) -> dict[str, Any]:
        """What its info says of a displaced pair: {"displaced_pair": {"name", "sign"}}; empty for none."""
        return {"displaced_pair": {"name": self.name, "sign": self.sign}} if self.sign else {}

    @property
    def settings(self) -> dict[str, Any]:
        """Keyword arguments of the engine for this sample."""
        own = {} if self.entry.kpts is None else {"kpts": self.entry.kpts}
        return {**self.recipe.settings, **own}

    @property
    def fingerprint(self) -> dict[str, Any]:
        """What determines the sample, as JSON: seed, entry (but its count), engine, settings."""
        entry = {key: value for key, value in asdict(self.entry).items() if key != "count"}
        if not self.sign:
            entry.pop("displacement")
        if not self.entry.moments:
            del entry["moments"], entry["moment"]
        content = {
            "recipe": self.recipe.name,
            "seed": self.seed,
            "entry": entry,
            "engine": self.recipe.engine,
            "settings": self.settings,
        }
        return json.loads(json.dumps(content))

    @property
    def seed(self) -> tuple[int, int, int]:
        """What the geometry's random numbers derive from, the same for all patterns of moments on it."""
        geometry = self.index // max(len(self.entry.moments), 1)
        return (self.recipe.seed, zlib.crc32(self.entry.name.encode()), geometry)

    def atoms(self) -> Atoms:
        """Build the structure: builder, supercell, strain, ripple, rattle, displacement, moments, in this order."""
        entry, rng = self.entry, np.random.default_rng(self.seed)
        atoms = build(entry.builder, entry.options, rng, folder=self.recipe.folder, label=entry.name)
        atoms = atoms.repeat(entry.supercell)
        if entry.strain != (0.0, 0.0) or entry.shear:
            atoms = strained(atoms, entry.strain, entry.shear, rng)
        if entry.ripple_amplitude[1] > 0:
            atoms = rippled(atoms, rng.uniform(*entry.ripple_amplitude), entry.ripple_waves, rng)
        if entry.rattle[1] > 0:
            atoms = rattled(atoms, rng.uniform(*entry.rattle), rng)
        if self.sign:
            atoms.positions += self.sign * entry.displacement * random_direction(len(atoms), rng)
        if entry.moments:
            pattern = entry.moments[self.index % len(entry.moments)]
            signs = np.random.default_rng((*self.seed, self.index))
            atoms = with_moments(atoms, pattern, entry.moment, signs)
        return atoms


def read_recipe(path: str | Path) -> Recipe:
    """Read a recipe.

    The file has `name`, `seed`, a table `[engine]` (`name`, then settings of run_<name>) and one
    `[[structures]]` table per entry with the keys of StructureEntry; keys it does not know go to the builder.

    Raises
    ------
    ValueError : not TOML, a missing or unknown key, or a value out of range.
    FileNotFoundError : no such file.
    """
    path = Path(path)
    try:
        document = tomllib.loads(path.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: expected a TOML recipe, {error}") from error
    unknown = sorted(set(document) - {"name", "seed", "engine", "structures"})
    if unknown:
        raise ValueError(
            f"{path}: unknown key {unknown[0]!r}; a recipe has name, seed, [engine] and [[structures]]"
        )
    engine = dict(document.get("engine", {}))
    entries = document.get("structures", [])
    if "seed" not in document or not isinstance(entries, list) or not entries:
        raise ValueError(f"{path}: expected a seed and at least one [[structures]] table")
    return Recipe(
        name=str(document.get("name", path.stem)),
        seed=document["seed"],
        entries=tuple(_entry(table, path) for table in entries),
        engine=engine.pop("name", "gpaw"),
        settings=engine,
        folder=path.parent,
    )


def _entry(table: Mapping[str, Any], path: Path) -> StructureEntry:
    known = {f.name for f in fields(StructureEntry)} - {"options"}
    missing = {"name", "builder"} - set(table)
    if missing:
        raise ValueError(f"{path}: a [[structures]] table lacks {sorted(missing)[0]!r}")
    own = {key: value for key, value in table.items() if key in known}
    options = {key: value for key, value in table.items() if key not in known}
    entry = StructureEntry(**own, options=options)
    allowed = BUILDERS[entry.builder].options
    unknown = sorted(set(options) - set(allowed))
    if unknown:
        raise ValueError(
            f"{path}: unknown key {unknown[0]!r} in entry {entry.name!r}; builder {entry.builder!r} takes "
            f"{', '.join(sorted(allowed))} beside {', '.join(sorted(known))}"
        )
    return entry


def _patterns(value: Any, name: str) -> tuple[str, ...]:
    """One or several patterns of moments."""
    patterns = (value,) if isinstance(value, str) else tuple(value)
    if any(pattern not in PATTERNS for pattern in patterns):
        raise ValueError(
            f"recipe entry {name!r}: expected moments among {', '.join(PATTERNS)}, received {value!r}"
        )
    return patterns


def _interval(value: Any, what: str) -> tuple[float, float]:
    """(low, high) from a number or a pair."""
    pair = (value, value) if isinstance(value, int | float) else tuple(value)
    if len(pair) != 2 or not all(isinstance(x, int | float) for x in pair) or pair[0] > pair[1]:
        raise ValueError(f"{what}: expected a number or [low, high], received {value!r}")
    return float(pair[0]), float(pair[1])


def _repetitions(value: Any, name: str, key: str) -> tuple[int, int, int]:
    counts = tuple(value) if isinstance(value, list | tuple) else (value,)
    counts = (*counts, 1, 1)[:3] if len(counts) < 3 else counts
    if len(counts) != 3 or not all(isinstance(n, int) and n >= 1 for n in counts):
        raise ValueError(
            f"recipe entry {name!r}: expected {key} of up to three positive integers, received {value!r}"
        )
    return counts  # type: ignore[return-value]
