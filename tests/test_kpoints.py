"""k-points: every form of ASE, the reduction by symmetry, vacuum axes and clear errors."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, graphene, nanotube
from ase.calculators.calculator import kpts2ndarray
from ase.dft.kpoints import get_monkhorst_pack_size_and_offset

from ase_deeph.basis import OrbitalBasis, SpeciesBasis
from ase_deeph.kpoints import DEFAULT_KPTS, k_points, point_group, point_list, respects_time_reversal
from ase_deeph.matrix import RealSpaceMatrix
from ase_deeph.pairs import AtomPairs
from tests.systems import chain, fcc, graphene_pz, square

SI = bulk("Si")


@pytest.mark.parametrize(
    "kpts",
    [
        None,
        (3, 4, 5),
        [2, 2, 2],
        {"size": (4, 4, 3), "gamma": True},
        {"size": (4, 2, 3), "gamma": False},
        {"density": 2.0, "even": True},
        dict(DEFAULT_KPTS),
        {"kpts": [[0, 0, 0.1], [0.2, 0, 0]]},
        {"path": "GX", "npoints": 7},
        [[0.0, 0.0, 0.0], [0.5, 0.0, 0.0]],
        SI.cell.bandpath("GXL", npoints=9),
    ],
)
@pytest.mark.parametrize("symmetry", ["full", "time-reversal", "none"])
def test_full_points_are_those_of_ase(kpts, symmetry) -> None:
    found = k_points(SI, kpts, symmetry)
    np.testing.assert_allclose(found.points, kpts2ndarray(kpts, SI), atol=1e-12)
    assert found.weights.sum() == pytest.approx(1.0, abs=1e-14)
    np.testing.assert_allclose(np.bincount(found.bz_to_ibz) / len(found.points), found.weights, atol=1e-14)
    if found.size is None:
        np.testing.assert_array_equal(found.irreducible, found.points)


def test_numpy_integers_are_a_mesh_too() -> None:
    """ASE takes an array of three integers for one k-point; nobody means that."""
    assert k_points(SI, np.array([3, 3, 1])).size == (3, 3, 1)


@pytest.mark.parametrize(
    ("size", "expected"), [((4, 4, 4), 8), ((3, 3, 3), 4), ((8, 8, 8), 29)], ids=["4 (Γ)", "3 (Γ)", "8 (Γ)"]
)
def test_known_irreducible_counts_of_fcc(size, expected) -> None:
    """The textbook numbers of a Γ-centred mesh under the full cubic group."""
    assert len(k_points(SI, {"size": size, "gamma": True}).irreducible) == expected


def test_graphene_counts_and_vacuum() -> None:
    atoms = graphene(vacuum=7.0)
    atoms.pbc = (True, True, False)
    mesh = k_points(atoms, {"size": (6, 6, 5), "gamma": True})
    assert mesh.size == (6, 6, 1)
    assert np.all(mesh.points[:, 2] == 0)
    assert len(mesh.irreducible) == 7
    assert len(k_points(atoms, {"size": (6, 6, 1), "gamma": True}, "time-reversal").irreducible) == 20
    assert k_points(atoms, DEFAULT_KPTS).size[2] == 1


def test_tube_and_molecule() -> None:
    tube = nanotube(5, 0)
    tube.center(vacuum=4.0, axis=(0, 1))
    assert k_points(tube, DEFAULT_KPTS).size[:2] == (1, 1)
    assert len(k_points(tube, (1, 1, 8))) == 4
    molecule = Atoms("H2", positions=[[0, 0, 0], [0, 0, 0.74]])
    for kpts in (None, DEFAULT_KPTS, (4, 4, 4)):
        found = k_points(molecule, kpts)
        np.testing.assert_array_equal(found.points, [[0, 0, 0]])


def test_order_is_that_of_ase_tetrahedra() -> None:
    size, offset = get_monkhorst_pack_size_and_offset(k_points(SI, {"size": (4, 3, 2), "gamma": True}).points)
    assert tuple(size) == (4, 3, 2)
    np.testing.assert_allclose(offset, [1 / 8, 0, 1 / 4], atol=1e-12)


@pytest.mark.parametrize("matrix", [fcc(), square(), graphene_pz()[0]], ids=["fcc", "square", "graphene"])
@pytest.mark.parametrize("gamma", [True, False])
def test_mapped_points_have_equal_levels(matrix, gamma) -> None:
    mesh = k_points(matrix.atoms, {"size": (5, 4, 4), "gamma": gamma})
    assert len(mesh) < len(mesh.points)
    for k, partner in zip(mesh.points, mesh.irreducible[mesh.bz_to_ibz], strict=True):
        ours, theirs = (np.linalg.eigvalsh(matrix.at_k(q)) for q in (k, partner))
        np.testing.assert_allclose(ours, theirs, atol=1e-10)


def test_images_across_the_vacuum_are_no_symmetry() -> None:
    """Atoms B at z = 0 and N at z = c/2 look mirror-symmetric to a 3D code; the slab is not."""
    slab = Atoms(
        "BN", scaled_positions=[[0, 0, 0], [0.2, 0, 0.5]], cell=[2.5, 3.0, 8.0], pbc=(True, True, False)
    )
    assert not any(np.array_equal(w, np.diag([-1, 1, 1])) for w in point_group(slab))
    mirrored = {tuple(np.diag(w)) for w in point_group(slab)}
    assert mirrored == {(1, 1, 1), (1, -1, 1)}


def test_symmetry_that_breaks_the_mesh_is_not_used() -> None:
    full = k_points(fcc().atoms, (2, 3, 4))
    energies = [fcc().at_k(k)[0, 0].real for k in full.points]
    reduced = [fcc().at_k(k)[0, 0].real for k in full.irreducible]
    np.testing.assert_allclose(energies, np.array(reduced)[full.bz_to_ibz], atol=1e-12)


def test_magnetic_moments_split_species() -> None:
    atoms = graphene(vacuum=7.0)
    atoms.pbc = (True, True, False)
    plain = len(point_group(atoms))
    atoms.set_initial_magnetic_moments([1.0, -1.0])
    assert len(point_group(atoms)) < plain


@pytest.mark.parametrize(
    "kpts",
    [
        (0, 1, 1),
        [],
        np.zeros((0, 3)),
        {"density": 0.0},
        {"size": (1, -2, 1)},
        {"nonsense": 3},
        [[0, 0, np.nan]],
    ],
)
def test_bad_requests_get_one_clear_line(kpts) -> None:
    with pytest.raises(ValueError, match=r"k-?p(oin)?ts") as caught:
        k_points(SI, kpts)
    assert "\n" not in str(caught.value)


def test_point_list_takes_one_point_and_refuses_none() -> None:
    assert point_list([0, 0, 0.5]).shape == (1, 3)
    with pytest.raises(ValueError, match="at least one"):
        point_list([])
    with pytest.raises(ValueError, match="symmetry"):
        k_points(SI, None, "everything")  # type: ignore[arg-type]


def test_time_reversal_is_read_off_the_matrix() -> None:
    h, _ = chain()
    assert respects_time_reversal(h)
    flux = RealSpaceMatrix(h.basis, h.pairs, h.atoms, h.entries * np.exp(0.3j * h.pairs.R[:, 0]))
    assert not respects_time_reversal(flux)


@pytest.mark.parametrize(
    ("field", "expected"), [([0, 0, 1.0], False), ([0.3, 0.2, 0], False), ([0, 0, 0], True)]
)
def test_time_reversal_of_spinors(field, expected) -> None:
    """A Zeeman field breaks it, spin-orbit coupling i R·σ does not."""
    atoms = Atoms("H", cell=[2.0, 9, 9], pbc=(True, False, False))
    pairs = AtomPairs.from_atoms(atoms, 2.5)
    sigma = np.array([[[0, 1], [1, 0]], [[0, -1j], [1j, 0]], [[1, 0], [0, -1]]])
    zeeman = np.tensordot(np.array(field, dtype=float), sigma, axes=1)
    blocks = [
        zeeman if own else np.eye(2) + 0.4j * R[0] * sigma[1]
        for own, R in zip(pairs.on_site, pairs.R, strict=True)
    ]
    h = RealSpaceMatrix.from_blocks(
        OrbitalBasis({"H": SpeciesBasis((0,), 1)}), pairs, atoms, blocks, "spinor"
    )
    assert respects_time_reversal(h) is expected
