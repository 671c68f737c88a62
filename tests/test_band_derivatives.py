"""Velocities and masses: closed forms, and differences of the eigenvalues, degenerate levels included."""

from __future__ import annotations

import numpy as np
import pytest
from ase.build import bulk

from ase_deeph import DeepHCalculator, ElectronicStructure, RealSpaceMatrix
from ase_deeph.band_derivatives import HBAR2_OVER_ME, EffectiveMass
from ase_deeph.electronic_structure import spinor_overlap
from tests.invariants import GENERIC
from tests.systems import chain, graphene_pz, random_crystal, square
from tests.toys import Huckel

STEP = 2e-4


def shifted(
    structure: ElectronicStructure, kpts: np.ndarray, direction: np.ndarray, steps: int
) -> np.ndarray:
    """Levels at k + steps · 2e-4 Å^-1 along a Cartesian direction."""
    dk = structure.atoms.cell.array @ np.asarray(direction) / (2 * np.pi)
    return structure.eigenvalues(np.atleast_2d(kpts) + steps * STEP * dk)


def test_a_chain_in_closed_form() -> None:
    """e = (e0 + 2 t cos θ) / (1 + 2 s cos θ), θ = k a."""
    t, s, e0, a = -1.3, 0.15, 0.4, 2.0
    structure = ElectronicStructure(*chain(t, s, e0))
    kpts = np.array([[0.0, 0, 0], [0.13, 0, 0], [0.5, 0, 0]])
    cos, sin = np.cos(2 * np.pi * kpts[:, 0]), np.sin(2 * np.pi * kpts[:, 0])
    below, slope = 1 + 2 * s * cos, -2 * a * (t - e0 * s)
    assert np.allclose(structure.group_velocities(kpts)[0, :, 0, 0], slope * sin / below**2)
    curvature = slope * a * (cos * below + 4 * s * sin**2) / below**3
    assert np.allclose(structure.curvatures(kpts, [1, 0, 0])[0, :, 0], curvature)
    mass = structure.effective_mass([0, 0, 0], 0)
    assert mass.along(np.array([1, 0, 0])) == pytest.approx(HBAR2_OVER_ME / curvature[0])
    masses, axes = mass.principal
    assert np.isinf(masses).sum() == 2
    assert np.abs(axes[~np.isinf(masses)][0, 0]) == pytest.approx(1.0)
    assert mass.along(np.array([0, 1, 0])) == np.inf


def test_a_free_electron_like_square() -> None:
    """2 t (cos k1 + cos k2): the mass is ħ²/(2 |t| a²) in the plane, of the other sign at the corner."""
    structure = ElectronicStructure(square(-0.8))
    expected = HBAR2_OVER_ME / (2 * 0.8 * 4.0)
    bottom, top = (structure.effective_mass([x, x, 0], 0) for x in (0.0, 0.5))
    assert np.allclose(np.diag(bottom.inverse), [1 / expected, 1 / expected, 0])
    assert np.allclose(top.inverse, -bottom.inverse)
    assert np.allclose(bottom.velocity, 0.0)
    assert (bottom.energy, top.energy) == pytest.approx((-3.2, 3.2))


def test_dirac_cones_of_graphene() -> None:
    """At K the two levels meet; dε/dk = ± (3/2) d t (1 - e s/t ...), e = 0 there, in every direction."""
    t = -2.7
    structure = ElectronicStructure(*graphene_pz(t, 0.1), n_electrons=2)
    corner = [[1 / 3, 1 / 3, 0]]
    d = 2.46 / np.sqrt(3)
    velocities = structure.group_velocities(corner)[0, 0]
    for axis in (0, 1):
        assert np.allclose(velocities[:, axis], [1.5 * d * t, -1.5 * d * t], rtol=1e-3)
    assert np.allclose(velocities[:, 2], 0.0)
    with pytest.raises(ValueError, match="bands 0 to 1 are degenerate"):
        structure.effective_mass(corner[0], 0)


@pytest.mark.parametrize("kind", ["none", "collinear", "spinor"])
def test_central_differences(kind: str) -> None:
    h, s = random_crystal(4)
    if kind == "collinear":
        h = RealSpaceMatrix(h.basis, h.pairs, h.atoms, np.stack([h.entries, 1.3 * h.entries]), "collinear")
    structure = ElectronicStructure(spinor_overlap(h) if kind == "spinor" else h, s)
    for direction in ([1.0, 0, 0], [0.6, 0, 0.8]):
        plus, here, minus = (shifted(structure, GENERIC, direction, n) for n in (1, 0, -1))
        velocities = structure.group_velocities(GENERIC) @ np.array(direction)
        if kind != "spinor":
            assert np.allclose(velocities, (plus - minus) / (2 * STEP), atol=1e-5)
        found = structure.curvatures(GENERIC, direction)
        expected = (plus + minus - 2 * here) / STEP**2
        assert np.allclose(found, expected, atol=2e-4 * max(1.0, np.abs(expected).max()))


def test_the_tensor_is_the_hessian() -> None:
    structure = ElectronicStructure(*random_crystal(4))
    k = GENERIC[0]
    mass = structure.effective_mass(k, 3)
    assert isinstance(mass, EffectiveMass)
    for direction in ([0.0, 0.6, 0.8], [0.48, 0.6, -0.64]):
        along = structure.curvatures(k, direction)[0, 0, 3]
        assert np.array(direction) @ mass.inverse @ direction * HBAR2_OVER_ME == pytest.approx(along)
    assert np.allclose(mass.velocity, structure.group_velocities(k)[0, 0, 3])
    values, axes = mass.principal
    assert np.allclose(axes.T @ np.diag(1 / values) @ axes, mass.inverse)


def test_degenerate_levels_of_diamond() -> None:
    """Threefold levels at Γ and twofold ones along ΓX, by differences of the sorted levels ahead and behind."""
    atoms = bulk("C")
    structure = DeepHCalculator(Huckel(), kpts=(2, 2, 2)).get_electronic_structure(atoms)
    assert np.ptp(structure.eigenvalues([[0, 0, 0]])[0, 0, 1:4]) < 1e-7
    for k in ([0, 0, 0], [0.25, 0.25, 0.0]):
        for direction in ([1.0, 0, 0], [0, 0, 1.0], [0.36, 0.48, 0.8]):
            f = [shifted(structure, np.array(k), direction, 5 * n)[0, 0] for n in range(4)]
            ahead = (2 * f[0] - 5 * f[1] + 4 * f[2] - f[3]) / (5 * STEP) ** 2
            found = structure.curvatures(k, direction)[0, 0]
            assert np.allclose(found, ahead, atol=2e-3 * np.abs(found).max())
    slopes = structure.group_velocities([[0.25, 0.25, 0.0]])[0, 0]
    for axis in range(3):
        f = [shifted(structure, np.array([0.25, 0.25, 0.0]), np.eye(3)[axis], n)[0, 0] for n in range(3)]
        assert np.allclose(slopes[:, axis], (4 * f[1] - 3 * f[0] - f[2]) / (2 * STEP), atol=1e-4)


def test_what_has_no_mass() -> None:
    structure = ElectronicStructure(*random_crystal())
    with pytest.raises(ValueError, match="band below"):
        structure.effective_mass([0, 0, 0], 99)
    with pytest.raises(ValueError, match="spin below 1"):
        structure.effective_mass([0, 0, 0], 0, spin=1)
    with pytest.raises(ValueError, match="Cartesian vector"):
        structure.curvatures([0, 0, 0], [0, 0, 0])
