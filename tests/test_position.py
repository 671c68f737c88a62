"""⟨i,0|r|j,R⟩: PySCF's integrals of a molecule and of a crystal, symmetries, PAW bases, orthogonal orbitals."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from ase import Atoms
from ase.build import graphene
from ase.units import Bohr

from ase_deeph import ElectronicStructure, OrbitalBasis
from ase_deeph.basis import GridRadial, SpeciesBasis
from ase_deeph.exporters.positions import orthogonal_positions
from ase_deeph.harmonics import rotation_of_shells
from ase_deeph.io.basis_file import read_basis
from ase_deeph.orthogonalization import inverse_square_root, lowdin
from ase_deeph.two_center import overlap
from ase_deeph.two_center.position import position
from tests.toys import Huckel, gaussian

DATA = Path(__file__).parent / "data" / "gpaw_overlap.h5"
SHELLS = OrbitalBasis(
    {
        "B": SpeciesBasis((0, 1, 2, 3), 3, tuple(gaussian(l, 0.9 + 0.3 * l) for l in range(4))),
        "N": SpeciesBasis((1, 0, 0), 5, (gaussian(1, 1.3), gaussian(0, 0.8), gaussian(0, 2.5))),
    }
)
CRYSTAL = Atoms(
    "BN",
    scaled_positions=[[0.02, 0.1, 0.0], [0.4, 0.5, 0.55]],
    cell=[[3.1, 0.1, 0.0], [0.7, 3.3, 0.2], [0.1, -0.4, 3.6]],
    pbc=True,
)


@pytest.fixture(scope="module")
def paw() -> OrbitalBasis:
    with h5py.File(DATA) as file:
        return read_basis(file["basis"])


def test_against_pyscf_for_a_molecule() -> None:
    gto = pytest.importorskip("pyscf.gto")
    from ase_deeph.dft.pyscf_matrices import house_order, orbital_basis

    atoms = Atoms("CON", [(0.1, -0.3, 0.2), (1.0, 0.5, -0.2), (-0.4, 1.1, 0.9)])
    described = list(zip(atoms.get_chemical_symbols(), atoms.positions.tolist(), strict=True))
    for name in ("gth-dzvp-molopt-sr", "gth-tzv2p"):
        molecule = gto.M(atom=described, basis=name, spin=None, verbose=0)
        order = house_order(molecule)
        expected = molecule.intor("int1e_r")[:, order][:, :, order] * Bohr
        for received, one in zip(position(atoms, orbital_basis(molecule)), expected, strict=True):
            assert np.abs(received.at_k((0, 0, 0)) - one).max() < 1e-6


def test_against_pyscf_for_a_crystal() -> None:
    """Each cell R as a second set of atoms of one molecule, all integrals from PySCF."""
    gto = pytest.importorskip("pyscf.gto")
    from ase_deeph.dft.pyscf_matrices import house_order, orbital_basis

    symbols, x = CRYSTAL.get_chemical_symbols(), CRYSTAL.positions
    for R in ((0, 0, 0), (1, 0, 0), (-1, 1, 0), (0, 1, -1)):
        moved = x + np.array(R) @ CRYSTAL.cell.array
        both = list(zip(symbols * 2, np.concatenate([x, moved]).tolist(), strict=True))
        molecule = gto.M(atom=both, basis="gth-dzvp-molopt-sr", spin=None, verbose=0)
        order = house_order(molecule)
        n = len(order) // 2
        expected = molecule.intor("int1e_r")[:, order][:, :, order][:, :n, n:] * Bohr
        parts = position(CRYSTAL, orbital_basis(molecule))
        counts = parts[0].basis.orbital_counts(symbols)
        ends = np.concatenate([[0], np.cumsum(counts)])
        for i, j in np.ndindex(2, 2):
            for c, part in enumerate(parts):
                one = expected[c, ends[i] : ends[i + 1], ends[j] : ends[j + 1]]
                assert np.abs(part.block(i, j, R) - one).max() < 1e-6


@pytest.mark.parametrize("kind", ["gaussians", "grids", "paw"])
def test_hermiticity_and_translation(kind: str, paw: OrbitalBasis) -> None:
    """r_ij(R) = r_ji(-R)† + R S_ij(R), and moving every atom by t adds t S: with PAW, S's augmentation too."""
    basis, atoms = SHELLS, CRYSTAL.copy()
    if kind == "grids":
        r = np.linspace(0, 6.5, 1301)
        basis = OrbitalBasis(
            {
                s: SpeciesBasis(b.shells, 3, tuple(GridRadial(f.l, r, f(r)) for f in b.radial or ()))
                for s, b in SHELLS.items()
            }
        )
    elif kind == "paw":
        basis = paw
        atoms = graphene(a=2.46, vacuum=6)
        atoms.symbols = "BN"
        atoms.rattle(0.05, seed=2)
    parts = position(atoms, basis)
    s = overlap(atoms, basis).restricted_to(parts[0].pairs)
    t = np.array([0.7, -1.9, 3.3])
    moved = atoms.copy()
    moved.positions += t
    lengths = np.repeat(s.pairs.R @ atoms.cell.array, s.block_shapes.prod(axis=1), axis=0)
    for c, (here, there) in enumerate(zip(parts, position(moved, basis), strict=True)):
        assert (
            np.abs(
                there.on(here.pairs.union(there.pairs)).restricted_to(here.pairs).entries
                - here.entries
                - t[c] * s.entries
            ).max()
            < 1e-8
        )
        adjoint = here.transpose_conj().entries + lengths[:, c] * s.entries
        assert np.abs(here.entries - adjoint).max() < 1e-8
    assert np.abs(parts[0].entries).max() > 1


def test_grids_against_gaussians() -> None:
    r = np.linspace(0, 6.5, 1301)
    grid = OrbitalBasis(
        {
            s: SpeciesBasis(b.shells, 3, tuple(GridRadial(f.l, r, f(r)) for f in b.radial or ()))
            for s, b in SHELLS.items()
        }
    )
    for exact, other in zip(position(CRYSTAL, SHELLS), position(CRYSTAL, grid), strict=True):
        assert (exact - other).max_abs() < 1e-6


def test_rotation(paw: OrbitalBasis) -> None:
    """r of the turned molecule is the turned r: D r D^T for orbitals, Q for components; with PAW atoms."""
    basis = OrbitalBasis({s: paw[s] for s in ("B", "C", "N")})
    atoms = Atoms("CBN", [(0, 0, 0), (1.3, 0.3, -0.2), (0.4, 1.5, 0.7)])
    Q = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    turned = atoms.copy()
    turned.positions = atoms.positions @ Q.T
    before = np.stack([p.at_k((0, 0, 0)).real for p in position(atoms, basis)])
    after = np.stack([p.at_k((0, 0, 0)).real for p in position(turned, basis)])
    from scipy.linalg import block_diag

    D = block_diag(*(rotation_of_shells(basis.shells(s), Q) for s in atoms.get_chemical_symbols()))
    assert np.abs(after - np.einsum("cd,ij,djk,lk->cil", Q, D, before, D, optimize=True)).max() < 1e-9


def test_bare_basis_is_refused() -> None:
    with pytest.raises(ValueError, match="carries no radial functions"):
        position(Atoms("C"), OrbitalBasis({"C": SpeciesBasis((0,), 4)}))


def test_orthogonal_orbitals_of_a_molecule() -> None:
    source = Huckel()
    atoms = Atoms("CH2", [(0.2, 0, 0.1), (1.0, 0.3, 0), (-0.5, 0.8, 0.4)])
    h = source(atoms)
    s = overlap(atoms, source.basis)
    es = ElectronicStructure(h, s)
    result = lowdin(h, s, 20.0, max_error=1e-9).hamiltonian
    x = inverse_square_root(s.at_k((0, 0, 0)))
    for received, r in zip(orthogonal_positions(es, result), position(atoms, source.basis), strict=True):
        expected = x @ r.at_k((0, 0, 0)) @ x
        assert np.abs(received.at_k((0, 0, 0)) - expected).max() < 1e-10


def test_orthogonal_orbitals_of_a_chain() -> None:
    """Against the middle of a long finite chain, orthogonalised without any k."""
    source = Huckel()
    cell = Atoms("CH", [(0.1, 0.2, 0.3), (0.2, 1.2, 0.1)], cell=[1.9, 9, 9], pbc=(True, False, False))
    h, s = source(cell), overlap(cell, source.basis)
    bulk = lowdin(h, s, 6.0, max_error=np.inf).hamiltonian
    received = orthogonal_positions(ElectronicStructure(h, s), bulk)
    n_cells, n = 41, 5
    finite = Atoms("CH" * n_cells, np.concatenate([cell.positions + [1.9 * c, 0, 0] for c in range(n_cells)]))
    x = inverse_square_root(overlap(finite, source.basis).at_k((0, 0, 0))).real
    home = n_cells // 2
    for c, part in enumerate(position(finite, source.basis)):
        whole = x @ part.at_k((0, 0, 0)).real @ x
        for R in (-2, 0, 1):
            expected = whole[home * n : (home + 1) * n, (home + R) * n : (home + R + 1) * n]
            if c == 0 and R == 0:
                expected = expected - 1.9 * home * np.eye(n)
            blocks = np.block([[received[c].block(i, j, (R, 0, 0)) for j in range(2)] for i in range(2)])
            assert np.abs(blocks - expected).max() < 2e-5
