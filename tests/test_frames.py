"""Turns of features into edge frames and back, with the derivatives of a plain product; norms of an edge's features."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from ase_deeph.network.frames import frame_rotations
from ase_deeph.network.so2 import EdgeFrames, EdgeNorm, SomeEdges, _turned, by_order, joined

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


@pytest.mark.parametrize("l_max", [0, 2])
def test_edges_without_features_need_none_to_be_normalised(l_max):
    """The norm of features that only some edges have is the norm of all of them, zeros written out."""
    rng = np.random.default_rng(3)
    n, rows = 6, np.array([4, 1, 5, 5])  # edge 5 stands for padding, where nothing is added
    with jax.enable_x64(True):
        norm = EdgeNorm(l_max, CHANNELS)
        norm.factor[...] = jnp.asarray(rng.normal(size=(l_max + 1, CHANNELS)))
        given, more = (
            by_order(jnp.asarray(rng.normal(size=(k, (l_max + 1) ** 2, CHANNELS))), l_max)
            for k in (n, len(rows))
        )
        more = tuple(part.at[2:].set(0.0) for part in more)
        axial = jnp.asarray(rng.normal(size=(n, 1, l_max + 1, CHANNELS)))
        full = [jnp.zeros_like(part).at[rows].add(new) for part, new in zip(given, more, strict=True)]
        expected = norm((full[0] + axial, *full[1:]))
        found = norm.onto(given, SomeEdges(axial, jnp.asarray(rows), more))
        assert np.abs(joined(found) - joined(given) - joined(expected)).max() < 1e-13
        assert np.abs(joined(expected)[1]).max() > 0.1
