"""Both networks: equivariance under O(3), translation, relabelling and supercells; Hermiticity; locality; padding."""

import jax
import numpy as np
import pytest
from ase import Atoms
from ase.build import graphene
from scipy.spatial.transform import Rotation

from ase_deeph.basis import OrbitalBasis, SpeciesBasis
from ase_deeph.graph import CrystalGraph, batch, bucket_size
from ase_deeph.harmonics import rotation_of_shells
from ase_deeph.matrix import RealSpaceMatrix
from ase_deeph.network import NetworkConfig, build_network
from ase_deeph.network.elct import message_weights
from ase_deeph.pairs import AtomPairs

BASIS = OrbitalBasis({"C": SpeciesBasis((0, 1, 2), 4), "B": SpeciesBasis((0, 0, 1), 3)})
IMPROPER = -Rotation.random(random_state=4).as_matrix()
ROTATIONS = {
    "proper": Rotation.random(random_state=1).as_matrix(),
    "inversion": -np.eye(3),
    "improper": IMPROPER,
    "mirror": np.diag([1.0, 1.0, -1.0]),
    "edges onto the pole": Rotation.from_euler("y", 90, degrees=True).as_matrix(),
}
ROOM = (12, 300, 120)


def _atoms() -> Atoms:
    atoms = graphene(size=(2, 2, 1), vacuum=4.0)
    atoms.symbols[0] = "B"
    atoms.rattle(0.1, seed=3)
    return atoms


def _statistics(network):
    """Random means and scales of the right symmetry, so that every term is exercised."""
    rng = np.random.default_rng(0)
    paths = network.layout.coupling.paths
    natural = np.array([p.natural for p in paths], dtype=float)
    scalar = np.array([p.natural and p.L == 0 for p in paths], dtype=float)
    random = {key: np.abs(rng.normal(size=value.shape)) for key, value in network.empty_statistics().items()}
    random["hop_mean"] *= natural
    random["site_field"] *= natural
    random["site_mean"] *= scalar
    return random


class Predictor:
    """One small network with its parameters, in either precision."""

    def __init__(self, **architecture) -> None:
        self.config = NetworkConfig(
            **architecture,
            cutoff=5.0,
            message_cutoff=3.0,
            channels=4,
            pseudo_channels=4,
            n_blocks=2,
            hidden=16,
            n_radial=8,
        )
        self.network = build_network(self.config, BASIS)
        self.params, self.statistics = self.network.init(0), _statistics(self.network)
        self._apply = jax.jit(self.network.apply)

    def graph(self, atoms: Atoms, pairs: AtomPairs, dtype=np.float64) -> CrystalGraph:
        return CrystalGraph.from_atoms(atoms, pairs, BASIS, message_cutoff=self.config.reach, dtype=dtype)

    def blocks(self, graph: CrystalGraph) -> np.ndarray:
        with jax.enable_x64(np.asarray(graph.vectors).dtype == np.float64):
            return np.asarray(self._apply(self.params, self.statistics, graph), dtype=float)

    def matrix(self, atoms: Atoms, dtype=np.float64) -> RealSpaceMatrix:
        """H(R) through one padded shape, so that each precision compiles once."""
        pairs = AtomPairs.from_atoms(atoms, self.config.cutoff)
        blocks = self.blocks(self.graph(atoms, pairs, dtype).pad(*ROOM))
        return RealSpaceMatrix.from_padded_blocks(BASIS, pairs, atoms, blocks[: len(pairs)])


ARCHITECTURES = {
    "elct": {"kind": "elct"},
    "elct with sums": {"kind": "elct", "aggregation": "sum"},
    "e3": {"kind": "e3"},
}


@pytest.fixture(scope="module", params=ARCHITECTURES)
def predictor(request) -> Predictor:
    return Predictor(**ARCHITECTURES[request.param])


def _rotated_error(predictor: Predictor, Q: np.ndarray, dtype) -> tuple[float, float]:
    atoms = _atoms()
    turned = atoms.copy()
    turned.set_cell(atoms.cell.array @ Q.T)
    turned.positions = atoms.positions @ Q.T
    before, after = predictor.matrix(atoms, dtype), predictor.matrix(turned, dtype)
    symbols = atoms.get_chemical_symbols()
    D = {s: rotation_of_shells(BASIS.shells(s), Q) for s in BASIS}
    errors = [
        np.abs(D[symbols[i]] @ b @ D[symbols[j]].T - a).max()
        for i, j, b, a in zip(before.pairs.i, before.pairs.j, before.blocks(), after.blocks(), strict=True)
    ]
    return max(errors), before.max_abs()


@pytest.mark.parametrize("name", ROTATIONS)
def test_equivariance_in_double_precision(predictor, name):
    error, size = _rotated_error(predictor, ROTATIONS[name], np.float64)
    assert size > 1.0
    assert error <= 1e-8


def test_equivariance_in_single_precision(predictor):
    error, size = _rotated_error(predictor, IMPROPER, np.float32)
    assert error <= 1e-4 * max(1.0, size / 10)


def test_translation_and_wrapping(predictor):
    atoms = _atoms()
    moved = atoms.copy()
    moved.positions += [0.31, -0.2, 0.7]
    assert np.allclose(predictor.matrix(moved).entries, predictor.matrix(atoms).entries, atol=1e-8)
    moved.wrap()
    k = [0.13, 0.4, 0.0]
    here, there = (np.linalg.eigvalsh(predictor.matrix(a).at_k(k)) for a in (atoms, moved))
    assert np.allclose(here, there, atol=1e-8)


def test_relabelling(predictor):
    atoms = _atoms()
    order = np.random.default_rng(1).permutation(len(atoms))
    before, after = predictor.matrix(atoms), predictor.matrix(atoms[order])
    for i, j, R, block in zip(after.pairs.i, after.pairs.j, after.pairs.R, after.blocks(), strict=True):
        assert np.allclose(block, before.block(order[i], order[j], tuple(R)), atol=1e-8)


def test_supercell_folds_the_bands(predictor):
    atoms = graphene(vacuum=4.0)
    atoms.symbols[0] = "B"
    primitive, supercell = predictor.matrix(atoms), predictor.matrix(atoms.repeat((2, 2, 1)))
    folded = [np.linalg.eigvalsh(primitive.at_k([a / 2, b / 2, 0])) for a in (0, 1) for b in (0, 1)]
    assert np.allclose(
        np.sort(np.concatenate(folded)), np.linalg.eigvalsh(supercell.at_k([0, 0, 0])), atol=1e-8
    )


def test_hermitian_exactly(predictor):
    assert predictor.matrix(_atoms(), np.float32).hermiticity_error() == 0.0


def test_padding_and_batching_change_nothing(predictor):
    atoms = _atoms()
    other = atoms[:5]
    pairs, fewer = (AtomPairs.from_atoms(a, predictor.config.cutoff) for a in (atoms, other))
    alone, second = predictor.graph(atoms, pairs), predictor.graph(other, fewer)
    together = batch([second, alone])
    padded = together.pad(together.n_atoms + 3, together.n_pairs + 17, together.n_near + 9)
    one_by_one = [predictor.blocks(graph.pad(*ROOM))[: graph.n_pairs] for graph in (second, alone)]
    expected = np.concatenate(one_by_one)
    found = predictor.blocks(padded)
    assert np.allclose(found[: len(expected)], expected, atol=1e-10)
    assert not found[len(expected) :].any()


def test_strictly_local(predictor):
    """Far atoms change nothing: no mean over the graph anywhere."""
    atoms = _atoms()
    atoms.pbc = False
    far = Atoms("C2", positions=[[40.0, 0, 0], [41.4, 0, 0]])
    both = atoms + far
    alone, joined = predictor.matrix(atoms), predictor.matrix(both)
    for i, j, R, block in zip(alone.pairs.i, alone.pairs.j, alone.pairs.R, alone.blocks(), strict=True):
        assert np.allclose(joined.block(i, j, tuple(R)), block, atol=1e-10)


def test_smooth_at_the_cutoff(predictor):
    """A pair that enters through the cutoff enters with a vanishing block and changes no other block by a jump."""
    cutoff = predictor.config.cutoff
    for edge in (cutoff, predictor.config.reach):
        inside, outside = (
            predictor.matrix(Atoms("BCC", positions=[[0, 0, 0], [1.5, 0, 0], [0, 0, edge + step]]))
            for step in (-1e-6, 1e-6)
        )
        assert np.abs(inside.block(0, 0, (0, 0, 0)) - outside.block(0, 0, (0, 0, 0))).max() < 1e-4
        if edge == cutoff:
            assert np.abs(inside.block(0, 2, (0, 0, 0))).max() < 1e-4


def test_orbitals_a_species_lacks_stay_zero(predictor):
    atoms = _atoms()
    pairs = AtomPairs.from_atoms(atoms, predictor.config.cutoff)
    graph = predictor.graph(atoms, pairs)
    blocks, mask = predictor.blocks(graph), np.asarray(predictor.network.orbital_mask(graph))
    assert not blocks[~mask].any()
    assert mask[pairs.index(0, 0, (0, 0, 0))].sum() == 25


def test_statistics_recover_a_two_centre_hamiltonian():
    """A matrix that is two-centre plus species constants is fitted by the statistics alone."""
    from tests.systems_two_centre import two_centre_matrix

    network = build_network(NetworkConfig(cutoff=5.0, channels=4, pseudo_channels=4), BASIS)
    samples = []
    for seed in range(4):
        atoms = _atoms()
        atoms.rattle(0.15, seed=seed)
        target = two_centre_matrix(BASIS, atoms, network.config.cutoff)
        graph = CrystalGraph.from_atoms(atoms, target.pairs, BASIS, dtype=np.float64)
        samples.append((graph, target.padded_blocks()))
    statistics = network.fit_statistics(samples)
    params = jax.tree.map(np.zeros_like, network.init(0))
    with jax.enable_x64(True):
        found = np.asarray(jax.jit(network.apply)(params, statistics, samples[0][0]))
    assert np.abs(samples[0][1]).max() > 1.0
    assert np.abs(found - samples[0][1]).mean() < 2e-3


def test_a_basis_of_s_shells_alone():
    """Its blocks have no path of pseudo parity: read-outs with no columns."""
    basis = OrbitalBasis({"H": SpeciesBasis((0,), 1)})
    config = NetworkConfig(cutoff=3.0, l_max=1, channels=4, pseudo_channels=4, n_blocks=1, hidden=8)
    network = build_network(config, basis)
    atoms = Atoms("H2", positions=[[0, 0, 0], [0.3, 0.2, 0.7]])
    graph = CrystalGraph.from_atoms(atoms, AtomPairs.from_atoms(atoms, config.cutoff), basis).pad(3, 6, 4)
    blocks = np.asarray(jax.jit(network.apply)(network.init(0), network.empty_statistics(), graph))
    assert np.isfinite(blocks).all()
    assert np.abs(blocks[:4]).min() > 0


def test_sums_tell_how_many_neighbours_there_are():
    """The weights of n equal messages: sums grow with n, a softmax with one silent neighbour stays below 1."""

    class Edges:
        i = np.array([0, 0, 1])
        envelope = np.array([0.5, 0.5, 0.5], dtype=np.float32)

    def total(aggregation: str) -> np.ndarray:
        weights = message_weights(np.zeros((3, 2), dtype=np.float32), Edges(), 2, aggregation)
        return np.array([np.asarray(weights)[:2].sum(axis=0), np.asarray(weights)[2]])

    two, one = total("sum")
    assert np.allclose(two, 2 * one)
    two, one = total("attention")
    assert np.allclose(one, 0.5 / 1.5)
    assert np.allclose(two, 1.0 / 2.0)


def test_buckets_are_few():
    assert len({bucket_size(n) for n in range(100, 100_000, 37)}) < 40
    assert all(bucket_size(n) >= n for n in range(1, 500))


def test_l_max_too_small_for_the_basis():
    with pytest.raises(ValueError, match="need at least 4"):
        build_network(NetworkConfig(l_max=2), BASIS)


def test_remat_changes_no_gradient():
    """What is computed twice instead of kept has the same gradient, and the gradient does recompute."""
    config = NetworkConfig(
        kind="elct",
        cutoff=3.0,
        message_cutoff=3.0,
        channels=2,
        pseudo_channels=2,
        n_heads=1,
        n_blocks=1,
        hidden=8,
    )
    network = build_network(config, BASIS)
    params, statistics = network.init(0), _statistics(network)
    atoms = graphene(vacuum=4.0)
    pairs = AtomPairs.from_atoms(atoms, config.cutoff)
    graph = CrystalGraph.from_atoms(atoms, pairs, BASIS, message_cutoff=config.reach, dtype=np.float32)

    def loss(params, remat):
        return (network.apply(params, statistics, graph, remat=remat) ** 2).sum()

    gradient = jax.grad(loss)
    assert "remat" in str(jax.make_jaxpr(gradient, static_argnums=1)(params, True))
    kept, recomputed = (
        jax.tree.leaves(jax.jit(gradient, static_argnums=1)(params, r)) for r in (False, True)
    )
    largest = max(float(np.abs(leaf).max()) for leaf in kept if leaf.size)
    assert largest > 0
    for one, other in zip(kept, recomputed, strict=True):
        assert np.allclose(one, other, rtol=1e-4, atol=1e-5 * largest)
