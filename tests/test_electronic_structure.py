"""ElectronicStructure as a whole: folding, gauge, counts, symmetry, and errors, over named materials."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest
from ase.dft.kpoints import BandPath

from ase_deeph.basis import OrbitalBasis, SpeciesBasis
from ase_deeph.electronic_structure import ElectronicStructure
from ase_deeph.kpoints import k_points
from ase_deeph.matrix import RealSpaceMatrix
from ase_deeph.occupation import SMEARINGS
from tests.invariants import assert_counts_electrons, assert_folded, assert_normalised, assert_periodic
from tests.systems import (
    MATERIALS,
    chain,
    dimer_chain,
    fcc,
    graphene_pz,
    random_crystal,
    random_matrix,
    square,
)

MESH = {"size": (6, 6, 6), "gamma": True}


@pytest.fixture(params=MATERIALS, ids=str)
def structure(request) -> ElectronicStructure:
    h, s = MATERIALS[request.param]()
    return ElectronicStructure(h, s, kpts={"size": (4, 4, 4), "gamma": True})


def test_invariants(structure) -> None:
    assert_periodic(structure)
    assert_normalised(structure)
    assert_counts_electrons(structure)
    assert structure.eigenvalues([[0, 0, 0]]).shape == (1, 1, structure.hamiltonian.n_orbitals)
    assert structure.mesh_eigenvalues.shape == structure.occupation_numbers().shape


def test_gauge_shift(structure) -> None:
    """H -> H + c S moves levels, Fermi level and nothing else."""
    h, s = structure.hamiltonian, structure.overlap
    unit = s if s is not None else replace(h, entries=1.0 * h.pairs.on_site)
    moved = ElectronicStructure(h + unit * 2.5, s, kpts=structure.kpts)
    assert moved.fermi_level() - structure.fermi_level() == pytest.approx(2.5, abs=1e-8)
    np.testing.assert_allclose(moved.mesh_eigenvalues, structure.mesh_eigenvalues + 2.5, atol=1e-9)
    np.testing.assert_allclose(moved.occupation_numbers(), structure.occupation_numbers(), atol=1e-7)


@pytest.mark.parametrize("project", [None, "species", "shell", "atom"])
def test_dos_integrates_to_the_number_of_states(structure, project) -> None:
    e = structure.mesh_eigenvalues
    grid = np.linspace(e.min() - 2, e.max() + 2, 4000)
    curves = structure.dos(grid, width=0.1, project=project)
    total = curves if project is None else sum(curves.values())
    assert np.trapezoid(total, grid) == pytest.approx(2 * structure.hamiltonian.n_orbitals, abs=1e-6)
    np.testing.assert_allclose(total, structure.dos(grid), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(
    ("make", "repeat"),
    [
        (lambda n: chain(s=0.2, n=n), (4, 1, 1)),
        (lambda n: (square(n=n), None), (3, 3, 1)),
        (lambda n: graphene_pz(n=n), (3, 3, 1)),
    ],
    ids=["chain", "square", "graphene"],
)
def test_supercell_folds(make, repeat) -> None:
    assert_folded(ElectronicStructure(*make(1)), ElectronicStructure(*make(repeat[0])), repeat)


@pytest.mark.parametrize("occupations", [{"name": name, "width": 0.3} for name in SMEARINGS], ids=SMEARINGS)
@pytest.mark.parametrize("material", ["graphene", "fcc", "square"])
def test_reduced_mesh_equals_full_mesh(material, occupations) -> None:
    h, s = MATERIALS[material]()
    n_electrons = 2.0 if occupations["name"] == "fixed" else 0.9
    reduced, full = (
        ElectronicStructure(h, s, n_electrons, kpts=MESH, occupations=occupations, symmetry=word)
        for word in ("full", "none")
    )
    assert len(reduced.mesh) < len(full.mesh) / 2
    assert reduced.fermi_level() == pytest.approx(full.fermi_level(), abs=1e-8)
    mapped = reduced.mesh_eigenvalues[:, reduced.mesh.bz_to_ibz]
    np.testing.assert_allclose(mapped, full.mesh_eigenvalues, atol=1e-9)
    grid = np.linspace(-8, 8, 40)
    np.testing.assert_allclose(reduced.dos(grid), full.dos(grid), atol=1e-8)


def test_projected_dos_of_a_reduced_mesh_equals_the_full_one() -> None:
    h, s = graphene_pz(t=-2.0)
    reduced, full = (ElectronicStructure(h, s, kpts=(6, 6, 1), symmetry=word) for word in ("full", "none"))
    grid = np.linspace(-6, 6, 50)
    for project in ("species", "shell", "atom"):
        ours, theirs = reduced.dos(grid, project=project), full.dos(grid, project=project)
        assert ours.keys() == theirs.keys()
        for label in ours:
            np.testing.assert_allclose(ours[label], theirs[label], atol=1e-8)


def test_a_hamiltonian_without_the_structure_symmetry_is_not_reduced() -> None:
    """Random hoppings on a cubic lattice: the point group of the atoms must not be trusted."""
    atoms = fcc().atoms
    h = random_matrix(atoms, fcc().basis, 4.0, np.random.default_rng(0))
    found, full = (
        ElectronicStructure(h, n_electrons=0.7, kpts=MESH, symmetry=word) for word in ("full", "none")
    )
    assert len(k_points(atoms, MESH)) < len(found.mesh) < len(full.mesh)
    assert found.fermi_level() == pytest.approx(full.fermi_level(), abs=1e-9)


def test_complex_hopping_breaks_time_reversal() -> None:
    h, _ = chain()
    flux = RealSpaceMatrix(h.basis, h.pairs, h.atoms, h.entries * np.exp(0.4j * h.pairs.R[:, 0]))
    es = ElectronicStructure(flux, kpts=(9, 1, 1))
    assert len(es.mesh) == 9
    k = np.array([0.2, 0, 0])
    assert es.eigenvalues(k)[0, 0, 0] == pytest.approx(-2 * np.cos(0.4 * np.pi + 0.4))


def test_half_filled_chain() -> None:
    """-2 cos 2πk is odd about k = 1/4: the Fermi level is zero if the smearing is symmetric."""
    for name in ("fermi-dirac", "gaussian", "methfessel-paxton"):
        for width in (0.0, 0.05, 0.3):
            es = ElectronicStructure(chain()[0], kpts=(10, 1, 1), occupations={"name": name, "width": width})
            assert es.n_electrons == 1.0
            assert es.fermi_level() == pytest.approx(0.0, abs=1e-8)
            assert es.band_gap() == 0.0


def test_band_gap_and_mid_gap() -> None:
    es = ElectronicStructure(dimer_chain(-1.5, -0.5), kpts={"size": (8, 1, 1), "gamma": True})
    assert es.fermi_level() == pytest.approx(0.0, abs=1e-6)
    assert es.band_gap() == pytest.approx(2.0)


def test_band_structure_takes_the_fermi_level_of_the_mesh() -> None:
    h, s = graphene_pz()
    es = ElectronicStructure(h, s)
    bands = es.band_structure(npoints=30)
    assert bands.energies.shape == (1, 30, 2)
    assert bands.reference == es.fermi_level()
    assert isinstance(bands.path, BandPath)
    assert set(bands.path.path) == set("GMK")
    k = es.atoms.cell.bandpath("K", npoints=1, pbc=es.atoms.pbc)
    assert np.ptp(es.eigenvalues(k)) < 1e-9


def test_tetrahedra_count_the_same_states() -> None:
    h, s = graphene_pz()
    es = ElectronicStructure(h, s, kpts={"size": (10, 10, 1), "gamma": True})
    grid = np.linspace(-8.0123, 14, 400)
    total = es.dos(grid, width=0.0)
    assert np.trapezoid(total, grid) == pytest.approx(4.0, abs=1e-6)
    by_atom = es.dos(grid, width=0.0, project="atom")
    np.testing.assert_allclose(sum(by_atom.values()), total, atol=1e-8)
    with pytest.raises(ValueError, match="mesh"):
        ElectronicStructure(h, s, kpts=[[0, 0, 0]]).dos(grid, width=0.0)


def test_overlap_may_live_on_other_pairs() -> None:
    h, s = random_crystal()
    shorter = s.cut(4.0)
    ours = ElectronicStructure(h, shorter).eigenvalues([[0.1, 0.2, 0.3]])
    np.testing.assert_allclose(
        ours, ElectronicStructure(h, shorter.on(h.pairs)).eigenvalues([[0.1, 0.2, 0.3]])
    )


def test_spin_channels() -> None:
    h, s = graphene_pz()
    entries = np.stack([h.entries, (h + s * 1.0).entries])
    both = RealSpaceMatrix(h.basis, h.pairs, h.atoms, entries, "collinear")
    es = ElectronicStructure(both, s, kpts=(6, 6, 1))
    assert (es.n_spins, es.degeneracy) == (2, 1)
    assert_counts_electrons(es)
    assert_normalised(es)
    grid = np.linspace(-12, 16, 3000)
    assert es.dos(grid).shape == (2, 3000)
    assert np.trapezoid(es.dos(grid), grid, axis=1) == pytest.approx([2, 2], abs=1e-6)
    blocks = [np.kron(np.eye(2), block).astype(complex) for block in h.blocks()]
    spinor = ElectronicStructure(
        RealSpaceMatrix.from_blocks(h.basis, h.pairs, h.atoms, blocks, "spinor"), s, kpts=(6, 6, 1)
    )
    plain = ElectronicStructure(h, s, kpts=(6, 6, 1))
    assert spinor.fermi_level() == pytest.approx(plain.fermi_level(), abs=1e-6)
    np.testing.assert_allclose(spinor.dos(grid), plain.dos(grid), atol=1e-9)
    assert set(spinor.dos(grid, project="species")) == {"C"}


def test_frozen_and_cached() -> None:
    es = ElectronicStructure(square())
    assert es.mesh_eigenvalues is es.mesh_eigenvalues
    with pytest.raises(ValueError, match="read-only"):
        es.mesh_eigenvalues[0, 0, 0] = 1.0
    with pytest.raises(FrozenInstanceError):
        es.n_electrons = 3.0  # type: ignore[misc]
    occupations = es.occupation_numbers()
    occupations[:] = 0
    assert_counts_electrons(es)


def test_mismatched_overlaps_are_refused() -> None:
    h, s = graphene_pz()
    other = graphene_pz()[1].atoms
    moved = replace(s, atoms=other.copy())
    moved.atoms.positions[0, 0] += 0.1
    with pytest.raises(ValueError, match="positions"):
        ElectronicStructure(h, moved)
    with pytest.raises(ValueError, match="overlap"):
        ElectronicStructure(h, graphene_pz(n=2)[1])
    h_random, s_random = random_crystal()
    both = np.stack([s_random.entries] * 2)
    polarised = RealSpaceMatrix(s_random.basis, s_random.pairs, s_random.atoms, both, "collinear")
    with pytest.raises(ValueError, match="overlap: expected spin 'none'"):
        ElectronicStructure(h_random, polarised)


def test_impossible_requests() -> None:
    h, s = graphene_pz()
    with pytest.raises(ValueError, match="states of the basis"):
        ElectronicStructure(h, s, 9.0).fermi_level()
    with pytest.raises(ValueError, match="n_electrons"):
        ElectronicStructure(h, s, -1.0)
    with pytest.raises(ValueError, match="k-points"):
        ElectronicStructure(h, s).eigenvalues([])
    with pytest.raises(ValueError, match="k-points"):
        ElectronicStructure(h, s, kpts=(0, 1, 1)).fermi_level()
    with pytest.raises(ValueError, match="divisible by 2"):
        ElectronicStructure(h, s, 3.0, occupations={"name": "fixed"}).fermi_level()
    with pytest.raises(ValueError, match="symmetry"):
        ElectronicStructure(h, s, symmetry="all")  # type: ignore[arg-type]


def test_unknown_electron_count_is_asked_for() -> None:
    matrix = chain()[0]
    silent = OrbitalBasis({s: SpeciesBasis(matrix.basis.shells(s), 0) for s in matrix.basis})
    structure = ElectronicStructure(replace(matrix, basis=silent), kpts=(4, 1, 1))
    assert structure.eigenvalues([[0, 0, 0]]).shape == (1, 1, 1)
    with pytest.raises(ValueError, match="pass ElectronicStructure"):
        structure.fermi_level()
    assert np.isfinite(
        ElectronicStructure(replace(matrix, basis=silent), None, 1.0, kpts=(4, 1, 1)).fermi_level()
    )


def test_eigenstates_unpack() -> None:
    energies, coefficients = ElectronicStructure(chain()[0], kpts=(4, 1, 1)).eigenstates([[0.1, 0, 0]])
    assert energies.shape == (1, 1, 1)
    assert coefficients.shape == (1, 1, 1, 1)
