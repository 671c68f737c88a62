"""HamiltonianModel: save and load, padded shapes, precision, and refusals."""

import h5py
import numpy as np
import pytest
from ase import Atoms
from ase.build import graphene

from ase_deeph.basis import OrbitalBasis, SpeciesBasis
from ase_deeph.model import FORMAT_VERSION, HamiltonianModel
from ase_deeph.network import NetworkConfig, build_network

BASIS = OrbitalBasis({"C": SpeciesBasis((0, 1, 2), 4)})


@pytest.fixture(scope="module")
def model() -> HamiltonianModel:
    config = NetworkConfig(
        cutoff=5.0, message_cutoff=3.5, channels=4, pseudo_channels=4, n_blocks=1, hidden=16, n_radial=8
    )
    network = build_network(config, BASIS)
    return HamiltonianModel(config, BASIS, network.init(1), network.empty_statistics(), {"name": "tiny"})


def _sheet(seed: int) -> Atoms:
    atoms = graphene(size=(4, 4, 1), vacuum=4.0)
    atoms.rattle(0.08, seed=seed)
    return atoms


def test_moved_frames_compile_at_most_twice(model):
    fresh = HamiltonianModel(model.config, model.basis, model.params, model.statistics)
    counts = {len(fresh(_sheet(seed)).pairs) for seed in range(50)}
    assert len(counts) > 1, "the frames should differ in their number of pairs"
    assert fresh.n_compilations <= 2


def test_hermitian_and_in_double(model):
    atoms = _sheet(0)
    single, double = model(atoms), model(atoms, dtype="float64")
    assert single.hermiticity_error() == 0.0
    assert (single - double).max_abs() < 1e-4
    assert single.entries.dtype == np.float64
    with pytest.raises(ValueError, match="float32"):
        model(atoms, dtype="float16")


def test_file_round_trip(model, tmp_path):
    path = tmp_path / "model.h5"
    model.save(path)
    assert [p.name for p in tmp_path.iterdir()] == ["model.h5"]
    again = HamiltonianModel.load(path)
    atoms = _sheet(3)
    assert np.array_equal(again(atoms).entries, model(atoms).entries)
    assert again.basis == model.basis
    assert again.config == model.config
    assert again.provenance == model.provenance


@pytest.mark.parametrize("fraction", [0.0, 0.02, 0.31, 0.5, 0.77, 0.999])
def test_truncated_file(model, tmp_path, fraction):
    path = tmp_path / "model.h5"
    model.save(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(fraction * len(content))])
    with pytest.raises(ValueError, match="cannot be read") as caught:
        HamiltonianModel.load(path)
    assert "\n" not in str(caught.value)


def test_altered_numbers_are_noticed(model, tmp_path):
    path = tmp_path / "model.h5"
    model.save(path)
    with h5py.File(path, "r+") as file:
        dataset = file["parameters/species"]
        dataset[...] = dataset[...] + 1e-3
    with pytest.raises(ValueError, match="checksum"):
        HamiltonianModel.load(path)


def test_parameters_of_another_network(model, tmp_path):
    path = tmp_path / "model.h5"
    other = {name: leaf for name, leaf in model.params.items() if name != "field_readout"}
    HamiltonianModel(model.config, model.basis, other, model.statistics).save(path)
    with pytest.raises(ValueError, match=r"field_readout.*made by another version"):
        HamiltonianModel.load(path)


def test_newer_format_and_foreign_files(model, tmp_path):
    path = tmp_path / "model.h5"
    model.save(path)
    with h5py.File(path, "r+") as file:
        file.attrs["version"] = FORMAT_VERSION + 1
    with pytest.raises(ValueError, match="newer than"):
        HamiltonianModel.load(path)
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = 1
    with pytest.raises(ValueError, match="no model file"):
        HamiltonianModel.load(tmp_path / "other.h5")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        HamiltonianModel.load(tmp_path / "absent.h5")


@pytest.mark.parametrize(
    ("atoms", "error", "message"),
    [
        (Atoms("Xe"), KeyError, "'Xe' is not in this basis"),
        (Atoms("C2", positions=[[0, 0, 0], [0.1, 0, 0]]), ValueError, "0.100 Å apart"),
        (Atoms("C", positions=[[np.nan, 0, 0]]), ValueError, "NaN"),
        (Atoms(), ValueError, "at least one atom"),
        (Atoms("C", cell=[0.3, 5, 5], pbc=True), ValueError, "apart"),
    ],
)
def test_refusals(model, atoms, error, message):
    with pytest.raises(error, match=message):
        model(atoms)


def test_overlap_needs_radial_functions(model):
    with pytest.raises(ValueError, match="radial functions"):
        model.overlap(_sheet(0))
