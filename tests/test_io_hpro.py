"""HPRO: a real folder of it (Quantum ESPRESSO 6.7 -> HPRO 0.3.1, Si) against pw.x and two-centre integrals.

data/hpro_si was written by HPRO 0.3.1 from a run of pw.x and pw2bgw.x with four short orbitals in closed form
(s, s, p, d: `_orbitals`); its HDF5 datasets were compressed afterwards, and data-file-schema.xml is an excerpt.
"""

from __future__ import annotations

import gzip
import json
import shutil
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import h5py
import numpy as np
import pytest
import scipy.linalg
from ase.units import Bohr, Hartree

from ase_deeph.cli import main
from ase_deeph.cli.convert import code_of
from ase_deeph.io import read_deeph, read_hpro, write_deeph
from ase_deeph.io.orbital_files import orbitals_in, read_orbitals
from ase_deeph.io.proof import spin_orbit_strength
from ase_deeph.reference import ReferenceData
from ase_deeph.two_center import overlap
from tests.reader_files import crystal
from tests.test_io_fuzz import fuzz

DATA = Path(__file__).parent / "data/hpro_si"
RANGE = 4.6
SHELLS = ((0, 0.05), (0, 0.25), (1, 0.02), (2, 0.1))
N_MUTATIONS = 500


def _orbitals() -> list[tuple[int, np.ndarray, np.ndarray]]:
    """(l, r, φ / r^l) in Bohr: exp(-a r²) (1 - (r/4.6)²)³, normalised."""
    r, found = np.linspace(0, RANGE, 500), []
    for l, a in SHELLS:
        f = np.exp(-a * r * r) * (1 - (r / RANGE) ** 2) ** 3
        found.append((l, r, f / np.sqrt(np.trapezoid(r ** (2 * l + 2) * f * f, r))))
    return found


def write_ion(path: Path) -> None:
    """What HPRO was given, in the layout of SIESTA's .ion text."""
    lines = [" 4.0 # Valence charge"]
    for n, (l, r, f) in enumerate(_orbitals()):
        lines += [
            f" {l} 3 {n} 0 0.0 #orbital l, n, z, is_polarized, population",
            f" 500 {r[1]:.16e} {RANGE:.16e}",
        ]
        lines += [f" {x:.16e} {y:.16e}" for x, y in zip(r, f, strict=True)]
    path.write_text("\n".join(lines) + "\n")


def write_basis(path: Path) -> None:
    """The same in the layout of GPAW's basis files."""
    rows = [
        '<paw_basis version="0.1">',
        f'<radial_grid eq="r=d*i" d="{RANGE / 499}" istart="0" iend="499" id="g"/>',
    ]
    for l, r, f in _orbitals():
        values = " ".join(f"{x:.16e}" for x in f * r**l)
        rows.append(f'<basis_function l="{l}" rc="{RANGE}" grid="g" ng="500">{values}</basis_function>')
    content = "\n".join([*rows, "</paw_basis>"]).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copytree(DATA, tmp_path / "si")
    write_ion(tmp_path / "si/Si.ion")
    return tmp_path / "si"


def pw_levels(data: ReferenceData) -> list[tuple[np.ndarray, np.ndarray]]:
    """(fractional k, eV) of pw.x."""
    output = ElementTree.parse(DATA / "data-file-schema.xml").getroot().find("output")
    alat = float(output.find("atomic_structure").attrib["alat"]) * Bohr
    found = []
    for node in output.iter("ks_energies"):
        k = np.array(node.findtext("k_point").split(), dtype=float) / alat @ data.atoms.cell.array.T
        found.append((k, np.array(node.findtext("eigenvalues").split(), dtype=float) * Hartree))
    return found


def test_everything_its_inputs_tell(folder: Path) -> None:
    data = read_hpro(folder)
    assert data.n_electrons == 8
    assert data.fermi_level == pytest.approx(6.65535, abs=1e-4)
    assert data.energy == pytest.approx(-16.90562771 / 2 * Hartree, abs=1e-4)
    assert data.basis.shells("Si") == (0, 0, 1, 2)
    assert data.basis.valence_electrons("Si") == 4
    assert data.hamiltonian.pairs == data.overlap.pairs
    assert data.info["distance_correlation"] < -0.9


def test_two_centre_integrals_give_the_same_overlap(folder: Path) -> None:
    data = read_hpro(folder)
    assert (overlap(data.atoms, data.basis) - data.overlap).max_abs() < 1e-6


def test_levels_lie_above_those_of_plane_waves(folder: Path) -> None:
    """By the variational principle each level in the smaller space lies above; wrong k, unit or order break it."""
    data = read_hpro(folder)
    levels = pw_levels(data)
    assert len(levels) == 8
    above = []
    for k, expected in levels:
        found = scipy.linalg.eigvalsh(data.hamiltonian.at_k(k), data.overlap.at_k(k))[: len(expected)]
        above.append(found - expected)
    above = np.array(above)
    assert above.min() > 0.0
    assert above[:, :4].max() < 1.8
    gaps = [np.ptp(a[:4]) for a in above]
    assert np.mean(gaps) < 1.0


def test_degenerate_levels_stay_degenerate(folder: Path) -> None:
    data = read_hpro(folder)
    found = scipy.linalg.eigvalsh(data.hamiltonian.at_k([0, 0, 0]), data.overlap.at_k([0, 0, 0]))
    assert np.ptp(found[1:4]) < 1e-4
    assert np.ptp(found[4:7]) < 1e-4
    assert found[4] - found[3] > 1.0


@pytest.mark.parametrize("name", ["Si.basis", "Si.dzp.basis.gz"])
def test_orbitals_of_gpaw(folder: Path, name: str) -> None:
    place = folder.parent / "orbitals"
    place.mkdir()
    write_basis(place / name)
    data, same = read_hpro(folder, orbitals=place), read_hpro(folder)
    r = np.linspace(0, 2.4, 50)
    for first, second in zip(data.basis["Si"].radial, same.basis["Si"].radial, strict=True):
        assert np.abs(first(r) - second(r)).max() < 1e-5


def test_overlap_is_computed_where_it_is_absent(folder: Path) -> None:
    expected = read_hpro(folder).overlap
    (folder / "overlap.h5").unlink()
    assert (read_hpro(folder).overlap - expected).max_abs() < 1e-6
    (folder / "Si.ion").unlink()
    with pytest.raises(ValueError, match="orbitals="):
        read_hpro(folder)


def test_without_inputs_what_is_unknown_stays_unknown(folder: Path) -> None:
    (folder / "data-file-schema.xml").unlink()
    assert read_hpro(folder).n_electrons == 8
    (folder / "Si.ion").unlink()
    data = read_hpro(folder)
    assert (data.n_electrons, data.fermi_level) == (None, None)
    assert not data.basis.has_radial_functions
    (folder / "Si.upf").write_text('<PP_HEADER element="Si" z_valence="    4.00"/>')
    assert read_hpro(folder).n_electrons == 8


def test_inputs_of_another_calculation_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"prefix>\.save"):
        read_hpro(folder, run=tmp_path)
    text = (folder / "Si.ion").read_text()
    (folder / "Si.ion").write_text(text.replace(" 2 3 3 0", " 1 3 3 0"))
    with pytest.raises(ValueError, match="shells l"):
        read_hpro(folder)
    write_ion(folder / "Si.ion")
    rows = (folder / "Si.ion").read_text().splitlines()
    rows[3:503] = [f"{a} {float(b) * (1 + 0.2 * float(a))}" for a, b in (row.split() for row in rows[3:503])]
    (folder / "Si.ion").write_text("\n".join(rows))
    with pytest.raises(ValueError, match="differs by"):
        read_hpro(folder)
    (folder / "Si.ion").unlink()
    path = folder / "data-file-schema.xml"
    path.write_text(path.read_text().replace('name="Si"', 'name="Ge"'))
    with pytest.raises(ValueError, match="another calculation"):
        read_hpro(folder)


def test_conjugated_spinors_are_put_right(tmp_path: Path) -> None:
    """As HPRO 0.3.1 writes them; a later version that writes them right is read as it is."""
    sound = crystal("spinor")
    assert spin_orbit_strength(sound.hamiltonian) > 0
    stored = replace(sound.hamiltonian, entries=np.conj(sound.hamiltonian.entries))
    for name, matrix in (("old", stored), ("new", sound.hamiltonian)):
        write_deeph(tmp_path / name, replace(sound, hamiltonian=matrix), own_basis=False)
        data = read_hpro(tmp_path / name)
        assert np.array_equal(data.hamiltonian.entries, sound.hamiltonian.entries)
        assert data.info.get("conjugated", False) == (name == "old")


def test_doubled_overlap_of_a_spinor_run(tmp_path: Path) -> None:
    sound = crystal("spinor")
    write_deeph(tmp_path / "s", sound, own_basis=False)
    with h5py.File(tmp_path / "s/overlap.h5", "r+") as file:
        shapes = file["chunk_shapes"][()]
        doubled = [np.kron(np.eye(2), b).ravel() + 0j for b in sound.overlap.blocks()]
        for key, value in (
            ("chunk_shapes", 2 * shapes),
            ("chunk_boundaries", np.concatenate([[0], np.cumsum((2 * shapes).prod(axis=1))])),
            ("entries", np.concatenate(doubled)),
        ):
            del file[key]
            file[key] = value
    data = read_hpro(tmp_path / "s")
    assert data.overlap.spin == "none"
    assert (data.overlap - sound.overlap).max_abs() == 0.0


def test_convert_knows_the_folder(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert code_of(folder) == "hpro"
    target = folder.parent / "new"
    assert main(["convert", str(folder), str(target)]) == 0
    assert "from hpro" in capsys.readouterr().out
    data, same = read_hpro(folder), read_deeph(target)
    assert np.array_equal(data.hamiltonian.entries, same.hamiltonian.entries)
    assert np.array_equal(data.overlap.entries, same.overlap.entries)
    assert (same.n_electrons, same.fermi_level) == (data.n_electrons, data.fermi_level)
    assert same.basis == data.basis


def test_damaged_orbital_files_are_told(tmp_path: Path) -> None:
    write_ion(tmp_path / "Si.ion")
    assert set(orbitals_in(tmp_path)) == {"Si"}
    write_basis(tmp_path / "Si.basis")
    with pytest.raises(ValueError, match="both hold"):
        orbitals_in(tmp_path)
    for name, content in (("a.ion", "nothing"), ("a.basis", "<x/>"), ("a.basis.gz", "x")):
        (tmp_path / name).write_text(content)
        with pytest.raises(ValueError, match="not an orbital file"):
            read_orbitals(tmp_path / name)


def test_damaged_folders_are_refused_or_harmless(folder: Path) -> None:
    info = json.loads((folder / "info.json").read_text())
    assert info["fermi_energy_eV"] == 0.0
    tally = fuzz(read_hpro, folder, N_MUTATIONS, seed=21)
    assert not tally.complaints, f"{len(tally.complaints)}: " + "\n".join(tally.complaints[:12])
    assert tally.refused + tally.same + tally.other == N_MUTATIONS
