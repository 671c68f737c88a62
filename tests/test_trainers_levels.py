"""The loss on levels: first-order shifts against eigenvalues, batches against single structures, a gauge shift."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("pydantic")

from ase_deeph.eigen import solve
from ase_deeph.matrix import RealSpaceMatrix
from ase_deeph.network.config import NetworkConfig
from trainers.config import LossConfig
from trainers.dataset import Batches
from trainers.levels import LevelStates, level_losses, level_shifts, level_states
from trainers.structures import Structure, make_structure

from .training_data import CUTOFF, hueckel, rattled_graphene, sp_basis

LOSS = LossConfig(gauge="fixed", level_weight=1.0, level_window=50.0, level_kpts=1, levels_per_step=100)


def example(cells: int, loss: LossConfig = LOSS) -> tuple[Structure, RealSpaceMatrix, RealSpaceMatrix]:
    """A structure with all its states at one k, its H and its S."""
    basis = sp_basis()
    data = hueckel(rattled_graphene(cells, cells), basis)
    assert data.overlap is not None
    data = replace(data, overlap=data.overlap.cut(CUTOFF))
    structure = make_structure(
        f"sheet{cells}", data, basis, NetworkConfig(cutoff=CUTOFF), tolerance=0.0, dtype=np.float32
    )
    states = level_states(structure.name, data, cutoff=CUTOFF, n_padded=basis.max_orbitals, config=loss)
    assert data.hamiltonian is not None
    assert data.overlap is not None
    return replace(structure, states=states), data.hamiltonian, data.overlap


def shifts_of(batches: Batches, residuals: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """First-order shifts and losses of the first batch under some residual blocks."""
    batch = batches.make(list(range(len(residuals))), (0, 0))
    blocks = np.zeros_like(batch.target)
    blocks[: sum(len(r) for r in residuals)] = np.concatenate(residuals)
    assert batch.levels is not None
    shifts = level_shifts(
        blocks, batch.graph.i, batch.graph.j, batch.levels, batch.structure, batches.batch_size
    )
    return np.asarray(shifts), np.asarray(level_losses(shifts, batch.levels))


def random_error(h: RealSpaceMatrix, seed: int) -> RealSpaceMatrix:
    """A Hermitian error of H of about 1 eV."""
    entries = np.random.default_rng(seed).standard_normal(h.entries.shape)
    return replace(h, entries=entries).hermitian_part()


def test_shifts_are_the_derivative_of_the_eigenvalues() -> None:
    structure, h, s = example(2)
    error, step = random_error(h, 1), 1e-5
    size = structure.target.shape[1]
    found, _ = shifts_of(Batches([structure], 1, 1, 100), [error.padded_blocks(size).astype(np.float32)])
    rng = np.random.default_rng(np.frombuffer(structure.name.encode(), dtype=np.uint8))
    kpts = rng.uniform(-0.5, 0.5, size=(1, 3)) * h.atoms.pbc
    up, down = (solve(h + error * t, s, kpts).eigenvalues[0, 0] for t in (step, -step))
    n = len(up)
    np.testing.assert_allclose(found[0, :n], (up - down) / (2 * step), atol=2e-4)
    assert not found[0, n:].any()


def test_a_multiple_of_the_overlap_shifts_every_level_by_it() -> None:
    structure, _, _ = example(1)
    found, losses = shifts_of(Batches([structure], 1, 1, 100), [0.3 * structure.overlap])
    there = found[0][found[0] != 0]
    np.testing.assert_allclose(there, 0.3, atol=1e-5)
    np.testing.assert_allclose(losses, 0.3, atol=1e-5)


def test_a_batch_of_structures_is_each_of_them_alone() -> None:
    made = [example(n) for n in (1, 2)]
    size = made[0][0].target.shape[1]
    errors = [random_error(h, n).padded_blocks(size).astype(np.float32) for n, (_, h, _) in enumerate(made)]
    _, together = shifts_of(Batches([s for s, *_ in made], 2, 1, 100), errors)
    alone = [shifts_of(Batches([s], 1, 1, 100), [e])[1][0] for (s, *_), e in zip(made, errors, strict=True)]
    np.testing.assert_allclose(together, alone, rtol=1e-4)


def test_the_window_and_the_number_drawn_bound_the_states() -> None:
    narrow = LOSS.model_copy(update={"level_window": 6.0, "level_kpts": 3})
    structure, h, _ = example(2, narrow)
    assert isinstance(structure.states, LevelStates)
    counts = [c.shape[2] for c in structure.states.coefficients]
    assert len(counts) == 3
    assert 0 < max(counts) < h.n_orbitals
    drawn, phases = structure.states.draw(np.random.default_rng(3), 2)
    assert drawn.shape[2] == 2
    assert np.abs(np.abs(phases) - 1).max() < 1e-6
    batches = Batches([structure], 1, 1, 2)
    first, again = (next(iter(batches.epoch(7, 0)))[1].levels for _ in range(2))
    assert first is not None
    assert again is not None
    np.testing.assert_array_equal(first.coefficients, again.coefficients)


def test_data_without_an_electron_number_are_refused() -> None:
    basis = sp_basis()
    data = hueckel(rattled_graphene(1, 0), basis)
    assert data.hamiltonian is not None
    silent = replace(data, n_electrons=None, hamiltonian=None)
    with pytest.raises(ValueError, match="needs H and S"):
        level_states("a", silent, cutoff=CUTOFF, n_padded=4, config=LOSS)
