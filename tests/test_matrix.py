"""RealSpaceMatrix and its Bloch sum: against a sum written out, Hermiticity, algebra, nothing lost in silence."""

import numpy as np
import pytest
from ase.build import graphene

from ase_deeph.basis import OrbitalBasis, SpeciesBasis
from ase_deeph.eigen import spinor_overlap
from ase_deeph.matrix import RealSpaceMatrix, gauge_shift
from ase_deeph.pairs import AtomPairs
from tests.systems import random_crystal

BASIS = OrbitalBasis({"C": SpeciesBasis((0, 1), 4), "B": SpeciesBasis((0,), 3)})


@pytest.fixture
def hamiltonian() -> RealSpaceMatrix:
    atoms = graphene(vacuum=4.0)
    atoms.symbols[0] = "B"
    pairs = AtomPairs.from_atoms(atoms, 3.2)
    rng = np.random.default_rng(2)
    counts = BASIS.orbital_counts(atoms.get_chemical_symbols())
    blocks = [rng.normal(size=(counts[i], counts[j])) for i, j in zip(pairs.i, pairs.j, strict=True)]
    return RealSpaceMatrix.from_blocks(BASIS, pairs, atoms, blocks).hermitian_part()


def _written_out(matrix: RealSpaceMatrix, k: np.ndarray) -> np.ndarray:
    at = matrix.basis.offsets(matrix.atoms.get_chemical_symbols())
    total = np.zeros((matrix.n_orbitals, matrix.n_orbitals), dtype=complex)
    for i, j, R in zip(matrix.pairs.i, matrix.pairs.j, matrix.pairs.R, strict=True):
        block = matrix.block(i, j, tuple(R)) * np.exp(2j * np.pi * (k @ R))
        total[at[i] : at[i + 1], at[j] : at[j + 1]] += block
    return total


def test_bloch_sum(hamiltonian):
    for k in np.random.default_rng(3).normal(size=(4, 3)):
        dense = hamiltonian.at_k(k)
        assert np.allclose(dense, _written_out(hamiltonian, k), atol=1e-13)
        assert np.allclose(dense, dense.conj().T, atol=1e-13)
        assert np.allclose(dense, hamiltonian.at_k(k, "csr").toarray(), atol=0)
        assert np.allclose(dense, hamiltonian.at_k(k + [1, -2, 3]), atol=1e-12)


def test_derivative_of_the_bloch_sum(hamiltonian):
    k, step, cell = np.array([0.1, 0.23, 0.0]), 1e-5, hamiltonian.atoms.cell.array
    derivative = hamiltonian.bloch_sum.derivative(hamiltonian.entries, k, cell)
    for axis in range(2):
        dk = np.linalg.solve(2 * np.pi * np.linalg.inv(cell).T, np.eye(3)[axis] * step)
        shifted = [hamiltonian.at_k(k + s * (cell @ np.eye(3)[axis]) * step / (2 * np.pi)) for s in (1, -1)]
        assert np.allclose(derivative[axis], (shifted[0] - shifted[1]) / (2 * step), atol=1e-7), dk


def test_hermiticity(hamiltonian):
    assert hamiltonian.hermiticity_error() == 0.0
    entries = hamiltonian.entries.copy()
    entries[hamiltonian.offsets[hamiltonian.pairs.index(0, 1, (0, 0, 0))]] += 0.5
    broken = RealSpaceMatrix(BASIS, hamiltonian.pairs, hamiltonian.atoms, entries)
    assert broken.hermiticity_error() > 0.1
    assert broken.hermitian_part().hermiticity_error() == 0.0


def test_algebra_on_different_pairs(hamiltonian):
    near = hamiltonian.cut(2.0)
    rest = hamiltonian - near
    assert rest.max_abs() > 0
    assert np.allclose((near + rest).on(hamiltonian.pairs).entries, hamiltonian.entries)
    assert np.allclose((2 * hamiltonian).entries, hamiltonian.entries * 2)
    assert np.allclose((-hamiltonian).entries, -hamiltonian.entries)


def test_no_block_is_dropped_in_silence(hamiltonian):
    near = AtomPairs.from_atoms(hamiltonian.atoms, 2.0)
    with pytest.raises(ValueError, match="pairs with non-zero blocks are not among"):
        hamiltonian.on(near)
    assert hamiltonian.restricted_to(near).pairs == near


def test_padded_blocks_round_trip(hamiltonian):
    blocks = hamiltonian.padded_blocks()
    assert blocks.shape == (len(hamiltonian.pairs), 4, 4)
    back = RealSpaceMatrix.from_padded_blocks(BASIS, hamiltonian.pairs, hamiltonian.atoms, blocks)
    assert np.array_equal(back.entries, hamiltonian.entries)


def test_collinear_channels(hamiltonian):
    both = RealSpaceMatrix(
        BASIS,
        hamiltonian.pairs,
        hamiltonian.atoms,
        np.stack([hamiltonian.entries, 2 * hamiltonian.entries]),
        "collinear",
    )
    k = [0.1, 0.2, 0.0]
    assert np.allclose(both.at_k(k)[1], 2 * hamiltonian.at_k(k))
    assert both.block(0, 1, (0, 0, 0)).shape == (2, 1, 4)
    assert both.hermiticity_error() == 0.0


def test_gauge_shift_is_found(hamiltonian):
    overlap = RealSpaceMatrix.from_blocks(
        BASIS,
        hamiltonian.pairs,
        hamiltonian.atoms,
        [
            np.eye(*s) if on else 0.1 * np.ones(s)
            for s, on in zip(hamiltonian.block_shapes, hamiltonian.pairs.on_site, strict=True)
        ],
    )
    base = gauge_shift(hamiltonian, overlap)
    assert gauge_shift(hamiltonian + 1.25 * overlap, overlap) == pytest.approx(base + 1.25)


def test_wrong_sizes(hamiltonian):
    with pytest.raises(ValueError, match="expected shape"):
        RealSpaceMatrix(BASIS, hamiltonian.pairs, hamiltonian.atoms, hamiltonian.entries[:-1])
    with pytest.raises(ValueError, match="three finite"):
        hamiltonian.at_k([0.0, 0.0])


@pytest.mark.parametrize("chunk", [4_000_000, 1], ids=["dense", "sparse"])
@pytest.mark.parametrize("spin", ["none", "collinear", "spinor"])
def test_many_k_at_once(chunk: int, spin: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """All k in one product, by either route, as one k after the other."""
    monkeypatch.setattr("ase_deeph.bloch._CHUNK", chunk)
    h, s = random_crystal(3)
    if spin == "collinear":
        h = RealSpaceMatrix(
            h.basis, h.pairs, h.atoms, np.stack([h.entries, s.on(h.pairs).entries]), "collinear"
        )
    if spin == "spinor":
        h = spinor_overlap(h) * (1.0 + 0.5j)
    kpts = np.random.default_rng(0).uniform(-1, 1, (5, 3))
    for k, together in zip(kpts, h.at_each_k(kpts), strict=True):
        np.testing.assert_allclose(together, h.at_k(k), atol=1e-12)
