"""Datasets: stable split, few shapes, reproducible order, padding without effect, no block lost."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pydantic")
pytest.importorskip("optax")

from ase_deeph.network import NetworkConfig, build_network
from tests.training_data import CUTOFF, TINY, hueckel, rattled_graphene, sp_basis, write_dataset
from trainers.bases import dataset_basis
from trainers.config import LossConfig, OptimizerConfig
from trainers.dataset import Batches, choose_shapes, split
from trainers.step import Steps
from trainers.structures import (
    Structure,
    fingerprint,
    load_structures,
    make_structure,
    structure_folders,
)

CONFIG = NetworkConfig(**TINY)


def structures(sizes: tuple[int, ...] = (1, 2, 3, 1, 2)) -> list[Structure]:
    basis = sp_basis()
    return [
        make_structure(
            f"s{n}", hueckel(rattled_graphene(c, n), basis), basis, CONFIG, tolerance=0.0, dtype=np.float32
        )
        for n, c in enumerate(sizes)
    ]


def test_the_split_does_not_move_when_structures_are_added() -> None:
    names = [f"structure_{n}" for n in range(400)]
    kept, held = split(names, 0.2)
    assert sorted(kept + held) == list(range(400))
    assert 50 < len(held) < 110
    more = [f"other_{n}" for n in range(100)] + names
    assert {names[n] for n in held} <= {more[n] for n in split(more, 0.2)[1]}
    assert split(names[:3], 1e-9)[1]
    assert split(names, 0.0)[1] == []
    with pytest.raises(ValueError, match="leaves none"):
        split(["a"], 0.9999999)


def test_shapes_are_few_hold_everything_and_waste_little() -> None:
    rng = np.random.default_rng(1)
    atoms = rng.integers(2, 60, 300)
    sizes = [(int(n), int(40 * n + rng.integers(0, 20)), int(12 * n)) for n in atoms]
    for most in (1, 2, 4):
        shapes, of = choose_shapes(sizes, most)
        assert len(shapes) <= most
        for size, which in zip(sizes, of, strict=True):
            assert all(s <= big for s, big in zip(size, shapes[which], strict=True))
    padded = sum(shapes[n][1] for n in of)
    assert 1 - sum(s[1] for s in sizes) / padded < 0.2


def test_epochs_cover_everything_once_in_a_reproducible_order() -> None:
    batches = Batches(structures(), batch_size=2, max_shapes=2)
    order = batches.order(seed=3, epoch=5)
    assert sorted(m for b in order for m in b) == list(range(5))
    assert len(order) == len(batches)
    assert order == batches.order(seed=3, epoch=5)
    assert any(order != batches.order(seed=3, epoch=e) for e in range(5))
    assert all(len(b.graph.i) in {s[1] for s in batches.shapes} for _, b in batches.epoch(3, 5))


def test_batching_and_padding_change_no_loss_and_bound_the_compilations() -> None:
    examples = structures((1, 2, 1))
    network = build_network(CONFIG, sp_basis())
    statistics = network.fit_statistics((s.graph, s.target) for s in examples)
    steps = Steps(network, LossConfig(), OptimizerConfig())
    params = network.init(0)
    together = Batches(examples, batch_size=3, max_shapes=1)
    alone = Batches(examples, batch_size=1, max_shapes=1)
    loss, sums = steps.measure(params, statistics, together.make([0, 1, 2]))
    singles = [steps.measure(params, statistics, alone.make([n])) for n in range(3)]
    assert float(loss) == pytest.approx(np.mean([float(one) for one, _ in singles]), rel=1e-4)
    np.testing.assert_allclose(sums, np.concatenate([s for _, s in singles]), rtol=1e-3, atol=1e-4)
    partly, _ = steps.measure(params, statistics, together.make([1]))
    assert float(partly) == pytest.approx(float(singles[1][0]), rel=1e-4)
    assert steps.measure._cache_size() == 2


def test_labels_beyond_the_cutoff_are_dropped_only_when_small() -> None:
    basis, data = sp_basis(), hueckel(rattled_graphene(2, 0), sp_basis())
    short = replace(CONFIG, cutoff=3.0)
    with pytest.raises(
        ValueError, match=r"beyond the network's cutoff 3.0 Å.*\(\d, \d, R=.*drop_beyond_cutoff_below"
    ):
        make_structure("a", data, basis, short, tolerance=1e-6, dtype=np.float32)
    kept = make_structure("a", data, basis, short, tolerance=10.0, dtype=np.float32)
    assert 0 < kept.dropped < 10.0
    assert make_structure("a", data, basis, CONFIG, tolerance=0.0, dtype=np.float32).dropped == 0.0


def test_reading_folders_and_their_complaints(tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "data", (1, 2))
    basis = dataset_basis(root)
    assert basis == sp_basis()
    read = load_structures([root], basis, CONFIG)
    assert [s.name for s in read] == ["sheet_000", "sheet_001"]
    direct = make_structure(
        "x",
        hueckel(rattled_graphene(1, 0), basis),
        basis,
        replace(CONFIG, cutoff=CUTOFF),
        tolerance=0,
        dtype=np.float32,
    )
    np.testing.assert_allclose(read[0].target, direct.target, atol=1e-5)
    assert fingerprint(read) == fingerprint(read[::-1])
    assert fingerprint(read) != fingerprint(read[:1])
    with pytest.raises(ValueError, match="appears twice"):
        load_structures([root, root, root], basis, CONFIG)
    with pytest.raises(ValueError, match="does not exist"):
        structure_folders(tmp_path / "none")
    with pytest.raises(ValueError, match="no structure folder"):
        structure_folders(tmp_path)
    (root / "dft" / "sheet_000" / "hamiltonian.h5").write_bytes(b"broken")
    with pytest.raises(ValueError, match="sheet_000"):
        load_structures([root], basis, CONFIG)
