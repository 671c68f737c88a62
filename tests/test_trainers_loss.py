"""Losses: by hand, indifferent to H -> H + μS, indifferent to padding, differentiable."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("pydantic")

from trainers.config import LossConfig
from trainers.loss import gauge_shift, structure_losses
from trainers.metrics import MatrixErrors, error_sums


def labels(pairs: int = 6, size: int = 3) -> tuple[np.ndarray, ...]:
    """Two structures of three pairs, and one padding pair."""
    rng = np.random.default_rng(0)
    predicted, target, overlap = rng.standard_normal((3, pairs + 1, size, size)).astype(np.float32)
    mask = np.ones((pairs + 1, size, size), dtype=bool)
    mask[-1] = False
    overlap[-1] = 0.0
    structure = np.array([0, 0, 0, 1, 1, 1, 2], dtype=np.int32)
    return predicted, target, overlap, mask, structure


@pytest.mark.parametrize("kind", ["mae", "mse", "huber"])
def test_values_by_hand(kind: str) -> None:
    predicted, target, overlap, mask, structure = labels()
    config = LossConfig(kind=kind, gauge="fixed", huber_delta=0.5)
    found = structure_losses(predicted, target, overlap, mask, structure, 2, config)
    r = np.abs(predicted - target)[:-1].reshape(2, -1).astype(float)
    expected = {"mae": r, "mse": r**2, "huber": np.where(r < 0.5, r**2, r - 0.25)}[kind].mean(axis=1)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("kind", ["mae", "mse", "huber"])
def test_a_free_gauge_ignores_multiples_of_the_overlap(kind: str) -> None:
    predicted, target, overlap, mask, structure = labels()
    config = LossConfig(kind=kind, gauge="free")
    shifts = np.array([3.0, -7.0, 0.0], dtype=np.float32)[structure][:, None, None]
    before = structure_losses(predicted, target, overlap, mask, structure, 2, config)
    after = structure_losses(predicted, target + shifts * overlap, overlap, mask, structure, 2, config)
    np.testing.assert_allclose(before, after, rtol=2e-5)
    fixed = LossConfig(kind=kind, gauge="fixed")
    moved = structure_losses(predicted, target + shifts * overlap, overlap, mask, structure, 2, fixed)
    assert np.all(np.abs(moved - before) > 0.1)


def test_the_shift_is_recovered_and_its_gradient_is_orthogonal_to_the_overlap() -> None:
    _, target, overlap, mask, structure = labels()
    np.testing.assert_allclose(gauge_shift(2.5 * overlap, overlap, structure, 2), [2.5, 2.5], rtol=1e-6)

    def loss(h: jax.Array) -> jax.Array:
        return jnp.sum(structure_losses(h, target, overlap, mask, structure, 2, LossConfig(gauge="free")))

    gradient = np.asarray(jax.grad(loss)(jnp.zeros_like(target)))
    assert np.abs(gradient).max() > 0
    for n in range(2):
        assert abs(np.sum((gradient * overlap)[structure == n])) < 1e-5


def test_padding_adds_nothing_even_when_it_holds_numbers() -> None:
    predicted, target, overlap, mask, structure = labels()
    config = LossConfig()
    whole = structure_losses(predicted, target, overlap, mask, structure, 2, config)
    predicted[-1] = 1e3
    np.testing.assert_array_equal(
        whole, structure_losses(predicted, target, overlap, mask, structure, 2, config)
    )
    bare = structure_losses(*(a[:-1] for a in (predicted, target, overlap, mask, structure)), 2, config)
    np.testing.assert_allclose(whole, bare, rtol=1e-6)


def test_errors_in_mev() -> None:
    predicted, target, overlap, mask, structure = labels()
    target = predicted - 0.25 * overlap
    sums = np.asarray(error_sums(predicted, target, overlap, mask, structure, 2))
    errors = MatrixErrors.from_sums(sums)
    assert errors.raw == pytest.approx(250.0 * np.abs(overlap[:-1]).mean(), rel=1e-5)
    assert errors.gauge_fixed < 1e-3
    with pytest.raises(ValueError, match="at least one structure"):
        MatrixErrors.from_sums(np.zeros((0, 3)))


def test_on_site_weight_counts_on_site_entries_more() -> None:
    zero, one = jnp.zeros((2, 1, 1)), jnp.ones((2, 1, 1))
    mask, structure, on_site = jnp.ones((2, 1, 1), bool), jnp.zeros(2, int), jnp.array([True, False])
    config = LossConfig(gauge="fixed", on_site_weight=5.0)
    plain = structure_losses(one, zero, zero, mask, structure, 1, config)
    weighted = structure_losses(one, zero, zero, mask, structure, 1, config, on_site)
    assert float(plain[0]) == 1.0
    assert float(weighted[0]) == 3.0
