"""run_pyscf: H(R), S(R), order of orbitals, bands off the mesh, forces, and clear errors."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest
import scipy.linalg
from ase import Atoms
from ase.build import bulk, graphene, molecule, mx2
from ase.units import Bohr, Hartree

pytest.importorskip("pyscf")

from ase_deeph.dft import pyscf as engine
from ase_deeph.dft import run_pyscf
from ase_deeph.dft.pyscf_matrices import box_of, house_order, nearest_images, orbital_basis
from ase_deeph.two_center import overlap

SETTINGS = engine.RunSettings("gth-szv", "gth-pbe", "pbe", False, 0.05, 4.5, 1e-7)


def hydrogen_chain() -> Atoms:
    return Atoms("H2", [(0, 0, 0), (0.8, 0.05, 0)], cell=[2.0, 0, 0], pbc=[True, False, False])


def rattled(atoms: Atoms) -> Atoms:
    atoms.rattle(0.05, seed=1)
    return atoms


def test_molecule() -> None:
    atoms = molecule("H2O")
    data = run_pyscf(atoms)
    H, S = data.hamiltonian, data.overlap
    assert H is not None
    assert S is not None
    assert data.basis is not None
    assert (overlap(atoms, data.basis) - S).max_abs() < 1e-9
    assert H.hermiticity_error() == 0.0
    levels = scipy.linalg.eigvalsh(H.at_k((0, 0, 0)), S.at_k((0, 0, 0)))
    assert data.n_electrons == 8
    assert data.fermi_level == pytest.approx(0.5 * (levels[3] + levels[4]), abs=1e-6)
    assert data.stress is None
    energies = []
    for step in (-0.01, 0.01):
        moved = atoms.copy()
        moved.positions[1, 1] += step
        energies.append(run_pyscf(moved, forces=False).energy)
    assert data.forces is not None
    assert data.forces[1, 1] == pytest.approx(-(energies[1] - energies[0]) / 0.02, abs=0.02)
    assert np.abs(data.forces.sum(axis=0)).max() < 0.01


def test_molecule_without_projectors() -> None:
    """H alone: PySCF's own gradient stops at the empty list of projectors."""
    atoms = molecule("H2")
    forces = run_pyscf(atoms).forces
    energies = []
    for step in (-0.01, 0.01):
        moved = atoms.copy()
        moved.positions[0, 2] += step
        energies.append(run_pyscf(moved, forces=False).energy)
    assert forces is not None
    assert forces[0, 2] == pytest.approx(-(energies[1] - energies[0]) / 0.02, abs=0.02)


def test_collinear_atom() -> None:
    data = run_pyscf(Atoms("H", magmoms=[1.0]), spin="collinear", forces=False)
    H = data.hamiltonian
    assert H is not None
    assert H.spin == "collinear"
    up, down = H.at_k((0, 0, 0))
    assert up[0, 0].real < down[0, 0].real - 1.0


@pytest.mark.parametrize("basis", ["gth-szv", "gth-dzvp-molopt-sr"])
@pytest.mark.parametrize(
    "atoms",
    [
        pytest.param(rattled(graphene(a=2.46, vacuum=8)), id="graphene"),
        pytest.param(rattled(graphene("BN", a=2.5, vacuum=8)), id="BN"),
        pytest.param(rattled(bulk("Si")), id="Si"),
        pytest.param(rattled(mx2("MoS2", a=3.18, thickness=3.19, vacuum=8)), id="MoS2"),
    ],
)
def test_overlap_of_crystals(atoms: Atoms, basis: str) -> None:
    """Two-centre S(k) against PySCF's own lattice sums: s, p, d (and f of Mo) of B, C, N, Si, S, Mo."""
    if basis == "gth-szv" and "Mo" in atoms.get_chemical_symbols():
        pytest.skip("no gth-szv for Mo")
    from pyscf.pbc import gto

    cell = gto.Cell()
    cell.a, cell.precision = box_of(atoms, 25.0) / Bohr, 1e-12
    engine.prepared(cell, atoms, replace(SETTINGS, basis=basis))
    k = [(0.0, 0, 0), (0.1, 0.23, 0), (0.5, 0.37, 0)]
    order = house_order(cell)
    expected = np.array(cell.pbc_intor("int1e_ovlp", hermi=1, kpts=cell.get_abs_kpts(np.array(k))))
    received = overlap(atoms, orbital_basis(cell))
    for point, matrix in zip(k, expected, strict=True):
        assert np.abs(received.at_k(point) - matrix[np.ix_(order, order)]).max() < 1e-6
        assert np.linalg.eigvalsh(received.at_k(point))[0] > 1e-5


@pytest.mark.slow
def test_bands_off_the_mesh() -> None:
    atoms = hydrogen_chain()
    run = engine.crystal_run(atoms, SETTINGS, None)
    data = engine.collect(atoms, SETTINGS, run, None)
    H, S = data.hamiltonian, data.overlap
    assert H is not None
    assert S is not None
    assert H.hermiticity_error() == 0.0
    k = np.array([(x, 0, 0) for x in (0.11, 0.23, 0.31, 0.37, 0.47)])
    expected = np.array(run.method.get_bands(run.cell.get_abs_kpts(k))[0]) * Hartree
    received = np.array([scipy.linalg.eigvalsh(H.at_k(point), S.at_k(point)) for point in k])
    assert np.abs(received - expected).max() < 2e-3
    filled = received[:, 0].max()
    assert data.fermi_level is not None
    assert filled < data.fermi_level < received[:, 1].min()


@pytest.mark.slow
def test_bands_of_silicon_off_the_mesh() -> None:
    """H(R) is sampled densely whatever the mesh of the density, so bands at any k are PySCF's own."""
    atoms = bulk("Si")
    run = engine.crystal_run(atoms, replace(SETTINGS, vacuum=None), (2, 2, 2))
    data = engine.collect(atoms, SETTINGS, run, None)
    assert run.density_mesh == (2, 2, 2)
    assert min(run.mesh) > 4
    H, S = data.hamiltonian, data.overlap
    assert H is not None
    assert S is not None
    k = np.random.default_rng(0).uniform(-0.5, 0.5, (5, 3))
    expected = np.array(run.method.get_bands(run.cell.get_abs_kpts(k))[0]) * Hartree
    received = np.array([scipy.linalg.eigvalsh(H.at_k(point), S.at_k(point)) for point in k])
    assert np.abs(received - expected).max() < 2e-3


def test_too_little_vacuum_is_noticed() -> None:
    with pytest.raises(ValueError, match="aliased; give a denser mesh"):
        run_pyscf(hydrogen_chain(), kpts=(1, 1, 1), vacuum=1.0, forces=False)


@pytest.mark.parametrize("mesh", [(3, 1, 1), (4, 1, 1), (6, 1, 1)])
def test_nearest_images_share_and_reverse(mesh: tuple[int, int, int]) -> None:
    atoms = hydrogen_chain()
    atoms.positions[1, 0] += 3 * 2.0
    keys, weights = nearest_images(atoms, mesh)
    total = np.zeros((2, 2, mesh[0]))
    np.add.at(total, (keys[:, 0], keys[:, 1], keys[:, 5]), weights)
    assert np.allclose(total, 1)
    listed = {tuple(key): w for key, w in zip(keys[:, :5].tolist(), weights, strict=True)}
    for (i, j, a, b, c), weight in listed.items():
        assert listed[j, i, -a, -b, -c] == weight
    lengths = np.abs(keys[:, 2] * 2.0 + atoms.positions[keys[:, 1], 0] - atoms.positions[keys[:, 0], 0])
    assert lengths.max() <= mesh[0] + 1e-9


def test_box_of_open_axes() -> None:
    atoms = Atoms(
        "C2", [(0, 0, 0), (1, 2, 3)], cell=[[2, 0, 0], [0, 0, 0], [0, 0, 0]], pbc=[True, False, False]
    )
    box = box_of(atoms, 10.0)
    assert np.allclose(box[0], [2, 0, 0])
    assert np.linalg.det(box) == pytest.approx(2 * 12 * 13)


@pytest.mark.parametrize(
    ("atoms", "options", "message"),
    [
        (Atoms("H"), {}, "cannot have a total moment of 0"),
        (molecule("H2"), {"basis": "no-such-basis"}, "choose sets that cover"),
        (molecule("H2"), {"spin": "spinor"}, "expected None, 'none' or 'collinear'"),
        (hydrogen_chain(), {"kpts": (4, 2, 1)}, "1 along axes that are not periodic"),
        (hydrogen_chain(), {"kpts": (0, 1, 1)}, "three positive integers"),
        (Atoms("H2", [(0, 0, 0), (0, 0, 0.8)], pbc=True), {}, "set a cell"),
    ],
)
def test_clear_errors(atoms: Atoms, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run_pyscf(atoms, forces=False, **options)


def test_absent_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyscf", None)
    with pytest.raises(ImportError, match=r"ase-deeph\[pyscf\]"):
        run_pyscf(molecule("H2"))
