"""Occupations: every smearing counts to 1e-9, the Fermi level is where it must be, bad counts are refused."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.integrate import quad

from ase_deeph.occupation import SMEARINGS, Smearing, fill

SMOOTH = [name for name in SMEARINGS if name != "fixed"]


def levels(seed: int, n_spins: int = 1, n_kpts: int = 7, n_bands: int = 6) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    weights = rng.random(n_kpts)
    return np.sort(rng.uniform(-6, 6, (n_spins, n_kpts, n_bands)), axis=2), weights / weights.sum()


def count(filling, weights) -> float:
    return float(np.einsum("skn,k->", filling.occupations, weights))


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("width", [0.0, 1e-3, 0.05, 0.4, 3.0])
@pytest.mark.parametrize("name", SMOOTH)
def test_occupations_sum_to_the_electrons(name, width, seed) -> None:
    energies, weights = levels(seed, n_spins=1 + seed % 2)
    g = 2 if seed % 2 == 0 else 1
    for n_electrons in (0.37, 2.0, 5.0, 7.77, 11.999):
        filling = fill(energies, weights, n_electrons, Smearing(name, width), degeneracy=g)
        assert abs(count(filling, weights) - n_electrons) <= 1e-9


@pytest.mark.parametrize("order", [0, 1, 2, 3])
def test_methfessel_paxton_orders(order) -> None:
    energies, weights = levels(11)
    filling = fill(energies, weights, 5.3, Smearing("methfessel-paxton", 0.5, order))
    assert abs(count(filling, weights) - 5.3) <= 1e-9
    if order == 0:
        assert filling.fermi_level == pytest.approx(
            fill(energies, weights, 5.3, Smearing("gaussian", 0.5)).fermi_level
        )


@pytest.mark.parametrize(
    "smearing",
    [Smearing("fermi-dirac", 1), Smearing("gaussian", 1), Smearing("marzari-vanderbilt", 1)]
    + [Smearing("methfessel-paxton", 1, n) for n in (1, 2, 3)],
    ids=lambda s: f"{s.name}-{s.order}",
)
def test_fractions_are_integrals_of_a_unit_delta(smearing) -> None:
    """f(-∞) = 1, f(∞) = 0; the second moment of -df/dx vanishes beyond Fermi-Dirac and Gaussian."""
    assert smearing.fraction(np.array([-60.0, 60.0])) == pytest.approx([1.0, 0.0], abs=1e-15)

    def moment(n: int) -> float:
        """∫ x^n (-df/dx) dx by parts: ∫ n x^(n-1) (f - θ(-x)) dx."""
        left = quad(lambda x: n * x ** (n - 1) * (smearing.fraction(x) - 1), -40, 0, limit=200)[0]
        return left + quad(lambda x: n * x ** (n - 1) * smearing.fraction(x), 0, 40, limit=200)[0]

    assert moment(1) == pytest.approx(0.0, abs=1e-8)
    second = {"fermi-dirac": np.pi**2 / 3, "gaussian": 0.5}.get(smearing.name, 0.0)
    assert moment(2) == pytest.approx(second, abs=1e-7)


@pytest.mark.parametrize("name", SMEARINGS)
@pytest.mark.parametrize("width", [0.0, 0.01, 0.1])
def test_insulator_is_at_mid_gap(name, width) -> None:
    """Levels symmetric about the gap, 4 eV wide: -3, -2 | 2, 3."""
    energies = np.array([[[-3.0, 2.0], [-2.0, 3.0]]])
    filling = fill(energies, np.array([0.5, 0.5]), 2.0, Smearing(name, width))
    assert filling.fermi_level == pytest.approx(0.0, abs=1e-6)
    np.testing.assert_allclose(filling.occupations, [[[2, 0], [2, 0]]], atol=1e-7)


def test_mid_gap_when_width_is_far_below_the_gap_and_levels_are_lopsided() -> None:
    energies = np.array([[[-1.0, -1.0, -1.0, 4.0]]])
    for name in SMOOTH:
        found = fill(energies, np.ones(1), 6.0, Smearing(name, 1e-3)).fermi_level
        assert found == pytest.approx(1.5, abs=2e-3)


def test_metal_at_zero_width() -> None:
    energies = np.array([[[0.0], [1.0], [2.0], [3.0]]])
    weights = np.full(4, 0.25)
    filling = fill(energies, weights, 0.75, Smearing("gaussian", 0.0))
    assert filling.fermi_level == 1.0
    np.testing.assert_allclose(filling.occupations.ravel(), [2, 1, 0, 0])
    degenerate = fill(np.array([[[0.0, 1.0, 1.0, 1.0]]]), np.ones(1), 4.0, Smearing("gaussian", 0.0))
    np.testing.assert_allclose(degenerate.occupations.ravel(), [2, 2 / 3, 2 / 3, 2 / 3])


def test_fixed() -> None:
    energies, weights = levels(3)
    filling = fill(energies, weights, 4.0, Smearing("fixed"))
    np.testing.assert_array_equal(filling.occupations, np.broadcast_to([2, 2, 0, 0, 0, 0], energies.shape))
    assert filling.fermi_level == pytest.approx(0.5 * (energies[..., 1].max() + energies[..., 2].min()))
    for bad in (3.0, 4.5):
        with pytest.raises(ValueError, match=r"divisible by 2.*fermi-dirac"):
            fill(energies, weights, bad, Smearing("fixed"))


def test_fixed_magnetic_insulator() -> None:
    """Three electrons in a polarised pair of channels: two up, one down."""
    energies = np.array([[[-2.0, -1.0, 5.0]], [[-1.5, 3.0, 6.0]]])
    filling = fill(energies, np.ones(1), 3.0, Smearing("fixed"), degeneracy=1)
    np.testing.assert_array_equal(filling.occupations, [[[1, 1, 0]], [[1, 0, 0]]])
    assert filling.fermi_level == pytest.approx(1.0)


@pytest.mark.parametrize("name", SMEARINGS)
def test_full_and_empty(name) -> None:
    energies, weights = levels(4)
    for n_electrons in (0.0, 12.0):
        filling = fill(energies, weights, n_electrons, Smearing(name, 0.1))
        assert count(filling, weights) == pytest.approx(n_electrons, abs=1e-9)
        assert np.isfinite(filling.fermi_level)


@pytest.mark.parametrize("n_electrons", [12.1, 40.0, -1.0, np.nan])
@pytest.mark.parametrize("name", SMEARINGS)
def test_impossible_counts(name, n_electrons) -> None:
    energies, weights = levels(5)
    with pytest.raises(ValueError, match="expected 0 to 12, the states of the basis"):
        fill(energies, weights, n_electrons, Smearing(name, 0.1))


def test_non_monotonic_roots_stay_near_the_gaussian_one() -> None:
    energies, weights = levels(8, n_kpts=40)
    for width in (0.05, 0.5):
        reference = fill(energies, weights, 5.5, Smearing("gaussian", width)).fermi_level
        for name in ("methfessel-paxton", "marzari-vanderbilt"):
            assert (
                abs(fill(energies, weights, 5.5, Smearing(name, width)).fermi_level - reference) < 2 * width
            )


def test_shift_of_levels_shifts_the_fermi_level() -> None:
    energies, weights = levels(9)
    for name in SMEARINGS:
        ours, theirs = (
            fill(energies + c, weights, 4.0, Smearing(name, 0.2)).fermi_level for c in (0.0, 12.5)
        )
        assert theirs - ours == pytest.approx(12.5, abs=1e-8)


@pytest.mark.parametrize(
    "occupations",
    [
        {"name": "nonsense"},
        {"width": 0.1},
        {"name": "gaussian", "width": -1},
        {"name": "gaussian", "sigma": 1},
        "gaussian",
    ],
)
def test_bad_words(occupations) -> None:
    with pytest.raises(ValueError, match="occupations:"):
        Smearing.from_dict(occupations)
