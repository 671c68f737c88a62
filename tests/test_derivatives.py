"""dH/dR, dS/dR, electron-phonon coupling and deformation potentials against differences of H and S themselves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import graphene

from ase_deeph import HamiltonianModel, RealSpaceMatrix
from ase_deeph.basis import OrbitalBasis
from ase_deeph.derivatives import (
    Modes,
    deformation_potentials,
    electron_phonon,
    hamiltonian_derivatives,
    hamiltonian_gradient,
    overlap_derivatives,
    overlap_gradient,
    perturbations,
)
from ase_deeph.eigen import solve
from ase_deeph.graph import CrystalGraph
from ase_deeph.harmonics import harmonics_gradient, real_harmonics
from ase_deeph.large import LARGE, memory_estimate
from ase_deeph.pairs import AtomPairs
from ase_deeph.pretrained import load as load_model
from ase_deeph.two_center import overlap
from tests.toys import untrained

CHAIN = Atoms("CH", positions=[[0.0, 0, 0], [0.9, 0.5, 0.3]], cell=[2.3, 9, 9], pbc=(True, False, False))
STEP = 1e-4


@pytest.fixture(scope="module")
def model() -> HamiltonianModel:
    """A random network, with one padded shape for all structures here: each further one is compiled again."""
    found = untrained()
    found._shapes.waste = np.inf
    found._shapes.shapes.append((10, 200, 200))
    return found


def layer() -> Atoms:
    """Two carbon atoms and a hydrogen, one bond along z, in a skewed two-dimensional cell."""
    positions = [[0, 0, 0], [1.3, 0.2, 0.1], [0.0, 0.0, 1.1]]
    return Atoms(
        "C2H", positions=positions, cell=[[2.9, 0, 0], [0.4, 3.1, 0], [0, 0, 9]], pbc=(True, True, False)
    )


def moved(atoms: Atoms, displacement: np.ndarray) -> Atoms:
    there = atoms.copy()
    there.positions += displacement
    return there


def difference(function, atoms: Atoms, u: np.ndarray, step: float = STEP) -> RealSpaceMatrix:
    """(M(x + hu) - M(x - hu)) / 2h, extrapolated to h = 0 from h and 2h."""
    near, far = (
        (function(moved(atoms, h * u)) - function(moved(atoms, -h * u))) * (0.5 / h) for h in (step, 2 * step)
    )
    return near * (4 / 3) - far * (1 / 3)


def random_displacements(n: int, atoms: Atoms) -> np.ndarray:
    return np.random.default_rng(3).normal(size=(n, len(atoms), 3))


def test_dH_is_the_limit_of_differences(model: HamiltonianModel) -> None:
    atoms = layer()
    u = random_displacements(2, atoms)
    rigid = np.broadcast_to([0.3, -1.0, 0.5], (1, 3, 3))
    found = hamiltonian_derivatives(model, atoms, np.concatenate([u, rigid]), dtype="float64")
    for one, derivative in zip(u, found, strict=False):
        expected = difference(lambda a: model(a, dtype="float64"), atoms, one)
        assert (derivative - expected).max_abs() < 1e-6 * derivative.max_abs()
        assert derivative.hermiticity_error() == 0.0
    assert found[-1].max_abs() < 1e-12

    weights = model(atoms, dtype="float64")
    gradient = hamiltonian_gradient(model, atoms, weights, dtype="float64")
    for one, derivative in zip(u, found, strict=False):
        expected = float(np.sum(weights.entries * derivative.entries))
        assert np.sum(gradient * one) == pytest.approx(expected, rel=1e-10)
    np.testing.assert_allclose(gradient.sum(axis=0), 0.0, atol=1e-10)

    before = model.pushforward._cache_size()
    hamiltonian_derivatives(model, moved(atoms, 0.02 * u[0]), u, dtype="float64")
    assert model.pushforward._cache_size() == before, "another displacement compiled again"


def paw_basis() -> OrbitalBasis:
    return load_model("carbon-pbe").basis


@pytest.mark.parametrize("kind", ["gaussian", "paw"])
def test_dS_is_the_limit_of_differences(kind: str, model: HamiltonianModel) -> None:
    atoms, basis = layer(), model.basis
    if kind == "paw":
        atoms, basis = atoms[:2], paw_basis()
    u = random_displacements(2, atoms)
    rigid = np.broadcast_to([0.3, -1.0, 0.5], (1, len(atoms), 3))
    found = overlap_derivatives(atoms, basis, np.concatenate([u, rigid]))
    for one, derivative in zip(u, found, strict=False):
        expected = difference(lambda a: overlap(a, basis), atoms, one, 1e-3)
        assert (derivative.total - expected).max_abs() < 1e-8 * derivative.total.max_abs()
        assert derivative.total.hermiticity_error() == 0.0
        assert (derivative.bra - derivative.ket.transpose_conj()).max_abs() < 1e-8
    assert found[-1].total.max_abs() < 1e-12
    assert found[-1].ket.max_abs() > 0.1, "orbitals that move together still change between bra and ket"

    weights = overlap(atoms, basis) * 1.7
    gradient = overlap_gradient(atoms, basis, weights)
    for one, derivative in zip(u, found, strict=False):
        expected = float(np.sum(weights.entries * derivative.total.restricted_to(weights.pairs).entries))
        assert np.sum(gradient * one) == pytest.approx(expected, rel=1e-10)


def test_the_ket_of_dS_is_the_overlap_with_moved_copies(model: HamiltonianModel) -> None:
    atoms, basis = layer(), model.basis
    u = random_displacements(1, atoms)[0]
    ket = overlap_derivatives(atoms, basis, u[None])[0].ket
    n = len(atoms)
    for i, j, R in ((0, 0, (0, 0, 0)), (0, 1, (0, 0, 0)), (2, 1, (-1, 0, 0)), (1, 1, (0, 1, 0))):
        blocks = [
            overlap(atoms + moved(atoms, h * u), basis).block(i, n + j, R) for h in (STEP * 10, -STEP * 10)
        ]
        np.testing.assert_allclose(
            ket.block(i, j, R), (blocks[0] - blocks[1]) / (STEP * 20), atol=1e-4, rtol=0
        )


def test_gradient_of_the_harmonics() -> None:
    r = np.random.default_rng(0).normal(size=(5, 3))
    r[0] = [0, 0, 1.3]
    unit = lambda v: v / np.linalg.norm(v, axis=1)[:, None]  # noqa: E731
    found = harmonics_gradient(4, unit(r)) / np.linalg.norm(r, axis=1)[:, None, None]
    for axis, step in enumerate(1e-5 * np.eye(3)):
        expected = (real_harmonics(4, unit(r + step)) - real_harmonics(4, unit(r - step))) / 2e-5
        np.testing.assert_allclose(found[:, axis], expected, atol=1e-8)


def frozen_phonon(model: HamiltonianModel, u: np.ndarray, q: float, k: float) -> np.ndarray:
    """|⟨m|∂Ĥ|n⟩| of the standing wave Re u exp(2πi q·R): (ε_n - ε_m) d⟨m|n(δ)⟩/dδ on the supercell.

    The overlap between states at rest and moved ones is that of a structure with both sets of atoms.
    """
    cells = 3
    rest = CHAIN.repeat((cells, 1, 1))
    phases = np.exp(2j * np.pi * q * np.arange(cells))
    wave = np.real(phases[:, None, None] * u).reshape(-1, 3)
    h, s = model(CHAIN, dtype="float64"), model.overlap(CHAIN)
    there = solve(h, s, np.array([[k + q, 0, 0]]), vectors=True)
    here = solve(h, s, np.array([[k, 0, 0]]), vectors=True)
    folded = np.array([[k * cells, 0, 0]])
    bra = np.concatenate(
        [there.coefficients[0, 0] * np.exp(2j * np.pi * (k + q) * T) for T in range(cells)]
    ) / np.sqrt(cells)
    mixed, step = [], 2e-4
    for sign in (1, -1):
        after = moved(rest, sign * step * wave)
        states = solve(model(after, dtype="float64"), model.overlap(after), folded, vectors=True)
        which = [int(np.argmin(np.abs(states.eigenvalues[0, 0] - e))) for e in here.eigenvalues[0, 0]]
        both = np.asarray(overlap(rest + after, model.basis).at_k(folded[0]))
        n = len(bra)
        c = states.coefficients[0, 0][:, which]
        ket = np.concatenate(
            [here.coefficients[0, 0] * np.exp(2j * np.pi * k * T) for T in range(cells)]
        ) / np.sqrt(cells)
        along = np.einsum("am,ab,bm->m", ket.conj(), both[:n, n:], c)
        mixed.append(bra.conj().T @ both[:n, n:] @ (c * (np.abs(along) / along)))
    gaps = here.eigenvalues[0, 0][None, :] - there.eigenvalues[0, 0][:, None]
    return np.abs(gaps * (mixed[0] - mixed[1]) / (2 * step))


@pytest.mark.parametrize("q", [0.0, 1 / 3])
def test_coupling_is_that_of_a_frozen_phonon(model: HamiltonianModel, q: float) -> None:
    u = random_displacements(1, CHAIN)[0] * np.array([[0.6], [1.3]])
    norm = np.linalg.norm(u)
    modes = Modes(np.array([q, 0, 0]), np.array([0.1]), u[None] / norm, CHAIN.get_masses())
    k = 0.11
    found = electron_phonon(model, CHAIN, modes, [[k, 0, 0]], dtype="float64")
    g = np.abs(found.elements[0, 0]) * (0.5 if q else 1.0)
    expected = frozen_phonon(model, modes.amplitudes()[0].real, q, k)
    if not q:
        np.fill_diagonal(expected, np.diag(g))
    np.testing.assert_allclose(g, expected, atol=2e-5 * g.max())
    assert g.max() > 1e-3
    np.testing.assert_allclose(found.strengths()[0, 0], np.abs(found.elements[0, 0]) ** 2)


def test_strengths_do_not_depend_on_the_states_chosen(model: HamiltonianModel) -> None:
    atoms = flat()
    modes = Modes(np.zeros(3), np.array([0.19, 0.19]), e2g(), atoms.get_masses())
    kpt = [1 / 3, 1 / 3, 0]
    found = electron_phonon(model, atoms, modes, [kpt], dtype="float64")
    turned = atoms.copy()
    turned.rotate(37.0, "z", rotate_cell=True)
    c, s = np.cos(np.radians(37.0)), np.sin(np.radians(37.0))
    rotation = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1.0]])
    again = electron_phonon(
        model,
        turned,
        Modes(np.zeros(3), modes.energies, e2g() @ rotation.T, atoms.get_masses()),
        [kpt],
        dtype="float64",
    )
    assert np.diff(found.energies[0]).min() < 1e-6, "K has degenerate levels"
    np.testing.assert_allclose(found.strengths(), again.strengths(), atol=1e-8 * found.strengths().max())


def flat() -> Atoms:
    """Graphene."""
    atoms = graphene(a=2.46, vacuum=None)
    atoms.set_cell([*atoms.cell.array[:2], [0, 0, 0]])
    atoms.pbc = (True, True, False)
    return atoms


def e2g() -> np.ndarray:
    """The two optical in-plane modes of Γ."""
    along = np.eye(3)[:2, None, :] * np.array([1.0, -1.0])[None, :, None]
    return along / np.sqrt(2)


def test_deformation_potentials_split_degenerate_levels(model: HamiltonianModel) -> None:
    atoms, kpt = flat(), np.array([[1 / 3, 1 / 3, 0]])
    found = deformation_potentials(model, atoms, e2g(), kpt, dtype="float64")[:, 0]
    for u, shifts in zip(e2g(), found, strict=True):
        rest, near, far = (
            solve(model(there, dtype="float64"), model.overlap(there), kpt).eigenvalues[0, 0]
            for there in (atoms, moved(atoms, STEP * u), moved(atoms, 2 * STEP * u))
        )
        np.testing.assert_allclose((4 * near - far - 3 * rest) / (2 * STEP), shifts, atol=1e-4)
    pairs = np.nonzero(np.diff(rest) < 1e-6)[0]
    assert len(pairs) >= 1
    assert np.abs(found[:, pairs[0]] + found[:, pairs[0] + 1]).max() < 1e-8, (
        "E2g splits a pair about its middle"
    )


def test_perturbations_reject_what_they_cannot_do(model: HamiltonianModel) -> None:
    u = np.zeros((1, 2, 3))
    with pytest.raises(ValueError, match="commensurate"):
        perturbations(model, CHAIN, u, (0.1234567, 0, 0))
    with pytest.raises(ValueError, match=r"shape \(n, 2, 3\)"):
        perturbations(model, CHAIN, u[0])
    with pytest.raises(ValueError, match="norm 1"):
        Modes(np.zeros(3), np.ones(1), u, CHAIN.get_masses())
    for refusing in (
        lambda u: hamiltonian_derivatives(model, CHAIN, u),
        lambda u: overlap_derivatives(CHAIN, model.basis, u),
        lambda u: deformation_potentials(model, CHAIN, u, [0, 0, 0]),
    ):
        with pytest.raises(ValueError, match="real"):
            refusing(u * 1j)
        for bad in (np.nan, np.inf):
            with pytest.raises(ValueError, match="finite"):
                refusing(u + bad)
    with pytest.raises(ValueError, match="finite"):
        perturbations(model, CHAIN, np.concatenate([u + 1, u + complex(0, np.nan)]))


def test_atoms_at_rest_change_nothing(model: HamiltonianModel) -> None:
    shifts = deformation_potentials(model, CHAIN, np.zeros((2, 2, 3)), [[0.1, 0, 0]], dtype="float64")
    assert shifts.shape[:2] == (2, 1)
    np.testing.assert_array_equal(shifts, 0.0)
    u = random_displacements(1, CHAIN)
    modes = Modes(np.zeros(3), np.array([1e-5]), u / np.linalg.norm(u), CHAIN.get_masses())
    coupling = electron_phonon(model, CHAIN, modes, [[0.1, 0, 0]], dtype="float64")
    assert coupling.elements.shape == (1, 1, *2 * [shifts.shape[2]])
    np.testing.assert_array_equal(coupling.elements, 0.0)
    assert perturbations(model, CHAIN, np.zeros((0, 2, 3)), dtype="float64") == []


def test_a_shape_is_compiled_for_one_and_for_several_displacements(model: HamiltonianModel) -> None:
    u = random_displacements(17, CHAIN)
    before = model.pushforward._cache_size()
    for n in (1, 3):
        hamiltonian_derivatives(model, CHAIN, u[:n], dtype="float64")
    after = model.pushforward._cache_size()
    assert after <= before + 2
    for n in (1, 2, 8, 9, 17):
        assert len(hamiltonian_derivatives(model, moved(CHAIN, 0.01 * u[0]), u[:n], dtype="float64")) == n
    assert model.pushforward._cache_size() == after


def test_the_page_on_large_structures_counts_the_pairs_of_graphene() -> None:
    shipped, atoms = load_model("carbon-pbe"), flat()
    pairs = AtomPairs.from_atoms(atoms, shipped.cutoff)
    graph = CrystalGraph.from_atoms(atoms, pairs, shipped.basis, message_cutoff=shipped.config.reach)
    per_atom = len(pairs) // len(atoms)
    edges = memory_estimate(shipped.config, shipped.basis, graph).edges / len(atoms)
    page = (Path(__file__).parents[1] / "docs" / "large.md").read_text()
    assert (
        f"{LARGE // per_atom:,} atoms of flat graphene with the shipped model, {per_atom} pairs each" in page
    )
    assert f"{edges / 1000:.0f} kB per atom of flat graphene" in page


def test_modes_of_ase_move_atoms_as_they_vibrate(tmp_path: Path) -> None:
    from ase.calculators.lj import LennardJones
    from ase.phonons import Phonons

    atoms = Atoms("ArNe", positions=[[0, 0, 0], [1.0, 0.3, 0]], cell=[2.3, 9, 9], pbc=(True, False, False))
    calculator = LennardJones(sigma=1.0, epsilon=0.1, rc=2.0, smooth=True, ro=1.7)
    phonons = Phonons(atoms, calculator, supercell=(6, 1, 1), delta=1e-4, name=str(tmp_path / "ph"))
    phonons.run()
    phonons.read(acoustic=False, symmetrize=0)
    q = np.array([1 / 3, 0, 0])
    modes = Modes.from_ase(phonons, q)
    mode = int(np.argmax(modes.energies))
    wide = atoms.repeat((6, 1, 1))
    phases = np.exp(2j * np.pi * np.arange(6) * q[0])
    u = modes.vectors[mode] / np.sqrt(modes.masses)[:, None]
    wave = np.real(phases[:, None, None] * u).reshape(-1, 3)
    forces = []
    for sign in (1, -1):
        there = moved(wide, sign * 1e-4 * wave)
        there.calc = calculator
        forces.append(there.get_forces())
    found = (forces[0] - forces[1]) / 2e-4
    from ase_deeph.derivatives.modes import HBAR

    expected = -((modes.energies[mode] / HBAR) ** 2) * wide.get_masses()[:, None] * wave
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())

    fractional = atoms.cell.scaled_positions(atoms.positions)
    in_phonopy = modes.vectors * np.exp(-2j * np.pi * fractional @ q)[None, :, None]
    back = Modes.from_arrays(atoms, q, modes.energies, in_phonopy, phase="position")
    np.testing.assert_allclose(back.vectors, modes.vectors, atol=1e-12)
