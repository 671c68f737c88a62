"""Prediction in chunks: the same H as in one pass, however it is cut, rebuilt or shared over devices."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, graphene

from ase_deeph import large
from ase_deeph import model as model_module
from ase_deeph.basis import OrbitalBasis, SpeciesBasis
from ase_deeph.graph import CrystalGraph, ShapeLadder
from ase_deeph.large import make_hermitian, memory_estimate
from ase_deeph.model import HamiltonianModel
from ase_deeph.network import NetworkConfig, build_network
from ase_deeph.network.chunks import Chunks, compact_groups
from ase_deeph.pairs import AtomPairs

BASIS = OrbitalBasis({"B": SpeciesBasis((0, 1), 3), "N": SpeciesBasis((0, 0, 1), 5)})
BOUND = {"float32": 1e-5, "float64": 1e-10}


def tiny(kind: str = "elct") -> HamiltonianModel:
    config = NetworkConfig(
        kind=kind,  # type: ignore[arg-type]
        l_max=2,
        cutoff=5.0,
        message_cutoff=3.2,
        channels=4,
        pseudo_channels=4,
        n_blocks=2,
        n_heads=2,
        hidden=16,
        n_radial=8,
    )
    network = build_network(config, BASIS)
    rng = np.random.default_rng(5)
    statistics = {key: rng.uniform(0.1, 0.9, size=a.shape) for key, a in network.empty_statistics().items()}
    return HamiltonianModel(config, BASIS, network.init(1), statistics, {"name": "tiny"})


def sheet(cells: int = 6) -> Atoms:
    atoms = graphene("BN", a=2.5, size=(cells, cells - 1, 1), vacuum=4.0)
    atoms.rattle(0.08, seed=3)
    return atoms


@pytest.fixture(scope="module")
def model() -> HamiltonianModel:
    return tiny()


@pytest.mark.parametrize(("dtype", "edges"), [("float32", "stored"), ("float64", "rebuilt")])
def test_equal_to_one_pass(model: HamiltonianModel, dtype: str, edges: str) -> None:
    atoms = sheet()
    whole = model(atoms, dtype=dtype)  # type: ignore[arg-type]
    parts = model.large_prediction(pairs_per_chunk=400, edges=edges)(atoms, dtype=dtype)  # type: ignore[arg-type]
    assert parts.pairs == whole.pairs
    assert np.abs(whole.entries).max() > 0.1, "blocks that are all zero would agree too"
    assert np.abs(parts.entries - whole.entries).max() <= BOUND[dtype]
    assert parts.hermiticity_error() == 0.0


def test_however_it_is_cut(model: HamiltonianModel) -> None:
    """One atom in each chunk, and one chunk of everything, of a small cell whose atoms meet their own images."""
    atoms = bulk("BN", "zincblende", a=3.6) * (2, 1, 1)
    atoms.rattle(0.05, seed=2)
    whole = model(atoms, dtype="float64")
    for pairs_per_chunk in (1, 10**7):
        parts = model.large_prediction(pairs_per_chunk=pairs_per_chunk)(atoms, dtype="float64")
        assert np.abs(parts.entries - whole.entries).max() <= 1e-10


def test_one_set_of_compiled_functions_for_moving_atoms_and_larger_cells(model: HamiltonianModel) -> None:
    prediction = HamiltonianModel(model.config, BASIS, model.params, model.statistics).large_prediction(
        pairs_per_chunk=400
    )
    steps: list[tuple[int, int]] = []
    prediction(sheet(6), progress=lambda done, total: steps.append((done, total)))
    before = prediction.network.n_compilations
    moved = sheet(6)
    moved.rattle(0.03, seed=8)
    prediction(moved)
    assert before == prediction.network.n_compilations == 3
    assert steps[-1][0] == steps[-1][1], "progress ends at its total"
    assert [done for done, _ in steps] == sorted(done for done, _ in steps)


def test_large_structures_take_it_by_themselves(model: HamiltonianModel, monkeypatch) -> None:
    atoms = sheet(4)
    fresh = HamiltonianModel(model.config, BASIS, model.params, model.statistics)
    whole = fresh(atoms)
    assert not fresh._large
    monkeypatch.setattr(model_module, "LARGE", 100)
    parts = fresh(atoms)
    assert fresh._large
    assert np.abs(parts.entries - whole.entries).max() <= BOUND["float32"]


def test_groups_hold_every_atom_once_and_are_compact() -> None:
    rng = np.random.default_rng(0)
    positions = rng.uniform(0, 40, size=(500, 3)) * [1, 1, 0.1]
    groups = compact_groups(positions, np.full(500, 10.0), 200.0)
    assert sorted(np.concatenate(groups)) == list(range(500))
    assert max(len(g) for g in groups) <= 20
    extent = np.mean([np.ptp(positions[g], axis=0)[:2].max() for g in groups])
    assert extent < 15, "a group of 16 of 500 atoms in 40 Å x 40 Å, were it square, is 7 Å wide"


def test_every_pair_is_in_one_chunk(model: HamiltonianModel) -> None:
    atoms = sheet()
    pairs = AtomPairs.from_atoms(atoms, model.cutoff)
    graph = CrystalGraph.from_atoms(atoms, pairs, BASIS, message_cutoff=model.config.reach)
    chunks = Chunks(graph, compact_groups(atoms.positions, np.ones(len(atoms)), 10.0), ShapeLadder())
    seen = np.concatenate([chunks.pairs(n) for n in range(len(chunks))])
    assert sorted(seen) == list(range(len(pairs)))
    assert sum(int(c.graph.near_mask.sum()) for c in chunks) == graph.n_near


def test_hermitian_part_in_place(monkeypatch) -> None:
    monkeypatch.setattr(large, "_PAIRS_AT_ONCE", 7)
    pairs = AtomPairs.from_atoms(sheet(3), 4.0)
    blocks = np.random.default_rng(1).normal(size=(len(pairs), 3, 3))
    expected = 0.5 * (blocks + np.swapaxes(blocks[pairs.reverse], 1, 2))
    make_hermitian(blocks, pairs.reverse)
    assert np.array_equal(blocks, expected)


def test_memory_estimate(model: HamiltonianModel) -> None:
    atoms = sheet()
    pairs = AtomPairs.from_atoms(atoms, model.cutoff)
    graph = CrystalGraph.from_atoms(atoms, pairs, BASIS, message_cutoff=model.config.reach)
    stored, rebuilt = (memory_estimate(model.config, BASIS, graph, e) for e in ("stored", "rebuilt"))
    assert stored.edges == graph.n_near * 9 * 8 * 4
    assert rebuilt.edges == 0
    assert rebuilt.atoms > stored.atoms
    assert stored.matrix >= 8 * len(model(atoms).entries)
    assert "GiB" in str(stored)


def test_refusals(model: HamiltonianModel) -> None:
    with pytest.raises(ValueError, match="pairs_per_chunk: expected at least 1, received 0"):
        model.large_prediction(pairs_per_chunk=0)
    with pytest.raises(ValueError, match="expected 'stored' or 'rebuilt', received 'kept'"):
        model.large_prediction(edges="kept")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="kind 'elct', received 'e3'"):
        tiny("e3").large_prediction()
    with pytest.raises(ValueError, match="expected 'float32' or 'float64', received 'float16'"):
        model.large_prediction()(sheet(3), dtype="float16")
    with pytest.raises(ValueError, match=r"closer than the 0\.4 Å"):
        model.large_prediction()(Atoms("BN", [[0, 0, 0], [0, 0, 0.1]]))
    with pytest.raises(ValueError, match="at least one atom"):
        model.large_prediction()(Atoms())
    with pytest.raises(KeyError, match="Xe"):
        model.large_prediction()(Atoms("Xe"))
    bad = {**model.params, "species": np.full_like(model.params["species"], np.nan)}
    with pytest.raises(ValueError, match="NaN"):
        HamiltonianModel(model.config, BASIS, bad, model.statistics).large_prediction()(sheet(3))


_ON_FOUR = """
import jax, numpy as np
from tests.test_large import sheet, tiny
model = tiny()
assert len(jax.devices()) == 4
second = jax.devices()[1]
alone = model.large_prediction(pairs_per_chunk=400, devices=(second,))
assert alone.network._everywhere(np.ones(2)).devices() == {second}
assert np.abs(alone(sheet()).entries - model(sheet()).entries).max() <= 1e-5
for dtype, bound in (("float32", 1e-5), ("float64", 1e-10)):
    whole = model(sheet(), dtype=dtype)
    parts = model.large_prediction(pairs_per_chunk=400, devices=tuple(jax.devices()))
    assert parts.network.n_devices == 4
    assert np.abs(parts(sheet(), dtype=dtype).entries - whole.entries).max() <= bound
print("equal")
"""


def test_over_four_devices() -> None:
    environment = {
        **os.environ,
        "ASE_DEEPH_CACHE": "off",
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
    }
    done = subprocess.run(
        [sys.executable, "-c", _ON_FOUR],
        env=environment,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[1],
        check=False,
    )
    assert done.stdout.strip() == "equal", done.stderr[-2000:]
