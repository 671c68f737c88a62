"""A synthetic dataset for the tests of trainers: an extended-Hückel H whose on-site levels feel the neighbours."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import graphene

from ase_deeph.basis import GaussianRadial, OrbitalBasis, SpeciesBasis
from ase_deeph.io.deeph import write_basis_file, write_deeph
from ase_deeph.matrix import RealSpaceMatrix
from ase_deeph.pairs import AtomPairs
from ase_deeph.reference import ReferenceData
from ase_deeph.two_center import overlap

LEVELS = {0: -17.0, 1: -9.0}
WOLFSBERG = 1.75
EXPONENT = 1.5
CUTOFF = 4.2


def sp_basis() -> OrbitalBasis:
    """s and p Gaussians on carbon, normalised."""
    s_norm = (2.0 * EXPONENT / np.pi) ** 0.75 * np.sqrt(4 * np.pi)
    p_norm = s_norm * np.sqrt(4.0 * EXPONENT / 3.0)
    radial = (
        GaussianRadial(0, np.array([EXPONENT]), np.array([s_norm])),
        GaussianRadial(1, np.array([EXPONENT]), np.array([p_norm])),
    )
    return OrbitalBasis({"C": SpeciesBasis((0, 1), 4.0, radial)})


def hueckel(atoms: Atoms, basis: OrbitalBasis) -> ReferenceData:
    """H_ij = K (E_i + E_j) S_ij / 2, E_i + 0.5 Σ_j exp(-d²/2) on site, with S from two-centre integrals."""
    pairs = AtomPairs.from_atoms(atoms, CUTOFF)
    full = overlap(atoms, basis)
    s = full.restricted_to(pairs)
    d = np.linalg.norm(pairs.displacements(atoms), axis=1)
    crowd = np.bincount(pairs.i, weights=np.where(pairs.on_site, 0.0, np.exp(-0.5 * d * d)), minlength=len(atoms))
    shell_levels = np.concatenate([np.full(2 * l + 1, LEVELS[l]) for l in basis.shells("C")])
    blocks = []
    for n, block in enumerate(s.blocks()):
        rows = shell_levels + 0.5 * crowd[pairs.i[n]]
        cols = shell_levels + 0.5 * crowd[pairs.j[n]]
        factor = 1.0 if pairs.on_site[n] else WOLFSBERG * np.exp(-0.05 * d[n] ** 2)
        blocks.append(0.5 * factor * (rows[:, None] + cols[None, :]) * block)
    h = RealSpaceMatrix.from_blocks(basis, pairs, atoms, blocks)
    return ReferenceData(
        atoms, h, full, n_electrons=4.0 * len(atoms), fermi_level=-8.0, basis=basis, info={"engine": "hueckel"}
    )


def rattled_graphene(cells: int, seed: int) -> Atoms:
    """A rattled supercell of graphene of cells x 1."""
    atoms = graphene(a=2.46, size=(cells, 1, 1), vacuum=5.0)
    atoms.pbc = (True, True, False)
    atoms.positions += 0.05 * np.random.default_rng(seed).standard_normal(atoms.positions.shape)
    return atoms


def write_dataset(root: Path, sizes: tuple[int, ...] = (1, 1, 2, 2, 1)) -> Path:
    """root/dft/<id> folders and root/basis.h5."""
    basis = sp_basis()
    (root / "dft").mkdir(parents=True)
    write_basis_file(root / "basis.h5", basis)
    for n, cells in enumerate(sizes):
        write_deeph(root / "dft" / f"sheet_{n:03d}", hueckel(rattled_graphene(cells, n), basis), own_basis=False)
    return root


TINY = {
    "cutoff": CUTOFF,
    "l_max": 2,
    "channels": 4,
    "pseudo_channels": 2,
    "n_blocks": 1,
    "n_heads": 2,
    "n_radial": 8,
    "hidden": 8,
}
