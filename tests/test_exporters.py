"""Each export read back by its tool gives our bands: neutral files, sisl, Wannier90, PythTB, TBmodels, WannierBerri."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from itertools import product
from pathlib import Path

import h5py
import numpy as np
import pytest

import ase_deeph.exporters as exporters
from ase_deeph import ElectronicStructure
from ase_deeph.exporters import (
    read_neutral,
    to_pythtb,
    to_sisl,
    to_tbmodels,
    to_wannierberri,
    write_neutral,
    write_sisl,
    write_tshs,
    write_wannier90,
)
from ase_deeph.exporters.cells import orbital_list, spins_side_by_side
from ase_deeph.exporters.positions import orthogonal_positions
from ase_deeph.harmonics import degree_slice, real_harmonics
from ase_deeph.matrix import RealSpaceMatrix
from tests.systems_exporters import carbon_layer, dichalcogenide, generic_points, random_structure

STRUCTURES = {
    "graphene": carbon_layer,
    "MoTe2": dichalcogenide,
    "unpolarised": random_structure,
    "polarised": lambda: random_structure("collinear"),
    "spinor": lambda: random_structure("spinor"),
    "orthogonal": lambda: random_structure("collinear", orthogonal=True),
}
ORTHOGONAL = {
    "graphene": lambda: carbon_layer().orthogonalized(10.0, max_error=np.inf),
    "MoTe2": lambda: dichalcogenide().orthogonalized(5.0, max_error=np.inf),
    "unpolarised": lambda: random_structure("none", orthogonal=True),
    "polarised": lambda: random_structure("collinear", orthogonal=True),
    "spinor": lambda: random_structure("spinor", orthogonal=True),
}
TOLERANCE = 1e-6


def levels(es: ElectronicStructure) -> tuple[np.ndarray, np.ndarray]:
    """Generic k-points and the levels there."""
    k = generic_points(es)
    return k, es.eigenvalues(k)


def same_matrix(first: RealSpaceMatrix, second: RealSpaceMatrix) -> bool:
    pairs = first.pairs.union(second.pairs)
    return np.array_equal(first.on(pairs).entries, second.on(pairs).entries)


def test_importing_the_package_imports_no_tool() -> None:
    code = (
        "import sys, ase_deeph.exporters; assert not "
        "{'sisl', 'kwant', 'pythtb', 'tbmodels', 'wannierberri', 'pyatb'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    with pytest.raises(AttributeError, match="no attribute 'to_nothing'"):
        _ = exporters.to_nothing


@pytest.mark.parametrize(
    ("name", "package", "install"),
    [
        ("to_sisl", "sisl", "ase-deeph[export]"),
        ("to_pythtb", "pythtb", "ase-deeph[export]"),
        ("to_tbmodels", "tbmodels", "pip install tbmodels"),
        ("to_wannierberri", "wannierberri", "ase-deeph[export]"),
    ],
)
def test_absent_tools_are_named(
    name: str, package: str, install: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ModuleNotFoundError, match=f"{name} needs {package}") as error:
        getattr(exporters, name)(random_structure("none", orthogonal=True))
    assert install in str(error.value)


@pytest.mark.parametrize(
    "export", [to_pythtb, to_tbmodels, to_wannierberri, lambda es: write_wannier90(es, "seed")]
)
def test_tools_without_overlap_refuse_it(export) -> None:
    for package in ("pythtb", "tbmodels", "wannierberri"):
        pytest.importorskip(package)
    with pytest.raises(ValueError, match=r"knows no overlap matrix .* pass es.orthogonalized\(cutoff\)"):
        export(random_structure())


# --- the neutral file


@pytest.mark.parametrize("suffix", [".h5", ".npz"])
@pytest.mark.parametrize("name", ["graphene", "polarised", "spinor", "orthogonal"])
def test_neutral_file_is_lossless(name: str, suffix: str, tmp_path: Path) -> None:
    es = STRUCTURES[name]()
    path = tmp_path / f"structure{suffix}"
    write_neutral(path, es)
    back = read_neutral(path)
    assert back.hamiltonian is not None
    assert same_matrix(back.hamiltonian, es.hamiltonian)
    assert (back.overlap is None) == (es.overlap is None)
    if es.overlap is not None:
        assert same_matrix(back.overlap, es.overlap)
    assert back.n_electrons == es.n_electrons
    assert back.fermi_level == es.fermi_level()
    again = ElectronicStructure(back.hamiltonian, back.overlap, back.n_electrons)
    k, expected = levels(es)
    assert np.abs(again.eigenvalues(k) - expected).max() < 1e-11
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("name", ["MoTe2", "polarised"])
def test_neutral_file_by_its_description_alone(name: str, tmp_path: Path) -> None:
    """Bands from the arrays as the text describes them, nothing of this package in between."""
    import scipy.linalg

    es = STRUCTURES[name]()
    write_neutral(tmp_path / "structure.h5", es)
    k, expected = levels(es)
    with h5py.File(tmp_path / "structure.h5") as f:
        n = len(f["orbitals"])
        cell, row, col = f["cell_of_entry"][()], f["row"][()], f["col"][()]
        assert f["format"][()] == b"ase_deeph.neutral"
        for channel, values in enumerate(f["hamiltonian"][()]):
            for number, point in enumerate(k):
                h, s = np.zeros((2, n, n), dtype=complex)
                phase = np.exp(2j * np.pi * f["R"][()] @ point)[cell]
                h[row, col] = 0
                np.add.at(h, (row, col), phase * values)
                np.add.at(s, (row, col), phase * f["overlap"][()])
                e = scipy.linalg.eigvalsh(h, s)
                assert np.abs(e - expected[channel, number]).max() < TOLERANCE


def test_neutral_file_in_any_order(tmp_path: Path) -> None:
    """Entries shuffled, as another program may write them."""
    es = random_structure("collinear")
    path = tmp_path / "structure.npz"
    write_neutral(path, es)
    arrays = dict(np.load(path))
    order = np.random.default_rng(0).permutation(len(arrays["row"]))
    for key in ("cell_of_entry", "row", "col", "overlap"):
        arrays[key] = arrays[key][order]
    arrays["hamiltonian"] = arrays["hamiltonian"][:, order]
    np.savez(path, **arrays)
    back = read_neutral(path)
    assert back.hamiltonian is not None
    assert same_matrix(back.hamiltonian, es.hamiltonian)


def test_bad_neutral_files(tmp_path: Path) -> None:
    path = tmp_path / "structure.h5"
    with pytest.raises(FileNotFoundError, match="no neutral file"):
        read_neutral(path)
    path.write_text("no")
    with pytest.raises(ValueError, match="not a readable neutral file"):
        read_neutral(path)
    write_neutral(path, random_structure(), fermi_level=0.0)
    for damage, message in (
        (lambda f: f.__delitem__("row"), "arrays row are missing"),
        (lambda f: f["version"].__setitem__((), 9), "expected version <= 1"),
        (lambda f: f["numbers"].__setitem__(0, 7), "unlike others of its species"),
    ):
        damaged = tmp_path / "damaged.h5"
        damaged.write_bytes(path.read_bytes())
        with h5py.File(damaged, "r+") as file:
            damage(file)
        with pytest.raises(ValueError, match=message):
            read_neutral(damaged)
    with pytest.raises(ValueError, match=r"make .* first"):
        write_neutral(tmp_path / "absent" / "a.h5", random_structure(), fermi_level=0.0)


# --- sisl


def sisl_levels(hamiltonian, k: np.ndarray) -> np.ndarray:
    spins = (0, 1) if hamiltonian.spin.is_polarized else (None,)
    return np.array([[hamiltonian.eigh(q, **({} if s is None else {"spin": s})) for q in k] for s in spins])


@pytest.mark.parametrize("name", list(STRUCTURES))
def test_sisl(name: str) -> None:
    pytest.importorskip("sisl")
    es = STRUCTURES[name]()
    k, expected = levels(es)
    hamiltonian = to_sisl(es)
    assert np.abs(sisl_levels(hamiltonian, k) - expected).max() < TOLERANCE
    assert hamiltonian.orthogonal == (es.overlap is None)
    spin = {"none": "unpolarized", "collinear": "polarized", "spinor": "spin-orbit"}[es.hamiltonian.spin]
    assert spin in str(hamiltonian.spin)


@pytest.mark.parametrize(("suffix", "name"), list(product(("HSX", "TSHS"), STRUCTURES)))
def test_sisl_files(suffix: str, name: str, tmp_path: Path) -> None:
    """Written and read by sisl; .TSHS holds H - E_F S, as TBtrans wants it."""
    sisl = pytest.importorskip("sisl")
    es = STRUCTURES[name]()
    k, expected = levels(es)
    path = tmp_path / f"structure.{suffix}"
    if suffix == "TSHS":
        write_tshs(es, path)
        expected = expected - es.fermi_level()
    else:
        write_sisl(es, path)
    back = sisl.get_sile(str(path)).read_hamiltonian()
    assert np.abs(sisl_levels(back, k) - expected).max() < TOLERANCE
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_sisl_orbitals_are_ours_up_to_the_exported_sign() -> None:
    """The functions that sisl draws, with the signs that the matrix elements were given."""
    pytest.importorskip("sisl")
    es = carbon_layer()
    geometry = to_sisl(es).geometry
    points = np.random.default_rng(0).normal(size=(5, 3))
    r = np.linalg.norm(points, axis=1)
    harmonics = real_harmonics(3, points / r[:, None])
    species, orbitals = es.hamiltonian.basis["C"], orbital_list(es.hamiltonian)
    assert species.radial is not None
    for n, theirs in enumerate(geometry.atoms[0].orbitals):
        l = int(orbitals.l[n])
        angular = harmonics[:, degree_slice(l)][:, l + orbitals.m[n]]
        ours = species.radial[int(orbitals.shell[n])](r) * angular
        assert np.abs(theirs.psi(points) - orbitals.phases[n] * ours).max() < 1e-4


def test_tshs_wants_its_suffix(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"ends in \.TSHS"):
        write_tshs(random_structure(), tmp_path / "a.HSX")


# --- orthogonal tools


@pytest.mark.parametrize("name", list(ORTHOGONAL))
def test_pythtb(name: str) -> None:
    pytest.importorskip("pythtb")
    es = ORTHOGONAL[name]()
    k, expected = levels(es)
    model = to_pythtb(es)
    together = np.sort(np.concatenate(list(expected), axis=1), axis=1)
    for q, one in zip(k, together, strict=True):
        assert np.abs(model.solve_one(list(q[es.atoms.pbc])) - one).max() < TOLERANCE


def test_pythtb_molecule_and_left_handed_cell() -> None:
    pytest.importorskip("pythtb")
    from tests.systems import SP_D, chain

    es = random_structure("none", orthogonal=True)
    atoms = es.atoms.copy()
    atoms.pbc = False
    h = es.hamiltonian
    home = ~h.pairs.R.any(axis=1)
    blocks = [block for block, at_home in zip(h.blocks(), home, strict=True) if at_home]
    molecule = RealSpaceMatrix.from_blocks(SP_D, h.pairs.select(home), atoms, blocks)
    lone = ElectronicStructure(molecule)
    assert np.abs(to_pythtb(lone).solve_all() - lone.eigenvalues([[0, 0, 0]])[0, 0]).max() < TOLERANCE
    h, _ = chain()
    left = h.atoms.copy()
    left.cell = left.cell.array * [1, 1, -1]
    with pytest.raises(ValueError, match="right-handed"):
        to_pythtb(ElectronicStructure(replace(h, atoms=left)))


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("name", list(ORTHOGONAL))
def test_tbmodels_and_wannier90_hr(name: str, tmp_path: Path) -> None:
    """The model itself, and _hr.dat with .win and _centres.xyz as TBmodels reads them."""
    tbmodels = pytest.importorskip("tbmodels")
    es = ORTHOGONAL[name]()
    k, expected = levels(es)
    write_wannier90(es, tmp_path / "seed", positions="none")
    labels = ["_up", "_dn"] if es.n_spins == 2 else [""]
    for channel, label in enumerate(labels):
        read = tbmodels.Model.from_wannier_files(
            hr_file=tmp_path / f"seed{label}_hr.dat",
            win_file=tmp_path / f"seed{label}.win",
            xyz_file=tmp_path / f"seed{label}_centres.xyz",
        )
        for model in (to_tbmodels(es, channel=channel), read):
            got = np.array([model.eigenval(q) for q in k])
            assert np.abs(got - expected[channel]).max() < TOLERANCE
        assert np.abs(read.hamilton(k[0]) - to_tbmodels(es, channel=channel).hamilton(k[0])).max() < 1e-10
    with pytest.raises(ValueError, match="spin channel"):
        to_tbmodels(es, channel=2)


def test_wannier90_sign_of_R_by_the_file_alone(tmp_path: Path) -> None:
    """H(k) = Σ_R exp(+2πi k·R) H(R) of the numbers in _hr.dat, with complex H: k and -k differ."""
    es = random_structure("spinor", orthogonal=True)
    write_wannier90(es, tmp_path / "seed", positions="none")
    lines = (tmp_path / "seed_hr.dat").read_text().splitlines()
    n, n_R = int(lines[1]), int(lines[2])
    table = np.array([line.split() for line in lines[3 + -(-n_R // 15) :]], dtype=float)
    assert len(table) == n * n * n_R
    k, expected = levels(es)
    h = np.zeros((n, n), dtype=complex)
    rows, cols = table[:, 3].astype(int) - 1, table[:, 4].astype(int) - 1
    np.add.at(h, (rows, cols), np.exp(2j * np.pi * table[:, :3] @ k[0]) * (table[:, 5] + 1j * table[:, 6]))
    assert np.abs(np.linalg.eigvalsh(h) - expected[0, 0]).max() < 1e-9
    assert np.abs(es.eigenvalues(-k[:1])[0, 0] - expected[0, 0]).max() > 1e-3
    order = spins_side_by_side(orbital_list(es.hamiltonian))
    assert np.abs(h - es.hamiltonian.at_k(k[0])[np.ix_(order, order)]).max() < 1e-9


def test_wannier90_orthogonalises_on_request(tmp_path: Path) -> None:
    es = random_structure()
    with pytest.raises(ValueError, match=r"bands err by .* a cutoff of [\d.]+ Å errs by"):
        write_wannier90(es, tmp_path / "seed", cutoff=5.0, max_error=1e-2)
    assert not list(tmp_path.iterdir())
    written = write_wannier90(es, tmp_path / "seed", cutoff=8.0, max_error=1e-2)
    assert {p.name for p in written} == {"seed_hr.dat", "seed_tb.dat", "seed.win", "seed_centres.xyz"}
    assert {p.name for p in tmp_path.iterdir()} == {p.name for p in written}


def wannierberri_at(system, k: np.ndarray, take) -> np.ndarray:
    """`take` of WannierBerri's data at one k-point."""
    wannierberri = pytest.importorskip("wannierberri")
    return wannierberri.evaluate_k(system, k=k, calculators={"taken": lambda data: np.array(take(data))[0]})


@pytest.mark.parametrize("name", ["graphene", "unpolarised", "polarised", "spinor"])
def test_wannierberri(name: str) -> None:
    pytest.importorskip("wannierberri")
    es = ORTHOGONAL[name]()
    k, expected = levels(es)
    for channel in range(es.n_spins):
        system = to_wannierberri(es, channel=channel)
        got = np.array([wannierberri_at(system, q, lambda data: data.E_K) for q in k])
        assert np.abs(got - expected[channel]).max() < TOLERANCE
    with pytest.raises(ValueError, match="channel"):
        to_wannierberri(es, channel=2)


def test_wannierberri_interband_dipoles() -> None:
    """|<m|i d/dk|n>| of WannierBerri, in its own gauge, from our H'(k) and r'(k): the positions arrive right."""
    pytest.importorskip("wannierberri")
    es = carbon_layer().orthogonalized(8.0, max_error=np.inf)
    k = np.array([0.137, 0.291, 0.0])
    theirs = wannierberri_at(to_wannierberri(es), k, lambda data: data.Xbar("AA") + 1j * data.D_H)
    states = es.eigenstates(k)
    c, e = states.coefficients[0, 0], states.eigenvalues[0, 0]
    slope = es.hamiltonian.bloch_sum.derivative(es.hamiltonian.entries, k, es.atoms.cell.array)
    gaps = e[None, :] - e[:, None] + np.eye(len(e))
    for axis, r in enumerate(orthogonal_positions(es, es.hamiltonian)):
        ours = c.conj().T @ r.at_k(k) @ c + 1j * (c.conj().T @ slope[axis] @ c) / gaps
        off = ~np.eye(len(e), dtype=bool)
        assert np.abs(np.abs(ours) - np.abs(theirs[:, :, axis]))[off].max() < 1e-6
        assert axis == 2 or np.abs(ours[off]).max() > 0.5
