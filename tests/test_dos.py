"""Densities of states: normalisation, projections that add up, tetrahedra against a closed form."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import ellipk

from ase_deeph.dos import _filled_fraction, gaussian_dos, mulliken_weights, orbital_groups, tetrahedron_dos
from ase_deeph.eigen import solve
from tests.invariants import GENERIC
from tests.systems import random_crystal, square


def test_gaussian_is_normalised_and_centred() -> None:
    grid = np.linspace(-5, 5, 2001)
    levels = np.array([-1.0, 0.5, 40.0])
    curves = gaussian_dos(grid, levels, np.array([[1.0, 2.0, 5.0], [0.0, 1.0, 0.0]]), 0.2)
    assert np.trapezoid(curves, grid, axis=1) == pytest.approx([3.0, 1.0], abs=1e-9)
    assert grid[np.argmax(curves[1])] == pytest.approx(0.5)
    assert curves[1].max() == pytest.approx(1 / (0.2 * np.sqrt(2 * np.pi)))


def test_many_levels_go_in_chunks() -> None:
    grid, levels = np.linspace(-1, 1, 11), np.linspace(-1, 1, 5000)
    weights = np.full((1, 5000), 1 / 5000)
    x = (grid[:, None] - levels) / 0.1
    expected = (np.exp(-0.5 * x**2) / (0.1 * np.sqrt(2 * np.pi))).mean(axis=1)
    np.testing.assert_allclose(gaussian_dos(grid, levels, weights, 0.1)[0], expected, rtol=1e-10)


@pytest.mark.parametrize("width", [0.0, -0.1, np.nan])
def test_bad_width(width) -> None:
    with pytest.raises(ValueError, match="positive width"):
        gaussian_dos(np.zeros(3), np.zeros(2), np.ones((1, 2)), width)


def test_mulliken_weights_add_to_one() -> None:
    h, s = random_crystal()
    states = solve(h, s, GENERIC, vectors=True)
    for project in ("species", "shell", "atom"):
        labels, groups = orbital_groups(h.basis, h.atoms, project)
        for n, k in enumerate(GENERIC):
            shares = mulliken_weights(states.coefficients[0, n], s.at_k(k), groups)
            assert shares.shape == (len(labels), h.n_orbitals)
            np.testing.assert_allclose(shares.sum(axis=0), 1.0, atol=1e-10)
            # Σ_n of the weights over all bands is the trace: one per orbital of the group.
            np.testing.assert_allclose(shares.sum(axis=1), np.bincount(groups), atol=1e-9)


def test_labels() -> None:
    h, _ = random_crystal()
    assert orbital_groups(h.basis, h.atoms, "species")[0] == ["B", "N"]
    assert orbital_groups(h.basis, h.atoms, "atom")[0] == ["B0", "N1"]
    labels, groups = orbital_groups(h.basis, h.atoms, "shell")
    assert labels == ["B s1", "B p1", "N s1", "N s2", "N p1", "N d1"]
    np.testing.assert_array_equal(np.bincount(groups), [1, 3, 1, 1, 3, 5])
    assert len(orbital_groups(h.basis, h.atoms, "atom", spinor=True)[1]) == 2 * len(groups)
    with pytest.raises(ValueError, match="project"):
        orbital_groups(h.basis, h.atoms, "orbit")  # type: ignore[arg-type]


def test_tetrahedra_against_the_elliptic_integral() -> None:
    """Square lattice, half width 4|t|: D(E) = K(1 - (E/4t)²) / (2 π² |t|) per spin, logarithmic at E = 0."""
    h, n = square(-1.0), 32
    k = np.indices((n, n, 1)).reshape(3, -1).T / n
    energies = solve(h, None, k).eigenvalues[0]
    grid = np.linspace(-4.5, 4.5, 91)
    found = tetrahedron_dos(grid, energies, np.ones((1, *energies.shape)), (n, n, 1))[0]
    inside = (np.abs(grid) < 3.4) & (np.abs(grid) > 0.3)
    exact = ellipk(1 - (grid[inside] / 4) ** 2) / (2 * np.pi**2)
    np.testing.assert_allclose(found[inside], exact, rtol=0.03)
    assert np.all(found[np.abs(grid) > 4.05] == 0)


def test_tetrahedra_keep_every_state() -> None:
    """Flat, degenerate and dispersive bands all count fully, however coarse the energies."""
    rng = np.random.default_rng(0)
    energies = np.concatenate(
        [np.zeros((24, 1)), np.round(rng.normal(size=(24, 2)), 1), rng.normal(size=(24, 2))], 1
    )
    for n in (2, 7, 200):
        grid = np.linspace(-8, 8, n)
        curves = tetrahedron_dos(
            grid, energies, np.stack([np.ones((24, 5)), np.full((24, 5), 0.3)]), (4, 3, 2)
        )
        assert curves.sum(axis=1) * (grid[1] - grid[0]) == pytest.approx([5.0, 1.5], abs=1e-12)
        assert curves.min() >= 0


def test_one_tetrahedron_against_sampling() -> None:
    """The share of a tetrahedron below E, by random points inside it."""
    levels = np.array(
        [[-1.0, 0.2, 0.5, 2.0], [0.0, 0.0, 1.0, 1.0], [0.3, 0.3, 0.3, 0.9], [0.0, 1.0, 1.0, 1.0]]
    )
    inside = np.random.default_rng(1).dirichlet(np.ones(4), 200_000)
    at = np.array([-0.5, 0.1, 0.35, 0.45, 0.8, 1.5])
    sampled = (levels @ inside.T)[:, :, None] < at
    np.testing.assert_allclose(_filled_fraction(levels, at), sampled.mean(axis=1), atol=4e-3)


@pytest.mark.parametrize("grid", [[0.0], [0.0, 0.0, 1.0], [1.0, 0.0]])
def test_tetrahedra_want_increasing_energies(grid) -> None:
    with pytest.raises(ValueError, match="increasing"):
        tetrahedron_dos(np.array(grid), np.zeros((1, 1)), np.ones((1, 1, 1)), (1, 1, 1))
