"""S(R) by two-centre integrals: closed forms, GPAW's own overlap, symmetries, derivatives, scaling."""

from __future__ import annotations

from pathlib import Path

import h5py
import jax
import numpy as np
import pytest
from ase import Atoms
from ase.build import graphene, molecule

from ase_deeph.basis import Augmentation, GaussianRadial, GridRadial, OrbitalBasis, SpeciesBasis
from ase_deeph.harmonics import rotation_of_shells
from ase_deeph.io.basis_file import read_basis, write_basis
from ase_deeph.pairs import AtomPairs
from ase_deeph.two_center import overlap, overlap_function
from ase_deeph.two_center.fourier import gaunt, spherical_bessel

DATA = Path(__file__).parent / "data" / "gpaw_overlap.h5"


@pytest.fixture(scope="module")
def gpaw_basis() -> OrbitalBasis:
    with h5py.File(DATA) as file:
        return read_basis(file["basis"])


def shortened(species: SpeciesBasis, shells: list[int]) -> SpeciesBasis:
    assert species.radial is not None
    radial = tuple(species.radial[n] for n in shells)
    return SpeciesBasis(tuple(f.l for f in radial), species.valence_electrons, radial, species.augmentation)


@pytest.fixture(scope="module")
def carbon(gpaw_basis: OrbitalBasis) -> OrbitalBasis:
    return OrbitalBasis({"C": shortened(gpaw_basis["C"], [0, 1, 4])})


def gaussian_basis(exponents: dict[str, list[tuple[int, float]]]) -> OrbitalBasis:
    """Normalised single Gaussians."""
    species = {}
    for symbol, shells in exponents.items():
        radial = []
        for l, a in shells:
            r = np.linspace(0, 12, 20001)
            norm = np.trapezoid((r ** (l + 1) * np.exp(-a * r * r)) ** 2, r) ** -0.5
            radial.append(GaussianRadial(l, np.array([a]), np.array([norm])))
        species[symbol] = SpeciesBasis(tuple(l for l, _ in shells), 1, tuple(radial))
    return OrbitalBasis(species)


def test_spherical_bessel() -> None:
    from scipy.special import spherical_jn

    x = np.concatenate([[0.0], np.geomspace(1e-4, 400, 500)])
    for l, values in enumerate(spherical_bessel(8, x)):
        assert np.abs(values - spherical_jn(l, x)).max() < 1e-12


def test_gaunt_coefficients() -> None:
    assert np.allclose(gaunt(1, 1, 0)[..., 0], np.eye(3) / np.sqrt(4 * np.pi), atol=1e-14)
    assert np.allclose(gaunt(2, 1, 3), np.moveaxis(gaunt(1, 3, 2), 2, 0), atol=1e-14)


def test_gaussians_against_closed_form() -> None:
    """s and p Gaussians: S = (π/(a+b))^(3/2) exp(-ab/(a+b) d²) and its derivatives."""
    a, b = 1.3, 0.7
    basis = gaussian_basis({"B": [(0, a), (1, a)], "N": [(0, b)]})
    atoms = Atoms("BN", [(0, 0, 0), (0.3, -0.5, 0.8)])
    d = atoms.positions[1]
    s_a, p_a = (f.coefficients[0] for f in basis["B"].radial or ())
    s_b = (basis["N"].radial or ())[0].coefficients[0]
    plain = (np.pi / (a + b)) ** 1.5 * np.exp(-a * b / (a + b) * d @ d)
    y00, y1 = (4 * np.pi) ** -0.5, np.sqrt(3 / (4 * np.pi))
    block = overlap(atoms, basis).block(0, 1, (0, 0, 0))
    assert abs(block[0, 0] - s_a * s_b * y00**2 * plain) < 1e-10
    expected = p_a * s_b * y1 * y00 * b / (a + b) * d[[1, 2, 0]] * plain
    assert np.abs(block[1:, 0] - expected).max() < 1e-10


def test_grids_against_gaussians() -> None:
    """The same functions as Gaussians and as numbers on a grid give the same S, f shells included."""
    shells = [(0, 0.8), (1, 0.9), (2, 1.1), (3, 1.4)]
    exact = gaussian_basis({"C": shells})
    r = np.linspace(0, 6.5, 1301)
    radial = tuple(GridRadial(f.l, r, f(r)) for f in exact["C"].radial or ())
    grid = OrbitalBasis({"C": SpeciesBasis((0, 1, 2, 3), 4, radial)})
    atoms = Atoms("C3", [(0, 0, 0), (1.1, 0.4, 0.2), (-0.5, 2.6, 1.0)])
    assert (overlap(atoms, grid) - overlap(atoms, exact)).max_abs() < 1e-7
    on_site = overlap(atoms, exact).block(0, 0, (0, 0, 0))
    assert np.abs(np.diag(on_site) - 1).max() < 1e-7


@pytest.mark.parametrize("name", ["graphene", "BN", "MoS2"])
def test_against_gpaw(gpaw_basis: OrbitalBasis, name: str) -> None:
    """dzp with PAW projectors: C, B, N, Mo, S in rattled crystals, against the S(k) that GPAW computed."""
    with h5py.File(DATA) as file:
        group = file[f"crystals/{name}"]
        atoms = Atoms(
            group["numbers"][()], group["positions"][()], cell=group["cell"][()], pbc=group["pbc"][()]
        )
        k, expected = group["k"][()], group["overlap"][()]
    matrix = overlap(atoms, gpaw_basis)
    received = matrix.at_k(k)
    assert np.abs(received - expected).max() < 1e-5
    assert matrix.hermiticity_error() == 0.0
    for point in (k, (0.5, 0.0, 0.0), (0.31, 0.12, 0.0)):
        assert np.linalg.eigvalsh(matrix.at_k(point))[0] > 1e-5


@pytest.mark.gpaw
@pytest.mark.parametrize("basis", ["dzp", "szp(dzp)"])
def test_against_a_gpaw_run(basis: str) -> None:
    """Radial functions as run_gpaw hands them out, against the matrix of the same run's setups."""
    pytest.importorskip("gpaw")
    from ase_deeph.dft.gpaw import gpaw_basis as from_setups

    atoms = graphene(a=2.46, vacuum=6)
    functions = from_setups(atoms, basis)
    matrix = overlap(atoms, functions)
    assert np.linalg.eigvalsh(matrix.at_k((0.1, 0.2, 0)))[0] > 1e-5
    assert abs(matrix.block(0, 0, (0, 0, 0))[0, 0] - 1) < 0.2


def test_rotation_translation_relabelling(gpaw_basis: OrbitalBasis) -> None:
    basis = OrbitalBasis({s: gpaw_basis[s] for s in ("B", "C", "N")})
    atoms = Atoms("CBN", [(0, 0, 0), (1.3, 0.3, -0.2), (0.4, 1.5, 0.7)])
    reference = overlap(atoms, basis)
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    turned = atoms.copy()
    turned.positions = atoms.positions @ rotation.T + 3.0
    result = overlap(turned, basis)
    rotations = {s: rotation_of_shells(basis.shells(s), rotation) for s in basis.symbols}
    symbols = atoms.get_chemical_symbols()
    for i, j in np.ndindex(3, 3):
        expected = rotations[symbols[i]] @ reference.block(i, j, (0, 0, 0)) @ rotations[symbols[j]].T
        assert np.abs(result.block(i, j, (0, 0, 0)) - expected).max() < 1e-10
    swapped = overlap(atoms[[2, 0, 1]], basis)
    assert np.abs(swapped.block(0, 1, (0, 0, 0)) - reference.block(2, 0, (0, 0, 0))).max() < 1e-13


def test_supercell_and_wrapping(carbon: OrbitalBasis) -> None:
    atoms = graphene(a=2.46, vacuum=6)
    levels = [np.linalg.eigvalsh(overlap(atoms, carbon).at_k((n / 2, 0, 0))) for n in range(2)]
    doubled = overlap(atoms.repeat((2, 1, 1)), carbon).at_k((0, 0, 0))
    assert np.abs(np.sort(np.concatenate(levels)) - np.linalg.eigvalsh(doubled)).max() < 1e-10
    moved = atoms.copy()
    moved.positions[1] += 2 * atoms.cell[0] - atoms.cell[1]
    assert np.abs(np.linalg.eigvalsh(overlap(moved, carbon).at_k((0.5, 0, 0))) - levels[1]).max() < 1e-10


def test_chunks_do_not_matter(carbon: OrbitalBasis, monkeypatch: pytest.MonkeyPatch) -> None:
    atoms = graphene(a=2.46, size=(3, 3, 1), vacuum=6)
    atoms.rattle(0.05, seed=0)
    whole = overlap(atoms, carbon)
    monkeypatch.setattr("ase_deeph.two_center.plan._CHUNK_TRIPLES", 700)
    parts = overlap(atoms, carbon)
    assert parts.pairs == whole.pairs
    assert np.abs(parts.entries - whole.entries).max() < 1e-14


def test_given_pairs(carbon: OrbitalBasis) -> None:
    atoms = graphene(a=2.46, vacuum=6)
    complete = overlap(atoms, carbon)
    wide = AtomPairs.from_atoms(atoms, 9.0)
    assert (overlap(atoms, carbon, wide) - complete).max_abs() < 1e-6
    short = AtomPairs.from_atoms(atoms, 3.0)
    with pytest.raises(ValueError, match=r"pairs that overlap .* missing='drop'"):
        overlap(atoms, carbon, short)
    assert np.array_equal(
        overlap(atoms, carbon, short, missing="drop").entries, complete.restricted_to(short).entries
    )
    with pytest.raises(ValueError, match="expected 'raise' or 'drop'"):
        overlap(atoms, carbon, short, missing="ignore")  # type: ignore[arg-type]


def test_clear_errors(carbon: OrbitalBasis, gpaw_basis: OrbitalBasis) -> None:
    with pytest.raises(KeyError, match="'O' is not in this basis"):
        overlap(molecule("CO"), carbon)
    bare = OrbitalBasis({"C": SpeciesBasis((0, 1), 4)})
    with pytest.raises(ValueError, match="carries no radial functions"):
        overlap(Atoms("C"), bare)
    augmentation = gpaw_basis["C"].augmentation
    assert augmentation is not None
    wrong = Augmentation(augmentation.projectors, np.ones_like(augmentation.delta_overlap))
    species = SpeciesBasis(gpaw_basis.shells("C"), 4, gpaw_basis["C"].radial, wrong)
    with pytest.raises(ValueError, match="projectors of equal l"):
        overlap(Atoms("C"), OrbitalBasis({"C": species}))


def test_derivative_against_finite_differences(gpaw_basis: OrbitalBasis) -> None:
    carbon = OrbitalBasis({"C": shortened(gpaw_basis["C"], [0, 1])})
    atoms = graphene(a=2.46, vacuum=6)
    atoms.rattle(0.05, seed=4)
    matrix = overlap(atoms, carbon)
    direction = np.random.default_rng(1).normal(size=atoms.positions.shape)

    def entries(step: float) -> np.ndarray:
        moved = atoms.copy()
        moved.positions += step * direction
        return overlap(moved, carbon, matrix.pairs, missing="drop").entries

    h = 1e-3
    expected = (8 * (entries(h) - entries(-h)) - (entries(2 * h) - entries(-2 * h))) / (12 * h)
    with jax.enable_x64(True):
        function = jax.jit(overlap_function(atoms, carbon, matrix.pairs))
        values, slopes = map(np.asarray, jax.jvp(function, (atoms.positions,), (direction,)))
    assert np.abs(values - matrix.entries).max() < 1e-13
    assert np.abs(expected).max() > 0.1
    assert np.abs(slopes - expected).max() < 1e-8


def test_basis_file_is_lossless(gpaw_basis: OrbitalBasis, tmp_path: Path) -> None:
    species = {s: gpaw_basis[s] for s in gpaw_basis.symbols}
    species["H"] = SpeciesBasis((0,), 1)
    species["He"] = gaussian_basis({"He": [(0, 0.7), (1, 1.0)]})["He"]
    r = np.array([0, 0.1, 0.3, 0.7, 1.1])
    species["Li"] = SpeciesBasis((2,), 1, (GridRadial(2, r, r**2),))
    basis = OrbitalBasis(species)
    with h5py.File(tmp_path / "basis.h5", "w") as file:
        write_basis(file.create_group("basis"), basis)
        assert read_basis(file["basis"]) == basis
        with pytest.raises(ValueError, match="empty group"):
            write_basis(file["basis"], basis)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda g: g["C"].__delitem__("shells"), "incomplete or damaged"),
        (lambda g: g["C/radial"].__delitem__("ordinates"), "incomplete or damaged"),
        (lambda g: g["C/radial/kinds"].__setitem__(0, 7), "unknown kind"),
        (lambda g: g["C/radial/lengths"].__setitem__(0, 3), "incomplete or damaged"),
        (lambda g: g.attrs.__setitem__("version", 2), "version <= 1"),
        (lambda g: g.attrs.__setitem__("format", "other"), "expected the format"),
    ],
)
def test_damaged_basis_files(carbon: OrbitalBasis, tmp_path: Path, damage, message: str) -> None:
    with h5py.File(tmp_path / "basis.h5", "w") as file:
        group = file.create_group("basis")
        write_basis(group, carbon)
        damage(group)
        with pytest.raises(ValueError, match=message):
            read_basis(group)
