"""H(k) on a mesh -> H(R): exact on a dense mesh, and a mesh too coarse is noticed."""

from __future__ import annotations

import numpy as np
import pytest

from ase_deeph.io import hamiltonian_from_mesh
from ase_deeph.matrix import RealSpaceMatrix
from tests.reader_files import crystal
from tests.systems import chain, graphene_pz


def mesh(*counts: int, shift: float = 0.0) -> np.ndarray:
    return (np.indices(counts).reshape(3, -1).T + shift) / np.array(counts)


def bloch(matrix: RealSpaceMatrix, k: np.ndarray) -> np.ndarray:
    m = np.array([matrix.at_k(point) for point in k])
    return m.swapaxes(0, 1) if matrix.spin == "collinear" else m


@pytest.mark.parametrize("shift", [0.0, 0.5])
@pytest.mark.parametrize("spin", ["none", "collinear", "spinor"])
def test_a_dense_mesh_gives_everything_back(spin: str, shift: float) -> None:
    data = crystal(spin)
    k = mesh(6, 6, 6, shift=shift)
    shuffled = np.random.default_rng(0).permutation(len(k))
    H, S = hamiltonian_from_mesh(
        data.atoms,
        data.basis,
        k[shuffled],
        bloch(data.hamiltonian, k[shuffled]),
        bloch(data.overlap, k[shuffled]),
    )
    assert (H - data.hamiltonian).max_abs() < 1e-11
    assert (S - data.overlap).max_abs() < 1e-13
    assert H.spin == spin
    assert H.pairs == S.pairs


def test_an_orthogonal_basis_and_open_axes() -> None:
    h, _ = graphene_pz()
    k = mesh(6, 6, 1)
    H, S = hamiltonian_from_mesh(h.atoms, h.basis, k, bloch(h, k))
    assert S is None
    assert (H - h).max_abs() < 1e-12


def test_the_mesh_reproduces_its_own_points() -> None:
    """Whatever was folded: at the points of the mesh H(k) is the one given."""
    data = crystal()
    k = mesh(2, 3, 2)
    H, S = hamiltonian_from_mesh(
        data.atoms, data.basis, k, bloch(data.hamiltonian, k), bloch(data.overlap, k), tolerance=np.inf
    )
    assert np.allclose(bloch(H, k), bloch(data.hamiltonian, k), atol=1e-11)
    assert np.allclose(bloch(S, k), bloch(data.overlap, k), atol=1e-13)


@pytest.mark.parametrize("counts", [(2, 2, 2), (3, 3, 2), (6, 6, 2), (6, 1, 6), (1, 1, 1)])
def test_a_coarse_mesh_is_noticed(counts: tuple[int, int, int]) -> None:
    data = crystal()
    k = mesh(*counts)
    with pytest.raises(ValueError, match=r"too coarse, \|H\| is still [\d.e+-]+ eV|cannot be measured"):
        hamiltonian_from_mesh(data.atoms, data.basis, k, bloch(data.hamiltonian, k), bloch(data.overlap, k))


def test_the_measured_number_is_the_hopping_at_the_edge() -> None:
    h, _ = chain(t=-1.7)
    with pytest.raises(ValueError, match=r"still 1\.70e\+00 eV at 1\.80 Å"):
        hamiltonian_from_mesh(h.atoms, h.basis, mesh(2, 1, 1), bloch(h, mesh(2, 1, 1)))
    with pytest.raises(ValueError, match="cannot be measured"):
        hamiltonian_from_mesh(h.atoms, h.basis, mesh(1, 1, 1), bloch(h, mesh(1, 1, 1)))


def test_what_is_no_mesh_is_told() -> None:
    data = crystal()
    k = mesh(6, 6, 6)
    H, S = bloch(data.hamiltonian, k), bloch(data.overlap, k)
    with pytest.raises(ValueError, match="unfold"):
        hamiltonian_from_mesh(data.atoms, data.basis, k[:-1], H[:-1], S[:-1])
    with pytest.raises(ValueError, match="H_k: expected finite"):
        hamiltonian_from_mesh(data.atoms, data.basis, k, H[:, :-1], S)
    with pytest.raises(ValueError, match="S_k: expected finite"):
        hamiltonian_from_mesh(data.atoms, data.basis, k, H, S * np.nan)
    graphene, _ = graphene_pz()
    with pytest.raises(ValueError, match="pbc"):
        hamiltonian_from_mesh(graphene.atoms, graphene.basis, mesh(6, 6, 2), np.zeros((72, 2, 2)))


def test_phases_of_another_gauge_or_sign_are_told() -> None:
    data = crystal()
    k = mesh(6, 6, 6)
    H, S = bloch(data.hamiltonian, k), bloch(data.overlap, k)
    owner = np.repeat([0, 1], data.basis.orbital_counts(data.atoms.get_chemical_symbols()))
    positions = data.atoms.get_scaled_positions(wrap=False)[owner]
    phase = np.exp(2j * np.pi * (k @ positions.T))
    with pytest.raises(ValueError, match="positions"):
        hamiltonian_from_mesh(
            data.atoms,
            data.basis,
            k,
            H * phase[:, None] / phase[..., None],
            S * phase[:, None] / phase[..., None],
        )
    with pytest.raises(ValueError, match=r"too coarse|other sign"):
        hamiltonian_from_mesh(data.atoms, data.basis, k, H.conj(), S.conj())
