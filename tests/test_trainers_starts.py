"""How a training may start: from a model of another basis, as a committee, as a dry run, with another optimizer."""

from __future__ import annotations

import logging
import platform
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pydantic")
pytest.importorskip("optax")
pytest.importorskip("orbax.checkpoint")

import jax
import optax
from optax.contrib._muon import orthogonalize_via_newton_schulz

from ase_deeph.basis import OrbitalBasis, SpeciesBasis
from ase_deeph.io.model_file import read_model
from ase_deeph.model import HamiltonianModel
from ase_deeph.network import NetworkConfig, build_network
from tests.test_trainers_fit import toy_config
from tests.training_data import TINY, sp_basis, toy_experiment
from trainers import memory
from trainers.bases import same_orbitals
from trainers.committee import members, train_members
from trainers.config import OptimizerConfig
from trainers.domain import training_domain
from trainers.dryrun import costs
from trainers.fit import Trainer, fit
from trainers.log import read_log
from trainers.optimizer import Optimizer, _kinds, _muon, orthogonalised, schedule
from trainers.transfer import transfer

_FAULTS = """
import resource, sys
import jax, jax.numpy as jnp
from trainers.allocator import keep_freed_memory, return_freed_memory
rss = lambda: int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()
told = sys.argv[1] == "keep" and keep_freed_memory()
step = jax.jit(lambda x: jnp.sum(jnp.sort(jnp.cumsum(jnp.sort(x)))))
step(x := jnp.arange(5e6, dtype=jnp.float32)).block_until_ready()
for _ in range(3):
    step(x).block_until_ready()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    step(x).block_until_ready()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
held = rss()
return_freed_memory()
print(held - rss())
"""

NETWORK = NetworkConfig(**TINY)  # type: ignore[arg-type]


def carbon_model() -> HamiltonianModel:
    basis = sp_basis()
    network = build_network(NETWORK, basis)
    return HamiltonianModel(NETWORK, basis, network.init(3), network.empty_statistics(), {"name": "carbon"})


def with_nitrogen(shells: tuple[int, ...] = (0, 1)) -> OrbitalBasis:
    """Boron first, so that carbon's place changes."""
    return OrbitalBasis(
        {"B": SpeciesBasis(shells, 3.0), "C": sp_basis()["C"], "N": SpeciesBasis(shells, 5.0)}
    )


def test_new_species_keep_the_old_one_s_rows_at_their_new_place() -> None:
    model, basis = carbon_model(), with_nitrogen()
    assert not same_orbitals(model.basis, basis)
    network = build_network(NETWORK, basis)
    moved, own = transfer(model, network, 5), network.init(5)
    network.check(moved.params)
    assert not moved.fresh
    assert moved.extended
    assert all(name.rsplit(".", 1)[-1].startswith("species") for name in moved.extended)
    where = list(basis.symbols).index("C")
    np.testing.assert_array_equal(moved.params["species"][where], model.params["species"][0])
    others = [n for n in range(3) if n != where]
    np.testing.assert_array_equal(moved.params["species"][others], np.asarray(own["species"])[others])
    np.testing.assert_array_equal(
        moved.params["hop_readout"]["natural"], model.params["hop_readout"]["natural"]
    )
    assert "statistics refitted" in str(moved)


def test_other_shells_start_the_read_outs_afresh_and_nothing_else() -> None:
    model = carbon_model()
    network = build_network(NETWORK, with_nitrogen((0, 0, 1)))
    moved = transfer(model, network, 5)
    network.check(moved.params)
    assert moved.fresh
    assert all("readout" in name for name in moved.fresh)
    np.testing.assert_array_equal(
        moved.params["blocks"]["0"]["write"]["natural"], model.params["blocks"]["0"]["write"]["natural"]
    )


def test_one_species_for_another_takes_no_rows() -> None:
    model = carbon_model()
    nitrogen = OrbitalBasis({"N": SpeciesBasis((0, 1), 5.0)})
    moved = transfer(model, build_network(NETWORK, nitrogen), 5)
    assert "species" in moved.extended
    assert not np.array_equal(moved.params["species"], model.params["species"])


def test_an_experiment_starts_from_a_model_of_another_basis(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    experiment = toy_experiment(toy_config(tmp_path))
    boron = OrbitalBasis({"B": SpeciesBasis((0, 1), 3.0)})
    network = build_network(NETWORK, experiment.basis)
    start = replace(carbon_model(), basis=boron)
    moving = replace(experiment, network=network, start=start)
    with caplog.at_level(logging.INFO, "trainers"):
        params = moving.initial_params()
    network.check(params)
    assert "parameter arrays taken" in caplog.text
    assert not np.array_equal(moving.statistics()["hop_scale"], start.statistics["hop_scale"])
    same = replace(experiment, network=network, start=carbon_model())
    assert same.initial_params() is same.start.params  # type: ignore[union-attr]


def test_a_committee_is_n_runs_that_differ_and_can_be_resumed(tmp_path: Path) -> None:
    config = toy_config(tmp_path, epochs=4, committee=2, committee_fraction=0.6, seed=7)
    with pytest.raises(ValueError, match="call fit_committee"):
        fit(config)
    experiment = toy_experiment(config)
    seen = [m.train.chosen for m in members(experiment)]
    assert all(c is not None and len(c) == 3 for c in seen)
    assert seen[0] != seen[1]
    results = train_members(experiment)
    assert [r.model_path.parent.name for r in results] == ["member-0", "member-1"]
    first, second = (read_model(r.model_path) for r in results)
    assert first["provenance"]["domain"]["n_structures"] == 3
    assert not np.array_equal(first["parameters"]["layer"]["w"], second["parameters"]["layer"]["w"])
    alone = toy_config(tmp_path / "alone", epochs=4, committee_fraction=0.6, seed=8)
    part = replace(toy_experiment(alone), config=alone)
    part = replace(part, train=replace(part.train, chosen=seen[1]))
    assert Trainer(part).run(resume=False).final_loss == results[1].final_loss
    again = train_members(experiment, resume=True)
    assert [r.errors for r in again] == [r.errors for r in results]
    with pytest.raises(ValueError, match="holds a run already"):
        train_members(experiment)


def test_a_domain_continued_on_its_own_data_is_counted_once(tmp_path: Path) -> None:
    experiment = toy_experiment(toy_config(tmp_path))
    first = training_domain(experiment)
    for fingerprint, times in ((experiment.data_fingerprint, 1), ("of other data", 2)):
        told = {"domain": first, "dataset": {"fingerprint": fingerprint}}
        for provenance in (told, {"domain": first, "training": told}):
            start = replace(carbon_model(), provenance=provenance)
            found = training_domain(replace(experiment, start=start))
            assert found["n_structures"] == times * first["n_structures"]


def test_a_dry_run_counts_measures_and_writes_nothing(tmp_path: Path) -> None:
    config = toy_config(tmp_path, batch=2, accumulate=2, epochs=100, committee=3)
    found = costs(toy_experiment(config))
    assert found.n_parameters == 16
    assert found.structures == (5, 1)
    assert sum(s.batches for s in found.shapes) >= 3
    assert found.epoch_seconds > 0
    table = found.table()
    assert "100 epochs in" in table
    assert "for each of 3 models" in table
    assert "nothing was written" in table
    assert not config.output_folder.exists()


def test_a_batch_that_cannot_fit_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free", lambda device: 1000)
    config = toy_config(tmp_path, batch=2)
    with pytest.raises(
        ValueError, match=r"needs .* GiB of memory, 0.00 GiB are free; lower \[training\] batch"
    ):
        Trainer(toy_experiment(config)).run(resume=False)
    auto = toy_config(tmp_path, remat="auto")
    with pytest.raises(ValueError, match=r"lower \[network\] channels"):
        Trainer(toy_experiment(auto)).run(resume=False)


@pytest.mark.parametrize("kind", ["adamw", "muon", "schedule_free"])
def test_every_optimizer_learns(kind: str, tmp_path: Path) -> None:
    config = toy_config(tmp_path, epochs=12)
    optimizer = config.optimizer.model_copy(update={"kind": kind})
    config = config.model_copy(update={"optimizer": optimizer})
    result = Trainer(toy_experiment(config)).run(resume=False)
    rows = read_log(config.output_folder / "log.csv")
    assert result.final_loss < 0.9 * rows[0]["train_loss"]
    assert result.errors.raw < rows[0]["validation_mae_raw_mev"]


def test_remat_changes_no_gradient(tmp_path: Path) -> None:
    losses = []
    for remat in (False, True):
        config = toy_config(tmp_path / str(remat), epochs=2, remat=remat)
        losses.append(Trainer(toy_experiment(config)).run(resume=False).final_loss)
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_muon_turns_matrices_and_leaves_embeddings_and_read_outs_to_adam() -> None:
    params = {
        "mix": np.eye(4, 3, dtype=np.float32),
        "species": np.ones((2, 4), dtype=np.float32),
        "hop_readout": {"natural": np.ones((4, 3), dtype=np.float32)},
        "bias": np.ones(3, dtype=np.float32),
    }
    kinds = _kinds(params)
    assert kinds["mix"] == "matrix"
    assert {kinds["species"], kinds["hop_readout"]["natural"], kinds["bias"]} == {"other"}
    optimizer = Optimizer(OptimizerConfig(kind="muon", weight_decay=0.0))
    gradient = jax.tree.map(
        lambda a: np.random.default_rng(a.size).standard_normal(a.shape, np.float32), params
    )
    moved, _ = optimizer.update(gradient, optimizer.start(params), params, 1.0)
    step = (np.asarray(params["mix"]) - np.asarray(moved["mix"])) / (0.2 * 2.0)
    assert np.all(np.abs(np.linalg.svd(step, compute_uv=False) - 1) < 0.5)


def test_muon_is_optax_muon() -> None:
    """Three steps of momentum and Newton-Schulz, by our stacks and by optax's own transformation."""
    rng = np.random.default_rng(1)
    params = {"mix": np.zeros((6, 9), np.float32), "row": np.zeros((7, 4), np.float32)}
    axes = optax.contrib.MuonDimensionNumbers(reduction_axis=0, output_axis=1)
    theirs = optax.contrib.scale_by_muon(beta=0.9, weight_dimension_numbers=dict.fromkeys(params, axes))
    ours = _muon(OptimizerConfig(kind="muon", momentum=0.9))
    states = [ours.init(params), theirs.init(params)]
    for _ in range(3):
        slope = {name: rng.normal(size=p.shape).astype(np.float32) for name, p in params.items()}
        found, states[0] = ours.update(slope, states[0])
        expected, states[1] = theirs.update(slope, states[1], params)
        for name, p in params.items():
            scale = 0.2 * np.sqrt(max(p.shape))
            np.testing.assert_allclose(found[name], scale * expected[name], atol=2e-4)


@pytest.mark.parametrize("shape", [(3, 12, 20), (2, 20, 8), (1, 6, 6)])
def test_orthogonalised_as_optax_does(shape: tuple[int, int, int]) -> None:
    """float32 against optax's own Newton-Schulz steps, bfloat16 within what its factors hold."""
    stack = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    coefficients = np.array([3.4445, -4.7750, 2.0315], dtype=np.float32)
    expected = np.stack([orthogonalize_via_newton_schulz(m, coefficients) for m in stack])
    exact, rounded = (np.asarray(orthogonalised(stack, kind)) for kind in ("float32", "bfloat16"))
    np.testing.assert_allclose(exact, expected, atol=2e-4)
    assert rounded.dtype == np.float32
    assert 1e-5 < np.abs(rounded - exact).max() < 0.1


@pytest.mark.parametrize(
    ("shape", "middle"), [("cosine", 0.505), ("linear", 0.505), ("trapezoid", 1.0), ("constant", 1.0)]
)
def test_schedules(shape: str, middle: float) -> None:
    config = OptimizerConfig(learning_rate=1.0, warm_up=0.0, schedule=shape)  # type: ignore[arg-type]
    assert schedule(0.5, config) == pytest.approx(middle)
    assert schedule(1.0, config) == pytest.approx(1.0 if shape == "constant" else 0.01)
    assert OptimizerConfig(kind="schedule_free").decay_shape == "constant"


_HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it is glibc's malloc that is told")
@pytest.mark.skipif(
    _HUGE_PAGES.exists() and "[always]" in _HUGE_PAGES.read_text(), reason="huge pages have few faults anyway"
)
def test_steps_use_the_memory_of_the_last_one_again() -> None:
    faults, returned = {}, {}
    for how in ("keep", "return"):
        done = subprocess.run(
            [sys.executable, "-c", _FAULTS, how], check=True, capture_output=True, text=True
        )
        faults[how], returned[how] = map(int, done.stdout.split())
    assert faults["keep"] < 0.25 * faults["return"]
    assert returned["keep"] > 4 * 5e6
