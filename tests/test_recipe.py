"""Recipes: strict reading, and structures that follow from seed, entry and index alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk
from ase.io import write
from ase.neighborlist import neighbor_list

from ase_deeph.dft.builders import CARBON_BOND, build, rippled, strained
from ase_deeph.dft.recipe import Recipe, StructureEntry, read_recipe

CARBON = Path(__file__).parents[1] / "examples" / "carbon"

GOOD = """
name = "small"
seed = 3

[engine]
name = "pyscf"
basis = "gth-szv"

[[structures]]
name = "flat"
builder = "graphene"
supercell = [2, 1]
count = 3
rattle = [0.01, 0.05]
strain = 0.02

[[structures]]
name = "tube"
builder = "nanotube"
indices = [4, 0]
kpts = [1, 1, 5]
"""


def recipe_from(text: str, tmp_path: Path) -> Recipe:
    (tmp_path / "r.toml").write_text(text)
    return read_recipe(tmp_path / "r.toml")


def test_reading(tmp_path: Path) -> None:
    recipe = recipe_from(GOOD, tmp_path)
    assert (recipe.name, recipe.seed, recipe.engine, dict(recipe.settings)) == (
        "small", 3, "pyscf", {"basis": "gth-szv"},
    )  # fmt: skip
    assert len(recipe) == 4
    assert [s.id for s in recipe.samples()] == ["flat-000", "tube-000", "flat-001", "flat-002"]
    assert [s.settings.get("kpts") for s in recipe.samples()][:2] == [None, (1, 1, 5)]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("seed = 3", "", "seed"),
        ("seed = 3", "seed = -3", "seed"),
        ("seed = 3", "sed = 3", "'sed'"),
        ("rattle = [", "ratle = [", "'ratle'"),
        ("rattle = [0.01, 0.05]", "rattle = [0.05, 0.01]", "rattle"),
        ('builder = "graphene"', 'builder = "graphane"', "'graphane'"),
        ('builder = "graphene"', "", "'builder'"),
        ("count = 3", "count = 0", "count"),
        ("supercell = [2, 1]", "supercell = [2, 0]", "supercell"),
        ('name = "tube"', 'name = "flat"', "distinct"),
        ('name = "tube"', 'name = "../tube"', "name"),
        ('name = "pyscf"', 'name = "vasp"', "engine"),
        ("[engine]", "[engine", "TOML"),
    ],
)
def test_mistakes_are_told(old: str, new: str, message: str, tmp_path: Path) -> None:
    assert GOOD.count(old) >= 1
    with pytest.raises(ValueError, match=message) as told:
        recipe_from(GOOD.replace(old, new, 1), tmp_path)
    assert "\n" not in str(told.value)


def test_samples_are_reproducible_and_differ(tmp_path: Path) -> None:
    first, second = (list(recipe_from(GOOD, tmp_path).samples()) for _ in range(2))
    for one, other in zip(first, second, strict=True):
        assert np.array_equal(one.atoms().positions, other.atoms().positions)
        assert one.fingerprint == other.fingerprint
    flat = [s.atoms().positions for s in first if s.entry.name == "flat"]
    assert np.abs(flat[0] - flat[1]).max() > 1e-3
    reseeded = list(recipe_from(GOOD.replace("seed = 3", "seed = 4"), tmp_path).samples())
    assert np.abs(reseeded[0].atoms().positions - flat[0]).max() > 1e-3


def test_a_sample_does_not_depend_on_other_entries(tmp_path: Path) -> None:
    alone = recipe_from(GOOD.split('[[structures]]\nname = "tube"')[0], tmp_path)
    together = recipe_from(GOOD, tmp_path)
    assert np.array_equal(
        [s.atoms().positions for s in alone.samples()][2],
        next(s.atoms().positions for s in together.samples() if s.id == "flat-002"),
    )


@pytest.mark.parametrize("cell", ["hexagonal", "rectangular"])
def test_graphene_has_three_neighbours(cell: str) -> None:
    atoms = build("graphene", {"cell": cell}, np.random.default_rng(0), folder=Path(), label="x")
    atoms.cell[2, 2] = 20.0
    i, d = neighbor_list("id", atoms, 1.6)
    assert np.bincount(i).tolist() == [3] * len(atoms)
    assert np.allclose(d, CARBON_BOND, atol=1e-3)
    assert tuple(atoms.pbc) == (True, True, False)


@pytest.mark.parametrize(("registry", "above"), [("AA", 2), ("AB", 1), ([0.0, 0.0], 2)])
def test_bilayer_registry(registry: object, above: int) -> None:
    options = {"registry": registry, "distance": 3.3}
    atoms = build("bilayer", options, np.random.default_rng(0), folder=Path(), label="x")
    atoms.cell[2, 2] = 20.0
    lower = atoms.positions[:, 2] < 1.0
    i, j, d = neighbor_list("ijd", atoms, 3.31)
    assert ((lower[i] != lower[j]) & np.isclose(d, 3.3)).sum() == 2 * above


def test_dichalcogenide_is_a_layer_in_the_plane() -> None:
    options = {"formula": "MoS2", "a": 3.18, "thickness": 3.13}
    layer = build("dichalcogenide", options, np.random.default_rng(0), folder=Path(), label="x")
    assert layer.get_chemical_formula() == "MoS2"
    assert layer.pbc.tolist() == [True, True, False]
    assert np.ptp(layer.positions[:, 2]) == pytest.approx(3.13)
    assert layer.get_distances(0, [1, 2], mic=True)[1] == pytest.approx(np.hypot(3.18 / np.sqrt(3), 1.565))
    with pytest.raises(ValueError, match="dichalcogenide"):
        build("dichalcogenide", {"formula": "MoS"}, np.random.default_rng(0), folder=Path(), label="x")


def test_nanotube_is_periodic_along_z() -> None:
    atoms = build("nanotube", {"indices": [4, 1]}, np.random.default_rng(0), folder=Path(), label="x")
    assert len(atoms) == 28
    assert tuple(atoms.pbc) == (False, False, True)
    with pytest.raises(ValueError, match="'x'"):
        build("nanotube", {}, np.random.default_rng(0), folder=Path(), label="x")


def test_structure_files(tmp_path: Path) -> None:
    write(tmp_path / "md.extxyz", [bulk("Si") * (1, 1, n) for n in (1, 2, 3)])
    rng = np.random.default_rng(0)
    options = {"path": "md.extxyz", "frame": 1}
    assert len(build("file", options, rng, folder=tmp_path, label="x")) == 4
    assert len(build("file", {**options, "frame": "random"}, rng, folder=tmp_path, label="x")) in (2, 4, 6)
    with pytest.raises(ValueError, match="no structure file"):
        build("file", {"path": "absent.cif"}, rng, folder=tmp_path, label="x")


def test_strain_moves_cell_and_atoms_together() -> None:
    atoms = bulk("Si", cubic=True)
    result = strained(atoms, (0.01, 0.02), 0.01, np.random.default_rng(0))
    assert np.allclose(result.get_scaled_positions(), atoms.get_scaled_positions())
    epsilon = np.linalg.solve(atoms.cell.array, result.cell.array) - np.eye(3)
    assert np.allclose(epsilon, epsilon.T)
    assert np.all((np.diag(epsilon) >= 0.01) & (np.diag(epsilon) <= 0.02))


def test_ripple_fits_the_cell() -> None:
    atoms = build("graphene", {}, np.random.default_rng(0), folder=Path(), label="x").repeat((4, 4, 1))
    result = rippled(atoms, 0.5, 1, np.random.default_rng(1))
    assert np.abs(result.positions[:, 2]).max() <= 0.5
    result.cell[2, 2] = 20.0
    assert np.bincount(neighbor_list("i", result, 1.7)).tolist() == [3] * 32


def test_entries_check_themselves() -> None:
    with pytest.raises(ValueError, match="kpts"):
        StructureEntry("a", "graphene", kpts=(0, 1, 1))


@pytest.mark.parametrize("name", ["train", "test", "demo"])
def test_the_carbon_recipes(name: str) -> None:
    recipe = read_recipe(CARBON / f"{name}.toml")
    for sample in recipe.samples():
        if sample.index == 0:
            atoms = sample.atoms()
            assert set(atoms.get_chemical_symbols()) == {"C"}
            assert neighbor_list("d", atoms, 2.0).min() > 1.0


def test_held_out_structures_are_no_training_structures() -> None:
    kinds = {
        name: {e.name for e in read_recipe(CARBON / f"{name}.toml").entries} for name in ("train", "test")
    }
    assert not kinds["train"] & kinds["test"]


def sample_of(builder: str, rng: int = 0, **options: object) -> object:
    return build(builder, options, np.random.default_rng(rng), folder=Path(), label="x")


def test_bulk_with_substitutions() -> None:
    pure = sample_of("bulk", formula="Si", structure="diamond", a=5.43)
    assert np.allclose(pure.get_all_distances(mic=True)[0, 1], 5.43 * np.sqrt(3) / 4)
    swap = {"from": "Si", "to": "C", "most": 2}
    counts = {
        int(
            sum(
                sample_of("bulk", seed, formula="Si", structure="diamond", a=5.4, substitute=swap).symbols
                == "C"
            )
        )
        for seed in range(12)
    }
    assert counts == {0, 1, 2}
    for wrong, message in (({"from": "Si"}, "substitute"), ({"from": "Ge", "to": "C", "most": 9}, "Ge")):
        with pytest.raises(ValueError, match=message):
            sample_of("bulk", 1, formula="Si", structure="diamond", a=5.4, substitute=wrong)


@pytest.mark.parametrize("seed", range(5))
def test_cluster_has_no_contacts(seed: int) -> None:
    water = sample_of("cluster", seed, molecule="H2O", number=5)
    assert water.get_chemical_formula() == "H10O5"
    distances = water.get_all_distances()
    oxygens = np.flatnonzero(water.symbols == "O")
    between = distances[np.ix_(oxygens, oxygens)] + 99 * np.eye(5)
    assert 0.9 * 2.9 < between.min(axis=1).max() < 1.3 * 2.9
    other = np.arange(15)[:, None] // 3 != np.arange(15)[None] // 3
    assert distances[other].min() > 1.5
    assert np.allclose(np.sort(distances[0, 1:3]), distances[oxygens[1], oxygens[1] + 1 : oxygens[1] + 3])
    with pytest.raises(ValueError, match="no room"):
        sample_of("cluster", seed, molecule="H2O", number=2, spacing=1e-4)


@pytest.mark.parametrize(("indices", "angle"), [((1, 2), 21.787), ((2, 3), 13.174), ((3, 1), 32.204)])
def test_twisted_bilayer(indices: tuple[int, int], angle: float) -> None:
    m, n = indices
    atoms = sample_of("twisted", indices=indices)
    assert len(atoms) == 4 * (m * m + n * n + m * n)
    i, d, vectors = neighbor_list("idD", atoms, 1.6)
    assert np.array_equal(np.bincount(i), np.full(len(atoms), 3))
    np.testing.assert_allclose(d, 2.46 / np.sqrt(3), atol=1e-9)
    turns = np.degrees(np.arctan2(vectors[:, 1], vectors[:, 0])) % 60
    upper = atoms.positions[i, 2] > 1.0
    assert np.ptp(turns[upper]) < 1e-6
    assert np.ptp(turns[~upper]) < 1e-6
    between = abs(turns[upper][0] - turns[~upper][0])
    assert min(between, 60 - between) == pytest.approx(min(angle, 60 - angle), abs=1e-3)
    with pytest.raises(ValueError, match="coprime"):
        sample_of("twisted", indices=(2, 2))


@pytest.mark.parametrize("path", sorted((CARBON.parents[1] / "benchmarks" / "sets").glob("*/t*.toml")))
def test_benchmark_recipes_build(path: Path) -> None:
    sample = next(read_recipe(path).samples())
    atoms = sample.atoms()
    assert len(atoms)
    assert not len(neighbor_list("i", atoms, 0.7))
