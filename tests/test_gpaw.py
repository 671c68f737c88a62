"""GPAW as the engine: H(R), S(R) give its own bands off the mesh, R refers to the positions as given."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
import scipy.linalg
from ase import Atoms
from ase.build import bulk, molecule, mx2
from scipy.stats import spearmanr

pytest.importorskip("gpaw", reason="GPAW is not installed: pip install 'ase-deeph[gpaw]'")

from ase_deeph.basis import OrbitalBasis
from ase_deeph.dft.gpaw import (
    automatic_mesh,
    boxed,
    checked_mesh,
    converged_calculator,
    free_boundaries,
    gpaw_basis,
    heights,
    orbital_radii,
    run_gpaw,
)
from ase_deeph.dft.gpaw_free_space import free_space_solver
from ase_deeph.dft.gpaw_matrices import nearest_image_cells
from ase_deeph.two_center import overlap

pytestmark = [
    pytest.mark.gpaw,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::numpy.exceptions.VisibleDeprecationWarning"),
]

OFF_MESH = np.array([[0.13, 0.27, 0], [0.41, -0.2, 0], [1 / 3, 1 / 3, 0], [0.05, 0.5, 0], [0.31, 0.11, 0]])


def graphene(n: int = 1, rattle: float = 0.0) -> Atoms:
    atoms = Atoms(
        "C2",
        scaled_positions=[[0, 0, 0.5], [1 / 3, 2 / 3, 0.5]],
        cell=[[2.46, 0, 0], [-1.23, 1.23 * np.sqrt(3), 0], [0, 0, 12]],
        pbc=(True, True, False),
    )
    atoms = atoms.repeat((n, n, 1))
    atoms.rattle(rattle, seed=1)
    return atoms


def calculator(atoms: Atoms, kpts: Any, *, basis: str, h: float, spin: str | None = None) -> Any:
    return converged_calculator(
        boxed(atoms, 5.0, h),
        basis=basis, xc="PBE", kpts=kpts, h=h, spin=spin, width=0.1, density=1e-6, txt=None, options={},
    )  # fmt: skip


def test_basis_without_a_calculation() -> None:
    basis = gpaw_basis(Atoms("CN"), "dzp")
    assert basis.symbols == ("C", "N")
    assert basis.shells("C") == (0, 1, 0, 1, 2)
    assert basis.valence_electrons("N") == 5
    assert basis["C"].augmentation is not None
    small = gpaw_basis(Atoms("C"), "szp(dzp)")
    assert small.shells("C") == (0, 1, 2)
    assert 3.4 < small.cutoff("C") < 3.6


def test_box_and_mesh() -> None:
    atoms = graphene(2)
    atoms.positions[:, 2] += 40.0
    work = boxed(atoms, 5.0, 0.2)
    assert abs(heights(work)[2] / 0.2 - round(heights(work)[2] / 0.2)) < 1e-6
    assert heights(work)[2] >= 10.0
    assert np.allclose(np.diff(work.positions, axis=0), np.diff(atoms.positions, axis=0), atol=1e-12)
    mesh = automatic_mesh(work, orbital_radii(work, "szp(dzp)", "PBE"))
    assert mesh == (5, 5, 1)
    assert automatic_mesh(boxed(Atoms("C"), 5.0, 0.2), {"C": 3.5}) == (1, 1, 1)
    for wrong in ((3, 3), (0, 3, 1), (3, 3, 2)):
        with pytest.raises(ValueError, match="kpts"):
            checked_mesh(work, wrong)
    with pytest.raises(ValueError, match="spin"):
        run_gpaw(atoms, spin="up")


def test_nearest_images() -> None:
    atoms = Atoms("H2", positions=[[0.1, 0, 0], [2.9, 0, 0]], cell=[3.0, 8, 8], pbc=(True, False, False))
    cells = np.array([[n, 0, 0] for n in range(3)])[:, None, None, :] * np.ones((1, 2, 2, 1), dtype=int)
    nearest = nearest_image_cells(atoms, (3, 1, 1), cells)
    assert nearest[:, 0, 0, 0].tolist() == [0, 1, -1]
    assert nearest[:, 0, 1, 0].tolist() == [0, -2, -1]
    assert nearest[:, 1, 0, 0].tolist() == [0, 1, 2]


def test_molecule() -> None:
    water = molecule("H2O")
    data = run_gpaw(water, basis="szp(dzp)", h=0.25, vacuum=4.0)
    energies = scipy.linalg.eigvalsh(data.hamiltonian.at_k((0, 0, 0)), data.overlap.at_k((0, 0, 0)))
    homo = energies[int(data.n_electrons) // 2 - 1]
    assert data.n_electrons == 8
    assert homo < data.fermi_level < energies[int(data.n_electrons) // 2]
    assert data.forces.shape == (3, 3)
    assert np.abs(data.forces.sum(axis=0)).max() < 0.3
    assert data.stress is None
    assert data.info["engine"] == "gpaw"
    assert data.info["poissonsolver"] == "MomentCorrectionPoissonSolver"
    assert data.hamiltonian.hermiticity_error() < 1e-8
    assert data.hamiltonian.pairs == data.overlap.pairs


def test_a_cluster_stands_in_free_space() -> None:
    """The levels of a dipole hardly depend on its box; on a grounded box they do."""
    water = molecule("H2O")
    settings = {"basis": "szp(dzp)", "h": 0.25, "density_convergence": 1e-4, "forces": False}
    grounded = {"calculator_options": {"poissonsolver": {"name": "fast"}}}

    def levels(vacuum: float, **more: Any) -> np.ndarray:
        data = run_gpaw(water, vacuum=vacuum, **settings, **more)
        return scipy.linalg.eigvalsh(data.hamiltonian.at_k((0, 0, 0)), data.overlap.at_k((0, 0, 0)))[:4]

    free = np.abs(levels(3.5) - levels(6.0)).max()
    assert free < 1e-3
    assert np.abs(levels(3.5, **grounded) - levels(6.0)).max() > 10 * free


def test_kept_gaussians_are_gpaws_own() -> None:
    """Moments taken out by Gaussians that are made once: the numbers of GPAW's solver, which makes them each time."""
    pair = molecule("H2O")
    pair.rotate(40, (1, 2, 3))
    settings = {"basis": "szp(dzp)", "h": 0.3, "vacuum": 3.0, "density_convergence": 1e-3, "forces": False}
    own = {"name": "MomentCorrectionPoissonSolver", "poissonsolver": "fast", "moment_corrections": 9}
    kept = run_gpaw(pair, **settings)
    made = run_gpaw(pair, **settings, calculator_options={"poissonsolver": own})
    assert np.array_equal(kept.hamiltonian.entries, made.hamiltonian.entries)
    assert kept.energy == made.energy


def test_another_box_asks_for_other_gaussians() -> None:
    """One calculator, two boxes of as many points: the second energy is that of a fresh calculator."""
    from gpaw import GPAW

    def calculator() -> GPAW:
        return GPAW(
            mode="lcao", basis="szp(dzp)", gpts=(24, 24, 24), legacy_gpaw=True, txt=None,
            poissonsolver=free_space_solver(9), convergence={"density": 1e-3},
        )  # fmt: skip

    small = molecule("H2O", cell=(7.0, 7.0, 7.0))
    small.center()
    large = small.copy()
    large.set_cell((7.6, 7.6, 7.6))
    large.center()
    used = calculator()
    for atoms in (small, large):
        atoms.calc = used
        energy = atoms.get_potential_energy()
    solver = used.hamiltonian.poisson
    assert solver.gauss_i[0].gd is solver.gd
    assert solver.gauss_i[0].kept
    large.calc = calculator()
    assert energy == pytest.approx(large.get_potential_energy(), abs=1e-4)


def test_free_boundaries_are_for_clusters() -> None:
    assert free_boundaries(graphene()) == {}
    pair = Atoms("H2", [(0, 0, 0), (0, 0, 0.8)], cell=(6, 6, 6))
    assert "poissonsolver" in free_boundaries(pair)
    chain = Atoms("H40", [(0, 0, n) for n in range(40)])
    assert free_boundaries(boxed(chain, 4.0, 0.2)) == {}


@pytest.mark.parametrize("vacuum", [4.0, None])
def test_the_box_of_a_cluster_is_right_angled(vacuum: float | None) -> None:
    """Turned by half a turn its cell has entries of 1e-16, at which GPAW's solver stops."""
    pair = Atoms("H2", [(0, 0, 0), (0, 0, 0.8)], cell=(6, 6, 6))
    pair.rotate(180, "z", rotate_cell=True)
    box = boxed(pair, vacuum, 0.2)
    assert (box.cell.array == np.diag(np.diag(box.cell.array))).all()
    assert box.get_distance(0, 1) == pytest.approx(0.8)
    pair.rotate(30, "x", rotate_cell=True)
    turned = boxed(pair, vacuum, 0.2)
    assert bool(free_boundaries(turned)) == (vacuum is not None)


def test_overlap_is_the_two_centre_overlap() -> None:
    atoms = graphene(2, rattle=0.05)
    data = run_gpaw(atoms, basis="szp(dzp)", h=0.3, density_convergence=1e-2, forces=False)
    theirs = data.overlap
    ours = overlap(atoms, data.basis, theirs.pairs, missing="drop")
    assert (theirs - ours).max_abs() < 1e-5
    assert isinstance(data.basis, OrbitalBasis)
    assert data.info["dropped_overlap"] <= 1e-8
    assert data.info["dropped_hamiltonian_eV"] <= 1e-6


def test_labels_of_cells_refer_to_the_positions_given() -> None:
    atoms = graphene(1, rattle=0.05)
    shifts = np.array([[2, -1, 0], [-3, 1, 0]])
    moved = atoms.copy()
    moved.positions += shifts @ atoms.cell.array + [0.0, 0.0, -17.0]
    settings: dict[str, Any] = {"basis": "szp(dzp)", "h": 0.3, "density_convergence": 1e-5, "forces": False}
    first, second = run_gpaw(atoms, **settings), run_gpaw(moved, **settings)
    d = np.linalg.norm(second.overlap.pairs.displacements(moved), axis=1)
    assert spearmanr(d, second.overlap.block_norms()).statistic < -0.95
    for n, (i, j, R) in enumerate(
        zip(first.overlap.pairs.i, first.overlap.pairs.j, first.overlap.pairs.R, strict=True)
    ):
        there = tuple(int(x) for x in R + shifts[i] - shifts[j])
        start, stop = first.overlap.offsets[n : n + 2]
        block = first.overlap.entries[start:stop]
        assert np.allclose(second.overlap.block(int(i), int(j), there).ravel(), block, atol=1e-7)


def test_an_aliased_mesh_is_told(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "ase_deeph"):
        run_gpaw(graphene(), basis="szp(dzp)", kpts=(3, 3, 1), h=0.3, density_convergence=1e-2, forces=False)
    assert "denser mesh" in caplog.text


def test_density_in_one_pass_is_gpaws_own() -> None:
    calc = calculator(graphene(), (3, 3, 1), basis="szp(dzp)", h=0.3)
    wfs = calc.wfs
    ours, theirs = np.empty((2, 1, *wfs.gd.n_c))
    wfs.calculate_density_contribution(ours)
    super(type(wfs), wfs).calculate_density_contribution(theirs)
    assert np.abs(ours).max() > 0.1
    assert np.abs(ours - theirs).max() < 1e-12 * np.abs(theirs).max() * 100


@pytest.mark.slow
def test_collinear_spin() -> None:
    oxygen = Atoms("O2", positions=[[0, 0, 0], [0, 0, 1.21]], magmoms=[1, 1])
    data = run_gpaw(oxygen, basis="szp(dzp)", h=0.25, spin="collinear", vacuum=4.0, forces=False)
    assert data.hamiltonian.spin == "collinear"
    assert data.overlap.spin == "none"
    up, down = data.hamiltonian.at_k((0, 0, 0))
    s = data.overlap.at_k((0, 0, 0))
    n_up, n_down = (int((scipy.linalg.eigvalsh(h, s) < data.fermi_level).sum()) for h in (up, down))
    assert (n_up, n_down) == (7, 5)


@pytest.mark.slow
@pytest.mark.parametrize("basis", ["szp(dzp)", "dzp"])
def test_bands_off_the_mesh_graphene(basis: str) -> None:
    bands_agree(graphene(1, rattle=0.03), OFF_MESH, basis=basis, h=0.25)


@pytest.mark.slow
def test_bands_off_the_mesh_silicon() -> None:
    atoms = bulk("Si")
    atoms.rattle(0.03, seed=2)
    bands_agree(atoms, OFF_MESH + [0, 0, 0.17], basis="szp(dzp)", h=0.3)


def bands_agree(atoms: Atoms, kpts: np.ndarray, *, basis: str, h: float) -> None:
    """H(R), S(R) at the automatic mesh give GPAW's own fixed-density bands to 2 meV."""
    data = run_gpaw(atoms, basis=basis, h=h, vacuum=5.0, forces=False)
    assert data.hamiltonian.hermiticity_error() < 1e-8
    distance = np.linalg.norm(data.overlap.pairs.displacements(atoms), axis=1)
    assert spearmanr(distance, data.overlap.block_norms()).statistic < -0.9
    own = calculator(atoms, data.info["kpts"], basis=basis, h=h).fixed_density(
        kpts=kpts, symmetry="off", txt=None
    )
    for n, k in enumerate(kpts):
        theirs = own.get_eigenvalues(kpt=n)
        ours = scipy.linalg.eigvalsh(data.hamiltonian.at_k(k), data.overlap.at_k(k))[: len(theirs)]
        assert np.abs(ours - theirs).max() < 2e-3


def test_confined_orbitals_are_shorter_and_better_conditioned() -> None:
    silicon = bulk("Si", a=5.43)
    radii = [orbital_radii(silicon, basis, "PBE")["Si"] for basis in ("szp(dzp)", "szp(loc.dzp)")]
    assert radii[1] == pytest.approx(7.0 * 0.529177, abs=1e-3)
    assert radii[0] > radii[1] + 1.0
    smallest = [
        np.linalg.eigvalsh(overlap(silicon, gpaw_basis(silicon, basis)).at_k([0.0, 0.0, 0.0]))[0]
        for basis in ("szp(dzp)", "szp(loc.dzp)")
    ]
    assert smallest[1] > smallest[0] > 0
    with pytest.raises(ValueError, match=r"loc\."):
        gpaw_basis(silicon, "szp(loc.nonsense)")


def test_confined_orbitals_of_a_transition_metal_have_the_outer_p_shell() -> None:
    """Mo: 4s 5s 4p 4d and 5p as in GPAW's stock set, not the f functions that inner 4p electrons would ask for."""
    layer = mx2("MoS2", vacuum=5.0)
    basis = gpaw_basis(layer, "szp(loc.dzp)")
    shells = {symbol: basis[symbol].shells for symbol in ("Mo", "S")}
    assert sorted(shells["Mo"]) == [0, 0, 1, 1, 2]
    assert sorted(shells["S"]) == [0, 1, 2]
