"""read_cp2k on stored output, and run_cp2k against PySCF, CP2K's own bands and finite differences."""

from __future__ import annotations

import re
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
from ase import Atoms
from ase.build import bulk, molecule
from ase.units import Bohr, Hartree

from ase_deeph.cli import main
from ase_deeph.cli.convert import code_of
from ase_deeph.dft import cp2k as engine
from ase_deeph.dft import run_cp2k, run_pyscf
from ase_deeph.dft.cp2k_input import Job, input_text, kinds_of, known_functional
from ase_deeph.dft.cp2k_sets import executable, kind_sets
from ase_deeph.dft.generate import engine_function
from ase_deeph.io import cp2k as reader
from ase_deeph.io import read_cp2k, read_deeph, write_deeph
from ase_deeph.io.cp2k_basis import by_degree, entry_of, plain, shells_of
from ase_deeph.io.cp2k_input import cell_of, force_section, positions_of, read_input
from ase_deeph.io.cp2k_log import abort_reason
from ase_deeph.matrix import gauge_shift
from ase_deeph.reference import ReferenceData
from ase_deeph.two_center import overlap
from tests.data.make_cp2k import crystal

STORED = Path(__file__).parent / "data/cp2k_boron_hydride.tar.xz"


def _absent() -> bool:
    try:
        executable()
    except FileNotFoundError:
        return True
    return False


needs_cp2k = pytest.mark.skipif(_absent(), reason="CP2K is not installed (Debian: apt-get install cp2k)")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with tarfile.open(STORED) as archive:
        archive.extractall(tmp_path / "run", filter="data")
    return tmp_path / "run"


def changed(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def levels(data: ReferenceData, k: np.ndarray) -> np.ndarray:
    assert data.hamiltonian is not None
    assert data.overlap is not None
    return np.array([scipy.linalg.eigvalsh(data.hamiltonian.at_k(x), data.overlap.at_k(x)) for x in k])


def test_stored_output(folder: Path) -> None:
    """Positions as given (B on the border, H beyond the cell), and S those of the basis functions there."""
    data = read_cp2k(folder)
    atoms = crystal()
    assert np.allclose(data.atoms.positions, atoms.positions, atol=1e-12)
    assert np.allclose(data.atoms.cell.array, atoms.cell.array, atol=1e-12)
    assert data.basis is not None
    assert (data.basis.shells("B"), data.basis.shells("H")) == ((0, 1), (0,))
    assert data.overlap is not None
    assert data.hamiltonian is not None
    assert (data.overlap - overlap(atoms, data.basis)).max_abs() < 1e-7
    assert data.hamiltonian.pairs == data.overlap.pairs
    assert data.n_electrons == 4
    assert data.energy == pytest.approx(-3.6 * Hartree, rel=0.2)
    below, above = np.sum(levels(data, np.zeros((1, 3))) < data.fermi_level), 4
    assert 2 * below == above
    assert data.forces is not None
    assert data.forces.shape == (2, 3)
    assert data.stress is not None
    assert data.info["version"] == "2023.1"
    assert data.info["distance_correlation"] < -0.95


def test_wrapped_atoms_are_noticed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the cells that CP2K moved its atoms by, R does not fit the positions: the reader must say so."""
    monkeypatch.setattr(reader, "_whole_cells", lambda atoms, S, owner: np.zeros((len(atoms), 3), dtype=int))
    with pytest.raises(
        ValueError, match=r"rank correlation|integrals of the basis functions|couples different m"
    ):
        read_cp2k(folder)


def test_written_and_read_again(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = read_cp2k(folder)
    write_deeph(tmp_path / "deeph", data)
    again = read_deeph(tmp_path / "deeph")
    assert np.array_equal(again.hamiltonian.entries, data.hamiltonian.entries)
    assert np.array_equal(again.overlap.entries, data.overlap.entries)
    assert (again.n_electrons, again.fermi_level, again.basis) == (
        data.n_electrons,
        data.fermi_level,
        data.basis,
    )
    assert code_of(folder) == "cp2k"
    assert main(["convert", str(folder), str(tmp_path / "converted")]) == 0
    assert "from cp2k" in capsys.readouterr().out
    assert main(["doctor", str(tmp_path / "converted"), "--quiet"]) in (0, 1)


def test_without_the_file_of_basis_sets(folder: Path) -> None:
    """The log names the shells; radial functions are then absent."""
    full = read_cp2k(folder)
    (folder / "BASIS").unlink()
    bare = read_cp2k(folder)
    assert bare.basis is not None
    assert not bare.basis.has_radial_functions
    assert bare.basis.shells("B") == (0, 1)
    assert np.array_equal(bare.hamiltonian.entries, full.hamiltonian.entries)


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no log": (lambda f: (f / "cp2k.out").unlink(), "expected one log of CP2K"),
    "two logs": (lambda f: shutil.copy(f / "cp2k.out", f / "b.out"), "name the one to read"),
    "truncated log": (lambda f: changed(f / "cp2k.out", "PROGRAM ENDED", "PROGRAM"), "truncated, or the run"),
    "unconverged": (
        lambda f: changed(f / "cp2k.out", "SCF run converged in", "SCF run NOT converged in"),
        "did not converge",
    ),
    "no input": (lambda f: (f / "cp2k.inp").unlink(), "input file that the log names is absent"),
    "open section": (lambda f: changed(f / "cp2k.inp", "&END FORCE_EVAL", ""), "does not end"),
    "dynamics": (lambda f: changed(f / "cp2k.inp", "ENERGY_FORCE", "MD"), "moves atoms"),
    "other structure": (lambda f: changed(f / "cp2k.inp", " B 2.6", " B 2.7"), "different runs"),
    "other cell": (lambda f: changed(f / "cp2k.inp", "A 5.4", "A 5.5"), "cp2k"),
    "other basis": (
        lambda f: changed(f / "BASIS", "0.239116150487", "0.339116150487"),
        "integrals of the basis functions",
    ),
    "lost image": (lambda f: (f / "cp2k-S_SPIN_1_R_3-1_0.csr").unlink(), "S of spin 1"),
    "two steps": (
        lambda f: shutil.copy(f / "cp2k-S_SPIN_1_R_3-1_0.csr", f / "cp2k-S_SPIN_1_R_3-1_1.csr"),
        "are two steps",
    ),
    "matrix at k": (
        lambda f: (f / "cp2k-KS_SPIN_1_R_1-1_0.csr").rename(f / "cp2k-KS_SPIN_1_K_1-1_0.csr"),
        "REAL_SPACE T",
    ),
    "no overlap": (lambda f: [p.unlink() for p in f.glob("*-S_*.csr")], "S_CSR_WRITE"),
    "truncated matrix": (
        lambda f: changed(f / "cp2k-KS_SPIN_1_R_1-1_0.csr", "E+000\n", "E+000\n1 "),
        "last line is truncated",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faults_are_told(name: str, folder: Path) -> None:
    damage, message = FAULTS[name]
    damage(folder)
    with pytest.raises(ValueError, match=message) as caught:
        read_cp2k(folder)
    assert "\n" not in str(caught.value)


def test_absent_source(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no CP2K folder"):
        read_cp2k(tmp_path / "absent")


@pytest.mark.parametrize(
    ("cell", "coordinates"),
    [
        ("A 3 0 0\nB 0 4 0\nC 0 0 5", "Si 0.3 0.8 1.5"),
        ("ABC 3 4 5\nALPHA_BETA_GAMMA 90 90 90", "SCALED\nSi 0.1 0.2 0.3 MOL1"),
        (
            f"ABC [bohr] {3 / Bohr} {4 / Bohr} {5 / Bohr}",
            f"UNIT bohr\nSi {0.3 / Bohr} {0.8 / Bohr} {1.5 / Bohr}",
        ),
        ("@SET L 4 # a comment\nABC 3 ${L} 5", "SI 0.3 0.8 1.5 ! another"),
    ],
)
def test_ways_to_write_a_structure(tmp_path: Path, cell: str, coordinates: str) -> None:
    path = tmp_path / "a.inp"
    path.write_text(
        f"&GLOBAL\nRUN_TYPE ENERGY\n&END\n&force_eval\n&DFT\n&END DFT\n&SUBSYS\n&CELL\n{cell}\nPERIODIC xy\n&END\n"
        f"&COORD\n{coordinates}\n&END\n&END SUBSYS\n&END FORCE_EVAL\n"
    )
    force = force_section(path, read_input(path))
    lattice, periodic = cell_of(path, force)
    assert np.allclose(lattice, np.diag([3, 4, 5]))
    assert periodic.tolist() == [True, True, False]
    assert np.allclose(positions_of(path, force, lattice), [[0.3, 0.8, 1.5]])


def test_entries_and_their_order() -> None:
    """Sets with s p d, s p: sorted by l as PySCF sorts; contracted functions are normalised."""
    text = "# of C\nC OTHER\n 1\n 1 0 0 1 1\n 1.0 1.0\nC two-sets-q4 TWO-SETS\n2\n 2 0 2 2 2 1 1\n"
    text += " 2.0 0.3 0.4 0.5 1.0\n 0.5 0.7 -0.2 0.5 0.1\n 2 0 1 1 1 1\n 0.2 1.0 1.0\nN NEXT\n"
    assert entry_of(text, "C", ["absent"]) is None
    entry = entry_of(text, "C", [plain("two-sets")])
    assert entry is not None
    shells = shells_of(entry)
    assert [s.l for s in shells] == [0, 0, 1, 2, 0, 1]
    assert by_degree([s.l for s in shells]) == [0, 1, 3, 5, 2, 4]
    r = np.linspace(0, 12, 6001)
    for shell in shells:
        assert np.trapezoid(shell(r) ** 2 * r**2, r) == pytest.approx(1, abs=1e-6)
    with pytest.raises(ValueError, match="ends too early"):
        shells_of(entry[:-1])


def _job(**changes: object) -> Job:
    atoms = Atoms("Fe2", [(0, 0, 0), (0, 0, 2)], cell=[3, 3, 4], pbc=True)
    point = np.array([[0.0, 0, 0, 1]])
    job = Job(atoms, np.array([2.0, -2.0]), "pbe", point, 32, 40, 0.05, 300.0, 1e-7, True, True)
    return replace(job, **changes)  # type: ignore[arg-type]


def test_input_of_spins_and_hybrids() -> None:
    text = input_text(_job(), {"Fe": "A"}, {"Fe": "B"})
    assert kinds_of(_job().atoms, np.array([2.0, -2.0])) == ["Fe2", "Fe1"]
    for line in ("LSD T", "MULTIPLICITY 1", "&KIND Fe2", "ELEMENT Fe", "MAGNETIZATION -2.0", "REAL_SPACE T"):
        assert line in text
    crystal_text = input_text(_job(xc="pbe0", kpoints=None), {"Fe": "A"}, {"Fe": "B"})
    assert "POTENTIAL_TYPE TRUNCATED" in crystal_text
    assert "CUTOFF_RADIUS 1.47" in crystal_text
    assert "KPOINTS" not in crystal_text
    with pytest.raises(ValueError, match="knows 'pbe'"):
        known_functional("scan")


def test_reason_of_a_stop() -> None:
    lines = [
        " *  / \\  *",
        " * [ABORT]  *",
        " *  \\___/  unknown subsection X of section Y  *",
        " *  |  *",
        " * / \\ a.F:185 *",
    ]
    text = "\n".join(lines)
    assert abort_reason(text) == "CP2K stopped: unknown subsection X of section Y"


def test_absent_program_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASE_DEEPH_CP2K", "/no/such/cp2k")
    for call in (lambda: run_cp2k(molecule("H2")), lambda: engine_function("cp2k")):
        with pytest.raises(FileNotFoundError, match="apt-get install cp2k"):
            call()


@pytest.mark.parametrize(
    ("atoms", "options", "message"),
    [
        (molecule("H2"), {"spin": "spinor"}, "expected None, 'none' or 'collinear'"),
        (molecule("H2"), {"xc": "nothing"}, "run_cp2k knows"),
        (bulk("Si"), {"xc": "pbe0", "kpts": (2, 2, 2)}, "no k-points for pbe0"),
        (bulk("Si"), {"kpts": (0, 1, 1)}, "three positive integers"),
        (molecule("H2"), {"kpts": (2, 1, 1)}, "1 along axes that are not periodic"),
    ],
)
def test_clear_errors(atoms: Atoms, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run_cp2k(atoms, **options)


@needs_cp2k
@pytest.mark.parametrize(
    ("atoms", "options", "message"),
    [
        (Atoms("H"), {}, "cannot have a total moment of 0"),
        (molecule("H2"), {"basis": "no-such-basis"}, "CP2K has no basis 'no-such-basis' for H"),
        (molecule("H2"), {"pseudo": "gth-none"}, "CP2K has no pseudopotential"),
        (Atoms("Ni"), {"basis": "DZVP-MOLOPT-SR-GTH-q18", "pseudo": "GTH-PBE-q10"}, "valence electrons"),
    ],
)
def test_clear_errors_of_sets(atoms: Atoms, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run_cp2k(atoms, **options)


@needs_cp2k
def test_bands_are_those_of_cp2k(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """H(R), S(R) of a triclinic crystal against the bands CP2K computes itself, off the mesh."""
    points = np.array([(0.11, 0.23, -0.31), (0.5, 0.5, 0.0), (0.37, -0.2, 0.45)])
    special = "".join("\nSPECIAL_POINT X " + " ".join(map(str, k)) for k in points)
    bands = (
        f"&BAND_STRUCTURE\nFILE_NAME bands.bs\nADDED_MOS 3\n&KPOINT_SET\nUNITS B_VECTOR\nNPOINTS 1{special}"
    )
    bands += "\n&END\n&END"
    first = "&PRINT\n      &KS"
    assert first in input_text(_job(), {"Fe": "A"}, {"Fe": "B"})
    with_bands = f"&PRINT\n{bands}\n&KS"
    monkeypatch.setattr(engine, "input_text", lambda *a: input_text(*a).replace(first, with_bands))
    options = {"kpts": (2, 1, 1), "cutoff": 200.0, "threads": 1}
    data = run_cp2k(crystal(), "gth-szv-molopt-sr", folder=tmp_path, **options)
    rows = [line.split() for line in (tmp_path / "bands.bs").read_text().splitlines()]
    at = [n for n, words in enumerate(rows) if words[:2] == ["#", "Point"]]
    for n in at:
        k = np.array([float(x) for x in rows[n][5:8]])
        own = np.array([float(words[1]) for words in rows[n + 2 : n + 7]])
        assert np.abs(levels(data, k[None])[0] - own).max() < 1e-4
    assert len(at) == len(points)


@needs_cp2k
def test_molecule_against_pyscf() -> None:
    """Free boundary, three electrons with spin: H, S and energy agree with PySCF's."""
    pytest.importorskip("pyscf")
    atoms = Atoms("H3", [(0, 0, 0), (0, 0, 0.9), (0, 0.2, 1.9)], magmoms=[1.0, -1.0, 1.0])
    ours = run_cp2k(atoms, "gth-szv-molopt-sr", spin="collinear", cutoff=280.0, vacuum=6.0, threads=1)
    other = run_pyscf(atoms, "gth-szv-molopt-sr", spin="collinear")
    assert ours.energy == pytest.approx(other.energy, abs=5e-3)
    assert (ours.overlap - other.overlap).max_abs() < 1e-6
    assert (ours.hamiltonian - other.hamiltonian).max_abs() < 5e-3
    assert ours.fermi_level == pytest.approx(other.fermi_level, abs=5e-3)
    assert np.allclose(ours.info["moments"], other.info["moments"], atol=5e-3)


@needs_cp2k
def test_moments_that_point_down(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """CP2K knows no negative multiplicity: it gets all moments reversed, and the channels are exchanged after it."""
    from tests.toys import Huckel

    atoms = Atoms("H3", [(0, 0, 0), (0, 0, 0.9), (0, 0.2, 1.9)], magmoms=[-1.0, 1.0, -1.0])
    h, s = Huckel()(atoms), overlap(atoms, Huckel().basis)
    channels = np.stack([h.entries, h.entries + 1.0 * s.entries])
    data = ReferenceData(atoms, replace(h, entries=channels, spin="collinear"), s, info={})
    monkeypatch.setattr(engine, "_execute", lambda *a: None)
    monkeypatch.setattr(engine, "read_cp2k", lambda path: data)
    result = run_cp2k(atoms, spin="collinear", folder=tmp_path / "run")
    written = (tmp_path / "run/cp2k.inp").read_text()
    assert "MULTIPLICITY 2" in written
    assert [float(x) for x in re.findall(r"MAGNETIZATION (\S+)", written)] in ([1.0, -1.0], [-1.0, 1.0])
    assert np.array_equal(result.hamiltonian.entries, channels[::-1])
    assert sum(result.info["moments"]) == pytest.approx(-1.0, abs=1e-5)
    assert np.array_equal(result.atoms.get_initial_magnetic_moments(), [-1.0, 1.0, -1.0])


@needs_cp2k
@pytest.mark.slow
def test_eight_atoms_against_pyscf() -> None:
    """Si8: levels to 5 meV after the shift μS, S to 1e-6, forces and energy alike."""
    pytest.importorskip("pyscf")
    atoms = bulk("Si", cubic=True)
    atoms.rattle(0.05, seed=1)
    ours = run_cp2k(atoms, "gth-szv-molopt-sr", kpts=(1, 1, 1), forces=False, threads=1)
    other = run_pyscf(atoms, "gth-szv-molopt-sr", kpts=(1, 1, 1), forces=False)
    k = np.array([(0, 0, 0), (0.5, 0, 0), (0.13, 0.31, -0.22)])
    mu = gauge_shift(ours.hamiltonian - other.hamiltonian, other.overlap)
    assert np.abs(levels(ours, k) - levels(other, k) - mu).max() < 5e-3
    assert (ours.overlap - other.overlap).max_abs() < 1e-6
    assert ours.energy == pytest.approx(other.energy, abs=8 * 2e-3)


@needs_cp2k
def test_the_basis_is_that_of_pyscf() -> None:
    pyscf = pytest.importorskip("pyscf.pbc.gto")
    from ase_deeph.dft.cp2k_sets import data_folder
    from ase_deeph.dft.pyscf_matrices import orbital_basis

    data, r = data_folder(executable()), np.linspace(0.05, 3, 30)
    for name in ("gth-szv", "gth-dzvp-molopt-sr", "gth-tzv2p"):
        for symbol in ("H", "C", "Si", "Cl", *(("Fe", "Mo") if "molopt" in name else ())):
            cell = pyscf.Cell(
                a=np.eye(3) * 9, atom=[(symbol, (0, 0, 0))], basis=name, pseudo="gth-pbe", verbose=0
            )
            cell.spin = None
            cell.build(dump_input=False, parse_arg=False)
            theirs, ours = (
                orbital_basis(cell)[symbol],
                kind_sets(data, [symbol], name, "gth-pbe")[symbol].species,
            )
            assert (ours.shells, ours.valence_electrons) == (theirs.shells, theirs.valence_electrons)
            for f, g in zip(ours.radial, theirs.radial, strict=True):
                assert np.allclose(f(r), g(r), atol=1e-7)
