"""Reference data with spin: patterns of moments, states that were left, GPAW's spin–orbit levels, PySCF's chains."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms

from ase_deeph.dft import generate as generation
from ase_deeph.dft.moments import check_moments, moments_of_matrices, with_moments
from ase_deeph.dft.recipe import StructureEntry, read_recipe
from ase_deeph.electronic_structure import ElectronicStructure
from ase_deeph.io import read_deeph
from ase_deeph.populations import Populations
from ase_deeph.reference import ReferenceData
from tests.test_spin_observables import Source, diamond, overlap, structure

EXAMPLES = Path(__file__).parents[1] / "examples" / "spin"

CHAIN = """
seed = 5
[engine]
name = "pyscf"
[[structures]]
name = "chain"
builder = "chain"
element = "H"
number = 5
spacing = [2.0, 2.5]
moments = ["ferro", "antiferro", "random"]
moment = {{ H = 0.5 }}
count = {count}
rattle = 0.05
"""


def chain(spacing: float, moments: list[float], periodic: bool = True) -> Atoms:
    n = len(moments)
    positions = [(spacing * i, 0.05 * (i % 2), 0) for i in range(n)]
    return Atoms(f"H{n}", positions, cell=[n * spacing, 0, 0], pbc=(periodic, False, False), magmoms=moments)


def test_patterns_on_one_geometry(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text(CHAIN.format(count=60))
    samples = list(read_recipe(tmp_path / "r.toml").samples())
    atoms = [sample.atoms() for sample in samples]
    moments = np.array([a.get_initial_magnetic_moments() for a in atoms])
    assert np.array_equal(moments[0], [0.5] * 5)
    assert np.array_equal(moments[1], [0.5, -0.5, 0.5, -0.5, 0.5])
    drawn = moments[2::3]
    assert np.array_equal(np.abs(drawn), np.full((20, 5), 0.5))
    assert -0.3 < drawn.mean() < 0.3
    assert len(np.unique(drawn, axis=0)) > 8
    for n in range(0, 60, 3):
        assert np.array_equal(atoms[n].positions, atoms[n + 1].positions)
        assert np.array_equal(atoms[n].positions, atoms[n + 2].positions)
    assert not np.allclose(atoms[0].positions, atoms[3].positions)
    assert np.array_equal(samples[2].atoms().get_initial_magnetic_moments(), moments[2])
    assert 2.0 <= atoms[0].cell.lengths()[0] / 5 <= 2.5


def test_a_recipe_without_moments_is_fingerprinted_as_before() -> None:
    recipe = read_recipe(EXAMPLES / "bismuth_layer" / "test.toml")
    sample = next(iter(recipe.samples()))
    assert not {"moments", "moment"} & set(sample.fingerprint["entry"])
    assert not sample.atoms().has("initial_magmoms")
    assert sample.atoms().get_chemical_formula() == "Bi2"
    magnetic = next(iter(read_recipe(EXAMPLES / "hydrogen_chain" / "train.toml").samples()))
    assert magnetic.fingerprint["entry"]["moments"] == ["ferro", "antiferro", "random"]


def test_moments_by_element_and_wrong_ones() -> None:
    rng = np.random.default_rng(0)
    oxide = with_moments(Atoms("FeOFeO", np.eye(4, 3)), "antiferro", {"Fe": 2.2}, rng)
    assert np.array_equal(oxide.get_initial_magnetic_moments(), [2.2, 0, -2.2, 0])
    with pytest.raises(ValueError, match="no atom of H2"):
        with_moments(Atoms("H2"), "ferro", {"Fe": 1.0}, rng)
    with pytest.raises(ValueError, match="ferro, antiferro, random"):
        StructureEntry("a", "graphene", moments=("spiral",))


def test_a_state_that_was_left_is_refused() -> None:
    check_moments(np.array([1.0, -1.0, 0.0]), [0.8, -0.4, 0.3])
    with pytest.raises(RuntimeError, match=r"atom 1 ended with 0\.90 instead of -1\.00 μB \(1 of 2 atoms\)"):
        check_moments(np.array([1.0, -1.0]), [0.9, 0.9])
    with pytest.raises(RuntimeError, match=r"ended with 0\.10"):
        check_moments(np.array([1.0]), [0.1])


def test_generation_notes_left_states(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine that loses antiferromagnetism: those samples fail with their reason, the others keep their moments."""

    def engine(atoms: Atoms, spin: str = "collinear") -> ReferenceData:
        h = Source("collinear", 1.0)(
            Atoms(["C"] * len(atoms), atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
        )
        moments = np.abs(atoms.get_initial_magnetic_moments())
        data = ReferenceData(h.atoms.copy(), h, n_electrons=20.0, info={"moments": moments.tolist()})
        data.atoms.set_initial_magnetic_moments(atoms.get_initial_magnetic_moments())
        return replace(data, basis=h.basis)

    monkeypatch.setattr(generation, "engine_function", lambda name: engine)
    (tmp_path / "r.toml").write_text(CHAIN.format(count=2))
    report = generation.generate(read_recipe(tmp_path / "r.toml"), tmp_path / "set")
    assert report.computed == ("chain-000",)
    assert "left the moments" in report.failed["chain-001"]
    kept = read_deeph(tmp_path / "set/dft/chain-000")
    assert np.array_equal(kept.atoms.get_initial_magnetic_moments(), [0.5] * 5)


def test_mulliken_moments_of_matrices() -> None:
    es = structure("collinear", 1.5)
    points = np.column_stack([es.mesh.irreducible, es.mesh.weights])
    es = replace(es, occupations={"name": "fermi-dirac", "width": 0.2})
    found = moments_of_matrices(es.hamiltonian, es.overlap, points, 8.0, 0.2)
    assert np.allclose(found, Populations(es).magnetic_moments()[:, 2], atol=2e-6)
    h = Source("collinear", 1.5)(diamond())
    fixed = moments_of_matrices(h, overlap(h.atoms, h.basis), np.array([[0, 0, 0, 1.0]]), (5.0, 3.0), 0.0)
    assert sum(fixed) == pytest.approx(2.0, abs=1e-5)


class TestGPAW:
    """pytest.mark.gpaw"""

    pytestmark = [  # noqa: RUF012
        pytest.mark.gpaw,
        pytest.mark.filterwarnings("ignore::DeprecationWarning"),
        pytest.mark.filterwarnings("ignore::numpy.exceptions.VisibleDeprecationWarning"),
    ]

    def test_spin_orbit_levels_are_gpaws(self) -> None:
        """H(R) of spinors against gpaw.spinorbit.soc_eigenstates in the basis of all bands, 3 k-points."""
        pytest.importorskip("gpaw")
        from gpaw.spinorbit import soc_eigenstates

        from ase_deeph.dft.gpaw import boxed, collect, converged_calculator, spinor_fermi_level

        atoms = Atoms("Te2", [(0, 0, 0), (2.9, 0.4, 0.3)], cell=[6.0, 0, 0], pbc=(True, False, False))
        work = boxed(atoms, 3.5, 0.3)
        calc = converged_calculator(
            work, basis="sz(loc.dzp)", xc="PBE", kpts=(3, 1, 1), h=0.3, spin="spinor",
            width=0.1, density=1e-4, txt=None, options={"nbands": 8},
        )  # fmt: skip
        data = collect(atoms, work, calc, forces=False, settings={}, spin_orbit=True)
        k = calc.get_bz_k_points()
        es = ElectronicStructure(
            data.hamiltonian, data.overlap, data.n_electrons, kpts=(3, 1, 1),
            occupations={"name": "fermi-dirac", "width": 0.1},
        )  # fmt: skip
        theirs = soc_eigenstates(calc)
        assert np.abs(es.eigenvalues(k)[0] - theirs.eigenvalues()).max() < 1e-6
        without = calc.get_eigenvalues(kpt=0)
        assert np.abs(np.repeat(without, 2) - theirs.eigenvalues()[0]).max() > 0.1
        assert data.hamiltonian.hermiticity_error() == 0
        assert np.diff(es.eigenvalues([[0, 0, 0], [0.5, 0, 0]])[0].reshape(2, -1, 2), axis=2).max() < 1e-9
        assert spinor_fermi_level(data.hamiltonian, data.overlap, calc, 0.1) == pytest.approx(
            theirs.fermi_level, abs=1e-3
        )
        assert np.abs(Populations(es).magnetic_moments()).max() < 1e-9

    def test_opposite_moments_swap_the_channels(self) -> None:
        pytest.importorskip("gpaw")
        from ase_deeph.dft import run_gpaw

        settings = {
            "basis": "sz(dzp)",
            "xc": "LDA",
            "h": 0.3,
            "vacuum": 3.0,
            "kpts": (3, 1, 1),
            "forces": False,
        }
        first, second = (
            run_gpaw(chain(2.6, [m, -m]), spin="collinear", density_convergence=1e-5, **settings)
            for m in (1, -1)
        )
        swapped = replace(second.hamiltonian, entries=second.hamiltonian.entries[::-1])
        assert (first.hamiltonian - swapped).max_abs() < 1e-3
        assert (first.hamiltonian - second.hamiltonian).max_abs() > 1
        assert first.info["moments"][0] > 0.7
        es = ElectronicStructure(
            first.hamiltonian, first.overlap, 2, kpts=(3, 1, 1),
            occupations={"name": "fermi-dirac", "width": 0.1},
        )  # fmt: skip
        ours = Populations(es).magnetic_moments()[:, 2]
        assert np.allclose(ours, first.info["moments"], atol=1e-3)

    def test_spinor_data_says_what_it_lacks(self) -> None:
        pytest.importorskip("gpaw")
        from ase_deeph.dft import run_gpaw

        data = run_gpaw(
            Atoms("Te2", [(0, 0, 0), (2.6, 0, 0)]), "sz(loc.dzp)", h=0.3, vacuum=3.0, spin="spinor"
        )
        assert data.hamiltonian.spin == "spinor"
        assert data.energy is None
        assert data.forces is None
        assert "scalar-relativistic" in data.info["spin_orbit"]


class TestPySCF:
    def test_broken_symmetry_of_a_stretched_molecule(self) -> None:
        """H2 at 2.5 Å: opposite moments lie below parallel ones and below the spin-paired solution."""
        run_pyscf = pytest.importorskip("ase_deeph.dft").run_pyscf
        pytest.importorskip("pyscf")
        runs = {
            moments: run_pyscf(chain(2.5, list(moments), periodic=False), spin="collinear", forces=False)
            for moments in ((1, -1), (-1, 1), (1, 1))
        }
        paired = run_pyscf(chain(2.5, [0, 0], periodic=False), forces=False)
        up_down, down_up = runs[1, -1], runs[-1, 1]
        assert up_down.energy < paired.energy - 0.5
        assert up_down.energy < runs[1, 1].energy - 0.05
        assert up_down.info["moments"][0] == pytest.approx(-up_down.info["moments"][1], abs=1e-6)
        assert up_down.info["moments"][0] > 0.8
        swapped = replace(down_up.hamiltonian, entries=down_up.hamiltonian.entries[::-1])
        assert (up_down.hamiltonian - swapped).max_abs() < 1e-3

    def test_antiferromagnetic_chain(self, caplog: pytest.LogCaptureFixture) -> None:
        """Two atoms per cell with opposite moments: each atom's up is the other's down."""
        pytest.importorskip("pyscf")
        from ase_deeph.dft import run_pyscf

        atoms = chain(2.5, [1, -1])
        settings = {"pseudo": "gth-pade", "xc": "lda,vwn", "kpts": (3, 1, 1), "vacuum": 5.0, "forces": False}
        with caplog.at_level(logging.ERROR):
            data = run_pyscf(atoms, spin="collinear", convergence=1e-5, **settings)
        up, down = data.hamiltonian.block(0, 0, (0, 0, 0)), data.hamiltonian.block(1, 1, (0, 0, 0))
        assert up[1, 0, 0] - up[0, 0, 0] > 2
        assert np.allclose(up, down[::-1], atol=1e-4)
        assert np.allclose(data.info["moments"], [0.908, -0.908], atol=0.01)
        es = ElectronicStructure(data.hamiltonian, data.overlap, 2, kpts=(3, 1, 1))
        assert es.fermi_level() == pytest.approx(data.fermi_level, abs=1e-3)
        assert np.allclose(Populations(es).magnetic_moments()[:, 2], data.info["moments"], atol=0.01)
