"""Builders of structures for recipes, and the distortions applied to them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.build import make_supercell

GRAPHENE_LATTICE = 2.46
CARBON_BOND = 1.42


@dataclass(frozen=True)
class Builder:
    """A function of (options, rng, folder) -> Atoms and the options it takes."""

    function: Callable[[Mapping[str, Any], np.random.Generator, Path], Atoms]
    options: tuple[str, ...]


def build(
    name: str, options: Mapping[str, Any], rng: np.random.Generator, *, folder: Path, label: str
) -> Atoms:
    """Build a structure by the builder's name; ValueError names the entry when its options are wrong."""
    try:
        return BUILDERS[name].function(options, rng, folder)
    except (TypeError, ValueError, KeyError) as error:
        raise ValueError(
            f"recipe entry {label!r}: builder {name!r} cannot use {dict(options)}: {error}"
        ) from error


def _layer(cell: str) -> Atoms:
    """One graphene cell in the xy plane, hexagonal (2 atoms) or rectangular (4 atoms)."""
    a = GRAPHENE_LATTICE
    if cell == "hexagonal":
        vectors = [[a, 0, 0], [-a / 2, a * np.sqrt(3) / 2, 0], [0, 0, 0]]
        positions = [[0, 0, 0], [0, a / np.sqrt(3), 0]]
    elif cell == "rectangular":
        vectors = [[a, 0, 0], [0, a * np.sqrt(3), 0], [0, 0, 0]]
        b = a / np.sqrt(3)
        positions = [[0, 0, 0], [0, b, 0], [a / 2, 1.5 * b, 0], [a / 2, 2.5 * b, 0]]
    else:
        raise ValueError(f"expected cell 'hexagonal' or 'rectangular', received {cell!r}")
    return Atoms(f"C{len(positions)}", positions=positions, cell=vectors, pbc=(True, True, False))


def _graphene(options: Mapping[str, Any], rng: np.random.Generator, folder: Path) -> Atoms:
    return _layer(options.get("cell", "hexagonal"))


def _bilayer(options: Mapping[str, Any], rng: np.random.Generator, folder: Path) -> Atoms:
    """Two layers; registry "AA", "AB", "random" or two fractions; distance in Å (number or range)."""
    lower = _layer(options.get("cell", "hexagonal"))
    registry = options.get("registry", "AB")
    bond = np.array([0.0, GRAPHENE_LATTICE / np.sqrt(3), 0.0])
    if registry == "random":
        shift = rng.uniform(size=2) @ lower.cell.array[:2]
    elif registry in ("AA", "AB"):
        shift = bond * (registry == "AB")
    else:
        shift = np.asarray(registry, dtype=float) @ lower.cell.array[:2]
    upper = lower.copy()
    upper.positions += shift + np.array(
        [0.0, 0.0, rng.uniform(*np.broadcast_to(options.get("distance", 3.35), 2))]
    )
    return lower + upper


def _twisted(options: Mapping[str, Any], rng: np.random.Generator, folder: Path) -> Atoms:
    """Two layers turned by a commensurate angle: indices (m, n) have cos θ = (m² + n² + 4mn) / 2(m² + n² + mn).

    J. M. B. Lopes dos Santos et al., Phys. Rev. Lett. 99, 256802 (2007); 4 (m² + n² + mn) atoms for coprime (m, n).
    """
    m, n = (int(k) for k in options["indices"])
    if min(m, n) < 1 or m == n or np.gcd(m, n) != 1:
        raise ValueError(f"twisted: expected two different coprime positive indices, received {(m, n)}")
    lower, upper = _coincidence_layer(m, n), _coincidence_layer(n, m)
    upper.set_cell(lower.cell, scale_atoms=True)
    distance = rng.uniform(*np.broadcast_to(options.get("distance", 3.35), 2))
    upper.positions[:, 2] = lower.positions[0, 2] + distance
    return lower + upper


def _coincidence_layer(m: int, n: int) -> Atoms:
    """A graphene layer whose cell vectors are (m a1 + n a2) and the same turned by 60°; x along the first."""
    layer = _layer("hexagonal")
    layer.set_cell([*layer.cell.array[:2], [0.0, 0.0, 1.0]])
    wide = make_supercell(layer, [[m, -n, 0], [n, m + n, 0], [0, 0, 1]])
    wide.rotate(wide.cell[0], "x", rotate_cell=True)
    wide.set_cell([*wide.cell.array[:2], [0.0, 0.0, 0.0]])
    return wide


def _chain(options: Mapping[str, Any], rng: np.random.Generator, folder: Path) -> Atoms:
    """A straight chain along x, one period: `number` atoms of an element, `spacing` Å apart (number or range)."""
    number, spacing = int(options.get("number", 2)), rng.uniform(*np.broadcast_to(options["spacing"], 2))
    positions = spacing * np.arange(number)[:, None] * np.array([1.0, 0.0, 0.0])
    length = [number * spacing, 0.0, 0.0]
    return Atoms(
        [str(options["element"])] * number, positions, cell=np.diag(length), pbc=(True, False, False)
    )


def _honeycomb(options: Mapping[str, Any], rng: np.random.Generator, folder: Path) -> Atoms:
    """A buckled honeycomb layer in the xy plane: lattice constant `a`, sublattices `buckling` Å apart in z."""
    a, buckling = float(options["a"]), float(options.get("buckling", 0.0))
    vectors = [[a, 0, 0], [-a / 2, a * np.sqrt(3) / 2, 0], [0, 0, 0]]
    positions = [[0, 0, 0], [0, a / np.sqrt(3), buckling]]
    return Atoms([str(options["element"])] * 2, positions, cell=vectors, pbc=(True, True, False))


def _dichalcogenide(options: Mapping[str, Any], rng: np.random.Generator, folder: Path) -> Atoms:
    """A layer MX2 of ase.build.mx2 in the xy plane: `formula`, `kind` "2H" or "1T", `a` and `thickness` in Å."""
    from ase.build import mx2

    size = {key: float(options[key]) for key in ("a", "thickness") if key in options}
    layer = mx2(str(options["formula"]), kind=str(options.get("kind", "2H")), **size)
    layer.set_cell([*layer.cell.array[:2], [0.0, 0.0, 0.0]])
    layer.positions[:, 2] -= layer.positions[:, 2].mean()
    layer.pbc = (True, True, False)
    return layer


def _nanotube(options: Mapping[str, Any], rng: np.random.Generator, folder: Path) -> Atoms:
    """A carbon nanotube (n, m) along z, one period."""
    from ase.build import nanotube

    n, m = options["indices"]
    tube = nanotube(int(n), int(m), length=1, bond=float(options.get("bond", CARBON_BOND)))
    tube.pbc = (False, False, True)
    tube.positions[:, :2] -= tube.positions[:, :2].mean(axis=0)
    return tube


def _bulk(options: Mapping[str, Any], rng: np.random.Generator, folder: Path) -> Atoms:
    """A crystal by ase.build.bulk, cubic cell; substitute = {from = "Si", to = "C", most = 2} swaps 0 to 2 atoms."""
    from ase.build import bulk

    crystal = bulk(
        str(options["formula"]),
        crystalstructure=options.get("structure"),
        a=options.get("a"),
        cubic=bool(options.get("cubic", True)),
    )
    return _substituted(crystal, options.get("substitute"), rng)


def _substituted(atoms: Atoms, substitute: Mapping[str, Any] | None, rng: np.random.Generator) -> Atoms:
    """Some atoms of one element, drawn at random, become another."""
    if substitute is None:
        return atoms
    unknown = sorted(set(substitute) ^ {"from", "to", "most"})
    if unknown:
        raise ValueError(f"substitute: expected the keys from, to and most, received {sorted(substitute)}")
    hosts = np.flatnonzero(atoms.symbols == substitute["from"])
    n = int(rng.integers(0, int(substitute["most"]) + 1))
    if n > len(hosts):
        raise ValueError(f"substitute: {n} of {substitute['from']} asked for, the cell has {len(hosts)}")
    symbols = np.array(atoms.get_chemical_symbols())
    symbols[rng.choice(hosts, size=n, replace=False)] = substitute["to"]
    result = atoms.copy()
    result.set_chemical_symbols(list(symbols))
    return result


def _cluster(options: Mapping[str, Any], rng: np.random.Generator, folder: Path) -> Atoms:
    """`number` molecules of ase.build.molecule, turned at random, about `spacing` Å apart, without contacts."""
    from ase.build import molecule

    number, spacing = int(options.get("number", 1)), float(options.get("spacing", 2.9))
    unit = molecule(str(options["molecule"]))
    unit.positions -= unit.get_center_of_mass()
    cluster = Atoms()
    for _ in range(1000 * number):
        if len(cluster) == number * len(unit):
            return cluster
        candidate = unit.copy()
        candidate.rotate(360.0 * rng.uniform(), rng.normal(size=3))
        if len(cluster):
            anchor = cluster.positions[len(unit) * int(rng.integers(len(cluster) // len(unit)))]
            direction = rng.normal(size=3)
            candidate.positions += anchor + spacing * rng.uniform(0.95, 1.25) * direction / np.linalg.norm(
                direction
            )
        if _apart(cluster, candidate, spacing):
            cluster += candidate
    raise ValueError(f"no room for {number} of {options['molecule']} at a spacing of {spacing} Å")


def _apart(cluster: Atoms, candidate: Atoms, spacing: float) -> bool:
    """First atoms (the heavy ones) nearly a spacing apart, all others at least 0.55 of it, and 1 Å."""
    if not len(cluster):
        return True
    distances = np.linalg.norm(cluster.positions[:, None] - candidate.positions[None], axis=-1)
    return bool(
        distances.min() > max(0.55 * spacing, 1.0) and distances[:: len(candidate), 0].min() > 0.9 * spacing
    )


def _file(options: Mapping[str, Any], rng: np.random.Generator, folder: Path) -> Atoms:
    """A structure file that ase.io reads; frame -1 by default, "random" draws one."""
    from ase.io import read

    path = folder / str(options["path"])
    if not path.exists():
        raise ValueError(f"no structure file {path}")
    frame = options.get("frame", -1)
    if frame == "random":
        frames = read(path, index=":")
        return frames[int(rng.integers(len(frames)))]  # type: ignore[return-value]
    return read(path, index=int(frame))  # type: ignore[return-value]


BUILDERS: dict[str, Builder] = {
    "graphene": Builder(_graphene, ("cell",)),
    "bilayer": Builder(_bilayer, ("cell", "registry", "distance")),
    "twisted": Builder(_twisted, ("indices", "distance")),
    "chain": Builder(_chain, ("element", "number", "spacing")),
    "honeycomb": Builder(_honeycomb, ("element", "a", "buckling")),
    "dichalcogenide": Builder(_dichalcogenide, ("formula", "kind", "a", "thickness")),
    "nanotube": Builder(_nanotube, ("indices", "bond")),
    "bulk": Builder(_bulk, ("formula", "structure", "a", "cubic", "substitute")),
    "cluster": Builder(_cluster, ("molecule", "number", "spacing")),
    "file": Builder(_file, ("path", "frame")),
}


def strained(atoms: Atoms, strain: tuple[float, float], shear: float, rng: np.random.Generator) -> Atoms:
    """Cell and positions times 1 + ε, ε symmetric: drawn diagonal along periodic axes, shear between them."""
    epsilon = np.zeros((3, 3))
    axes = np.nonzero(np.any(np.abs(atoms.cell.array[atoms.pbc]) > 1e-8, axis=0))[0]
    for axis in axes:
        epsilon[axis, axis] = rng.uniform(*strain)
    for first, second in zip(axes, np.roll(axes, -1), strict=True):
        if shear and first != second:
            epsilon[first, second] = epsilon[second, first] = rng.uniform(-shear, shear)
    result = atoms.copy()
    result.set_cell(atoms.cell.array @ (np.eye(3) + epsilon), scale_atoms=False)
    result.positions = atoms.positions @ (np.eye(3) + epsilon)
    return result


def rippled(atoms: Atoms, amplitude: float, waves: int, rng: np.random.Generator) -> Atoms:
    """z moved by A sin(2π q·s + φ) with s fractional and q integer, so that the wave fits the cell."""
    q = np.zeros(3)
    while not q.any():
        q[:2] = rng.integers(0, waves + 1, size=2)
    phase = rng.uniform(0.0, 2 * np.pi)
    fractional = atoms.cell.complete().scaled_positions(atoms.positions)
    result = atoms.copy()
    result.positions[:, 2] += amplitude * np.sin(2 * np.pi * fractional @ q + phase)
    return result


def rattled(atoms: Atoms, deviation: float, rng: np.random.Generator) -> Atoms:
    """Every coordinate moved by a Gaussian of standard deviation `deviation` (Å)."""
    result = atoms.copy()
    result.positions += rng.normal(scale=deviation, size=result.positions.shape)
    return result


def random_direction(n_atoms: int, rng: np.random.Generator) -> np.ndarray:
    """(n_atoms, 3) displacements without a rigid translation, of root mean square length 1 per atom."""
    direction = rng.normal(size=(n_atoms, 3))
    if n_atoms > 1:
        direction -= direction.mean(axis=0)
    return direction / np.sqrt(np.mean(np.sum(direction**2, axis=1)))
