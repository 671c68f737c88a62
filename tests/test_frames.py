"""Turns of features into edge frames and back: inverse to each other, with the derivatives of a plain product."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from ase_deeph.network.frames import frame_rotations
from ase_deeph.network.so2 import EdgeFrames, _turned, by_order, joined

N_NATURAL, CHANNELS = 3, 5


def _directions(rng: np.random.Generator, n: int = 4) -> np.ndarray:
    vectors = rng.normal(size=(n, 3))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.mark.parametrize("l_max", [0, 1, 4])
def test_out_undoes_into(l_max):
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        frames = EdgeFrames(frame_rotations(l_max, jnp.asarray(_directions(rng))))
        x = jnp.asarray(rng.normal(size=(4, (l_max + 1) ** 2, CHANNELS)))
        there = frames.into(x, N_NATURAL)
        assert np.abs(frames.out(there, N_NATURAL) - x).max() < 1e-13
        chosen = jnp.array([2, 0])
        few = frames.subset(chosen).into(x[chosen], N_NATURAL)
        assert np.array_equal(joined(few), joined(there)[chosen])


@pytest.mark.parametrize("way", ["into", "out"])
def test_gradients_turn_back(way):
    """A turn is orthogonal: the gradient of <g, T x> with respect to x is T^-1 g."""
    rng = np.random.default_rng(1)
    with jax.enable_x64(True):
        frames = EdgeFrames(frame_rotations(3, jnp.asarray(_directions(rng))))

        def into(x):
            return joined(frames.into(x, N_NATURAL))

        def out(x):
            return frames.out(by_order(x, 3), N_NATURAL)

        turn, back = {"into": (into, out), "out": (out, into)}[way]
        x, g = (jnp.asarray(rng.normal(size=(4, 16, CHANNELS))) for _ in range(2))
        gradient = jax.grad(lambda x: jnp.sum(g * turn(x)))(x)
        assert np.abs(gradient - back(g)).max() < 1e-13


@pytest.mark.parametrize("remat", [False, True])
def test_derivatives_of_a_turn_are_those_of_a_product(remat):
    """First and second, forward and backward, with respect to the matrices and to what they turn."""
    rng = np.random.default_rng(2)
    turn = jax.checkpoint(_turned) if remat else _turned
    with jax.enable_x64(True):
        matrices, x = jnp.asarray(rng.normal(size=(2, 3, 3))), jnp.asarray(rng.normal(size=(2, 3, 2)))

        def squared(matrices, x):
            return jnp.sum(turn(matrices, matrices.swapaxes(1, 2), x) ** 2)

        check_grads(squared, (matrices, x), order=2, modes=("fwd", "rev"))


def test_products_of_derivatives_are_exact_wherever_they_are_taken():
    """Differentiated outside the block that asks for full precision, as jit(grad) of a jitted function is."""
    x = jnp.ones((2, 3, 2))
    matrices = jnp.ones((2, 3, 3))
    traced = jax.make_jaxpr(jax.grad(jax.jit(lambda m, x: _turned(m, m, x).sum()), argnums=(0, 1)))(
        matrices, x
    )
    text = str(traced)
    assert text.count("dot_general[") > 0
    assert text.count("precision=(Precision.HIGHEST, Precision.HIGHEST)") == text.count("dot_general[")
