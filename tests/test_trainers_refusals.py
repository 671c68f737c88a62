"""What training refuses or warns of: orbitals that do not belong together, NaN, another run's checkpoint, copies."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pydantic")
pytest.importorskip("optax")
pytest.importorskip("orbax.checkpoint")

from ase_deeph import pretrained
from ase_deeph.basis import GaussianRadial, OrbitalBasis, SpeciesBasis
from ase_deeph.domain import TrainingDomain
from ase_deeph.io.deeph import write_basis_file
from ase_deeph.io.model_file import read_model
from ase_deeph.model import HamiltonianModel
from ase_deeph.network import NetworkConfig, build_network
from ase_deeph.reference import ReferenceData
from tests.test_trainers_fit import toy_config
from tests.training_data import TINY, hueckel, rattled_graphene, sp_basis, toy_experiment, write_dataset
from trainers import memory
from trainers.__main__ import main
from trainers.bases import common_basis
from trainers.config import TrainingConfig, parse_config
from trainers.dataset import hold_out
from trainers.domain import training_domain
from trainers.dryrun import costs
from trainers.experiment import prepare, read_start
from trainers.fit import Trainer
from trainers.structures import fingerprint, make_structure

HOLDER = """
import sys
from pathlib import Path
from trainers.folder import RunFolder
with RunFolder(Path(sys.argv[1])).held():
    print("held", flush=True)
    sys.stdin.read()
"""
NETWORK = NetworkConfig(**TINY)  # type: ignore[arg-type]


def changed_basis(stretch: float = 1.0, symbols: str = "C") -> OrbitalBasis:
    """The tests' orbitals with exponents times a factor, for some elements."""
    of_carbon = sp_basis()["C"]
    assert of_carbon.radial is not None
    radial = tuple(
        GaussianRadial(f.l, stretch * f.exponents, stretch ** ((2 * f.l + 3) / 4) * f.coefficients)
        for f in of_carbon.radial
        if isinstance(f, GaussianRadial)
    )
    return OrbitalBasis({s: SpeciesBasis(of_carbon.shells, 4.0, radial) for s in symbols})


@pytest.fixture
def roots(tmp_path: Path) -> tuple[Path, Path]:
    """Two datasets of the same orbitals."""
    return write_dataset(tmp_path / "one", (1, 2)), write_dataset(tmp_path / "two", (2, 1))


def test_orbitals_with_equal_shells_and_other_functions_are_not_learned_together(
    roots: tuple[Path, Path],
) -> None:
    assert common_basis(roots) == common_basis(roots, roots) == sp_basis()
    write_basis_file(roots[1] / "basis.h5", changed_basis(1 + 1e-7))
    assert common_basis(roots) == sp_basis(), "what another machine's arithmetic does"
    write_basis_file(roots[1] / "basis.h5", changed_basis(1.6))
    for training, validation in ((roots, ()), (roots[:1], roots[1:])):
        with pytest.raises(ValueError, match=r"one and .*two: the radial functions of shells \[0, 1\] of C"):
            common_basis(training, validation)


def test_elements_of_every_training_set_count(roots: tuple[Path, Path]) -> None:
    write_basis_file(roots[1] / "basis.h5", changed_basis(symbols="CB"))
    assert set(common_basis(roots)) == set(common_basis(roots[::-1])) == {"B", "C"}
    assert set(common_basis(roots[:1], roots[1:])) == {"C"}


def test_an_element_that_training_lacks_names_the_structure() -> None:
    data = hueckel(rattled_graphene(1, 0), sp_basis())
    with pytest.raises(ValueError, match=r"structure a: it holds C, and the training sets hold B alone"):
        make_structure("a", data, changed_basis(symbols="B"), NETWORK, tolerance=0.0)


@pytest.mark.parametrize("part", ["hamiltonian", "overlap"])
@pytest.mark.parametrize("tolerance", [0.0, 100.0])
def test_nan_beyond_the_cutoff_is_refused(part: str, tolerance: float) -> None:
    data = hueckel(rattled_graphene(2, 0), sp_basis())
    matrix = getattr(data, part)
    distance = np.linalg.norm(matrix.pairs.displacements(data.atoms), axis=1)
    blocks = [b.copy() for b in matrix.blocks()]
    blocks[int(np.argmax(distance))][0, 0] = np.nan
    broken = replace(data, **{part: type(matrix).from_blocks(matrix.basis, matrix.pairs, data.atoms, blocks)})
    short = replace(NETWORK, cutoff=float(distance.max()) - 0.5)
    with pytest.raises(ValueError, match=r"structure a: its .* holds NaN or infinity"):
        make_structure("a", broken, sp_basis(), short, tolerance=tolerance)


def stretched_overlap(data: ReferenceData) -> ReferenceData:
    """The same with S times 1.5."""
    s = data.overlap
    assert s is not None
    blocks = [1.5 * b for b in s.blocks()]
    return replace(data, overlap=type(s).from_blocks(s.basis, s.pairs, data.atoms, blocks))


def test_the_fingerprint_knows_the_overlap() -> None:
    data = hueckel(rattled_graphene(1, 0), sp_basis())
    one, other = (
        make_structure("a", d, sp_basis(), NETWORK, tolerance=0.0) for d in (data, stretched_overlap(data))
    )
    assert fingerprint([one]) != fingerprint([other])


def test_copies_in_the_validation_set_are_told(caplog: pytest.LogCaptureFixture) -> None:
    made = [
        make_structure(f"s{n}", hueckel(rattled_graphene(1, n), sp_basis()), sp_basis(), NETWORK, tolerance=0)
        for n in range(3)
    ]
    hold_out(made[:2], made[2:], 0.1)
    assert not caplog.text
    hold_out(made[:2], [made[2], replace(made[1], name="again")], 0.1)
    assert "1 of 2 validation structures are in the training set too (again" in caplog.text


def test_a_resume_names_what_changed(tmp_path: Path) -> None:
    experiment = toy_experiment(toy_config(tmp_path, epochs=2, checkpoint_every=1))
    Trainer(experiment).run(resume=False)
    optimizer = experiment.config.optimizer.model_copy(update={"kind": "muon", "learning_rate": 0.01})
    other = replace(experiment, config=experiment.config.model_copy(update={"optimizer": optimizer}))
    with pytest.raises(
        ValueError, match=r"optimizer\.kind.*optimizer\.learning_rate \(0\.05 then, 0\.01 now\)"
    ):
        Trainer(other).run(resume=True)
    moved = replace(
        experiment,
        train=replace(
            experiment.train, structures=[*experiment.train.structures[1:], *experiment.validation.structures]
        ),
        validation=replace(experiment.validation, structures=experiment.train.structures[:1]),
    )
    with pytest.raises(ValueError, match=r"held out.* changed; give another output"):
        Trainer(moved).run(resume=True)
    assert Trainer(experiment).run(resume=True).epochs == 2


def test_a_folder_belongs_to_one_run_at_a_time(tmp_path: Path) -> None:
    """Refused before anything is written; free again after the other run's death."""
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "out")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    trainer = Trainer(toy_experiment(toy_config(tmp_path, epochs=1)))
    with pytest.raises(ValueError, match="another run is training into it; wait until it ends"):
        trainer.run(resume=True)
    assert list((tmp_path / "out").iterdir()) == []
    holder.kill()
    holder.wait()
    assert trainer.run(resume=True).epochs == 1


def test_a_resume_without_a_checkpoint_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Trainer(toy_experiment(toy_config(tmp_path, epochs=1))).run(resume=True)
    assert "holds no checkpoint, this run starts at epoch 0" in caplog.text


def test_a_used_up_budget_writes_the_trained_model_and_not_the_first(tmp_path: Path) -> None:
    config = toy_config(tmp_path, epochs=60, checkpoint_every=2, validate_every=50)

    def stops(batches: Callable, label: str, total: int | None = None) -> Callable:
        if label.startswith("epoch 5/"):
            raise KeyboardInterrupt
        return batches

    with pytest.raises(KeyboardInterrupt):
        Trainer(toy_experiment(config), stops).run(resume=False)  # type: ignore[arg-type]
    out_of_time = config.training.model_copy(update={"max_minutes": 1e-6})
    config = config.model_copy(update={"training": out_of_time})
    experiment = toy_experiment(config)
    result = Trainer(experiment).run(resume=True)
    assert result.epochs == 4
    assert np.isfinite(result.errors.gauge_fixed)
    trained = read_model(result.model_path)["parameters"]["layer"]["w"]
    assert np.abs(trained - experiment.initial_params()["layer"]["w"]).max() > 0.05


def test_patience_leaves_the_checkpoint_of_the_end(tmp_path: Path) -> None:
    config = toy_config(tmp_path, epochs=500, patience=2, checkpoint_every=400)
    trainer = Trainer(toy_experiment(config))
    result = trainer.run(resume=False)
    assert trainer.folder.checkpoints.epochs() == [result.epochs]


def test_processes_without_a_coordinator_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "config.toml"
    config.write_text('output = "run"\n[data]\ntrain = "data"\n[training]\nepochs = 1\n')
    assert main(["fit", str(config), "--num-processes", "2", "--process-id", "0"]) == 2
    assert "need --coordinator HOST:PORT" in capsys.readouterr().err


def start_config(folder: Path, train: str, start: str) -> TrainingConfig:
    """A config that continues from a model."""
    values = {
        "output": "out",
        "data": {"train": train, "validation_fraction": 0},
        "network": TINY,
        "training": {"epochs": 1, "start_from": start},
    }
    return parse_config(values, folder)


def model_of(basis: OrbitalBasis) -> HamiltonianModel:
    """An untrained model of some orbitals, which says that it saw their elements."""
    network = build_network(NETWORK, basis)
    domain = TrainingDomain(4.2, shortest={(s, s): 1.4 for s in basis}).to_dict()
    return HamiltonianModel(NETWORK, basis, network.init(3), network.empty_statistics(), {"domain": domain})


@pytest.mark.parametrize(
    ("start", "stays", "says"),
    [
        (changed_basis(symbols="BC"), True, ""),
        (changed_basis(1.6), False, "its orbitals are not those of the data"),
        (changed_basis(1.6, "BC"), False, "the data hold no ['B'], which the new model will not know"),
    ],
    ids=["more elements", "other functions", "both"],
)
def test_what_becomes_of_the_model_that_a_run_starts_from(
    start: OrbitalBasis, stays: bool, says: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_dataset(tmp_path / "data", (1,))
    model = model_of(start)
    model.save(tmp_path / "m.h5")
    experiment = prepare(start_config(tmp_path, "data", "m.h5"))
    experiment.network.check(experiment.initial_params())
    assert says in caplog.text
    assert ("slow start" in caplog.text) != stays
    assert set(experiment.basis) == (set(start) if stays else {"C"})
    same = [np.array_equal(experiment.statistics()[k], v) for k, v in model.statistics.items()]
    assert all(same) == stays
    assert ("B" in json.dumps(training_domain(experiment))) == stays


def test_a_run_may_start_from_a_model_by_name(tmp_path: Path) -> None:
    shipped = pretrained.load("mos2-pbe")
    values = {
        "output": "out",
        "data": {"train": "none"},
        "network": shipped.config.to_dict(),
        "training": {"epochs": 1, "start_from": "mos2-pbe"},
    }
    start = read_start(parse_config(values, tmp_path))
    assert start is not None
    assert start.basis == shipped.basis
    with pytest.raises(ValueError, match="neither a named model nor a file"):
        read_start(parse_config({**values, "training": {"epochs": 1, "start_from": "mos3"}}, tmp_path))


def test_a_dry_run_recomputes_where_training_would(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(
        memory, "complaint", lambda *_, remat, **__: seen.append(remat) or "too large" * (not remat)
    )
    table = costs(toy_experiment(toy_config(tmp_path, remat="auto"))).table()
    assert seen[:2] == [False, True]
    assert "does not fit" not in table
