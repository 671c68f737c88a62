"""Spin heads: rotation of lattice, orbitals and spin together, inversion, time reversal, Kramers pairs, locality."""

import jax
import numpy as np
import pytest
from ase import Atoms
from ase.build import graphene
from scipy.spatial.transform import Rotation

from ase_deeph.basis import OrbitalBasis, SpeciesBasis
from ase_deeph.eigen import solve
from ase_deeph.graph import CrystalGraph
from ase_deeph.harmonics import rotation_of_degree, rotation_of_shells
from ase_deeph.matrix import RealSpaceMatrix
from ase_deeph.network import NetworkConfig, build_network
from ase_deeph.network.statistics import empty_statistics
from ase_deeph.pairs import AtomPairs
from ase_deeph.spin import SpinConfig, SpinNetwork
from ase_deeph.spin_coupling import SpinCoupling

BASIS = OrbitalBasis({"C": SpeciesBasis((0, 1), 4), "B": SpeciesBasis((0, 0), 3)})
NETWORK = NetworkConfig(
    cutoff=4.5,
    message_cutoff=3.0,
    l_max=2,
    channels=4,
    pseudo_channels=4,
    n_blocks=1,
    hidden=8,
    n_radial=6,
)
LAYERS = {"channels": 4, "pseudo_channels": 4, "n_radial": 4, "hidden": 8}
HEADS = {
    "spin-orbit": SpinConfig("spinor", **LAYERS),
    "noncollinear": SpinConfig("spinor", 2.2, **LAYERS),
    "collinear": SpinConfig("collinear", 2.2, **LAYERS),
}
TURN = Rotation.random(random_state=1).as_matrix()
ROOM = (10, 210, 100)


def _atoms(seed: int = 3) -> Atoms:
    atoms = graphene(size=(2, 2, 1), vacuum=4.0)
    atoms.symbols[0] = "B"
    atoms.rattle(0.1, seed=seed)
    return atoms


def _moments(kind: str) -> np.ndarray:
    moments = np.random.default_rng(5).normal(size=(8, 3))
    return moments if kind == "spinor" else moments * np.array([0.0, 0.0, 1.0])


def _random(statistics, paths_of):
    """Random means and scales of the right symmetry, so that every term is exercised."""
    rng = np.random.default_rng(0)
    natural = np.array([p.natural for p in paths_of], dtype=float)
    scalar = np.array([p.natural and p.L == 0 for p in paths_of], dtype=float)
    found = {}
    for key, value in statistics.items():
        random = rng.uniform(0.2, 1.0, size=value.shape)
        if key in ("hop_mean", "site_field") or key.startswith("linear"):
            random = random * (natural if value.shape[-1] == len(natural) else 1.0)
        found[key] = random * (scalar if key == "site_mean" else 1.0)
    return found


class Predictor:
    """A small random network with a head."""

    def __init__(self, head: SpinConfig) -> None:
        backbone = build_network(NETWORK, BASIS)
        self.network = SpinNetwork(head, backbone)
        self.params = {"backbone": backbone.init(0), "head": self.network.init(1)}
        blocks = backbone.layout.coupling.paths
        of_head = {}
        for part in self.network.parts:
            layout = self.network.layouts[part.name]
            own = _random(empty_statistics(layout), layout.coupling.paths)
            empty = self.network.empty_statistics()[part.name]
            linear = _random({k: v for k, v in empty.items() if k.startswith("linear")}, blocks)
            if linear:
                scalar = np.array([p.natural and p.L == 0 for p in blocks], dtype=float)
                linear["linear_site"] = linear["linear_site"] * scalar
            if part.name != "orbit":
                own = {k: v * (0.0 if "mean" in k or "field" in k else 1.0) for k, v in own.items()}
            of_head[part.name] = {**own, **linear}
        self.statistics = {"backbone": _random(backbone.empty_statistics(), blocks), "head": of_head}
        self._apply = jax.jit(self.network.apply)

    def matrix(self, atoms: Atoms, moments: np.ndarray) -> RealSpaceMatrix:
        pairs = AtomPairs.from_atoms(atoms, NETWORK.cutoff)
        graph = CrystalGraph.from_atoms(
            atoms, pairs, BASIS, message_cutoff=NETWORK.reach, dtype=np.float64
        ).pad(*ROOM)
        padded = np.zeros((ROOM[0], 3))
        padded[: len(atoms)] = moments
        with jax.enable_x64(True):
            parts = np.asarray(self._apply(self.params, self.statistics, graph, padded))
        return self.network.matrix(pairs, atoms, parts[: len(pairs)])


@pytest.fixture(scope="module", autouse=True)
def _quick_compilation():
    """Half the time for compiling, and programs of this size run no slower."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module", params=HEADS)
def predictor(request) -> Predictor:
    return Predictor(HEADS[request.param])


def test_coupling_with_spin_is_orthogonal_and_turns_as_it_says():
    coupling, Q = SpinCoupling((0, 1, 2)), TURN
    size = 3 * coupling.n_orbitals**2
    assert np.abs(coupling.matrix @ coupling.matrix.T - np.eye(size)).max() <= 1e-12
    blocks = np.random.default_rng(0).normal(size=(3, 9, 9))
    assert np.abs(coupling.to_block(coupling.to_irreps(blocks)) - blocks).max() <= 1e-12
    for sign in (1.0, -1.0):
        D = rotation_of_shells((0, 1, 2), sign * Q)
        turned = coupling.to_irreps(np.einsum("st,ab,tbc,dc->sad", Q, D, blocks, D))
        irreps, at = coupling.to_irreps(blocks), 0
        for path in coupling.paths:
            where = slice(at, at + 2 * path.L + 1)
            own = rotation_of_degree(path.L, sign * Q) * (1.0 if path.natural else sign)
            assert np.abs(own @ irreps[where] - turned[where]).max() <= 1e-10
            at = where.stop


def _spin_rotation(Q: np.ndarray) -> np.ndarray:
    """U with U σ·v U† = σ·(Q v), for a proper rotation."""
    x, y, z, w = Rotation.from_matrix(Q).as_quat()
    pauli = np.array([[[0, 1], [1, 0]], [[0, -1j], [1j, 0]], [[1, 0], [0, -1]]])
    return w * np.eye(2) - 1j * np.einsum("a,aij->ij", [x, y, z], pauli)


def _turned(predictor: Predictor, Q: np.ndarray) -> tuple[RealSpaceMatrix, RealSpaceMatrix]:
    """(H of the turned structure, H turned), moments turning as the axial vectors that they are."""
    atoms, kind = _atoms(), predictor.network.config.kind
    moments, proper = _moments(kind), Q * np.linalg.det(Q)
    turned = atoms.copy()
    turned.set_cell(atoms.cell.array @ Q.T)
    turned.positions = atoms.positions @ Q.T
    before = predictor.matrix(atoms, moments)
    after = predictor.matrix(turned, moments @ proper.T if kind == "spinor" else moments)
    spin = _spin_rotation(proper) if kind == "spinor" else np.eye(1)
    D = {s: np.kron(spin, rotation_of_shells(BASIS.shells(s), Q)) for s in BASIS}
    symbols = atoms.get_chemical_symbols()
    blocks = [
        D[symbols[i]] @ b @ D[symbols[j]].conj().T
        for i, j, b in zip(before.pairs.i, before.pairs.j, before.blocks(), strict=True)
    ]
    if kind == "collinear":
        blocks = [b.real for b in blocks]
    return after, RealSpaceMatrix.from_blocks(BASIS, after.pairs, turned, blocks, kind)


@pytest.mark.parametrize("Q", [TURN, -TURN, -np.eye(3)], ids=["proper", "improper", "inversion"])
def test_lattice_orbitals_and_spin_turn_together(predictor, Q):
    found, expected = _turned(predictor, Q)
    assert expected.max_abs() > 1.0
    assert (found - expected).max_abs() <= 1e-8


def _time_reversed(matrix: RealSpaceMatrix) -> RealSpaceMatrix:
    """T H T⁻¹ with T = iσ_y K; of a collinear H the other channel."""
    if matrix.spin == "collinear":
        return RealSpaceMatrix(
            matrix.basis, matrix.pairs, matrix.atoms, matrix.entries[::-1].copy(), "collinear"
        )
    blocks = []
    for b in matrix.blocks():
        n, m = len(b) // 2, b.shape[1] // 2
        uu, ud, du, dd = b[:n, :m], b[:n, m:], b[n:, :m], b[n:, m:]
        blocks.append(np.block([[dd.conj(), -du.conj()], [-ud.conj(), uu.conj()]]))
    return RealSpaceMatrix.from_blocks(matrix.basis, matrix.pairs, matrix.atoms, blocks, "spinor")


def test_turning_all_moments_around_reverses_time(predictor):
    atoms = _atoms()
    moments = _moments(predictor.network.config.kind)
    h, turned = predictor.matrix(atoms, moments), predictor.matrix(atoms, -moments)
    assert (turned - _time_reversed(h)).max_abs() == 0.0
    if predictor.network.config.magnetic:
        assert (turned - h).max_abs() > 0.1
        still = predictor.matrix(atoms, 0 * moments)
        assert (still - _time_reversed(still)).max_abs() == 0.0
        assert (still - h).max_abs() > 0.1


def test_exactly_hermitian(predictor):
    h = predictor.matrix(_atoms(), _moments(predictor.network.config.kind))
    assert h.hermiticity_error() == 0.0
    assert np.all(np.isfinite(h.entries))


def test_kramers_pairs_without_moments(predictor):
    if predictor.network.config.kind == "collinear":
        pytest.skip("no spin-orbit coupling")
    atoms = _atoms()
    h = predictor.matrix(atoms, np.zeros((len(atoms), 3)))
    invariant = solve(h, None, np.array([[0.5, 0.0, 0.0], [0, 0, 0]]), vectors=False).eigenvalues[0]
    assert np.abs(invariant[:, ::2] - invariant[:, 1::2]).max() <= 1e-9
    apart = solve(h, None, np.array([[0.21, 0.13, 0.0]]), vectors=False).eigenvalues[0, 0]
    assert np.abs(apart[::2] - apart[1::2]).max() > 1e-3


def test_moments_beyond_the_magnetic_cutoff_change_nothing(predictor):
    config, atoms = predictor.network.config, _atoms()
    if not config.magnetic:
        pytest.skip("reads no moments")
    moments = _moments(config.kind)
    changed, far = moments.copy(), 5
    changed[far] *= -1.7
    h, other = predictor.matrix(atoms, moments), predictor.matrix(atoms, changed)
    near = atoms.get_all_distances(mic=True)[far] < config.magnetic_cutoff
    touched = near[h.pairs.i] | near[h.pairs.j]
    difference = (other - h).block_norms()
    assert np.any(~touched)
    assert np.all(difference[~touched] == 0.0)
    assert np.all(difference[touched & h.pairs.on_site] > 1e-3)
