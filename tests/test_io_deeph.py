"""The DeepH folder format: written is read back, the example data agree, damage is told in one line."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.linalg
from ase import Atoms
from scipy.spatial.transform import Rotation
from scipy.stats import spearmanr

from ase_deeph.electronic_structure import ElectronicStructure
from ase_deeph.harmonics import rotation_of_shells
from ase_deeph.io import read_deeph, write_deeph
from ase_deeph.io.deeph import replaced_folder, write_basis_file
from ase_deeph.matrix import RealSpaceMatrix
from ase_deeph.reference import ReferenceData
from tests.systems import random_crystal
from tests.toys import Huckel

EXAMPLES = next(
    (p / "shared/data/deeph" for p in Path(__file__).parents if (p / "shared/data/deeph").is_dir()), None
)
needs_examples = pytest.mark.skipif(
    EXAMPLES is None, reason="the DeepH example data (shared/data/deeph) are absent"
)


def same(first: RealSpaceMatrix, second: RealSpaceMatrix) -> bool:
    return first.pairs == second.pairs and np.array_equal(first.entries, second.entries)


@pytest.fixture
def data() -> ReferenceData:
    hamiltonian, overlap = random_crystal()
    return ReferenceData(
        atoms=hamiltonian.atoms,
        hamiltonian=hamiltonian,
        overlap=overlap,
        n_electrons=8.0,
        fermi_level=-1.25,
        energy=-12.5,
        forces=np.arange(6.0).reshape(2, 3),
        basis=hamiltonian.basis,
        info={"engine": "none"},
    )


@pytest.fixture
def folder(data: ReferenceData, tmp_path: Path) -> Path:
    write_deeph(tmp_path / "s", data)
    return tmp_path / "s"


def test_a_strangers_files_are_never_deleted(tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "thesis.txt").write_text("years")
    with pytest.raises(ValueError, match=r"not of this format \(thesis.txt\)"), replaced_folder(folder):
        pass
    assert (folder / "thesis.txt").read_text() == "years"
    assert [p.name for p in tmp_path.iterdir()] == ["mine"]


def test_written_is_read_back(data: ReferenceData, folder: Path) -> None:
    back = read_deeph(folder)
    assert same(back.hamiltonian, data.hamiltonian)
    assert same(back.overlap, data.overlap)
    assert (back.n_electrons, back.fermi_level, back.energy) == (8.0, -1.25, -12.5)
    assert np.array_equal(back.forces, data.forces)
    assert dict(back.info) == {"engine": "none"}
    assert np.allclose(back.atoms.positions, data.atoms.positions, atol=1e-12)
    assert back.atoms.get_chemical_symbols() == ["B", "N"]


def test_the_files_are_the_formats(folder: Path) -> None:
    info = json.loads((folder / "info.json").read_text())
    assert info["elements_orbital_map"] == {"B": [0, 1], "N": [0, 0, 1, 2]}
    assert (info["atoms_quantity"], info["orbits_quantity"], info["spinful"]) == (2, 14, False)
    with h5py.File(folder / "hamiltonian.h5") as file:
        keys, shapes, bounds = file["atom_pairs"][()], file["chunk_shapes"][()], file["chunk_boundaries"][()]
        assert keys.shape == (len(shapes), 5)
        assert bounds[-1] == len(file["entries"])
        onsite = int(np.nonzero((keys == [0, 0, 0, 1, 1]).all(axis=1))[0][0])
        assert shapes[onsite].tolist() == [10, 10]


def test_atoms_in_any_order_and_open_axes(tmp_path: Path) -> None:
    atoms = Atoms("CHCH", positions=[[0, 0, 0], [0, 0, 1.1], [0, 0, -1.3], [0, 0.1, -2.4]], pbc=False)
    source = Huckel()
    write_deeph(tmp_path / "m", ReferenceData(atoms, hamiltonian=source(atoms)))
    back = read_deeph(tmp_path / "m")
    assert back.atoms.get_chemical_symbols() == ["C", "H", "C", "H"]
    assert not back.atoms.pbc.any()
    assert same(back.hamiltonian, source(atoms))
    assert back.overlap is None
    assert back.basis == source.basis


def test_basis_may_lie_above(tmp_path: Path) -> None:
    source = Huckel()
    atoms = Atoms("CH", positions=[[0, 0, 0], [0, 0, 1.1]])
    write_deeph(tmp_path / "set/dft/0", ReferenceData(atoms, hamiltonian=source(atoms)), own_basis=False)
    assert not read_deeph(tmp_path / "set/dft/0").basis.has_radial_functions
    write_basis_file(tmp_path / "set/basis.h5", source.basis)
    assert read_deeph(tmp_path / "set/dft/0").basis == source.basis


@pytest.mark.parametrize("spin", ["collinear", "spinor"])
def test_spin(spin: str, data: ReferenceData, tmp_path: Path) -> None:
    h = data.hamiltonian
    if spin == "collinear":
        magnetic = RealSpaceMatrix(
            h.basis, h.pairs, h.atoms, np.stack([h.entries, 2 * h.entries]), "collinear"
        )
    else:
        blocks = [np.block([[b, 1j * b], [-1j * b, 3 * b]]) for b in h.blocks()]
        magnetic = RealSpaceMatrix.from_blocks(h.basis, h.pairs, h.atoms, blocks, "spinor")
    write_deeph(tmp_path / "s", replace(data, hamiltonian=magnetic))
    back = read_deeph(tmp_path / "s")
    assert back.hamiltonian.spin == spin
    assert same(back.hamiltonian, magnetic)
    assert back.overlap.spin == "none"


def test_union_of_pairs(data: ReferenceData, tmp_path: Path) -> None:
    near = data.overlap.cut(3.0)
    write_deeph(tmp_path / "s", replace(data, overlap=near))
    back = read_deeph(tmp_path / "s")
    assert back.overlap.pairs == back.hamiltonian.pairs == data.hamiltonian.pairs
    assert same(back.overlap.restricted_to(near.pairs), near)


def test_writing_again_replaces(data: ReferenceData, folder: Path) -> None:
    write_deeph(folder, replace(data, energy=1.0, overlap=None))
    assert read_deeph(folder).energy == 1.0
    assert not (folder / "overlap.h5").exists()
    assert [p.name for p in folder.parent.iterdir()] == ["s"]


def test_a_failed_write_leaves_nothing(folder: Path) -> None:
    before = read_deeph(folder).energy
    with suppress(RuntimeError), replaced_folder(folder) as partial:
        (partial / "POSCAR").write_text("half")
        raise RuntimeError("power cut")
    assert read_deeph(folder).energy == before
    assert [p.name for p in folder.parent.iterdir()] == ["s"]


@pytest.mark.parametrize("name", ["hamiltonian.h5", "overlap.h5", "force.h5"])
@pytest.mark.parametrize("part", [0.0, 0.1, 0.5, 0.9])
def test_truncated_files_are_told(folder: Path, name: str, part: float) -> None:
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(whole[: int(part * len(whole))])
    with pytest.raises(ValueError, match=name) as told:
        read_deeph(folder)
    assert "\n" not in str(told.value)


def test_other_damage_is_told(data: ReferenceData, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_deeph(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="POSCAR"):
        read_deeph(tmp_path)
    (folder / "info.json").write_text("{")
    with pytest.raises(ValueError, match=r"info\.json"):
        read_deeph(folder)
    write_deeph(folder, data)
    with h5py.File(folder / "hamiltonian.h5", "r+") as file:
        del file["chunk_boundaries"]
        file["chunk_boundaries"] = np.zeros(len(file["atom_pairs"]) + 1, dtype=int)
    with pytest.raises(ValueError, match="chunk boundaries"):
        read_deeph(folder)
    with pytest.raises(ValueError, match="neither"):
        write_deeph(folder, ReferenceData(data.atoms))


@needs_examples
def test_legacy_and_new_agree() -> None:
    legacy, new = read_deeph(EXAMPLES / "legacy/MoTe2"), read_deeph(EXAMPLES / "new/MoTe2")
    assert legacy.atoms.get_chemical_symbols() == new.atoms.get_chemical_symbols()
    assert np.allclose(legacy.atoms.positions, new.atoms.positions, atol=1e-10)
    assert same(legacy.hamiltonian, new.hamiltonian)
    assert same(legacy.overlap, new.overlap)
    assert legacy.fermi_level == new.fermi_level


@needs_examples
def test_example_bands() -> None:
    data = read_deeph(EXAMPLES / "MoTe2_with_bands")
    with h5py.File(EXAMPLES / "MoTe2_with_bands/band.h5") as file:
        bands, kpts = file["band_data"][()], file["kpoints_frac_list"][()]
        fermi = file["fermi_energy_before_shift_eV"][()]
    for n in range(0, len(kpts), 20):
        energies = scipy.linalg.eigvalsh(data.hamiltonian.at_k(kpts[n]), data.overlap.at_k(kpts[n]))
        assert np.abs(energies - fermi - bands[:, n]).max() < 1e-9
    assert data.n_electrons == 46
    levels = ElectronicStructure(data.hamiltonian, data.overlap, 46).eigenvalues(kpts)[0]
    assert levels[:, 23].min() - levels[:, 22].max() == pytest.approx(1.0400, abs=5e-5)


@needs_examples
def test_example_waters_are_one_molecule_turned() -> None:
    """Four orientations: H follows the rotation to the 3e-4 eV of the DFT grid, S to its integrals."""
    first, *others = (read_deeph(p) for p in sorted((EXAMPLES / "water_four_orientations").iterdir()))
    symbols = first.atoms.get_chemical_symbols()
    centred = [d.atoms.positions - d.atoms.positions.mean(axis=0) for d in (first, *others)]
    for other, positions in zip(others, centred[1:], strict=True):
        turn, residual = Rotation.align_vectors(positions, centred[0])
        assert residual < 1e-6
        assert turn.magnitude() > 0.1
        Q = turn.as_matrix()
        D = {s: rotation_of_shells(first.hamiltonian.basis.shells(s), Q) for s in set(symbols)}
        for name, bound in (("hamiltonian", 5e-4), ("overlap", 1e-5)):
            before, after = getattr(first, name), getattr(other, name)
            for i, j in np.ndindex(3, 3):
                expected = D[symbols[i]] @ before.block(i, j, (0, 0, 0)) @ D[symbols[j]].T
                assert np.abs(expected - after.block(i, j, (0, 0, 0))).max() < bound


@needs_examples
def test_example_overlaps_fall_with_distance() -> None:
    overlap = read_deeph(EXAMPLES / "MoTe2_with_bands").overlap
    distance = np.linalg.norm(overlap.pairs.displacements(overlap.atoms), axis=1)
    assert spearmanr(distance, overlap.block_norms()).statistic < -0.9


@needs_examples
def test_example_molecule_counts_its_electrons() -> None:
    data = read_deeph(sorted((EXAMPLES / "water_six").iterdir())[0])
    assert data.overlap.hermiticity_error() < 1e-8
    assert scipy.linalg.eigvalsh(data.overlap.at_k((0, 0, 0))).min() > 0


@pytest.mark.parametrize("value", [[], {}, [1.0], "five", True, float("nan"), float("inf")], ids=str)
@pytest.mark.parametrize(
    ("file", "key"),
    [
        ("info.json", "occupation"),
        ("info.json", "fermi_energy_eV"),
        ("info.json", "elements_orbital_map"),
        ("reference.json", "energy_eV"),
        ("reference.json", "pbc"),
        ("reference.json", "cell"),
        ("reference.json", "spin"),
        ("reference.json", "stress_eV_A3"),
    ],
)
def test_values_of_another_kind(folder: Path, file: str, key: str, value: object) -> None:
    content = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps({**content, key: value}))
    with pytest.raises(ValueError, match=f"{file}.*{key}"):
        read_deeph(folder)


def test_what_a_poscar_cannot_say_is_kept(data: ReferenceData, tmp_path: Path) -> None:
    """Cells without a vector along open axes, and a stress without forces."""
    atoms = Atoms(data.atoms.get_chemical_symbols(), positions=data.atoms.positions)
    matrix = data.overlap.restricted_to(data.overlap.pairs.select(~np.any(data.overlap.pairs.R, axis=1)))
    given = ReferenceData(atoms, overlap=replace(matrix, atoms=atoms), stress=np.arange(6.0))
    write_deeph(tmp_path / "molecule", given)
    back = read_deeph(tmp_path / "molecule")
    assert np.array_equal(back.atoms.cell.array, np.zeros((3, 3)))
    assert np.allclose(back.atoms.positions, atoms.positions, atol=1e-14)
    assert np.array_equal(back.stress, np.arange(6.0))
    assert back.forces is None


def test_forces_of_another_structure(folder: Path) -> None:
    with h5py.File(folder / "force.h5", "r+") as file:
        del file["force"]
        file["force"] = np.zeros((5, 3))
    with pytest.raises(ValueError, match=r"force.h5: expected .* \(2, 3\) for force, received \(5, 3\)"):
        read_deeph(folder)


def test_whole_numbers_are_no_hamiltonian(folder: Path) -> None:
    with h5py.File(folder / "hamiltonian.h5", "r+") as file:
        entries = file["entries"][()]
        del file["entries"]
        file["entries"] = entries.astype(int)
    with pytest.raises(ValueError, match="entries"):
        read_deeph(folder)


def test_complex_numbers_without_imaginary_part(data: ReferenceData, folder: Path) -> None:
    with h5py.File(folder / "hamiltonian.h5", "r+") as file:
        entries = file["entries"][()]
        del file["entries"]
        file["entries"] = entries.astype(complex)
    back = read_deeph(folder).hamiltonian
    assert back.entries.dtype == float
    assert same(back, data.hamiltonian)


@needs_examples
@pytest.mark.parametrize("name", ["MoTe2_with_bands", "water_six/138"])
def test_exchanged_files(name: str, tmp_path: Path) -> None:
    for old, new in (
        ("hamiltonian.h5", "overlap.h5"),
        ("overlap.h5", "hamiltonian.h5"),
        ("POSCAR", "POSCAR"),
        ("info.json", "info.json"),
    ):
        (tmp_path / new).write_bytes((EXAMPLES / name / old).read_bytes())
    with pytest.raises(ValueError, match="exchange their names"):
        read_deeph(tmp_path)
