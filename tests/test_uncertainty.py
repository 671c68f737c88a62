"""The spread of a committee: known deviations, gauge, first order against explicit solutions, invariance."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, graphene

from ase_deeph.eigen import solve_dense
from ase_deeph.electronic_structure import ElectronicStructure
from ase_deeph.matrix import RealSpaceMatrix
from ase_deeph.sources import Committee
from ase_deeph.uncertainty import HamiltonianSpread, Uncertainty
from ase_deeph.uncertainty_levels import first_order, level_spread
from tests.systems import SP_D, dimer_chain, graphene_pz, random_crystal, random_matrix
from tests.toys import Huckel

GENERIC = [0.137, 0.291, 0.413]
WEAK, STRONG = 1.70, 1.80


def committee(*strengths: float) -> Committee:
    return Committee([Huckel(strength=k) for k in strengths])


def wrinkled() -> Atoms:
    atoms = graphene(vacuum=6.0)
    atoms.pbc = (True, True, False)
    atoms.rattle(0.08, seed=3)
    return atoms


def noise(like: RealSpaceMatrix, seed: int, size: float = 1.0) -> RealSpaceMatrix:
    return random_matrix(like.atoms, SP_D, 4.5, np.random.default_rng(seed), size)


class TestHamiltonian:
    def test_a_shift_of_the_zero_is_no_disagreement(self) -> None:
        spread = Committee([Huckel(), Huckel(shift=0.2)]).spread(wrinkled())
        assert spread.shifts == pytest.approx([-0.1, 0.1], abs=1e-12)
        assert spread.mean_absolute == pytest.approx(0.0, abs=1e-12)
        assert spread.block_deviations().max() < 1e-12

    def test_identical_members_agree(self) -> None:
        members = [Huckel()(wrinkled())] * 3
        spread = HamiltonianSpread.gauge_fixed(members, None)
        assert spread.rms < 1e-14
        structure = ElectronicStructure(spread.mean, kpts=(3, 3, 1))
        found = Uncertainty(spread, (), structure)
        assert np.abs(found.eigenvalues).max() < 1e-12
        assert (found.fermi_level, found.band_gap) == pytest.approx((0.0, 0.0), abs=1e-9)

    def test_blocks_by_hand(self) -> None:
        h, _ = random_crystal()
        difference = np.zeros_like(h.entries)
        n = int(np.nonzero(~h.pairs.on_site)[0][0])
        for pair in (n, h.pairs.reverse[n]):
            difference[h.offsets[pair] : h.offsets[pair + 1]] = 0.3
        members = [replace(h, entries=h.entries + sign * difference) for sign in (1, -1)]
        spread = HamiltonianSpread.gauge_fixed(members, None)
        expected = np.where(np.isin(np.arange(len(h.pairs)), (n, h.pairs.reverse[n])), 0.3, 0.0)
        np.testing.assert_allclose(spread.block_deviations(), expected, atol=1e-12)
        assert spread.mean_absolute == pytest.approx(np.abs(difference).mean())
        assert spread.rms == pytest.approx(np.sqrt(np.mean(difference**2)))
        np.testing.assert_allclose(spread.standard_deviation().entries, difference, atol=1e-12)

    def test_three_members_of_known_variance(self) -> None:
        h, s = random_crystal()
        d = noise(h, 1)
        d = HamiltonianSpread.gauge_fixed([d, -d], s).deviations[0]
        spread = HamiltonianSpread.gauge_fixed([h, h + d * 3.0, h - d * 3.0 + s * 5.0], s)
        assert spread.rms == pytest.approx(3.0 * np.sqrt(2 / 3 * np.mean(d.entries**2)))
        assert spread.shifts == pytest.approx([-5 / 3, -5 / 3, 10 / 3])

    def test_members_may_differ_in_range(self) -> None:
        near, far = graphene_pz(n=2)[0].cut(1.0), graphene_pz(n=2)[0]
        spread = HamiltonianSpread.gauge_fixed([near, far], None)
        assert spread.mean.pairs == far.pairs
        bonds = ~far.pairs.on_site
        np.testing.assert_allclose(spread.block_deviations()[bonds], 2.7 / 2)

    def test_one_member_is_no_committee(self) -> None:
        with pytest.raises(ValueError, match="two or more members, received 1"):
            committee(WEAK).spread(wrinkled())

    def test_supercell_and_rotation(self) -> None:
        atoms = wrinkled()
        turned = atoms.copy()
        turned.rotate(37.0, (1.0, 2.0, -0.5), rotate_cell=True)
        large = atoms * (2, 2, 1)
        here, there, many = (committee(WEAK, STRONG).spread(a) for a in (atoms, turned, large))
        assert here.rms > 0.01
        assert there.rms == pytest.approx(here.rms, rel=1e-9)
        assert there.mean_absolute == pytest.approx(here.mean_absolute, rel=0.2)
        np.testing.assert_allclose(
            np.sort(there.block_deviations()), np.sort(here.block_deviations()), atol=1e-9
        )
        assert many.rms == pytest.approx(here.rms, rel=1e-9)
        assert many.mean_absolute == pytest.approx(here.mean_absolute, rel=1e-9)

    def test_levels_of_a_supercell(self) -> None:
        small, large = (
            _uncertainty(atoms, committee(WEAK, STRONG), kpts)
            for atoms, kpts in ((wrinkled(), (4, 4, 1)), (wrinkled() * (2, 2, 1), (2, 2, 1)))
        )
        assert small.fermi_level > 0.01
        assert large.fermi_level == pytest.approx(small.fermi_level, rel=0.02)
        assert large.levels.rms() == pytest.approx(small.levels.rms(), rel=0.02)


def _uncertainty(atoms: Atoms, who: Committee, kpts: tuple[int, int, int]) -> Uncertainty:
    spread = who.spread(atoms)
    structure = ElectronicStructure(
        spread.mean, who.overlap(atoms, spread.mean), kpts=kpts, symmetry="time-reversal"
    )
    return Uncertainty(spread, (), structure)


def collinear(h: RealSpaceMatrix) -> RealSpaceMatrix:
    other = noise(h, 7)
    return replace(h, entries=np.stack([h.entries, h.entries + 0.4 * other.entries]), spin="collinear")


def spinor(h: RealSpaceMatrix) -> RealSpaceMatrix:
    """H ⊗ 1 + 0.3 V ⊗ σ_y: a Zeeman field along y, which is complex."""
    sigma = np.array([[0.0, -1j], [1j, 0.0]])
    blocks = [np.kron(np.eye(2), a) + np.kron(sigma, 0.3 * a) for a in h.blocks()]
    return RealSpaceMatrix.from_blocks(h.basis, h.pairs, h.atoms, blocks, "spinor")


class TestFirstOrder:
    @pytest.mark.parametrize("dress", [lambda h: h, collinear, spinor], ids=["none", "collinear", "spinor"])
    def test_against_each_members_own_levels(
        self, dress: Callable[[RealSpaceMatrix], RealSpaceMatrix]
    ) -> None:
        """The error of first order falls with the square of the deviation."""
        h, s = random_crystal()
        errors = []
        for size in (2e-3, 1e-3):
            members = [dress(h + noise(h, seed, size)) for seed in (1, 2, 3)]
            spread = HamiltonianSpread.gauge_fixed(members, s)
            structure = ElectronicStructure(spread.mean, s)
            energies, shifts = first_order(structure, spread.deviations, np.array(GENERIC))
            explicit = np.stack(
                [
                    ElectronicStructure(m, structure.overlap).eigenvalues([GENERIC])[:, 0] - mu
                    for m, mu in zip(members, spread.shifts, strict=True)
                ]
            )
            errors.append(np.abs(explicit - energies - shifts).max())
            assert np.abs(shifts).max() > 30 * errors[-1]
        assert errors[0] / errors[1] == pytest.approx(4.0, rel=0.25)

    def test_degenerate_levels(self) -> None:
        """Diamond's three-fold levels at Γ, split by a member that breaks the symmetry."""
        atoms = bulk("C")
        h = Huckel()(atoms)
        s = Committee(Huckel()).overlap(atoms, h)
        broken = atoms.copy()
        broken.positions[1] += [1e-4, 2e-4, -3e-4]
        other = replace(Huckel()(broken).restricted_to(h.pairs), atoms=atoms)
        spread = HamiltonianSpread.raw([h, other])
        structure = ElectronicStructure(h, s)
        deviation = other - h
        energies, shifts = first_order(structure, [deviation], np.zeros(3))
        gamma = [0.0, 0.0, 0.0]
        explicit, _ = solve_dense(other.at_k(gamma), s.at_k(gamma))
        assert np.diff(energies[0])[1:3] == pytest.approx(0.0, abs=1e-6)
        assert np.abs(shifts[0, 0]).max() > 2e-4
        np.testing.assert_allclose(energies[0] + shifts[0, 0], explicit, atol=2e-5)
        assert spread.rms > 0

    def test_near_degeneracy_needs_no_denominator(self) -> None:
        """Two levels 1 meV apart, coupled by 5 meV: not first order in each, exact in the pair."""
        h = dimer_chain(-0.0005, 0.0)
        nothing = h * 0.0
        coupling = replace(h, entries=np.where(h.pairs.on_site, np.where(h.pairs.i == 0, 0.005, -0.005), 0.0))
        structure = ElectronicStructure(h, kpts=(1, 1, 1))
        energies, shifts = first_order(structure, [coupling, nothing], np.zeros(3))
        levels = np.hypot(0.0005, 0.005) * np.array([-1, 1])
        np.testing.assert_allclose(energies[0] + shifts[0, 0], levels, atol=1e-12)
        np.testing.assert_allclose(shifts[1], 0.0, atol=1e-15)

    def test_fermi_level_and_gap(self) -> None:
        """Gap 2 ||t1| − |t2|| of the dimer chain: t1 ± 0.01 eV spreads it by 0.02 eV, and not the Fermi level."""
        members = [dimer_chain(t1=-1.51), dimer_chain(t1=-1.49)]
        spread = HamiltonianSpread.gauge_fixed(members, None)
        mesh = {"size": (8, 1, 1), "gamma": True}
        structure = ElectronicStructure(spread.mean, kpts=mesh, occupations={"name": "fixed"})
        found = Uncertainty(spread, (), structure)
        assert found.band_gap == pytest.approx(0.02, abs=1e-9)
        assert found.fermi_level == pytest.approx(0.0, abs=1e-9)
        assert found.levels.band_gaps == pytest.approx([2.02, 1.98])
        assert found.eigenvalues.shape == structure.mesh_eigenvalues.shape
        np.testing.assert_allclose(found.eigenvalues[:, :, 0], found.eigenvalues[:, :, 1])

    def test_window_takes_the_common_shift_out(self) -> None:
        h = dimer_chain()
        on_site = replace(h, entries=np.where(h.pairs.on_site, 0.1, 0.0))
        structure = ElectronicStructure(h, kpts=(4, 1, 1), occupations={"name": "fixed"})
        levels = level_spread(structure, [on_site, -on_site])
        assert levels.standard_deviation == pytest.approx(0.1)
        assert levels.fermi_level_deviation == pytest.approx(0.1)
        assert levels.rms() == pytest.approx(0.0, abs=1e-12)
        assert np.isnan(levels.rms(window=0.5))
