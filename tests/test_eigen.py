"""The generalised eigenproblem: closed forms, normalisation, dependent orbitals and bad matrices."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from ase_deeph.eigen import solve, solve_dense, spinor_overlap
from ase_deeph.matrix import RealSpaceMatrix
from tests.invariants import GENERIC, assert_hermitian
from tests.systems import chain, graphene_pz, random_crystal

K_LINE = np.column_stack([np.linspace(-0.5, 0.5, 11), np.zeros(11), np.zeros(11)])


@pytest.mark.parametrize(("t", "s", "e0"), [(-1.0, 0.0, 0.3), (-2.0, 0.2, -1.0), (0.7, -0.3, 0.0)])
def test_chain_with_overlap(t, s, e0) -> None:
    h, overlap = chain(t, s, e0)
    cosine = np.cos(2 * np.pi * K_LINE[:, 0])
    found = solve(h, overlap, K_LINE).eigenvalues
    assert found.shape == (1, 11, 1)
    np.testing.assert_allclose(found[0, :, 0], (e0 + 2 * t * cosine) / (1 + 2 * s * cosine), atol=1e-12)


def test_graphene_with_overlap() -> None:
    t, s = -2.7, 0.12
    h, overlap = graphene_pz(t, s)
    kpts = np.array([[0, 0, 0], [0.5, 0, 0], [1 / 3, 1 / 3, 0], [2 / 3, 1 / 3, 0], [0.13, 0.29, 0]])
    to_neighbours = h.pairs.displacements(h.atoms)[(h.pairs.i == 0) & ~h.pairs.on_site]
    cartesian = 2 * np.pi * kpts @ h.atoms.cell.reciprocal()
    size = np.abs(np.exp(1j * cartesian @ to_neighbours.T).sum(axis=1))
    assert size[0] == pytest.approx(3)
    assert min(size[2], size[3]) == pytest.approx(0, abs=1e-6)
    expected = np.sort(np.stack([t * size / (1 + s * size), -t * size / (1 - s * size)], axis=1), axis=1)
    np.testing.assert_allclose(solve(h, overlap, kpts).eigenvalues[0], expected, atol=1e-12)


def test_vectors_are_normalised_and_solve_the_equation() -> None:
    h, s = random_crystal()
    for matrix in (h, s):
        assert_hermitian(matrix)
    kpts = np.concatenate([GENERIC, [[0, 0, 0], [0.5, 0.5, 0]]])
    states = solve(h, s, kpts, vectors=True)
    assert states.coefficients.dtype == complex
    np.testing.assert_allclose(states.eigenvalues, solve(h, s, kpts).eigenvalues, atol=1e-10)
    for n, k in enumerate(kpts):
        c, e = states.coefficients[0, n], states.eigenvalues[0, n]
        np.testing.assert_allclose(c.conj().T @ s.at_k(k) @ c, np.eye(len(e)), atol=1e-10)
        np.testing.assert_allclose(h.at_k(k) @ c, s.at_k(k) @ c * e, atol=1e-9)
        assert np.all(np.diff(e) >= 0)


def test_real_and_complex_routes_agree() -> None:
    h, s = random_crystal(3)
    gamma = np.zeros(3)
    rotated = np.exp(1j * np.arange(h.n_orbitals))
    twist = rotated[:, None] * rotated.conj()[None, :]
    plain, _ = solve_dense(h.at_k(gamma), s.at_k(gamma))
    twisted, _ = solve_dense(h.at_k(gamma) * twist, s.at_k(gamma) * twist)
    np.testing.assert_allclose(plain, twisted, atol=1e-10)


def test_dependent_directions_are_removed_and_counted(caplog) -> None:
    rng = np.random.default_rng(1)
    n, kept = 9, 7
    a = rng.normal(size=(n, kept)) + 1j * rng.normal(size=(n, kept))
    h_small = rng.normal(size=(kept, kept))
    h_small = h_small + h_small.T
    # Nine functions that span seven dimensions: the levels are those of the seven.
    s, h = a @ a.conj().T, a @ h_small @ a.conj().T
    e, c = solve_dense(h, s, vectors=True)
    np.testing.assert_allclose(e, np.linalg.eigvalsh(h_small), atol=1e-7)
    np.testing.assert_allclose(c.conj().T @ s @ c, np.eye(kept), atol=1e-8)


def test_every_k_reports_the_same_number_of_bands(caplog) -> None:
    """A chain with s = 1/2 has S(k) = 1 + cos: two atoms per cell, and at Γ one direction vanishes."""
    h, s = chain(-1.0, -0.5, n=2)
    kpts = np.array([[0.0, 0, 0], [0.1, 0, 0], [0.3, 0, 0]])
    with caplog.at_level(logging.WARNING, logger="ase_deeph.eigen"):
        states = solve(h, s, kpts, vectors=True)
    assert states.eigenvalues.shape == (1, 3, 1)
    assert states.coefficients.shape == (1, 3, 2, 1)
    assert states.n_removed.tolist() == [1, 0, 0]
    assert np.all(np.isfinite(states.eigenvalues))
    assert "1 of 3 k-points" in caplog.text
    assert "k = (0.0000, 0.0000, 0.0000)" in caplog.text


def test_a_healthy_overlap_says_nothing(caplog) -> None:
    h, s = random_crystal()
    with caplog.at_level(logging.DEBUG, logger="ase_deeph.eigen"):
        solve(h, s, GENERIC)
    assert not caplog.records


def test_negative_overlap_names_the_k_point() -> None:
    h, s = chain(-1.0, -0.7)
    with pytest.raises(ValueError, match=r"k = \(0.0000, 0.0000, 0.0000\).*smallest eigenvalue -4"):
        solve(h, s, np.zeros((1, 3)))


@pytest.mark.parametrize("broken", ["hamiltonian", "overlap"])
def test_non_hermitian_matrices_are_refused(broken) -> None:
    h, s = (m.at_k(GENERIC[0]) for m in random_crystal())
    (h if broken == "hamiltonian" else s)[0, 1] += 0.01
    with pytest.raises(ValueError, match=f"(?i){broken}: expected a Hermitian matrix"):
        solve_dense(h, s)


def test_nan_and_wrong_shape_are_refused() -> None:
    with pytest.raises(ValueError, match="finite"):
        solve_dense(np.array([[np.nan]]))
    with pytest.raises(ValueError, match="shape"):
        solve_dense(np.eye(2), np.eye(3))


def test_shift_by_overlap_moves_every_level() -> None:
    h, s = random_crystal(5)
    moved = solve(h + s * 1.7, s, GENERIC).eigenvalues
    np.testing.assert_allclose(moved, solve(h, s, GENERIC).eigenvalues + 1.7, atol=1e-10)


def test_spins() -> None:
    """Collinear channels are solved one by one; a spinor without coupling has both."""
    h, s = random_crystal(2)
    up, down = h, h + s * 0.5
    both = RealSpaceMatrix(
        h.basis, h.pairs, h.atoms, np.stack([up.entries, down.on(h.pairs).entries]), "collinear"
    )
    found = solve(both, s, GENERIC).eigenvalues
    single = solve(h, s, GENERIC).eigenvalues[0]
    np.testing.assert_allclose(found, [single, single + 0.5], atol=1e-10)
    zero = np.zeros_like
    blocks = [
        np.block([[u, zero(u)], [zero(u), d]]).astype(complex)
        for u, d in zip(up.blocks(), down.on(h.pairs).blocks(), strict=True)
    ]
    spinor = RealSpaceMatrix.from_blocks(h.basis, h.pairs, h.atoms, blocks, "spinor")
    for overlap in (s, spinor_overlap(s)):
        levels = solve(spinor, overlap, GENERIC).eigenvalues[0]
        np.testing.assert_allclose(
            levels, np.sort(np.concatenate([single, single + 0.5], axis=1)), atol=1e-10
        )
