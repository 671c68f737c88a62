"""A matrix with nothing but two-centre integrals and species constants, for the statistics' test."""

import numpy as np
from ase import Atoms

from ase_deeph.basis import OrbitalBasis
from ase_deeph.harmonics import edge_rotations
from ase_deeph.matrix import RealSpaceMatrix
from ase_deeph.pairs import AtomPairs


def _integral(l1: int, l2: int, m: int, d: np.ndarray) -> np.ndarray:
    """A smooth Slater-Koster integral with the sign rule of exchanged shells built in."""
    low, high = sorted((l1, l2))
    sign = (-1.0) ** (l1 + l2) if l1 > l2 else 1.0
    return sign * (2.0 + low - 0.7 * high - 0.9 * m) * np.exp(-((d / 2.2) ** 2))


def two_centre_matrix(basis: OrbitalBasis, atoms: Atoms, cutoff: float) -> RealSpaceMatrix:
    """H with Slater-Koster hoppings exp(-(d/2.2 Å)²) and on-site energies -l - 3."""
    pairs = AtomPairs.from_atoms(atoms, cutoff)
    symbols = atoms.get_chemical_symbols()
    vectors = pairs.displacements(atoms)
    d = np.linalg.norm(vectors, axis=1)
    directions = np.where(d[:, None] > 0, vectors / np.where(d > 0, d, 1.0)[:, None], [0.0, 0.0, 1.0])
    D = edge_rotations(2, directions)
    blocks = []
    for n, (i, j) in enumerate(zip(pairs.i, pairs.j, strict=True)):
        rows, cols = basis.shells(symbols[i]), basis.shells(symbols[j])
        if pairs.on_site[n]:
            blocks.append(np.diag(np.concatenate([np.full(2 * l + 1, -3.0 - l) for l in rows])))
            continue
        parts = []
        for l1 in rows:
            row = []
            for l2 in cols:
                framed = np.zeros((2 * l1 + 1, 2 * l2 + 1))
                for m in range(-min(l1, l2), min(l1, l2) + 1):
                    framed[l1 + m, l2 + m] = _integral(l1, l2, abs(m), d[n])
                row.append(D[l1][n] @ framed @ D[l2][n].T)
            parts.append(row)
        blocks.append(np.block(parts))
    return RealSpaceMatrix.from_blocks(basis, pairs, atoms, blocks)
