"""The shipped models with spin against GPAW's own H on structures they never saw (tests/data, float32)."""

from pathlib import Path

import numpy as np
import pytest

from ase_deeph.eigen import solve
from ase_deeph.io.dataset import read_dataset
from ase_deeph.matrix import RealSpaceMatrix
from ase_deeph.model import HamiltonianModel
from ase_deeph.pauli import pauli_parts
from ase_deeph.pretrained import load
from ase_deeph.reference import ReferenceData
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

    @pytest.mark.parametrize("number", range(4))
    def test_splitting_at_gamma_to_five_per_cent(self, layer: HamiltonianModel, number: int) -> None:
        """Distances of the two highest occupied Kramers pairs, 0.66 to 0.94 eV, all of it spin-orbit coupling."""
        reference = list(read_dataset([LAYERS]))[number][1]
        ours = _pairs_at_gamma(layer(reference.atoms, dtype="float64"), reference)
        theirs = _pairs_at_gamma(reference.hamiltonian, reference)
        assert theirs[1] - theirs[0] > 0.6
        assert ours[1] - ours[0] == pytest.approx(theirs[1] - theirs[0], rel=0.05)

    def test_time_reversal(self, layer: HamiltonianModel) -> None:
        """A_0 real, A_s imaginary to the bit; the levels in pairs."""
        reference = next(iter(read_dataset([LAYERS])))[1]
        h = layer(reference.atoms, dtype="float64")
        parts = pauli_parts(h)
        assert np.abs(parts[0].imag).max() == 0.0
        assert np.abs(parts[1:].real).max() == 0.0
        levels = solve(h, reference.overlap, np.zeros((1, 3)), vectors=False).eigenvalues[0, 0]
        assert np.abs(levels[::2] - levels[1::2]).max() <= 1e-9


def _pairs_at_gamma(h: RealSpaceMatrix, reference: ReferenceData) -> np.ndarray:
    """(2,) energies of the two highest occupied Kramers pairs, eV."""
    levels = solve(h, reference.overlap, np.zeros((1, 3)), vectors=False).eigenvalues[0, 0]
    n = round(reference.n_electrons)
    return levels[[n - 4, n - 2]]
