"""Charges and bond orders: closed forms, sums, and PySCF's own numbers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule

from ase_deeph import AtomPairs, ElectronicStructure, OrbitalBasis, RealSpaceMatrix
from ase_deeph.basis import SpeciesBasis
from ase_deeph.electronic_structure import spinor_overlap
from ase_deeph.populations import Populations
from tests.systems import MATERIALS, graphene_pz, random_crystal, random_matrix
from tests.toys import Huckel, huckel_basis

DIMER = Atoms("HB", positions=[[0, 0, 0], [0, 0, 1.2]])
TWO_S = OrbitalBasis({"H": SpeciesBasis((0,), 1), "B": SpeciesBasis((0,), 1)})


def dimer(difference: float, s: float, t: float = -3.0) -> ElectronicStructure:
    """Two s orbitals at ± difference / 2 (eV) with hopping t and overlap s, two electrons."""
    pairs = AtomPairs.from_atoms(DIMER, 2.0)
    levels = np.array([difference / 2, t, t, -difference / 2])
    h = RealSpaceMatrix(TWO_S, pairs, DIMER, levels)
    return ElectronicStructure(h, RealSpaceMatrix(TWO_S, pairs, DIMER, np.array([1.0, s, s, 1.0])))


def test_one_shared_pair() -> None:
    found = Populations(dimer(0.0, 0.4))
    assert np.allclose(found.mulliken_charges(), 0.0, atol=1e-12)
    assert np.allclose(found.lowdin_charges(), 0.0, atol=1e-12)
    assert np.allclose(found.bond_orders(), 1.0)


@pytest.mark.parametrize(("difference", "s"), [(2.0, 0.0), (2.0, 0.3), (-5.0, 0.2)])
def test_a_polar_bond_in_closed_form(difference: float, s: float) -> None:
    """The lower root of (d/2 - e)(-d/2 - e) = (t - e s)², its vector, and N_A N_B for the bond order."""
    t, half = -3.0, difference / 2
    a, b, c = 1 - s**2, 2 * t * s, -(half**2) - t**2
    e = (-b - np.sqrt(b * b - 4 * a * c)) / (2 * a)
    x, y = -(t - e * s), half - e
    norm = x * x + y * y + 2 * s * x * y
    electrons = 2 * np.array([x * x + s * x * y, y * y + s * x * y]) / norm
    found = Populations(dimer(difference, s))
    assert np.allclose(found.mulliken_electrons, electrons, atol=1e-10)
    assert np.allclose(found.bond_orders(), np.outer(electrons, electrons), atol=1e-10)
    root = 0.5 * (np.sqrt(1 + s) + np.sqrt(1 - s)), 0.5 * (np.sqrt(1 + s) - np.sqrt(1 - s))
    lowdin = 2 * np.array([(root[0] * x + root[1] * y) ** 2, (root[1] * x + root[0] * y) ** 2]) / norm
    assert np.allclose(found.lowdin_electrons, lowdin, atol=1e-10)


@pytest.mark.parametrize("name", MATERIALS)
def test_electrons_sum_up(name: str) -> None:
    h, s = MATERIALS[name]()
    structure = ElectronicStructure(h, s, n_electrons=float(h.n_orbitals), kpts=(3, 2, 2))
    found = Populations(structure)
    assert found.mulliken_electrons.sum() == pytest.approx(structure.n_electrons, abs=1e-8)
    assert found.lowdin_electrons.sum() == pytest.approx(structure.n_electrons, abs=1e-8)
    unreduced = Populations(replace(structure, symmetry="none"))
    assert np.allclose(found.mulliken_charges(), unreduced.mulliken_charges(), atol=1e-8)
    assert np.allclose(found.lowdin_charges(), unreduced.lowdin_charges(), atol=1e-8)
    assert np.allclose(found.bond_orders(), unreduced.bond_orders(), atol=1e-8)


def test_bond_orders_of_a_determinant_sum_to_twice_the_electrons() -> None:
    h, s = random_crystal()
    insulator = {"name": "fixed", "width": 0.0}
    structure = ElectronicStructure(h, s, n_electrons=4, kpts=(3, 3, 3), occupations=insulator)
    found = Populations(structure)
    assert found.bond_orders().sum() == pytest.approx(8.0, abs=1e-9)
    every = AtomPairs.from_atoms(h.atoms, 9.0)
    near = every.select(np.all(np.abs(every.R) <= 1, axis=1))
    orders = found.bond_orders_of(near)
    for i in range(2):
        for j in range(2):
            mine = (near.i == i) & (near.j == j)
            assert mine.sum() == 27
            assert orders[mine].sum() == pytest.approx(found.bond_orders()[i, j], abs=1e-9)
    assert np.allclose(orders, orders[near.reverse])


def test_bond_order_of_graphene() -> None:
    """Coulson's π bond order 0.525 of graphene; Mayer's is its square."""
    h, _ = graphene_pz(s=0.0)
    step = {"name": "fermi-dirac", "width": 1e-3}
    structure = ElectronicStructure(h, n_electrons=2, kpts=(25, 25, 1), occupations=step)
    bonds = h.pairs.select(~h.pairs.on_site)
    orders = Populations(structure).bond_orders_of(bonds)
    assert np.allclose(orders, 0.525**2, atol=1e-3)
    with pytest.raises(ValueError, match="denser mesh"):
        Populations(replace(structure, kpts=(1, 25, 1))).bond_orders_of(bonds)


def test_spin_channels_and_spinors_agree_with_pairs() -> None:
    h, s = random_crystal()
    paired = Populations(ElectronicStructure(h, s, n_electrons=5, kpts=(2, 2, 2)))
    both = RealSpaceMatrix(h.basis, h.pairs, h.atoms, np.stack([h.entries, h.entries]), "collinear")
    channels = Populations(ElectronicStructure(both, s, n_electrons=5, kpts=(2, 2, 2)))
    spinors = Populations(ElectronicStructure(spinor_overlap(h), s, n_electrons=5, kpts=(2, 2, 2)))
    for other in (channels, spinors):
        assert np.allclose(other.mulliken_charges(), paired.mulliken_charges(), atol=1e-8)
        assert np.allclose(other.lowdin_charges(), paired.lowdin_charges(), atol=1e-8)
        assert np.allclose(other.bond_orders(), paired.bond_orders(), atol=1e-8)


def test_methane_by_symmetry() -> None:
    atoms = molecule("CH4")
    source = Huckel()
    structure = ElectronicStructure(source(atoms), _overlap(atoms))
    charges = Populations(structure).mulliken_charges()
    assert charges.sum() == pytest.approx(0.0, abs=1e-8)
    assert np.ptp(charges[1:]) < 1e-4
    assert charges[0] > 0.05, "hydrogen's level lies below carbon's p"
    orders = Populations(structure).bond_orders()
    assert np.all(orders[0, 1:] > 0.9)
    assert orders[1, 2] < 0.05


def _overlap(atoms: Atoms) -> RealSpaceMatrix:
    from ase_deeph.two_center import overlap

    return overlap(atoms, huckel_basis())


def test_against_pyscf() -> None:
    """PySCF's density matrix gives the same Mulliken and Löwdin charges and Mayer bond orders."""
    pytest.importorskip("pyscf")
    from pyscf import dft, gto
    from pyscf.lo.orth import lowdin

    from ase_deeph.dft import run_pyscf

    atoms = molecule("H2O")
    data = run_pyscf(atoms, basis="gth-szv", forces=False)
    found = Populations(ElectronicStructure(data.hamiltonian, data.overlap, data.n_electrons))
    described = [(symbol, tuple(x)) for symbol, x in zip(atoms.symbols, atoms.positions, strict=True)]
    mol = gto.M(atom=described, basis="gth-szv", pseudo="gth-pbe", verbose=0)
    field = dft.RKS(mol, xc="pbe").run(conv_tol=1e-10)
    density, s = field.make_rdm1(), field.get_ovlp()
    charges = field.mulliken_pop(verbose=0)[1]
    assert np.allclose(found.mulliken_charges(), charges, atol=1e-4)
    assert abs(charges[0]) > 0.2
    slices = mol.aoslice_by_atom()[:, 2:]
    ps = density @ s
    mayer = [[np.sum(ps[a:b, c:d] * ps[c:d, a:b].T) for c, d in slices] for a, b in slices]
    assert np.allclose(found.bond_orders(), mayer, atol=1e-4)
    back = np.linalg.inv(lowdin(s))
    shares = np.diag(back @ density @ back.T)
    assert np.allclose(found.lowdin_electrons, [shares[a:b].sum() for a, b in slices], atol=1e-4)


def test_partly_filled_levels_do_not_matter_for_the_sum() -> None:
    rng = np.random.default_rng(3)
    h, s = random_crystal()
    cold = {"name": "methfessel-paxton", "width": 0.3}
    structure = ElectronicStructure(
        h + random_matrix(h.atoms, h.basis, 4.5, rng), s, n_electrons=7.3, kpts=(2, 2, 2), occupations=cold
    )
    assert Populations(structure).mulliken_electrons.sum() == pytest.approx(7.3, abs=1e-8)
