"""Training of an energy head: errors fall, H stays as it is, absent labels, reference energies, resume, refusals."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.morse import MorsePotential

pytest.importorskip("pydantic")
pytest.importorskip("optax")
pytest.importorskip("orbax.checkpoint")

from ase_deeph.basis import OrbitalBasis, SpeciesBasis
from ase_deeph.io.deeph import write_basis_file, write_deeph
from ase_deeph.model import HamiltonianModel
from ase_deeph.network import NetworkConfig, build_network
from ase_deeph.potential import EnergyConfig, EnergyNetwork
from ase_deeph.reference import ReferenceData
from tests.training_data import TINY, hueckel, rattled_graphene, sp_basis
from trainers.__main__ import main
from trainers.config import TrainingConfig, parse_config
from trainers.energy_data import fit_reference, label_scale, make_energy_structure, pad_energy_batch
from trainers.energy_metrics import EnergyErrors
from trainers.energy_step import EnergySteps, soft_abs
from trainers.evaluate import evaluate
from trainers.fit import fit
from trainers.log import read_log
from trainers.phases import head_phase

LONE_ATOM = -150.0
HEAD = {
    "cutoff": 3.2,
    "backbone_blocks": 0,
    "l_max": 1,
    "channels": 4,
    "n_blocks": 1,
    "n_radial": 8,
    "hidden": 8,
}
EPOCHS = 40


def morse(atoms: Atoms) -> ReferenceData:
    """H and S of Hückel theory, energy and forces of springs between neighbours."""
    copy = atoms.copy()
    copy.calc = MorsePotential(epsilon=2.0, r0=1.42, rho0=3.0, rcut1=1.7, rcut2=2.2)
    energy = copy.get_potential_energy() + LONE_ATOM * len(atoms)
    return replace(hueckel(atoms, sp_basis()), energy=float(energy), forces=copy.get_forces())


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset with forces in data/, and a model of H in h.h5."""
    root = tmp_path_factory.mktemp("energy")
    (root / "data" / "dft").mkdir(parents=True)
    write_basis_file(root / "data" / "basis.h5", sp_basis())
    for n in range(10):
        write_deeph(
            root / "data" / "dft" / f"sheet_{n:03d}", morse(rattled_graphene(1 + n % 2, n)), own_basis=False
        )
    config = NetworkConfig(**TINY)
    network = build_network(config, sp_basis())
    model = HamiltonianModel(
        config, sp_basis(), network.init(3), network.empty_statistics(), {"name": "toy H"}
    )
    model.save(root / "h.h5")
    return root


def same(first: Any, second: Any) -> bool:
    """Whether two trees of parameters are equal to the bit."""
    pairs = zip(jax.tree.leaves(dict(first)), jax.tree.leaves(dict(second)), strict=True)
    return all(np.array_equal(a, b) for a, b in pairs)


def head_config(folder: Path, output: str, **training: Any) -> TrainingConfig:
    values = {
        "output": output,
        "data": {"train": "data", "validation_fraction": 0.2, "max_shapes": 1},
        "optimizer": {"learning_rate": 0.01, "ema": 0.9},
        "training": {"epochs": EPOCHS, "batch": 2, "start_from": "h.h5", "checkpoint_every": 8, **training},
        "potential": HEAD,
    }
    return parse_config(values, folder)


@pytest.fixture(scope="module")
def trained(home: Path) -> Any:
    return fit(head_config(home, "whole"))


def test_forces_are_learnt_and_the_hamiltonian_is_untouched(home: Path, trained: Any) -> None:
    before, after = HamiltonianModel.load(home / "h.h5"), HamiltonianModel.load(trained.model_path)
    data = morse(rattled_graphene(2, 77))
    size = np.abs(data.forces).mean()
    found = after.potential(data.atoms)
    assert np.abs(found.forces - data.forces).mean() < 0.35 * size
    assert abs(found.energy - data.energy) / len(data.atoms) < 0.1
    assert trained.errors.force < 600 * size
    rows = read_log(home / "whole" / "log.csv")
    assert rows[-1]["validation_mae_force_mev_per_a"] < 0.5 * rows[0]["validation_mae_force_mev_per_a"]

    assert before.potential_properties == frozenset()
    assert same(before.params, after.params)
    assert np.array_equal(before(data.atoms).entries, after(data.atoms).entries)
    assert after.provenance["name"] == "toy H"
    assert after.provenance["potential"]["errors"]["mae_force_meV_per_a"] == pytest.approx(
        trained.errors.force
    )


def test_evaluate_reports_energy_and_forces(home: Path, trained: Any) -> None:
    report = evaluate(trained.model_path, home / "data", output=home / "page")
    found = json.loads((home / "page" / "metrics.json").read_text())["energy"]
    model, rows = HamiltonianModel.load(trained.model_path), []
    for n in range(10):
        data = morse(rattled_graphene(1 + n % 2, n))
        rows.append(np.abs(model.potential(data.atoms).forces - data.forces).ravel())
    assert found["force_mae_meV_per_A"] == pytest.approx(1e3 * np.concatenate(rows).mean(), rel=1e-3)
    assert "forces, MAE, meV/Å" in report.table()
    assert "forces (meV/Å)" in (home / "page" / "index.html").read_text()
    bare = evaluate(home / "h.h5", home / "data")
    assert bare.to_dict()["energy"] is None


def test_interrupted_and_resumed_equals_uninterrupted(home: Path, trained: Any) -> None:
    config = head_config(home, "killed", checkpoint_every=4)

    def stops(batches: Iterable, label: str, total: int | None = None) -> Iterable:
        if label.startswith("epoch 11/"):
            raise KeyboardInterrupt
        return batches

    with pytest.raises(KeyboardInterrupt):
        fit(config, bar=stops)
    resumed = fit(config, resume=True)
    first, second = (HamiltonianModel.load(r.model_path).head.params for r in (trained, resumed))
    assert same(first, second)
    other = HamiltonianModel.load(home / "h.h5")
    changed = jax.tree.map(lambda leaf: leaf + 1.0, dict(other.params))
    replace(other, params=changed).save(home / "other.h5")
    with pytest.raises(ValueError, match="another config or other data"):
        fit(head_config(home, "killed", checkpoint_every=4, start_from="other.h5"), resume=True)


TWO = OrbitalBasis({"C": SpeciesBasis((0, 1), 4), "H": SpeciesBasis((0,), 1)})


def _network() -> EnergyNetwork:
    return EnergyNetwork(EnergyConfig(**HEAD), build_network(NetworkConfig(**TINY), TWO))


def _reference(atoms: Atoms, **labels: Any) -> ReferenceData:
    return ReferenceData(atoms, **labels)


def test_reference_energies_and_scale() -> None:
    network, table = _network(), {"C": -150.0, "H": -13.0}
    rng = np.random.default_rng(0)
    made = []
    for n, symbols in enumerate(("C2", "CH", "CH3", "H2")):
        atoms = Atoms(symbols, positions=1.3 * np.arange(3 * len(Atoms(symbols))).reshape(-1, 3) / 3)
        energy = sum(table[s] for s in atoms.get_chemical_symbols())
        made.append(
            make_energy_structure(
                str(n), _reference(atoms, energy=energy, forces=rng.normal(size=(len(atoms), 3))), network
            )
        )
    found = fit_reference(made, TWO)
    assert found == pytest.approx(table, abs=1e-9)
    forces = np.concatenate([s.forces.ravel() for s in made])
    assert label_scale(made, np.array(list(table.values()))) == pytest.approx(np.sqrt((forces**2).mean()))


def test_absent_labels_do_not_count() -> None:
    """The loss of a batch against its formula, with energy alone, forces alone, and all three."""
    network, reference = _network(), np.array([-150.0, -13.0])
    cell = Atoms("CH", positions=[[0, 0, 0], [1.1, 0.2, 0]], cell=[4, 4, 4], pbc=True)
    lone = Atoms("C2", positions=[[0, 0, 0], [1.3, 0, 0]])
    forces = np.random.default_rng(1).normal(size=(2, 3))
    stress = 1e-2 * np.arange(1.0, 7.0)
    made = [
        make_energy_structure("energy", _reference(lone, energy=-301.0), network),
        make_energy_structure("forces", _reference(lone, forces=forces), network),
        make_energy_structure("all", _reference(cell, energy=-160.0, forces=forces, stress=stress), network),
        make_energy_structure("open", _reference(lone, forces=forces, stress=stress), network),
    ]
    assert made[3].virial is None, "a stress of an open cell means nothing"
    section = parse_config(
        {"data": {"train": "x"}, "training": {"epochs": 1}, "potential": {**HEAD, "stress_weight": 0.3}}
    ).potential
    steps = EnergySteps(network, section, None)
    sizes = np.array([s.size for s in made[:3]]).sum(axis=0) + [3, 9, 0]
    batch = pad_energy_batch(made[:3], tuple(sizes), 5, reference)
    statistics = {"head": {"scale": np.float32(2.0)}, "backbone": {}}
    params = network.init(0)
    loss, sums = jax.jit(steps.batch_loss)(params, statistics, batch)

    expected, rows = 0.0, []
    for s in made[:3]:
        graph = s.graph.pad(s.graph.n_atoms + 1, s.graph.n_pairs + 1, s.graph.n_near)
        e, f, w = (
            np.asarray(a, dtype=float) for a in network.derivatives(params, statistics["head"], {}, graph)
        )
        row = np.zeros(4)
        if s.energy is not None:
            error = (e.sum() - (s.energy - reference[s.graph.species].sum())) / s.graph.n_atoms
            expected += float(soft_abs((error / 2.0) ** 2))
            row[:2] = abs(error), 1
        if s.forces is not None:
            error = f[:-1] - s.forces
            expected += float(np.mean(soft_abs((error**2).sum(axis=1) / 3 / 4.0)))
            row[2:] = np.abs(error).sum(), error.size
        if s.virial is not None:
            tensor = w.sum(axis=0)
            error = (0.5 * (tensor + tensor.T) - s.virial) / s.graph.n_atoms
            expected += 0.3 * float(np.mean(soft_abs((error / 2.0) ** 2)))
        rows.append(row)
    assert float(loss) == pytest.approx(expected / 3, rel=1e-4)
    assert np.allclose(sums[:3], rows, rtol=1e-4, atol=1e-5)
    assert not np.any(sums[3:])
    errors = EnergyErrors.from_sums(np.asarray(sums))
    assert errors.energy == pytest.approx(1e3 * (rows[0][0] + rows[2][0]) / 2, rel=1e-4)


def test_two_phases() -> None:
    values = {
        "output": "run",
        "data": {"train": "with_h", "validation": "held"},
        "training": {"epochs": 5, "batch": 4},
        "potential": {
            "hamiltonian": "first",
            "train": "with_forces",
            "max_minutes": 3,
            "learning_rate": 0.02,
        },
    }
    own = head_phase(parse_config(values))
    assert own.data.train == ("with_forces",)
    assert own.data.validation == ()
    assert (own.training.epochs, own.training.max_minutes, own.training.batch) == (None, 3.0, 4)
    assert own.training.start_from == "run/model.h5"
    assert own.output == "run/potential"
    assert own.optimizer.learning_rate == 0.02
    assert own.potential is not None
    assert own.potential.hamiltonian == "frozen"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"potential": {"chanels": 3}}, "'channels'"),
        ({"potential": {"energy_weight": 0, "force_weight": 0}}, "energy_weight or force_weight"),
        ({"potential": {"cutoff": -1.0}}, "cutoff"),
        ({"potential": {"hamiltonian": "molten"}}, "hamiltonian"),
    ],
)
def test_a_bad_section_is_one_clear_line(change: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        parse_config({"data": {"train": "here"}, "training": {"epochs": 3}, **change})
    assert "\n" not in str(caught.value)


def test_refusals(home: Path, capsys: pytest.CaptureFixture) -> None:
    network = _network()
    atoms = Atoms("CH", positions=[[0, 0, 0], [1.1, 0, 0]])
    for labels, words in (
        ({}, "neither energy nor forces"),
        ({"forces": np.zeros((3, 3))}, "forces of shape"),
        ({"energy": np.nan}, "NaN"),
    ):
        with pytest.raises(ValueError, match=words):
            make_energy_structure("odd", _reference(atoms, **labels), network)
    with pytest.raises(ValueError, match="structure odd: element 'Xe'"):
        make_energy_structure("odd", _reference(Atoms("Xe"), energy=1.0), network)

    for lines, words in (
        ("[training]\nepochs = 1\n[potential]\n", "start_from"),
        ("[training]\nepochs = 1\nstart_from = 'h.h5'\n[potential]\nbackbone_blocks = 7\n", "has 1 blocks"),
        (
            "[training]\nepochs = 1\nstart_from = 'h.h5'\n[network]\nhidden = 9\n[potential]\n",
            "leave [network] out",
        ),
    ):
        path = home / "bad.toml"
        path.write_text(f"output = 'bad'\n[data]\ntrain = 'data'\n{lines}")
        assert main(["fit", str(path), "--quiet"]) == 2
        message = capsys.readouterr().err
        assert words in message
        assert message.count("\n") == 1
