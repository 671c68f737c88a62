"""OrbitalBasis: counts, order, identity, and errors that name what is missing."""

import numpy as np
import pytest

from ase_deeph.basis import Augmentation, GaussianRadial, GridRadial, OrbitalBasis, SpeciesBasis

BASIS = OrbitalBasis({"C": SpeciesBasis((0, 1, 2), 4), "B": SpeciesBasis((0, 0, 1), 3)})


def test_counts_and_offsets():
    assert BASIS.symbols == ("B", "C")
    assert BASIS.n_orbitals("C") == 9
    assert BASIS.n_orbitals(["C", "B"]) == 14
    assert BASIS.offsets(["C", "B", "C"]).tolist() == [0, 9, 14, 23]
    assert BASIS.n_electrons(["C", "B"]) == 7
    assert BASIS["B"].shell_slices == (slice(0, 1), slice(1, 2), slice(2, 5))


def test_unknown_element_is_named():
    with pytest.raises(KeyError, match="'Xe' is not in this basis, which covers B, C"):
        BASIS.species_indices(["C", "Xe"])


def test_equality_and_hash_see_the_radial_functions():
    r = np.linspace(0, 3, 50)
    one = OrbitalBasis({"H": SpeciesBasis((0,), 1, (GridRadial(0, r, np.exp(-r) * (3 - r) ** 2),))})
    same = OrbitalBasis({"H": SpeciesBasis((0,), 1, (GridRadial(0, r, np.exp(-r) * (3 - r) ** 2),))})
    other = OrbitalBasis({"H": SpeciesBasis((0,), 1, (GridRadial(0, r, np.exp(-2 * r) * (3 - r) ** 2),))})
    assert one == same
    assert hash(one) == hash(same)
    assert one != other
    assert one.cutoff("H") == 3.0


def test_cutoff_without_radial_functions_says_so():
    with pytest.raises(ValueError, match="no radial functions"):
        BASIS.cutoff("C")


def test_grid_radial_interpolates_and_vanishes():
    r = np.linspace(0, 4, 200)
    f = GridRadial(1, r, r * (16 - r**2) ** 3)
    x = np.array([0.013, 1.234, 3.9, 4.0, 5.0])
    assert np.allclose(f(x), np.where(x < 4, x * np.maximum(16 - x**2, 0) ** 3, 0), atol=1e-3)


def test_gaussian_cutoff_bounds_the_tail():
    f = GaussianRadial(2, np.array([0.5, 2.0]), np.array([1.0, -0.3]))
    x = np.linspace(f.cutoff, f.cutoff + 3, 50)
    assert np.max(np.abs(f(x)) * x) <= 1e-9


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GridRadial(0, np.array([0.1, 1, 2, 3]), np.zeros(4)), "starts at 0"),
        (lambda: GridRadial(0, np.array([0.0, 1, 2, 3]), np.array([0, np.nan, 0, 0])), "NaN"),
        (lambda: GaussianRadial(0, np.array([-1.0]), np.array([1.0])), "positive exponents"),
        (lambda: SpeciesBasis((), 1), "at least one"),
        (lambda: SpeciesBasis((0, 1), 4, (GaussianRadial(0, np.ones(1), np.ones(1)),)), "expected l ="),
        (lambda: Augmentation((), np.zeros((1, 1))), "delta_overlap"),
        (lambda: OrbitalBasis({}), "at least one species"),
    ],
)
def test_bad_input_gets_one_clear_line(make, message):
    with pytest.raises(ValueError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)
