"""ABACUS: eigenvalues against its own, both layouts, spins, wrapped atoms and orbital files read back."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg

from ase_deeph.io import read_abacus, read_deeph, write_deeph
from ase_deeph.io.abacus_orb import shells_in_name
from ase_deeph.io.abacus_stru import read_stru
from ase_deeph.io.proof import distance_correlation
from ase_deeph.two_center import overlap
from tests.reader_files import crystal, write_abacus
from tests.test_io_siesta import assert_same, difference

DATA = next(
    (p / "shared/data/abacus" for p in Path(__file__).parents if (p / "shared/data/abacus").is_dir()), None
)
needs_data = pytest.mark.skipif(DATA is None, reason="ABACUS's example output (shared/data/abacus) is absent")


@needs_data
def test_eigenvalues_are_those_of_abacus() -> None:
    data = read_abacus(DATA / "MoS2")
    out = DATA / "MoS2/OUT.ABACUS"
    table = (out / "kpoints").read_text().split("WEIGHT")[1].split("nkstot")[0].strip().splitlines()
    k = np.array([line.split()[1:4] for line in table], dtype=float)
    parts = re.split(r"BAND[^\n]*\n", (out / "istate.info").read_text())[1:]
    assert len(k) == len(parts) == 3
    for point, part in zip(k, parts, strict=True):
        levels = np.array([line.split()[1] for line in part.splitlines() if line.strip()], dtype=float)
        found = scipy.linalg.eigvalsh(data.hamiltonian.at_k(point), data.overlap.at_k(point))[: len(levels)]
        assert len(levels) == 23
        assert np.abs(found - levels).max() < 3e-4
    assert (data.n_electrons, data.fermi_level) == (26, -2.3123356452)
    assert data.basis.valence_electrons("Mo") == 14


@needs_data
def test_example_is_proved_and_kept(tmp_path: Path) -> None:
    data = read_abacus(DATA / "MoS2/OUT.ABACUS")
    assert distance_correlation(data.overlap) < -0.95
    assert data.info["bond_frame_defect"] < 1e-6
    write_deeph(tmp_path / "s", data)
    assert_same(read_deeph(tmp_path / "s"), data)


def test_from_inside_the_output_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """STRU lies above the working folder."""
    data = crystal("none")
    write_abacus(tmp_path / "a", data)
    (output,) = (tmp_path / "a").glob("OUT.*")
    monkeypatch.chdir(output)
    assert difference(read_abacus(".").hamiltonian, data.hamiltonian) < 1e-11


@pytest.mark.parametrize("layout", ["first", "later"])
@pytest.mark.parametrize("spin", ["none", "collinear", "spinor"])
def test_layouts_and_spins(layout: str, spin: str, tmp_path: Path) -> None:
    data = crystal(spin)
    write_abacus(tmp_path / "a", data, layout=layout)
    back = read_abacus(tmp_path / "a")
    assert difference(back.hamiltonian, data.hamiltonian) < 1e-11
    assert difference(back.overlap, data.overlap) < 1e-12
    assert np.allclose(back.atoms.positions, data.atoms.positions, atol=1e-10)
    assert (back.n_electrons, back.fermi_level) == (8, -4.25)
    assert back.basis.has_radial_functions


def test_orbital_files_give_the_overlap(tmp_path: Path) -> None:
    data = crystal()
    write_abacus(tmp_path / "a", data)
    back = read_abacus(tmp_path / "a")
    assert difference(overlap(back.atoms, back.basis), back.overlap) < 1e-6


def test_shells_come_from_the_log_or_from_names(tmp_path: Path) -> None:
    data = crystal()
    write_abacus(tmp_path / "a", data, orbitals=False)
    back = read_abacus(tmp_path / "a")
    assert not back.basis.has_radial_functions
    assert back.basis.valence_electrons("N") == 5
    (tmp_path / "a/OUT.ABACUS/running_scf.log").unlink()
    bare = read_abacus(tmp_path / "a")
    assert difference(bare.hamiltonian, data.hamiltonian) < 1e-11
    assert bare.n_electrons is None
    assert bare.fermi_level is None
    assert shells_in_name("Mo_gga_8au_100Ry_4s2p2d1f.orb") == (0, 0, 0, 0, 1, 1, 2, 2, 3)


def test_the_union_of_pairs(tmp_path: Path) -> None:
    """Elements that are in H and not in S stay."""
    data = crystal()
    write_abacus(tmp_path / "a", data)
    path = tmp_path / "a/OUT.ABACUS/data-HR-sparse_SPIN0.csr"
    n = data.overlap.n_orbitals
    lines = path.read_text().splitlines()
    lines[2] = f"Matrix number of H(R): {int(lines[2].split(':')[1]) + 2}"
    pointers = " ".join(["0"] + ["1"] * n)
    for sign in (1, -1):
        lines += [f"{4 * sign} 0 0 1", "0.01", "0", pointers]
    path.write_text("\n".join(lines) + "\n")
    back = read_abacus(tmp_path / "a")
    assert back.hamiltonian.block(0, 0, (4, 0, 0))[0, 0] == pytest.approx(0.01 * 13.605693, abs=1e-6)
    assert np.all(back.overlap.block(0, 0, (4, 0, 0)) == 0)
    assert back.overlap.pairs == back.hamiltonian.pairs


LATTICES = {
    "sc": ("", 1.0),
    "fcc": ("", 0.25),
    "bcc": ("", 0.5),
    "hexagonal": ("1.6", 0.75**0.5 * 1.6),
    "trigonal": ("0.0", 1.0),
    "st": ("1.7", 1.7),
    "bct": ("1.7", 0.85),
    "so": ("1.2 1.5", 1.8),
}


@pytest.mark.parametrize("name", LATTICES)
def test_named_lattices(name: str, tmp_path: Path) -> None:
    parameters, volume = LATTICES[name]
    stru = tmp_path / "STRU"
    stru.write_text(
        "ATOMIC_SPECIES\nC 12 C.upf\nLATTICE_CONSTANT\n1.8897261258369282\n"
        f"LATTICE_PARAMETERS\n{parameters}\nATOMIC_POSITIONS\nDirect\nC1\n0.0\n1\n0.25 0.5 0.5 0 0 0\n"
    )
    atoms = read_stru(stru, name).atoms
    assert abs(np.linalg.det(atoms.cell.array)) == pytest.approx(volume, rel=1e-6)
    assert np.allclose(atoms.get_scaled_positions(), [[0.25, 0.5, 0.5]])
    assert atoms.get_chemical_symbols() == ["C"]


def test_what_does_not_belong_together_is_told(tmp_path: Path) -> None:
    data = crystal()
    write_abacus(tmp_path / "a", data)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_abacus(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="out_mat_hs2"):
        read_abacus(tmp_path)
    stru = tmp_path / "a/STRU"
    whole = stru.read_text()
    stru.write_text(whole.replace(whole.splitlines()[9], "3.9 // another unit"))
    with pytest.raises(ValueError, match="not that of the log"):
        read_abacus(tmp_path / "a")
    stru.write_text(whole.replace("LATTICE_VECTORS", "LATTICE_PARAMETERS"))
    with pytest.raises(ValueError, match="give LATTICE_VECTORS"):
        read_abacus(tmp_path / "a")
    stru.write_text(whole)
    h, s = (tmp_path / f"a/OUT.ABACUS/data-{x}R-sparse_SPIN0.csr" for x in "HS")
    s.write_text(h.read_text())
    with pytest.raises(ValueError, match="orthonormal"):
        read_abacus(tmp_path / "a")
