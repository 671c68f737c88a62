"""One physics as none, collinear and spinor; moments and spin of levels; ASE's consumers; SIESTA's Fe and Pt2."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import PropertyNotImplementedError
from ase.dft.bandgap import bandgap
from ase.dft.dos import DOS
from ase.spectrum.band_structure import get_band_structure

from ase_deeph import AtomPairs, DeepHCalculator, ElectronicStructure, OrbitalBasis, RealSpaceMatrix
from ase_deeph.basis import SpeciesBasis
from ase_deeph.io import read_deeph, read_siesta, write_deeph
from ase_deeph.matrix import Spin
from ase_deeph.populations import Populations
from ase_deeph.spin_states import spin_states
from ase_deeph.two_center import overlap
from tests.systems_exporters import random_structure
from tests.toys import Huckel

DATA = next(
    (p / "shared/data/siesta" for p in Path(__file__).parents if (p / "shared/data/siesta").is_dir()), None
)
needs_data = pytest.mark.skipif(DATA is None, reason="SIESTA's example output (shared/data/siesta) is absent")
PAULI = np.array([[[0, 1], [1, 0]], [[0, -1j], [1j, 0]], [[1, 0], [0, -1]]])
MESH = {"size": (3, 3, 3), "gamma": True}
EXCHANGE = 1.5


def diamond() -> Atoms:
    atoms = bulk("C")
    atoms.rattle(0.05, seed=3)
    return atoms


def with_spin(h: RealSpaceMatrix, spin: Spin, splitting: float = 0.0) -> RealSpaceMatrix:
    """The same H as another kind of spin; `splitting` (eV) of opposite sign and half the size on every second atom."""
    if spin == "none":
        return h
    field = [splitting * (1.0 if n % 2 == 0 else -0.5) for n in range(len(h.atoms))]
    blocks = []
    for n, block in enumerate(h.blocks()):
        shift = 0.5 * field[h.pairs.i[n]] * np.eye(len(block)) if h.pairs.on_site[n] else 0 * block
        zero = np.zeros_like(block)
        up, down = block - shift, block + shift
        blocks.append(
            np.stack([up, down]) if spin == "collinear" else np.block([[up, zero], [zero, down]]) + 0j
        )
    return RealSpaceMatrix.from_blocks(h.basis, h.pairs, h.atoms, blocks, spin)


def turned(h: RealSpaceMatrix, u: np.ndarray) -> RealSpaceMatrix:
    """A spinor H with spin rotated by u (2, 2)."""
    blocks = []
    for block in h.blocks():
        left, right = (np.kron(u, np.eye(n // 2)) for n in block.shape)
        blocks.append(left @ block @ right.conj().T)
    return RealSpaceMatrix.from_blocks(h.basis, h.pairs, h.atoms, blocks, "spinor")


class Source:
    """source(atoms) -> Hückel's H as one of the kinds of spin."""

    def __init__(self, spin: Spin, splitting: float = 0.0) -> None:
        self.spin, self.splitting, self.huckel = spin, splitting, Huckel()

    def __call__(self, atoms: Atoms) -> RealSpaceMatrix:
        return with_spin(self.huckel(atoms), self.spin, self.splitting)


def structure(spin: Spin, splitting: float = 0.0) -> ElectronicStructure:
    atoms = diamond()
    h = Source(spin, splitting)(atoms)
    return ElectronicStructure(
        h, overlap(atoms, h.basis), kpts=MESH, occupations={"name": "gaussian", "width": 0.3}
    )


def calculator(spin: Spin, splitting: float = 0.0) -> DeepHCalculator:
    atoms = diamond()
    calc = DeepHCalculator(
        Source(spin, splitting), kpts=MESH, occupations={"name": "fermi-dirac", "width": 0.1}
    )
    atoms.calc = calc
    calc.keep = atoms
    return calc


@pytest.mark.parametrize("spin", ["collinear", "spinor"])
def test_one_physics_whatever_the_kind_of_spin(spin: Spin) -> None:
    plain, other = structure("none"), structure(spin)
    assert other.fermi_level() == pytest.approx(plain.fermi_level(), abs=1e-9)
    for es in (plain, other):
        assert np.einsum("skn,k->", es.occupation_numbers(), es.mesh.weights) == pytest.approx(8, abs=1e-8)
    grid = np.linspace(-60, 60, 2401)
    ours, theirs = (np.reshape(es.dos(grid, width=0.4), (-1, len(grid))).sum(axis=0) for es in (other, plain))
    assert np.abs(ours - theirs).max() < 1e-9
    assert np.trapezoid(ours, grid) == pytest.approx(2 * 8, abs=1e-6)
    assert np.abs(Populations(other).magnetic_moments()).max() < 1e-9
    assert np.allclose(
        Populations(other).mulliken_charges(), Populations(plain).mulliken_charges(), atol=1e-9
    )


def test_moments_of_a_spinor_are_those_of_the_channels_and_turn_with_spin() -> None:
    collinear, spinor = structure("collinear", EXCHANGE), structure("spinor", EXCHANGE)
    assert spinor.fermi_level() == pytest.approx(collinear.fermi_level(), abs=1e-9)
    moments = Populations(collinear).magnetic_moments()
    assert moments[0, 2] > 0.05
    assert moments[1, 2] < -0.05
    assert np.abs(moments[:, :2]).max() == 0
    assert np.abs(Populations(spinor).magnetic_moments() - moments).max() < 1e-9
    axis, angle = np.array([1.0, 2.0, -0.5]) / np.linalg.norm([1.0, 2.0, -0.5]), 1.1
    n = np.tensordot(axis, PAULI, axes=1)
    u = np.cos(angle / 2) * np.eye(2) - 1j * np.sin(angle / 2) * n
    there = Populations(replace(spinor, hamiltonian=turned(spinor.hamiltonian, u))).magnetic_moments()
    z = np.array([0.0, 0.0, 1.0])
    rotated = z * np.cos(angle) + np.cross(axis, z) * np.sin(angle) + axis * axis[2] * (1 - np.cos(angle))
    assert np.abs(there - moments[:, 2:] * rotated).max() < 1e-9


def test_spin_of_levels_in_a_field() -> None:
    """One orbital in a field B: levels ∓B/2 with spin ±B/|B|, whatever S."""
    atom, field = Atoms("H"), np.array([0.3, -0.4, 1.2])
    basis, pairs = OrbitalBasis({"H": SpeciesBasis((0,), 1.0)}), AtomPairs.from_atoms(Atoms("H"), 1.0)
    h = RealSpaceMatrix.from_blocks(basis, pairs, atom, [-0.5 * np.tensordot(field, PAULI, axes=1)], "spinor")
    s = RealSpaceMatrix.from_blocks(basis, pairs, atom, [np.array([[1.7]])])
    es = ElectronicStructure(h, s, occupations={"name": "fermi-dirac", "width": 0.0})
    states = spin_states(es, [[0, 0, 0]])
    direction = field / np.linalg.norm(field)
    assert np.allclose(states.spins[0, 0], [direction, -direction], atol=1e-12)
    assert np.allclose(states.energies[0, 0], np.array([-0.65, 0.65]) / 1.7, atol=1e-12)
    assert np.allclose(Populations(es).magnetic_moments(), [direction], atol=1e-9)


def test_spin_of_levels_is_a_length_below_one_and_none_for_kramers_pairs() -> None:
    points = np.array([[0.1, 0.2, 0.3], [0.5, 0.0, 0.0]])
    pairs = spin_states(structure("spinor"), points)
    assert np.abs(pairs.spins).max() < 1e-9
    rng, es = np.random.default_rng(4), structure("spinor", EXCHANGE)
    h = es.hamiltonian
    noise = rng.normal(size=(2, len(h.entries))) * 0.2
    mixed = replace(es, hamiltonian=replace(h, entries=h.entries + noise[0] + 1j * noise[1]).hermitian_part())
    lengths = np.linalg.norm(spin_states(mixed, points).spins, axis=-1)
    assert lengths.max() <= 1 + 1e-9
    assert lengths.max() > 0.3
    channels = spin_states(structure("collinear", EXCHANGE), points)
    assert np.all(channels.spins[0, ..., 2] == 1)
    assert np.all(channels.spins[1, ..., 2] == -1)
    with pytest.raises(ValueError, match="without spin"):
        spin_states(structure("none"), points)


def test_spin_of_levels_is_that_of_sisl() -> None:
    pytest.importorskip("sisl")
    from ase_deeph.exporters import to_sisl

    es = random_structure("spinor")
    points = np.array([[0.1, 0.2, 0.3], [0.4, 0.0, -0.2]])
    ours, exported = spin_states(es, points), to_sisl(es)
    for k, energies, spins in zip(points, ours.energies[0], ours.spins[0], strict=True):
        state = exported.eigenstate(k)
        assert np.allclose(state.eig, energies, atol=1e-9)
        assert np.allclose(
            state.spin_moment(), spins.T if state.spin_moment().shape[0] == 3 else spins, atol=1e-8
        )


@pytest.mark.parametrize("spin", ["none", "collinear", "spinor"])
def test_ases_consumers_count_right(spin: Spin) -> None:
    splitting = 0.0 if spin == "none" else EXCHANGE
    calc = calculator(spin, splitting)
    assert calc.get_number_of_spins() == {"none": 1, "collinear": 2, "spinor": 2}[spin]
    assert calc.get_spin_polarized() == (spin == "collinear")
    dos = DOS(calc, width=0.1, npts=4001)
    total, energies = dos.get_dos(), dos.get_energies()
    assert np.trapezoid(total, energies) == pytest.approx(16, abs=1e-3)
    middle = 0.5 * sum(calc.get_homo_lumo()) - calc.get_fermi_level()
    below = energies < middle
    assert np.trapezoid(total[below], energies[below]) == pytest.approx(8, abs=0.02)
    ours = calc.get_electronic_structure().band_gap()
    assert bandgap(calc, output=None)[0] == pytest.approx(float(ours), abs=1e-9)
    weights = calc.get_k_point_weights()
    electrons = [
        w * calc.get_occupation_numbers(k, s).sum()
        for k, w in enumerate(weights)
        for s in range(calc.get_number_of_spins())
    ]
    assert sum(electrons) == pytest.approx(8, abs=1e-9)
    with pytest.raises(ValueError, match="spin 2"):
        calc.get_eigenvalues(0, 2)
    tetrahedra = DOS(calc, width=0.0, npts=2001, window=(-40, 60))
    assert np.trapezoid(tetrahedra.get_dos(), tetrahedra.get_energies()) == pytest.approx(16, abs=0.3)


@pytest.mark.parametrize("spin", ["none", "collinear", "spinor"])
def test_ases_band_structure(spin: Spin) -> None:
    calc = calculator(spin, 0.0 if spin == "none" else EXCHANGE)
    level = calc.get_fermi_level()
    path = calc.keep.cell.bandpath("GX", npoints=4)
    calc.set(kpts=path)
    bands = get_band_structure(calc=calc)
    assert bands.energies.shape == {"none": (1, 4, 8), "collinear": (2, 4, 8), "spinor": (2, 4, 8)}[spin]
    assert bands.reference == level
    mine = calc.get_electronic_structure().eigenvalues(path)
    theirs = np.sort(np.concatenate(bands.energies, axis=1))[None] if spin == "spinor" else bands.energies
    assert np.allclose(theirs, mine, atol=1e-12)
    assert np.allclose(calc.band_structure(path).energies, mine, atol=1e-12)


def test_moments_by_ases_names() -> None:
    collinear = calculator("collinear", EXCHANGE)
    moments = collinear.keep.get_magnetic_moments()
    assert moments.shape == (2,)
    assert collinear.keep.get_magnetic_moment() == pytest.approx(moments.sum(), abs=1e-12)
    assert {"magmom", "magmoms"} & set(collinear.results) == set(), "they are answered, not kept"
    assert np.array_equal(collinear.get_property("magmoms"), moments)
    assert "magmoms" in collinear.export_properties()
    collinear.keep.positions[0, 0] += 0.1
    assert collinear.get_property("magmoms", collinear.keep, allow_calculation=False) is None
    spinor = calculator("spinor", EXCHANGE)
    vectors = spinor.keep.get_magnetic_moments()
    assert np.allclose(vectors[:, 2], moments, atol=1e-9)
    assert spinor.keep.get_magnetic_moment().shape == (3,)
    spinor.get_property("magmoms")
    spinor.get_eigenvalues()
    spinor.export_properties()
    with pytest.raises(PropertyNotImplementedError, match="no spin"):
        calculator("none").keep.get_magnetic_moments()


def eig(path: Path) -> tuple[float, np.ndarray]:
    """Fermi level and (n_k, n_channels, n_bands) levels of SIESTA's EIG file, eV."""
    lines = path.read_text().splitlines()
    n_bands, n_spin, n_k = (int(w) for w in lines[1].split())
    words = np.array(" ".join(lines[2:]).split(), dtype=float).reshape(n_k, -1)[:, 1:]
    return float(lines[0]), words.reshape(n_k, 2 if n_spin == 2 else 1, n_bands)


@needs_data
def test_exchange_splitting_of_iron(tmp_path: Path) -> None:
    write_deeph(tmp_path / "fe", read_siesta(DATA / "Fe_collinear"))
    data = read_deeph(tmp_path / "fe")
    level, levels = eig(DATA / "Fe_collinear/fe.EIG")
    points = np.array(
        [w.split()[1:4] for w in (DATA / "Fe_collinear/fe.KP").read_text().splitlines()[1:]], dtype=float
    )
    gamma = int(np.argmin(np.linalg.norm(points, axis=1)))
    assert np.linalg.norm(points[gamma]) < 1e-6
    es = ElectronicStructure(
        data.hamiltonian, data.overlap, data.n_electrons, kpts={"size": (9, 9, 9), "gamma": True},
        occupations={"name": "fermi-dirac", "width": 0.025},
    )  # fmt: skip
    up, down = es.eigenvalues([[0, 0, 0]])[:, 0]
    assert np.abs(np.stack([up, down]) - levels[gamma]).max() < 1e-3
    ours, theirs = down - up, levels[gamma][1] - levels[gamma][0]
    d_shells = np.nonzero((up > level - 6) & (up < level + 1))[0]
    assert np.abs(ours - theirs)[d_shells].max() < 1e-4
    assert ours[d_shells].min() > 2
    moment = spin_moment(DATA / "Fe_collinear/RUN.out")
    assert np.allclose(Populations(es).magnetic_moments()[0], moment, atol=2e-5)
    assert es.fermi_level() == pytest.approx(level, abs=1e-6)
    assert_counts(es, 16)


@needs_data
def test_levels_and_moments_of_platinum(tmp_path: Path) -> None:
    """Pt2 is magnetic along its axis: no Kramers pairs but in the half of H that time reversal keeps."""
    write_deeph(tmp_path / "pt", read_siesta(DATA / "Pt2_spin_orbit"))
    data = read_deeph(tmp_path / "pt")
    level, levels = eig(DATA / "Pt2_spin_orbit/Pt2_xx.EIG")
    es = ElectronicStructure(
        data.hamiltonian, data.overlap, data.n_electrons, kpts=(1, 1, 1),
        occupations={"name": "fermi-dirac", "width": 0.05},
    )  # fmt: skip
    found = es.eigenvalues([[0, 0, 0]])[0, 0]
    assert np.abs(found[: levels.shape[2]] - levels[0, 0]).max() < 1e-5
    assert np.diff(found.reshape(-1, 2), axis=1).max() == pytest.approx(0.5143, abs=1e-3)
    total = Populations(es).magnetic_moments().sum(axis=0)
    assert np.allclose(total, spin_moment(DATA / "Pt2_spin_orbit/RUN.out"), atol=2e-5)
    assert es.fermi_level() == pytest.approx(level, abs=1e-5)
    assert_counts(es, 36)
    paired = replace(es, hamiltonian=0.5 * (es.hamiltonian + time_reversed(es.hamiltonian)))
    assert np.diff(paired.eigenvalues([[0, 0, 0]])[0, 0].reshape(-1, 2), axis=1).max() < 1e-9
    assert np.abs(spin_states(paired, [[0, 0, 0]]).spins).max() < 1e-9
    assert np.abs(Populations(paired).magnetic_moments()).max() < 1e-9


def time_reversed(h: RealSpaceMatrix) -> RealSpaceMatrix:
    """(iσ_y) H* (iσ_y)†."""
    return turned(replace(h, entries=h.entries.conj()), 1j * PAULI[1])


def spin_moment(log: Path) -> np.ndarray:
    """(3,) total spin moment that SIESTA's log ends with, μB."""
    lines = [line for line in log.read_text().splitlines() if "spin moment: {S}" in line]
    return np.array(
        lines[-1].partition("{")[2].partition("} , |S| = {")[2].partition("}")[0].split(), dtype=float
    )


def assert_counts(es: ElectronicStructure, n_electrons: float) -> None:
    """Occupations sum to the electrons, the DOS to the states, up to the Fermi level to the electrons."""
    assert np.einsum("skn,k->", es.occupation_numbers(), es.mesh.weights) == pytest.approx(
        n_electrons, abs=1e-8
    )
    levels = es.mesh_eigenvalues
    grid = np.linspace(levels.min() - 1, levels.max() + 1, 8001)
    curve = np.reshape(es.dos(grid, width=0.1), (-1, len(grid))).sum(axis=0)
    n_states = es.hamiltonian.n_orbitals * es.n_spins * es.degeneracy
    assert np.trapezoid(curve, grid) == pytest.approx(n_states, abs=1e-3)
    below = grid < es.fermi_level()
    assert np.trapezoid(curve[below], grid[below]) == pytest.approx(n_electrons, abs=0.3)
