"""Choosing what to compute next: the order, duplicates, refusals, the recipe, and `deeph dataset rank`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, graphene, molecule
from ase.io import read, write

from ase_deeph import pretrained
from ase_deeph.cli import main
from ase_deeph.dft.recipe import read_recipe
from ase_deeph.dft.selection import engine_of, write_selection
from ase_deeph.domain import TrainingDomain
from ase_deeph.sources import Committee
from ase_deeph.uncertainty_ranking import choose, rank
from tests.toys import Huckel

MESH = (6, 6, 1)


def sheet(a: float = 2.46) -> Atoms:
    atoms = graphene(a=a, vacuum=6.0)
    atoms.pbc = (True, True, False)
    return atoms


def toys() -> Committee:
    return Committee([Huckel(strength=k) for k in (1.7, 1.8)])


class TestRank:
    def test_order_and_refusals(self) -> None:
        """Toys that differ in their hopping differ least where atoms are far apart."""
        given = [("wide", sheet(3.0)), ("silicon", bulk("Si")), ("close", sheet(2.2)), ("middle", sheet())]
        ranked = rank(given, toys(), kpts=MESH)
        known = {name: toys().spread(atoms).mean_absolute for name, atoms in given if name != "silicon"}
        order = sorted(known, key=lambda name: -known[name])
        assert [r.name for r in ranked] == [*order, "silicon"]
        assert order[-1] == "wide"
        assert [r.spread for r in ranked[:3]] == pytest.approx([known[name] for name in order])
        assert all(r.levels > 0 for r in ranked[:3])
        assert "Si" in ranked[-1].refused
        assert [r.name for r in choose(ranked, 9)] == order

    def test_copies_are_chosen_once(self) -> None:
        copy = sheet()
        copy.rotate(40.0, "z", rotate_cell=True)
        copy.positions += 0.3
        ranked = rank([("a", sheet()), ("b", copy), ("c", sheet(2.7))], toys(), kpts=None)
        assert {r.name for r in ranked[:2]} == {"a", "b"}
        assert ranked[0].levels is None
        assert [r.name for r in choose(ranked, 2)] == [ranked[0].name, "c"]

    @pytest.mark.parametrize(
        ("given", "committee", "match"),
        [
            ([("a", sheet())], Committee(Huckel()), "two or more models, received 1"),
            ([("a", sheet()), ("a", sheet(2.5))], toys(), "'a' twice"),
            ([("a", bulk("Si"))], toys(), "all 1 were refused"),
            ([], toys(), "received none"),
        ],
    )
    def test_bad_input(self, given: list, committee: Committee, match: str) -> None:
        with pytest.raises(ValueError, match=match):
            rank(given, committee, kpts=None)

    def test_number(self) -> None:
        with pytest.raises(ValueError, match="at least one"):
            choose([], 0)


class TestSelection:
    def test_a_recipe_is_read_back(self, tmp_path: Path) -> None:
        given = [("sheet-0", sheet()), ("methane", molecule("CH4")), ("diamond", bulk("C"))]
        settings = {"basis": "szp(dzp)", "h": 0.2, "forces": False, "occupations": {"name": "fermi-dirac"}}
        write_selection(tmp_path / "next.toml", given, engine=("gpaw", settings), kpts={"sheet-0": (4, 4, 1)})
        recipe = read_recipe(tmp_path / "next.toml")
        assert (recipe.engine, dict(recipe.settings)) == ("gpaw", settings)
        samples = list(recipe.samples())
        assert [s.entry.name for s in samples] == [name for name, _ in given]
        assert samples[0].settings["kpts"] == (4, 4, 1)
        assert "kpts" not in samples[1].settings
        for sample, (_, atoms) in zip(samples, given, strict=True):
            built = sample.atoms()
            assert np.array_equal(built.numbers, atoms.numbers)
            assert np.array_equal(built.pbc, atoms.pbc)
            np.testing.assert_allclose(built.positions, atoms.positions, atol=1e-7)
            np.testing.assert_allclose(built.cell.array, atoms.cell.array, atol=1e-7)
        assert {p.name for p in tmp_path.iterdir()} == {"next.toml", "next.xyz"}

    def test_engine_of_a_model(self) -> None:
        published = {"engine": {"name": "gpaw", "h": 0.2}}
        recipes = {"a": {"settings": {"h": 0.2}}, "b": {"settings": {"h": 0.2}}}
        trained = {"dataset": {"engine": {"engine": "pyscf"}, "recipes": recipes}}
        assert engine_of(published) == ("gpaw", {"h": 0.2})
        assert engine_of(trained) == ("pyscf", {"h": 0.2})
        recipes["b"]["settings"] = {"h": 0.3}
        assert engine_of(trained) is None
        assert engine_of({}) is None

    @pytest.mark.parametrize(
        ("name", "given", "match"),
        [
            ("next.toml", [], "distinct names"),
            ("next.toml", [("a b", sheet())], "spaces"),
            ("next.json", [("a", sheet())], r"\.toml"),
        ],
    )
    def test_bad_input(self, tmp_path: Path, name: str, given: list, match: str) -> None:
        with pytest.raises(ValueError, match=match):
            write_selection(tmp_path / name, given)
        assert not list(tmp_path.iterdir())


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with candidates; the models m0.h5 and m1.h5 are toys of a known domain."""
    real, domain = pretrained.load, TrainingDomain.of(sheet(), 4.0)
    known = {f"m{n}.h5": Huckel(strength=k) for n, k in enumerate((1.7, 1.8))}
    for toy in known.values():
        toy.domain = domain  # type: ignore[attr-defined]
    monkeypatch.setattr(pretrained, "load", lambda name: known[name] if name in known else real(name))
    (tmp_path / "m0.h5").write_bytes(b"no structure either")
    write(tmp_path / "candidates.xyz", [sheet(), sheet(2.6), sheet(), bulk("C")], format="extxyz")
    write(tmp_path / "silicon.xyz", bulk("Si"), format="extxyz")
    (tmp_path / "empty.xyz").write_text("")
    monkeypatch.chdir(tmp_path)
    return tmp_path


MODELS = ("--model", "m0.h5", "--model", "m1.h5", "--kpts", "2,2,1")


class TestCommand:
    def test_table_and_recipe(self, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["dataset", "rank", "candidates.xyz", *MODELS, "-n", "2", "-o", "next.toml"]) == 0
        out, err = capsys.readouterr()
        assert err == ""
        rows = [line for line in out.splitlines() if "candidates-0" in line]
        assert len(rows) == 4
        spreads = [float(row.lstrip("* ").split()[2]) for row in rows]
        assert spreads == sorted(spreads, reverse=True)
        assert sum(row.startswith("*") for row in rows) == 2
        assert any("bonds; in training always 3" in row or "more such atoms" in row for row in rows)
        assert "next.toml: 2 of 4 candidates" in out
        assert main(["dataset", "list", "next.toml"]) == 0
        assert capsys.readouterr().out.count("atoms") == 2

    def test_a_recipe_of_candidates(self, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (place / "make.toml").write_text(
            'seed = 1\n[engine]\nname = "pyscf"\nbasis = "gth-szv"\n[[structures]]\nname = "g"\n'
            'builder = "graphene"\nkpts = [3, 3, 1]\ncount = 2\nrattle = 0.05\n'
        )
        assert main(["dataset", "rank", "make.toml", *MODELS, "--no-levels", "-o", "next.toml"]) == 0
        recipe = read_recipe(place / "next.toml")
        assert (recipe.engine, recipe.settings) == ("pyscf", {"basis": "gth-szv"})
        assert [e.kpts for e in recipe.entries] == [(3, 3, 1), (3, 3, 1)]
        wanted = {s.id: s.atoms() for s in read_recipe(place / "make.toml").samples()}
        for sample in recipe.samples():
            assert np.allclose(sample.atoms().positions, wanted[sample.entry.name].positions, atol=1e-7)

    def test_structures_alone(self, place: Path) -> None:
        assert main(["dataset", "rank", "candidates.xyz", *MODELS, "-n", "9", "-o", "best.xyz"]) == 0
        frames = read(place / "best.xyz", index=":")
        assert len(frames) == 3, "the sheet is in the candidates twice"
        assert {f.info["name"] for f in frames} <= {f"candidates-{n:04d}" for n in range(4)}

    @pytest.mark.parametrize(
        ("words", "says"),
        [
            (["candidates.xyz", "--model", "m0.h5"], "repeat --model"),
            (["missing.xyz", *MODELS], "no such file"),
            (["empty.xyz", *MODELS], "empty.xyz"),
            (["m0.h5", *MODELS], "cannot read"),
            (["silicon.xyz", *MODELS], "all 1 were refused"),
            (["candidates.xyz", *MODELS, "-n", "0"], "at least 1"),
            (["candidates.xyz", *MODELS, "-n", "few"], "invalid int"),
            (["candidates.xyz", *MODELS, "-o", "next.json"], ".toml"),
            (["candidates.xyz", *MODELS, "-o", "candidates.toml"], "replace the candidates"),
            (["candidates.xyz", *MODELS, "--kpts", "many"], "--kpts"),
            (["candidates.xyz", "--model", "m0.h5", "--model", "absent"], "absent"),
        ],
        ids=lambda value: " ".join(value[:1]) if isinstance(value, list) else value,
    )
    def test_bad_input(
        self, place: Path, capsys: pytest.CaptureFixture[str], words: list[str], says: str
    ) -> None:
        before = {p.name for p in place.iterdir()}
        assert main(["dataset", "rank", *words]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.count("\n") == 1
        assert says in err
        assert {p.name for p in place.iterdir()} == before


def test_trained_members_carry_their_domain(tmp_path: Path) -> None:
    """Two seeds of a tiny network, trained for one epoch: both know which structure is unlike their own."""
    pytest.importorskip("pydantic")
    pytest.importorskip("optax")
    pytest.importorskip("orbax.checkpoint")
    from ase_deeph.model import HamiltonianModel
    from tests.training_data import CUTOFF, TINY, rattled_graphene, write_dataset
    from trainers.config import parse_config
    from trainers.experiment import prepare
    from trainers.fit import Trainer

    write_dataset(tmp_path / "data", (1, 1, 1))
    members, steps = [], None
    for seed in (0, 1):
        values = {
            "output": f"run{seed}",
            "data": {"train": "data", "validation_fraction": 0.2, "max_shapes": 1},
            "network": {**TINY, "channels": 2, "n_heads": 1, "n_radial": 4, "hidden": 4},
            "training": {"epochs": 1, "seed": seed},
        }
        trainer = Trainer(prepare(parse_config(values, tmp_path)), steps=steps)
        steps = trainer.steps
        members.append(HamiltonianModel.load(trainer.run(resume=False).model_path))
    expected = TrainingDomain.of(rattled_graphene(1, 0), CUTOFF)
    for n in (1, 2):
        expected = expected | TrainingDomain.of(rattled_graphene(1, n), CUTOFF)
    for model in members:
        assert model.domain.coordination == expected.coordination
        assert model.domain.shortest[("C", "C")] >= expected.shortest[("C", "C")] - 1e-4
    seen = [(f"seen-{n}", rattled_graphene(1, n)) for n in range(2)]
    squeezed = rattled_graphene(1, 0)
    squeezed.set_cell(0.6 * squeezed.cell.array, scale_atoms=True)
    ranked = {r.name: r for r in rank([*seen, ("squeezed", squeezed)], Committee(members), kpts=None)}
    assert "apart" in ranked["squeezed"].outside_domain[0]
    assert not any(ranked[f"seen-{n}"].outside_domain for n in range(2))
