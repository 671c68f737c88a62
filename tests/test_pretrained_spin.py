"""The shipped models with spin against GPAW's own H on structures they never saw (tests/data, float32)."""

import logging
from pathlib import Path

import numpy as np
import pytest

from ase_deeph import DeepHCalculator
from ase_deeph.eigen import solve
from ase_deeph.electronic_structure import ElectronicStructure
from ase_deeph.exporters.z2 import z2_invariant
from ase_deeph.io.dataset import read_dataset
from ase_deeph.matrix import RealSpaceMatrix
from ase_deeph.model import HamiltonianModel
from ase_deeph.pauli import from_pauli, pauli_parts
from ase_deeph.pretrained import load
from ase_deeph.reference import ReferenceData
from ase_deeph.spin_states import spin_states
from trainers.evaluate import evaluate

DATA = Path(__file__).parent / "data"
CHAINS, LAYERS = DATA / "hydrogen_chains.h5", DATA / "bismuth_layers.h5"


@pytest.fixture(scope="module")
def chain() -> HamiltonianModel:
    return load("hydrogen-chain-lda")


@pytest.fixture(scope="module")
def layer() -> HamiltonianModel:
    return load("bismuth-layer-pbe-soc")


class TestHydrogenChains:
    """Radicals with moments up and down: H of each spin channel from the signs of the moments."""

    def test_each_channel_within_one_milli_electron_volt(self, chain: HamiltonianModel) -> None:
        """All 16 held-out chains, which chose nothing; |H| itself differs between the channels by half an eV."""
        errors = evaluate(chain, CHAINS, kpts={"density": 2.0, "gamma": True}).to_dict()["spin"]
        assert errors["mean_abs_exchange_meV"]["mean"] > 100
        assert errors["mae_up_meV"]["mean"] <= 1.0
        assert errors["mae_down_meV"]["mean"] <= 1.0

    def test_moments_of_another_size_are_told(
        self, chain: HamiltonianModel, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Training knew ±1 μB as what a calculation starts from, not the moments that it ends with."""
        atoms = next(iter(read_dataset([CHAINS])))[1].atoms
        atoms.calc = DeepHCalculator(chain)
        with caplog.at_level(logging.WARNING, "ase_deeph"):
            atoms.get_magnetic_moments()
            assert not caplog.records
            atoms.set_initial_magnetic_moments(0.86 * atoms.get_initial_magnetic_moments())
            atoms.calc.get_hamiltonian(atoms)
        assert "in training always 1 μB" in caplog.text

    def test_turned_moments_swap_the_channels(self, chain: HamiltonianModel) -> None:
        atoms = next(iter(read_dataset([CHAINS])))[1].atoms
        turned = atoms.copy()
        turned.set_initial_magnetic_moments(-atoms.get_initial_magnetic_moments())
        before, after = chain(atoms).entries, chain(turned).entries
        assert np.array_equal(before[0], after[1])
        assert np.array_equal(before[1], after[0])
        assert np.abs(before[0] - before[1]).max() > 0.5


class TestBismuthLayers:
    """Spin-orbit coupling without moments: Kramers pairs, and the splitting of the p_xy doublet at Γ."""

    @pytest.mark.parametrize("name", ["layer-1x1-000", "layer-1x1-001", "layer-1x1-002", "perfect-000"])
    def test_splitting_at_gamma_to_five_per_cent(self, layer: HamiltonianModel, name: str) -> None:
        """Distances of the two highest occupied Kramers pairs, 0.66 to 0.94 eV, all of it spin-orbit coupling."""
        reference = _reference(name)
        ours = _pairs_at_gamma(layer(reference.atoms, dtype="float64"), reference)
        theirs = _pairs_at_gamma(reference.hamiltonian, reference)
        assert theirs[1] - theirs[0] > 0.6
        assert ours[1] - ours[0] == pytest.approx(theirs[1] - theirs[0], rel=0.05)

    def test_time_reversal(self, layer: HamiltonianModel) -> None:
        """A_0 real, A_s imaginary to the bit; the levels in pairs."""
        reference = _reference("layer-2x1-000")
        h = layer(reference.atoms, dtype="float64")
        parts = pauli_parts(h)
        assert np.abs(parts[0].imag).max() == 0.0
        assert np.abs(parts[1:].real).max() == 0.0
        levels = solve(h, reference.overlap, np.zeros((1, 3)), vectors=False).eigenvalues[0, 0]
        assert np.abs(levels[::2] - levels[1::2]).max() <= 1e-9

    def test_spin_of_split_bands(self, layer: HamiltonianModel) -> None:
        """Four displaced atoms have no inversion: at a general k every level stands alone, with a spin of its own."""
        reference, k = _reference("layer-2x1-000"), [[0.13, 0.21, 0.0]]
        ours, theirs = (
            spin_states(ElectronicStructure(h, reference.overlap, reference.n_electrons), k)
            for h in (layer(reference.atoms, dtype="float64"), reference.hamiltonian)
        )
        n = round(reference.n_electrons)
        near = slice(n - 8, n + 4)
        apart = np.diff(theirs.energies[0, 0])[near] > 0.02
        assert apart.sum() > 3
        difference = (ours.energies - theirs.energies)[0, 0, near]
        assert np.ptp(difference) < 0.03, "levels but for the model's free zero"
        alone = np.nonzero(apart[1:] & apart[:-1])[0] + n - 7
        assert np.abs(theirs.spins[0, 0, alone]).max() > 0.3
        assert np.abs(ours.spins - theirs.spins)[0, 0, alone].max() < 0.2

    def test_kramers_pairs_have_no_spin_in_single_precision(self, layer: HamiltonianModel) -> None:
        """With inversion, which every layer of two equal atoms has."""
        atoms = _reference("perfect-000").atoms
        es = DeepHCalculator(layer, kpts=(3, 3, 1)).get_electronic_structure(atoms)
        path = atoms.cell.bandpath("GMK", npoints=12, pbc=atoms.pbc)
        assert np.abs(spin_states(es, path).spins).max() < 1e-3

    @pytest.mark.parametrize(("strength", "invariant"), [(1.0, 1), (0.5, 0)])
    def test_the_coupling_makes_it_a_quantum_spin_hall_insulator(
        self, layer: HamiltonianModel, strength: float, invariant: int
    ) -> None:
        """Half the spin-orbit coupling does not invert the bands."""
        pytest.importorskip("pythtb")
        atoms = _reference("perfect-000").atoms
        h = layer(atoms, dtype="float64")
        parts = pauli_parts(h)
        parts[1:] *= strength
        weakened = from_pauli(h.basis, h.pairs, atoms, parts, "spinor")
        es = ElectronicStructure(weakened, layer.overlap(atoms), kpts=(4, 4, 1))
        assert z2_invariant(es.orthogonalized(9.0), mesh=(13, 11)) == invariant


def _reference(name: str) -> ReferenceData:
    return dict(read_dataset([LAYERS]))[name]


def _pairs_at_gamma(h: RealSpaceMatrix, reference: ReferenceData) -> np.ndarray:
    """(2,) energies of the two highest occupied Kramers pairs, eV."""
    levels = solve(h, reference.overlap, np.zeros((1, 3)), vectors=False).eigenvalues[0, 0]
    n = round(reference.n_electrons)
    return levels[[n - 4, n - 2]]
