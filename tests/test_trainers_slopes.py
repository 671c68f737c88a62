"""Supervision of dH/dR: displaced pairs become one structure, the loss is the error of the network's own derivative."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("pydantic")

from ase_deeph.dft.builders import random_direction
from ase_deeph.dft.recipe import read_recipe
from ase_deeph.io.deeph import write_basis_file, write_deeph
from ase_deeph.network.config import NetworkConfig
from ase_deeph.reference import ReferenceData
from trainers.config import LossConfig, OptimizerConfig
from trainers.dataset import Batches, split
from trainers.slopes import KEY, middle, paired, slope
from trainers.step import Steps
from trainers.structures import load_structures

from .training_data import CUTOFF, hueckel, rattled_graphene, sp_basis

CONFIG = NetworkConfig(cutoff=CUTOFF)
STEP = 1e-3


def sides(name: str, cells: int) -> dict[str, ReferenceData]:
    """Two calculations, moved by plus and minus one direction."""
    atoms, basis = rattled_graphene(cells, 3), sp_basis()
    direction = random_direction(len(atoms), np.random.default_rng(cells))
    made = {}
    for sign, label in ((1, "plus"), (-1, "minus")):
        there = atoms.copy()
        there.positions += sign * STEP * direction
        data = hueckel(there, basis)
        made[f"{name}-{label}"] = replace(
            data, overlap=data.overlap.cut(CUTOFF), info={KEY: {"name": name, "sign": sign}}
        )
    return made


def write(root: Path, items: Mapping[str, ReferenceData]) -> Path:
    for name, data in items.items():
        write_deeph(root / "dft" / name, data, own_basis=False)
    write_basis_file(root / "basis.h5", sp_basis())
    return root


class Rigid:
    """A network of one parameter: H = p · |d|² on every pair, whose derivative is known."""

    def apply(self, params: Mapping[str, Any], statistics: Any, graph: Any) -> Any:
        import jax.numpy as jnp

        squared = jnp.sum(graph.vectors**2, axis=1)
        return params["p"] * jnp.where(graph.pair_mask, squared, 0.0)[:, None, None] * jnp.ones((1, 4, 4))

    def orbital_mask(self, graph: Any) -> Any:
        import jax.numpy as jnp

        return jnp.broadcast_to(graph.pair_mask[:, None, None], (len(graph.pair_mask), 4, 4))


def test_a_pair_is_one_structure_in_its_middle(tmp_path: Path) -> None:
    plain = {"alone": hueckel(rattled_graphene(1, 7), sp_basis())}
    root = write(tmp_path, {**sides("a", 1), **plain, **sides("b", 2)})
    one_by_one = load_structures([root], sp_basis(), CONFIG)
    assert [s.name for s in one_by_one] == ["a-minus", "a-plus", "alone", "b-minus", "b-plus"]
    assert all(s.slope is None for s in one_by_one)
    read = {s.name: s for s in load_structures([root], sp_basis(), CONFIG, slopes=True)}
    assert sorted(read) == ["a", "alone", "b"]
    assert read["alone"].slope is None

    made = sides("b", 2)
    here, s = middle("b", made["b-plus"], made["b-minus"])
    assert s == pytest.approx(STEP, rel=1e-9)
    exact = hueckel(rattled_graphene(2, 3), sp_basis())
    np.testing.assert_allclose(here.atoms.positions, exact.atoms.positions, atol=1e-12)
    assert (here.hamiltonian - exact.hamiltonian).max_abs() < 1e-4
    label = read["b"].slope
    assert label is not None
    assert np.sqrt(np.mean(np.sum(label.direction**2, axis=1))) == pytest.approx(1.0)
    assert np.abs(label.hamiltonian).max() > 1.0


def test_the_loss_is_the_error_of_the_derivative() -> None:
    made = sides("a", 2)
    names = list(made.items())
    (name, plus, minus), *none = list(paired(names[::-1]))
    assert not none
    assert name == "a"
    from trainers.structures import make_structure

    here, _ = middle(name, plus, minus)
    structure = make_structure(name, here, sp_basis(), CONFIG, tolerance=0.0, dtype=np.float32)
    label = slope(name, plus, minus, here.hamiltonian.pairs, 4)
    loss = LossConfig(gauge="fixed", derivative_weight=2.0)
    with_slope = Batches([replace(structure, slope=label), structure], 2, 1).make([0, 1])
    network = Rigid()
    params, statistics = {"p": np.float32(0.7)}, {}
    found, _ = Steps(network, loss, OptimizerConfig()).batch_loss(params, statistics, with_slope)
    bare, _ = Steps(network, LossConfig(gauge="fixed"), OptimizerConfig()).batch_loss(
        params, statistics, Batches([structure, structure], 2, 1).make([0, 1])
    )
    d = structure.graph.vectors.astype(float)
    change = label.direction[structure.graph.j] - label.direction[structure.graph.i]
    expected = np.mean(np.abs(2 * 0.7 * np.sum(d * change, axis=1)[:, None, None] - label.hamiltonian))
    assert float(found - bare) == pytest.approx(2.0 * expected / 2, rel=1e-4)

    shifted = replace(label, hamiltonian=label.hamiltonian + 3.0 * structure.overlap - 5.0 * label.overlap)
    moved = replace(structure, slope=shifted, target=structure.target - 5.0 * structure.overlap)
    free = LossConfig(gauge="free", derivative_weight=2.0)
    one, other = (
        Steps(network, free, OptimizerConfig()).batch_loss(params, statistics, Batches([s], 1, 1).make([0]))[
            0
        ]
        for s in (replace(structure, slope=label), moved)
    )
    assert float(one) == pytest.approx(float(other), rel=1e-4)


def test_broken_pairs_are_named(tmp_path: Path) -> None:
    made = sides("a", 1)
    with pytest.raises(ValueError, match="displaced pair a: one of its two"):
        list(paired(list(made.items())[:1]))
    twice = [("x", made["a-plus"]), ("y", made["a-plus"])]
    with pytest.raises(ValueError, match="have sign 1"):
        list(paired(twice))
    with pytest.raises(ValueError, match="are the same"):
        middle("a", made["a-plus"], made["a-plus"])
    wrapped = made["a-minus"].atoms.copy()
    wrapped.positions[1] += wrapped.cell[0]
    with pytest.raises(
        ValueError, match=r"displaced pair a: .* within 0\.5 Å .* 1\.\d\d Å for atom 1; do not wrap"
    ):
        middle("a", made["a-plus"], replace(made["a-minus"], atoms=wrapped))
    root = write(tmp_path, {"alone": hueckel(rattled_graphene(1, 7), sp_basis())})
    with pytest.raises(ValueError, match="needs displaced pairs"):
        load_structures([root], sp_basis(), CONFIG, slopes=True)


def test_a_pair_is_never_divided_between_training_and_validation() -> None:
    pairs = [f"flat-{n:03d}" for n in range(100)]
    halves = [f"{name}-{side}" for name in pairs for side in ("plus", "minus")]
    training, held = split(halves, 0.2)
    assert {halves[n].rsplit("-", 1)[0] for n in held} == {pairs[n] for n in split(pairs, 0.2)[1]}
    assert len(held) == 2 * len(split(pairs, 0.2)[1]) > 0
    assert sorted(training + held) == list(range(200))
    assert len(split(halves[:6], 1e-9)[1]) == 2, "the smallest hash is that of a pair"
    assert split(halves[:2], 1e-9)[1] == [], "one pair is not divided"


def test_the_tool_keeps_pairs_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from ase_deeph.cli import main

    root = write(tmp_path, {k: v for n in range(4) for k, v in sides(f"p{n}", 1).items()})
    assert main(["dataset", "split", str(root), "--fraction", "0.5", "-o", str(tmp_path / "split.json")]) == 0
    found = json.loads((tmp_path / "split.json").read_text())
    training, held = ({name.rsplit("-", 1)[0] for name in found[k]} for k in ("training", "validation"))
    assert training
    assert held
    assert not training & held


def test_recipes_write_pairs(tmp_path: Path) -> None:
    text = """
seed = 3
[engine]
name = "pyscf"
[[structures]]
name = "flat"
builder = "graphene"
supercell = [2, 1]
count = 2
rattle = 0.05
"""
    (tmp_path / "r.toml").write_text(text)
    plain = list(read_recipe(tmp_path / "r.toml").samples())
    (tmp_path / "r.toml").write_text(text + "displacement = 0.01\n")
    recipe = read_recipe(tmp_path / "r.toml")
    samples = list(recipe.samples())
    assert len(recipe) == 4
    assert [s.id for s in samples] == ["flat-000-plus", "flat-000-minus", "flat-001-plus", "flat-001-minus"]
    assert samples[1].pair == {KEY: {"name": "flat-000", "sign": -1}}
    assert "displacement" not in plain[0].fingerprint["entry"]
    up, down, rest = (s.atoms().positions for s in (*samples[:2], plain[0]))
    np.testing.assert_allclose(0.5 * (up + down), rest, atol=1e-12)
    assert np.sqrt(np.mean(np.sum((up - rest) ** 2, axis=1))) == pytest.approx(0.01)
    (tmp_path / "r.toml").write_text(text + "displacement = -0.01\n")
    with pytest.raises(ValueError, match="displacement >= 0"):
        read_recipe(tmp_path / "r.toml")
