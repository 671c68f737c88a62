"""Training with spin on toy chains: the loss falls, the model file holds the head, everything downstream takes it."""

import csv
import logging
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

from ase_deeph import DeepHCalculator, HamiltonianModel
from ase_deeph.io.deeph import read_deeph
from ase_deeph.network import NetworkConfig, build_network
from ase_deeph.pauli import pauli_parts
from tests.spin_toys import chain, labelled, moments_of, write_set
from tests.training_data import TINY, sp_basis
from trainers.config import parse_config
from trainers.evaluate import compare
from trainers.fit import fit

HEAD = {"channels": 4, "pseudo_channels": 2, "n_radial": 4, "hidden": 8}
NETWORK = {**TINY, "message_cutoff": 3.0}
COLLINEAR = {"kind": "collinear", "magnetic_cutoff": 3.0}


def _config(folder: Path, spin: dict, **training) -> dict:
    return {
        "output": "run",
        "data": {"train": "data", "max_shapes": 1, "validation_fraction": 0.0},
        "network": NETWORK,
        "spin": {**HEAD, **spin},
        "optimizer": {"learning_rate": 0.02, "ema": 0.8},
        "training": {"epochs": 40, "batch": 1, "validate_every": 20, "checkpoint_every": 40, **training},
    }


def _trained(folder: Path, kind: str, values: dict, *, magnetic: bool = True) -> tuple[Path, list[float]]:
    """The model file, and the training loss of each epoch."""
    write_set(folder / "data", kind, 4, magnetic=magnetic)
    path = fit(parse_config(values, folder)).model_path
    with (folder / "run" / "log.csv").open() as stream:
        return path, [float(row["train_loss"]) for row in csv.DictReader(stream)]


@pytest.fixture(scope="module", autouse=True)
def _quick_compilation():
    """Half the time for compiling, and programs of this size run no slower."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module")
def collinear(tmp_path_factory) -> tuple[Path, list[float]]:
    folder = tmp_path_factory.mktemp("collinear")
    values = _config(folder, COLLINEAR)
    values["network"] = {**NETWORK, "l_max": 1}
    return _trained(folder, "collinear", values)


@pytest.fixture(scope="module")
def on_frozen(tmp_path_factory) -> tuple[HamiltonianModel, Path, list[float]]:
    """A spin-orbit head on a random model that stays as it is."""
    folder = tmp_path_factory.mktemp("frozen")
    network = build_network(NetworkConfig.from_dict(NETWORK), sp_basis())
    start = HamiltonianModel(network.config, sp_basis(), network.init(3), network.empty_statistics())
    start.save(folder / "start.h5")
    values = _config(folder, {"kind": "spinor", "backbone": "frozen"}, start_from="start.h5")
    del values["network"]
    return (start, *_trained(folder, "spinor", values, magnetic=False))


def _atoms(spin: str, seed: int = 9, moments: np.ndarray | None = None):
    atoms = chain(seed)
    atoms.set_initial_magnetic_moments(moments_of(seed, spin) if moments is None else moments)
    return atoms


def test_loss_falls_with_a_structure_without_moments_in_the_set(collinear):
    _, losses = collinear
    assert np.all(np.isfinite(losses))
    assert losses[-1] < 0.8 * losses[0]


def test_flipping_all_moments_swaps_the_channels_exactly(collinear):
    model = HamiltonianModel.load(collinear[0])
    atoms = _atoms("collinear")
    turned = _atoms("collinear", moments=-atoms.get_initial_magnetic_moments())
    h, swapped = model(atoms), model(turned)
    assert h.spin == model.spin == "collinear"
    assert model.magnetic
    assert np.abs(h.entries[0] - h.entries[1]).max() > 0.1
    assert np.array_equal(h.entries, swapped.entries[::-1])
    still = model(_atoms("collinear", moments=np.zeros(4)))
    assert np.array_equal(still.entries[0], still.entries[1])


def test_frozen_head_adds_spin_orbit_coupling_alone(on_frozen):
    start, path, losses = on_frozen
    model = HamiltonianModel.load(path)
    assert np.all(np.isfinite(losses))
    assert losses[-1] < losses[0]
    assert np.array_equal(model.params["species"], start.params["species"])
    atoms = chain(9)
    parts = pauli_parts(model(atoms, dtype="float64"))
    assert model.spin == "spinor"
    assert not model.magnetic
    assert np.abs(parts[0] - start(atoms, dtype="float64").padded_blocks()).max() <= 1e-9
    assert np.all(parts[1:].real == 0)
    assert np.abs(parts[1:].imag).max() > 1e-2


def test_comparison_with_the_reference_knows_both_channels(collinear):
    data = labelled(chain(1), moments_of(1, "collinear"), "collinear")
    found = compare("chain-1", data, HamiltonianModel.load(collinear[0]), (2, 1, 1))
    assert found.spin is not None
    mean = 0.5 * (found.spin["mae_up_meV"] + found.spin["mae_down_meV"])
    assert mean == pytest.approx(found.to_dict()["mae_gauge_fixed_meV"])
    by_distance = sum(row[1] for row in found.by_distance.rows.values())
    by_shells = sum(row[1] for row in found.by_shells.rows.values())
    assert by_distance == pytest.approx(found.overall[1]) == pytest.approx(by_shells)
    wrong = labelled(chain(1), None, "spinor")
    with pytest.raises(ValueError, match="the model's H has spin 'collinear', the reference's 'spinor'"):
        compare("chain-1", wrong, HamiltonianModel.load(collinear[0]))


def test_spinor_comparison(on_frozen):
    found = compare(
        "chain-1", labelled(chain(1), None, "spinor"), HamiltonianModel.load(on_frozen[1]), (2, 1, 1)
    )
    assert found.spin is not None
    assert found.spin["mae_spin_meV"] < found.spin["mean_abs_spin_meV"]


def test_calculator_sees_that_moments_changed(collinear):
    atoms = _atoms("collinear")
    atoms.calc = calc = DeepHCalculator(HamiltonianModel.load(collinear[0]), kpts=(2, 1, 1))
    first, fermi = calc.get_hamiltonian(), calc.get_fermi_level()
    assert calc.get_eigenvalues(0, 1).shape == (4,)
    assert calc.get_hamiltonian() is first
    atoms.set_initial_magnetic_moments(-atoms.get_initial_magnetic_moments())
    assert np.array_equal(calc.get_hamiltonian().entries, first.entries[::-1])
    assert calc.get_fermi_level() == pytest.approx(fermi, abs=1e-9)


def test_moments_that_are_missing_or_not_read(collinear, on_frozen, caplog):
    magnetic = HamiltonianModel.load(collinear[0])
    with pytest.raises(ValueError, match="no initial magnetic moments, which this model needs"):
        magnetic(chain(9))
    with pytest.raises(ValueError, match="one number per atom, received vectors"):
        magnetic(_atoms("collinear", moments=np.ones((4, 3))))
    spinless = on_frozen[0]
    with caplog.at_level(logging.WARNING, logger="ase_deeph"):
        spinless(_atoms("collinear"))
        spinless(_atoms("collinear"))
    assert [r for r in caplog.records if "reads no magnetic moments" in r.message] == caplog.records[:1]
    assert len(caplog.records) == 1


def test_predictions_are_written_with_their_moments(collinear, tmp_path):
    from ase_deeph.cli import main

    atoms = _atoms("collinear")
    atoms.write(tmp_path / "chain.traj")
    arguments = ["predict", str(tmp_path / "chain.traj"), "--model", str(collinear[0])]
    assert main([*arguments, "-o", str(tmp_path / "out"), "--quiet"]) == 0
    data = read_deeph(tmp_path / "out")
    assert data.hamiltonian.spin == "collinear"
    assert data.overlap.spin == "none"
    assert np.array_equal(data.atoms.get_initial_magnetic_moments(), atoms.get_initial_magnetic_moments())
    expected = HamiltonianModel.load(collinear[0])(atoms)
    assert (data.hamiltonian.on(expected.pairs) - expected).max_abs() <= 1e-6


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"spin": {"kind": "collinear"}}, "a collinear head reads moments"),
        ({"spin": {"kind": "spinor", "cutoff": 3.0}}, "unknown key .spin. 'cutoff'"),
        ({"spin": {"kind": "spinor"}, "loss": {"level_weight": 1.0}}, "level_weight"),
    ],
)
def test_bad_configs(changes, message, tmp_path):
    values = {**_config(tmp_path, {}), **changes}
    with pytest.raises(ValueError, match=message):
        parse_config(values, tmp_path)


def test_labels_of_another_kind(tmp_path):
    write_set(tmp_path / "data", "spinor", 2)
    values = _config(tmp_path, COLLINEAR)
    with pytest.raises(ValueError, match="expected a Hamiltonian of spin 'collinear', received 'spinor'"):
        fit(parse_config(values, tmp_path))


def test_a_frozen_network_needs_a_model(tmp_path):
    write_set(tmp_path / "data", "spinor", 2, magnetic=False)
    with pytest.raises(ValueError, match="needs a Hamiltonian model"):
        fit(parse_config(_config(tmp_path, {"kind": "spinor", "backbone": "frozen"}), tmp_path))


def test_moments_go_through_files(tmp_path):
    from ase_deeph.io.deeph import write_deeph
    from ase_deeph.io.packed import PackedDataset, PackedWriter

    for spin in ("collinear", "spinor"):
        data = labelled(chain(1), moments_of(1, spin), spin)
        write_deeph(tmp_path / spin / "a", data)
        back = read_deeph(tmp_path / spin / "a")
        assert np.array_equal(
            back.atoms.get_initial_magnetic_moments(), data.atoms.get_initial_magnetic_moments()
        )
        with PackedWriter(tmp_path / f"{spin}.h5") as writer:
            writer.append("a", back)
        packed = PackedDataset(tmp_path / f"{spin}.h5")["a"]
        assert np.array_equal(packed.atoms.arrays["initial_magmoms"], back.atoms.arrays["initial_magmoms"])
        assert packed.hamiltonian.spin == spin
    without = replace(data, atoms=chain(1))
    write_deeph(tmp_path / "without", without)
    assert not read_deeph(tmp_path / "without").atoms.has("initial_magmoms")
