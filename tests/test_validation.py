"""validate: every planted fault is named by its own finding alone, and sound data raise no alarm."""

from __future__ import annotations

import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule

from ase_deeph.basis import OrbitalBasis, SpeciesBasis
from ase_deeph.harmonics import rotation_of_shells
from ase_deeph.io import read_cp2k, read_deeph, write_deeph
from ase_deeph.matrix import RealSpaceMatrix
from ase_deeph.pairs import AtomPairs
from ase_deeph.reference import ReferenceData
from ase_deeph.validation import examine, examine_folder, validate
from ase_deeph.validation.edges import ORDERS, EdgeView, ratio
from ase_deeph.validation.electrons import exchange_that_fits, plausible, valence_counts
from ase_deeph.validation.scale import kinetic_scale, largest_share, spread
from tests.planted_faults import FAULTS, both, negative_R, renamed, sound, wrapped

SHARED = next((p / "shared/data" for p in Path(__file__).parents if (p / "shared/data").is_dir()), None)
needs_examples = pytest.mark.skipif(SHARED is None, reason="the example data (shared/data) are absent")
Fault = Callable[[ReferenceData], ReferenceData]

identity = {"ids": lambda value: value.__name__ if callable(value) else ""}


def codes(data: ReferenceData) -> set[str]:
    return {finding.code for finding in validate(data)}


def example(name: str) -> ReferenceData:
    assert SHARED is not None
    return read_deeph(SHARED / "deeph" / name)


def test_sound_data_raise_no_alarm() -> None:
    report = examine(sound())
    assert report.findings == ()
    assert report.unchecked == ()
    assert "condition number of S(k)" in report.measures


@pytest.mark.parametrize(("fault", "code"), FAULTS, **identity)
def test_faults_are_named(fault: Fault, code: str) -> None:
    findings = validate(fault(sound()))
    assert {f.code for f in findings} == {code}
    assert all("\n" not in str(f) and f.what and f.remedy and f.where for f in findings)


@needs_examples
@pytest.mark.parametrize(("fault", "code"), FAULTS, **identity)
def test_faults_are_named_in_real_data(fault: Fault, code: str) -> None:
    assert codes(fault(example("MoTe2_with_bands"))) == {code}


@needs_examples
def test_elements_renamed_everywhere() -> None:
    """No matrix shows it: 46 electrons do, for Mo2Te cannot bring them."""
    assert codes(renamed(example("MoTe2_with_bands"))) == {"swapped-species"}
    assert codes(renamed(example("new/MoTe2"))) == {"swapped-species"}
    assert codes(renamed(example("water_six/138"))) == {"swapped-species"}


@needs_examples
@pytest.mark.parametrize("name", sorted(ORDERS))
def test_orders_of_other_codes_are_recognised(name: str) -> None:
    def stored(m: RealSpaceMatrix) -> RealSpaceMatrix:
        symbols, maps = m.atoms.get_chemical_symbols(), {}
        for s in set(symbols):
            places, signs, start = [], [], 0
            for l in m.basis.shells(s):
                where, sign = ORDERS[name](l)
                back = np.argsort(where)
                places += (start + back).tolist()
                signs += np.array(sign)[back].tolist()
                start += 2 * l + 1
            maps[s] = np.array(places), np.array(signs)
        blocks = []
        for i, j, b in zip(m.pairs.i, m.pairs.j, m.blocks(), strict=True):
            (rows, up), (cols, left) = maps[symbols[i]], maps[symbols[j]]
            blocks.append(b[np.ix_(rows, cols)] * up[:, None] * left[None, :])
        return RealSpaceMatrix.from_blocks(m.basis, m.pairs, m.atoms, blocks)

    data = example("water_six/138")
    (finding,) = validate(both(data, stored))
    assert finding.code == "m-order"
    assert name in finding.what
    (finding,) = validate(replace(data, hamiltonian=stored(data.hamiltonian)))
    assert (finding.code, finding.where) == ("m-order", "hamiltonian")


def test_a_wrapped_atom_is_named_with_its_shift() -> None:
    (finding,) = validate(wrapped(sound()))
    assert "atom 3 (S)" in finding.where
    assert "moved by (0, 1, 0) cells" in finding.what


def test_wrong_sign_and_wrapped_at_once() -> None:
    (finding,) = validate(negative_R(wrapped(sound())))
    assert finding.code == "wrapped-atom"
    assert "R has the wrong sign" in finding.what


@needs_examples
def test_sound_folders_raise_no_alarm() -> None:
    folders = [SHARED / "deeph" / n for n in ("MoTe2_with_bands", "new/MoTe2", "legacy/MoTe2")]
    for kind in ("water_six", "water_four_orientations"):
        folders += sorted((SHARED / "deeph" / kind).iterdir())
    assert len(folders) == 13
    for folder in folders:
        assert examine_folder(folder).findings == (), folder


@needs_examples
def test_what_the_codes_own_files_hold_is_sound() -> None:
    io = pytest.importorskip("ase_deeph.io")
    pytest.importorskip("sisl")
    sources = [("siesta", "Si"), ("siesta", "Pt2_spin_orbit"), ("abacus", "MoS2"), ("aims", "Si")]
    for code, name in sources:
        assert validate(getattr(io, f"read_{code}")(SHARED / code / name)) == [], (code, name)


@needs_examples
def test_the_density_matrix_convicts_h_and_counts() -> None:
    folder = SHARED / "deeph/water_six/138"
    measures = examine_folder(folder).measures
    assert measures["Tr(ρS)"] == "8.0000"
    assert float(measures["|[H, ρ]|"].split()[0]) < 1e-10
    data = read_deeph(folder)
    from ase_deeph.io.deeph import read_matrix

    density = read_matrix(folder / "density_matrix.h5", data.basis, data.atoms, "none")
    entries = data.hamiltonian.entries.copy()
    at = data.hamiltonian.offsets[data.hamiltonian.pairs.index(0, 0, (0, 0, 0))]
    entries[at + 14 * np.arange(2)] += 1.0
    strange = replace(data, hamiltonian=replace(data.hamiltonian, entries=entries))
    assert [f.code for f in validate(strange, density=density)] == ["h0"]
    (finding,) = validate(replace(data, n_electrons=10.0), density=density)
    assert finding.code == "electron-count"
    assert "8.0000" in finding.what


def test_a_zeroth_step_of_pyscf_is_recognised() -> None:
    pytest.importorskip("pyscf")
    from ase_deeph.dft.pyscf import RunSettings, collect, molecule_run

    settings = RunSettings("gth-dzvp", "gth-pbe", "pbe", False, 0.05, 4.5, 1e-7)
    atoms = molecule("CH3OH")
    run = molecule_run(atoms, settings)
    converged = collect(atoms, settings, run, None)
    assert validate(converged) == []
    for guess in ("minao", "hcore"):
        fock = np.asarray(run.method.get_fock(dm=run.method.get_init_guess(key=guess)))
        h0 = collect(atoms, settings, replace(run, fock=fock.reshape(run.fock.shape)), None).hamiltonian
        assert codes(replace(converged, hamiltonian=h0)) == {"h0"}, guess
    core = np.asarray(run.method.get_hcore()).reshape(run.fock.shape)
    bare = collect(atoms, settings, replace(run, fock=core), None).hamiltonian
    assert codes(replace(converged, hamiltonian=bare)) & {"h0", "units"}


def test_what_cannot_be_known_is_said() -> None:
    data = replace(sound(), fermi_level=None)
    assert any("H0" in line for line in examine(data).unchecked)
    assert any("overlap" in line for line in examine(replace(data, overlap=None)).unchecked)


def test_structure_of_another_calculation() -> None:
    data = sound()
    assert codes(replace(data, atoms=data.atoms[:3])) == {"structure"}
    strained = data.atoms.copy()
    strained.rotate(40, (1, 2, 3), rotate_cell=True)
    assert codes(replace(data, atoms=strained)) == {"geometry"}
    lost = data.atoms.copy()
    lost.positions[0] = np.nan
    assert codes(replace(data, atoms=lost)) == {"nan"}


def test_not_hermitian() -> None:
    data = sound()
    entries = data.hamiltonian.entries.copy()
    entries[data.hamiltonian.offsets[5]] += 0.01
    (finding,) = validate(replace(data, hamiltonian=replace(data.hamiltonian, entries=entries)))
    assert finding.code == "hermiticity"
    assert "1.0e-02 eV" in finding.what


def test_the_two_centre_rule_by_hand() -> None:
    """A p-p block along any direction is diagonal in its frame, and is not when one entry is changed."""
    direction = np.array([0.3, -1.1, 0.7])
    atoms = Atoms("B2", [np.zeros(3), direction])
    z = direction / np.linalg.norm(direction)
    x = np.cross(z, [0.0, 0.0, 1.0])
    x /= np.linalg.norm(x)
    turn = rotation_of_shells((1,), np.column_stack([x, np.cross(z, x), z]))
    block = turn @ np.diag([0.3, -0.4, 0.3]) @ turn.T
    from ase_deeph.basis import OrbitalBasis, SpeciesBasis

    pairs = AtomPairs(np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1]), np.zeros((4, 3), int), 2)
    unit = np.eye(3)
    s = RealSpaceMatrix.from_blocks(
        OrbitalBasis({"B": SpeciesBasis((1,), 3)}), pairs, atoms, [unit, block, block.T, unit]
    )
    view = EdgeView.of(s)
    d = pairs.displacements(atoms)[view.chosen]
    assert ratio(view.leakage(d)) < 1e-12
    wrong = np.linalg.norm(d, axis=1, keepdims=True) * np.array([[1.0, 0, 0]])
    assert ratio(view.leakage(wrong)) > 0.3


def test_kinetic_scale_of_gaussians() -> None:
    """Between equal s Gaussians exp(-a r²) the estimate is exact: 3 a ħ²/2m."""
    from ase_deeph.basis import OrbitalBasis, SpeciesBasis
    from ase_deeph.two_center import overlap
    from tests.toys import gaussian

    for exponent in (0.4, 1.1):
        basis = OrbitalBasis({"H": SpeciesBasis((0,), 1, (gaussian(0, exponent),))})
        scale = kinetic_scale(overlap(Atoms("H2", [[0, 0, 0], [0, 0, 1.3]]), basis))
        assert scale == pytest.approx(3 * exponent * 3.80998, rel=1e-4)


def test_one_shell_that_is_most_of_a_basis(tmp_path: Path) -> None:
    """A molecular crystal in a minimal basis: quartiles lie within boron's p shell; units still show."""
    with tarfile.open(Path(__file__).parent / "data/cp2k_boron_hydride.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    data = read_cp2k(tmp_path)
    assert largest_share(data.overlap) == pytest.approx(3 / 5)
    assert spread(np.array([-9.8, -3.0, -0.6, -0.5, 9.1]), 3 / 5) > 10.0 > spread(np.arange(5.0))
    assert validate(data) == []
    for unit in (27.211386, 13.605693):
        assert codes(replace(data, hamiltonian=data.hamiltonian * (1 / unit))) == {"units"}


def s_molecule(distance: float, hopping: float, overlap: float) -> ReferenceData:
    """Two hydrogen atoms with one s orbital each, H = ((-8, t), (t, -8)) eV."""
    atoms = Atoms("H2", positions=[[0, 0, 0], [0, 0, distance]])
    basis = OrbitalBasis({"H": SpeciesBasis((0,), 1.0)})
    pairs = AtomPairs.from_atoms(atoms, distance + 0.1)

    def matrix(own: float, other: float) -> RealSpaceMatrix:
        blocks = [np.array([[own if i == j else other]]) for i, j in zip(pairs.i, pairs.j, strict=True)]
        return RealSpaceMatrix.from_blocks(basis, pairs, atoms, blocks, "none")

    level = (-8.0 + hopping) / (1 + overlap)
    return ReferenceData(atoms, matrix(-8.0, hopping), matrix(1.0, overlap), 2.0, level, basis=basis)


def test_stretched_molecule_of_one_shell() -> None:
    """Its two levels lie close in eV, too (H2 at 2.5 Å, gth-szv: S = 0.25, splitting 1.1 eV); unknown, no alarm."""
    report = examine(s_molecule(2.5, -2.5, 0.25))
    assert report.findings == ()
    assert any(line.startswith("units") for line in report.unchecked)
    assert codes(s_molecule(0.74, -12.0, 0.65)) == set()
    bonded = s_molecule(0.74, -12.0, 0.65)
    assert codes(replace(bonded, hamiltonian=bonded.hamiltonian * (1 / 27.2114))) == {"units"}


def test_methane_is_no_zeroth_step() -> None:
    """Every bond of methane is a threefold axis and p of carbon cannot split: a converged H looks two-centre."""
    pytest.importorskip("pyscf")
    from ase_deeph.dft import run_pyscf

    data = run_pyscf(molecule("CH4"), basis="gth-szv", forces=False)
    assert validate(data) == []


def test_overlap_passed_for_a_hamiltonian() -> None:
    data = sound()
    (finding,) = validate(replace(data, hamiltonian=data.overlap))
    assert "no Hamiltonian" in finding.remedy


def test_valence_electrons() -> None:
    assert valence_counts("Mo") == (6, 14, 12, 42)
    assert valence_counts("W")[:3] == (6, 14, 12)
    assert valence_counts("Ga") == (3, 13, 31)
    assert plausible(["Mo", "Te", "Te"], 46)
    assert plausible(["Mo", "Te", "Te"], 45) is False
    assert plausible(["La"], 3) is None
    assert exchange_that_fits(["Te", "Mo", "Mo"], 46) == {"Mo": "Te", "Te": "Mo"}


@pytest.mark.parametrize("cell", [-(2**63), -(2**63) + 1, 2**63 - 1, 2**40, -20_000])
def test_a_pair_in_an_absurd_cell_is_a_finding(cell: int, tmp_path: Path) -> None:
    """The most negative integer has no absolute value: it once passed the check and made pairs coincide."""
    write_deeph(tmp_path / "s", sound())
    with h5py.File(tmp_path / "s/hamiltonian.h5", "r+") as file:
        file["atom_pairs"][3, 1] = cell
    with pytest.raises(ValueError, match="absurd"):
        read_deeph(tmp_path / "s")
    findings = examine_folder(tmp_path / "s").findings
    assert any(f.code == "unreadable" and "hamiltonian" in str(f) for f in findings)


def test_pairs_that_cannot_be_numbered_are_a_finding() -> None:
    """Cells that no file may name, given in memory: validate tells, and does not raise."""
    data = sound()
    h = data.hamiltonian
    R = h.pairs.R.copy()
    R[-1] = (2**29, 5, -7)
    far = replace(h, pairs=AtomPairs(h.pairs.i, h.pairs.j, R, h.pairs.n_atoms))
    found = validate(replace(data, hamiltonian=far))
    assert any(f.code in ("unreadable", "missing-reverse") and f.severity == "error" for f in found)
