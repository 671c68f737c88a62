"""The energy head: exact derivatives, invariances, smoothness, extensivity, padding, model files, refusals."""

from __future__ import annotations

from dataclasses import replace

import h5py
import jax
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, graphene, molecule
from scipy.spatial.transform import Rotation

from ase_deeph.basis import OrbitalBasis, SpeciesBasis
from ase_deeph.graph import batch
from ase_deeph.model import HamiltonianModel
from ase_deeph.network import NetworkConfig, build_network
from ase_deeph.network.frames import frame_rotations, generators
from ase_deeph.network.sphere import from_sphere, on_sphere
from ase_deeph.potential import EnergyConfig, EnergyHead, EnergyNetwork

BASIS = OrbitalBasis({"C": SpeciesBasis((0, 1), 4), "H": SpeciesBasis((0,), 1), "O": SpeciesBasis((0, 1), 6)})
BACKBONE = NetworkConfig(
    cutoff=4.2,
    message_cutoff=3.4,
    l_max=2,
    channels=4,
    pseudo_channels=2,
    n_blocks=2,
    n_heads=2,
    n_radial=8,
    hidden=8,
)
HEAD = EnergyConfig(cutoff=3.8, backbone_blocks=1, l_max=2, channels=6, n_blocks=2, n_radial=8, hidden=8)
REFERENCE = {"C": -150.0, "H": -13.0, "O": -430.0}


def _model(head: EnergyConfig = HEAD, seed: int = 1) -> HamiltonianModel:
    backbone = build_network(BACKBONE, BASIS)
    network = EnergyNetwork(head, backbone)
    backbone_params = backbone.init(seed)
    statistics = network.fit_statistics(backbone_params, [network.graph(SYSTEMS["bilayer on top"])], 2.0)
    # Larger read-outs than those of a fresh head, which are almost silent.
    params = network.init(seed + 1)
    loud = {n: 30.0 * w for n, w in params["readout_out"].items()}
    head_parts = EnergyHead(head, {**params, "readout_out": loud}, statistics, REFERENCE)
    model = HamiltonianModel(
        BACKBONE, BASIS, backbone_params, backbone.empty_statistics(), {"name": "tiny"}, head=head_parts
    )
    model._potential_shapes.waste = np.inf
    model._potential_shapes.shapes.append((16, 512, 512))  # one compilation for all systems
    return model


@pytest.fixture(scope="module")
def model() -> HamiltonianModel:
    return _model()


def _bilayer() -> Atoms:
    """An AA bilayer: every atom has a partner exactly along z."""
    sheet = graphene(a=2.46, size=(1, 1, 1), vacuum=0.0)
    sheet.pbc = (True, True, False)
    sheet.cell[2, 2] = 14.0
    other = sheet.copy()
    other.positions[:, 2] += 3.3
    return sheet + other


def _diamond() -> Atoms:
    atoms = bulk("C", cubic=False)
    atoms.symbols[1] = "H"
    return atoms


def _rattled(atoms: Atoms, seed: int = 0) -> Atoms:
    atoms = atoms.copy()
    atoms.rattle(0.1, seed=seed)
    return atoms


SYSTEMS = {
    "molecule": _rattled(molecule("CH3CH2OH")),
    "carbon monoxide along z": Atoms("CO", positions=[[0, 0, 0], [0, 0, 1.13]]),
    "carbon monoxide along -z": Atoms("OC", positions=[[0, 0, 0], [0, 0, -1.13]]),
    "sheet": _rattled(graphene(size=(2, 1, 1), vacuum=4.0), 1),
    "bilayer on top": _bilayer(),
    "crystal": _rattled(_diamond(), 2),
}


def _energy(model: HamiltonianModel, atoms: Atoms) -> float:
    return model.potential(atoms, dtype="float64").energy


@pytest.mark.parametrize("name", SYSTEMS)
def test_forces_are_minus_the_gradient(model, name):
    atoms, step = SYSTEMS[name], 1e-4
    forces = model.potential(atoms, dtype="float64").forces
    assert np.abs(forces).max() > 1e-2
    found = np.zeros_like(forces)
    for atom in range(min(len(atoms), 3)):
        for axis in range(3):
            values = []
            for n in (-2, -1, 1, 2):
                moved = atoms.copy()
                moved.positions[atom, axis] += n * step
                values.append(_energy(model, moved))
            found[atom, axis] = -(values[0] - 8 * values[1] + 8 * values[2] - values[3]) / (12 * step)
    assert np.abs(found - forces)[:3].max() < 1e-6


def test_stress_is_the_strain_derivative(model):
    atoms, step = SYSTEMS["crystal"], 1e-4
    stress = model.potential(atoms, dtype="float64").stress
    assert stress is not None
    assert np.abs(stress).max() > 1e-3
    for n, (a, b) in enumerate([(0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1)]):
        values = []
        for size in (-2, -1, 1, 2):
            strain = np.eye(3)
            strain[a, b] += 0.5 * size * step
            strain[b, a] += 0.5 * size * step
            moved = atoms.copy()
            moved.set_cell(atoms.cell.array @ strain.T, scale_atoms=True)
            values.append(_energy(model, moved))
        slope = (values[0] - 8 * values[1] + 8 * values[2] - values[3]) / (12 * step)
        assert slope / atoms.get_volume() == pytest.approx(stress[n], abs=1e-7)


def test_single_precision_is_near_and_no_stress_outside_crystals(model):
    for atoms in SYSTEMS.values():
        single, double = model.potential(atoms), model.potential(atoms, dtype="float64")
        assert single.energy == pytest.approx(double.energy, rel=1e-5)
        assert np.abs(single.forces - double.forces).max() < 1e-3 * max(1.0, np.abs(double.forces).max())
        assert (double.stress is None) == (not all(atoms.pbc))


def test_momentum_and_torque_vanish(model):
    for name, atoms in SYSTEMS.items():
        forces = model.potential(atoms, dtype="float64").forces
        assert np.abs(forces.sum(axis=0)).max() < 1e-10, name
        if not any(atoms.pbc):
            assert np.abs(np.cross(atoms.positions, forces).sum(axis=0)).max() < 1e-10


@pytest.mark.parametrize("name", ["molecule", "bilayer on top", "crystal"])
def test_turned_mirrored_shifted_relabelled(model, name):
    atoms = SYSTEMS[name]
    before = model.potential(atoms, dtype="float64")
    turn = -Rotation.random(random_state=3).as_matrix()
    order = np.random.default_rng(0).permutation(len(atoms))
    moved = atoms.copy()
    moved.set_cell(atoms.cell.array @ turn.T)
    moved.positions = atoms.positions @ turn.T + [0.3, -1.0, 2.0]
    after = model.potential(moved[order], dtype="float64")
    assert after.energy == pytest.approx(before.energy, abs=1e-9)
    assert np.abs(after.forces - (before.forces @ turn.T)[order]).max() < 1e-9
    assert np.abs(after.energies - before.energies[order]).max() < 1e-9


def test_extensive_and_separable(model):
    crystal = SYSTEMS["crystal"]
    one, many = (model.potential(a, dtype="float64") for a in (crystal, crystal * (2, 1, 2)))
    assert many.energy == pytest.approx(4 * one.energy, abs=1e-8)
    assert many.stress == pytest.approx(one.stress, abs=1e-10)
    left, right = SYSTEMS["molecule"], SYSTEMS["carbon monoxide along z"].copy()
    right.positions += 50.0
    both = _energy(model, left + right)
    assert both == pytest.approx(_energy(model, left) + _energy(model, right), abs=1e-9)


@pytest.mark.parametrize("edge", [HEAD.cutoff, BACKBONE.message_cutoff])
def test_twice_differentiable_across_a_cutoff(model, edge):
    """Central differences of the force agree on both sides of a cutoff, and the force has no jump."""

    def force(z: float) -> float:
        atoms = Atoms("CHO", positions=[[0, 0, 0], [1.2, 0, 0], [0.0, 0.0, z]])
        return float(model.potential(atoms, dtype="float64").forces[2, 2])

    def jump(step: float) -> float:
        """Slope of the force beyond the cutoff less that before it."""
        left, right = (
            (force(edge + side * step) - force(edge + 2 * side * step)) * -side / step for side in (-1, 1)
        )
        return abs(right - left)

    assert abs(force(edge - 1e-5) - force(edge + 1e-5)) < 1e-4 * abs(force(edge - 0.5))
    assert jump(1e-4) < 0.2 * jump(1e-3), "the second derivative of the energy has a jump"


def test_derivatives_of_frames_at_the_poles():
    """dD must be that of the harmonics for a direction exactly along ±z, where the angles are singular."""
    for l in range(4):
        assert np.abs(generators(l) + generators(l).transpose(0, 2, 1)).max() < 1e-12

    def axis(direction):
        unit = direction / np.linalg.norm(direction)
        return [r[:, l] for l, r in enumerate(frame_rotations(3, unit[None])[l][0] for l in range(4))]

    with jax.enable_x64(True):
        for pole in ([0.0, 0.0, 1.0], [0.0, 0.0, -1.0], [0.6, 0.0, 0.8]):
            pole = np.array(pole)
            change = np.cross(pole, [0.3, -0.5, 0.2])
            _, moved = jax.jvp(
                lambda d: [r[0, :, l] for l, r in enumerate(frame_rotations(3, d))],
                (pole[None],),
                (change[None],),
            )
            ahead, behind = (
                [
                    r[0, :, l]
                    for l, r in enumerate(
                        frame_rotations(3, np.array([pole + t * change]) / np.linalg.norm(pole + t * change))
                    )
                ]
                for t in (1e-5, -1e-5)
            )
            for l in range(4):
                assert np.abs(moved[l] - (ahead[l] - behind[l]) / 2e-5).max() < 1e-8


def test_products_on_the_sphere_are_those_of_functions():
    """Y_1z² has 1/3 in degree 0; to the sphere and back is the identity."""
    x = np.random.default_rng(0).normal(size=(3, 16, 2))
    assert np.allclose(from_sphere(on_sphere(x, 3, 3), 3, 3), x, atol=1e-5)
    z = np.zeros((1, 16, 1))
    z[0, 2] = 1.0
    values = on_sphere(z, 3, 3)
    constant = on_sphere(np.eye(16)[:1, :, None], 3, 3)
    assert float(from_sphere(values * values, 3, 3)[0, 0, 0]) == pytest.approx(
        float(constant[0, 0, 0]), rel=1e-5
    )


def test_padding_and_batching_change_nothing(model):
    network, head, shape = model.energy_network, model.head, model._potential_shapes.shapes[0]
    graphs = [network.graph(SYSTEMS[n], np.float64) for n in ("molecule", "bilayer on top", "crystal")]
    starts = np.cumsum([0] + [g.n_atoms for g in graphs])

    def found(graph):
        with jax.enable_x64(True):
            parts = model._derivatives(head.params, head.statistics, model.params, graph.pad(*shape))
            return [np.asarray(part) for part in parts]

    together = found(batch(graphs))
    for n, graph in enumerate(graphs):
        for alone, joined in zip(found(graph), together, strict=True):
            assert np.abs(alone[: graph.n_atoms] - joined[starts[n] : starts[n + 1]]).max() < 1e-9
            assert not alone[graph.n_atoms :].any()


def test_moved_frames_compile_at_most_twice():
    model, counts = _model(replace(HEAD, backbone_blocks=0)), set()
    model._potential_shapes.waste = 1.6
    model._potential_shapes.shapes.clear()
    for seed in range(30):
        sheet = _rattled(graphene(size=(3, 3, 1), vacuum=4.0), seed)
        counts.add(model.energy_network.graph(sheet).n_pairs)
        model.potential(sheet)
    assert len(counts) > 1
    assert model._derivatives._cache_size() <= 2


def test_model_file(model, tmp_path):
    path, atoms = tmp_path / "model.h5", SYSTEMS["sheet"]
    model.save(path)
    again = HamiltonianModel.load(path)
    assert again.potential_properties == {"energy", "forces", "stress"}
    assert again.head.config == model.head.config
    assert again.head.reference == model.head.reference
    for one, other in (
        (again.head.params, model.head.params),
        (again.head.statistics, model.head.statistics),
    ):
        pairs = zip(jax.tree.leaves(dict(one)), jax.tree.leaves(dict(other)), strict=True)
        assert all(np.array_equal(a, b) for a, b in pairs)
    assert np.array_equal(again(atoms).entries, model(atoms).entries)
    with h5py.File(path, "r+") as file:
        file["head/parameters/species"][...] = 0.0
    with pytest.raises(ValueError, match="checksum"):
        HamiltonianModel.load(path)
    with h5py.File(path, "r+") as file:
        del file["head"]
    bare = HamiltonianModel.load(path)
    assert bare.potential_properties == frozenset()
    with pytest.raises(ValueError, match="no energy head"):
        bare.potential(atoms)


def test_refusals(model):
    with pytest.raises(ValueError, match="periodic in 3D"):
        model.potential(SYSTEMS["sheet"], stress=True)
    with pytest.raises(ValueError, match="float32"):
        model.potential(SYSTEMS["sheet"], dtype="half")
    with pytest.raises(KeyError, match="Xe"):
        model.potential(Atoms("Xe"))
    with pytest.raises(ValueError, match="has 2 blocks to read from, received 5"):
        EnergyNetwork(replace(HEAD, backbone_blocks=5), model.network)
    for values, message in (
        ({"cutoff": 0.0}, "positive length"),
        ({"depth": 1}, "unknown key 'depth'"),
        ({"channels": 0}, "at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            EnergyConfig.from_dict(values)


def test_lone_atom(model):
    found = model.potential(Atoms("C"), dtype="float64")
    assert np.isfinite(found.energy)
    assert not found.forces.any()
