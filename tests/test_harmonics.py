"""Harmonics, rotations, edge frames and couplings against e3nn and closed forms."""

import e3nn_jax as e3nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from ase_deeph.coupling import BlockCoupling, real_clebsch_gordan
from ase_deeph.harmonics import degree_slice, edge_rotations, real_harmonics, rotation_of_degree

RNG = np.random.default_rng(0)
UNIT = RNG.normal(size=(12, 3))
UNIT /= np.linalg.norm(UNIT, axis=1, keepdims=True)


def test_first_degrees_by_hand():
    x, y, z = UNIT.T
    found = real_harmonics(2, UNIT)
    assert np.allclose(found[:, 1:4], np.sqrt(3 / (4 * np.pi)) * np.stack([y, z, x], axis=1))
    d = np.sqrt(15 / (4 * np.pi)) * np.stack(
        [x * y, y * z, (3 * z * z - 1) / np.sqrt(12), x * z, (x * x - y * y) / 2], axis=1
    )
    assert np.allclose(found[:, 4:9], d)


def test_order_is_that_of_e3nn_fed_y_z_x():
    with jax.enable_x64(True):
        for l in range(6):
            theirs = e3nn.spherical_harmonics(
                [l], e3nn.IrrepsArray("1o", jnp.array(UNIT[:, [1, 2, 0]])), True, normalization="norm"
            ).array
            ours = real_harmonics(l, UNIT)[:, degree_slice(l)] * np.sqrt(4 * np.pi / (2 * l + 1))
            assert np.allclose(ours, theirs, atol=1e-14)


def test_edge_rotations_take_z_to_the_edge():
    directions = np.concatenate([UNIT, [[0, 0, 1.0], [0, 0, -1.0], [1e-9, 0, 1.0], [0, -1e-3, -1.0]]])
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    north = real_harmonics(6, np.array([[0.0, 0.0, 1.0]]))[0]
    there = real_harmonics(6, directions)
    for l, rotation in enumerate(edge_rotations(6, directions)):
        assert np.allclose(rotation @ north[degree_slice(l)], there[:, degree_slice(l)], atol=1e-8)
        assert np.allclose(rotation @ rotation.transpose(0, 2, 1), np.eye(2 * l + 1), atol=1e-13)
        assert np.allclose(np.linalg.det(rotation), 1.0)


@pytest.mark.parametrize("l", range(5))
def test_rotations_represent_the_group(l):
    a, b = (Rotation.random(random_state=n).as_matrix() for n in (1, 2))
    product = rotation_of_degree(l, a) @ rotation_of_degree(l, b)
    assert np.allclose(product, rotation_of_degree(l, a @ b), atol=1e-13)
    assert np.allclose(rotation_of_degree(l, -np.eye(3)), (-1) ** l * np.eye(2 * l + 1), atol=1e-13)


@pytest.mark.parametrize(("l1", "l2", "L"), [(0, 2, 2), (1, 1, 1), (1, 2, 2), (2, 2, 3), (3, 2, 4)])
def test_clebsch_gordan(l1, l2, L):
    ours, theirs = real_clebsch_gordan(l1, l2, L), e3nn.clebsch_gordan(l1, l2, L)
    theirs = theirs / np.linalg.norm(theirs) * np.sqrt(2 * L + 1)
    assert min(np.abs(ours - theirs).max(), np.abs(ours + theirs).max()) < 1e-6
    Q = Rotation.random(random_state=3).as_matrix()
    turned = np.einsum(
        "ai,bj,ck,ijk->abc",
        rotation_of_degree(l1, Q),
        rotation_of_degree(l2, Q),
        rotation_of_degree(L, Q),
        ours,
    )
    assert np.allclose(turned, ours, atol=1e-13)


def test_block_to_irreps_and_back():
    coupling = BlockCoupling((0, 0, 1, 2))
    blocks = RNG.normal(size=(5, 10, 10))
    irreps = coupling.to_irreps(blocks)
    assert np.allclose(coupling.to_block(irreps), blocks, atol=1e-13)
    assert np.allclose(np.linalg.norm(irreps, axis=1), np.linalg.norm(blocks.reshape(5, -1), axis=1))


def test_irreps_of_a_rotated_block_are_rotated():
    coupling, Q = BlockCoupling((1, 2)), Rotation.random(random_state=5).as_matrix()
    block = RNG.normal(size=(8, 8))
    turn = np.zeros((8, 8))
    turn[:3, :3], turn[3:, 3:] = rotation_of_degree(1, Q), rotation_of_degree(2, Q)
    before, after = coupling.to_irreps(block), coupling.to_irreps(turn @ block @ turn.T)
    at = 0
    for path in coupling.paths:
        where = slice(at, at + 2 * path.L + 1)
        assert np.allclose(after[where], rotation_of_degree(path.L, Q) @ before[where], atol=1e-12)
        at = where.stop
