"""Extended Hückel theory as a Hamiltonian source: a legal model with exact symmetries, in no time."""

from __future__ import annotations

from collections.abc import Mapping
from math import gamma, sqrt

import numpy as np
from ase import Atoms

from ase_deeph import OrbitalBasis, RealSpaceMatrix
from ase_deeph.basis import GaussianRadial, SpeciesBasis
from ase_deeph.two_center import overlap

LEVELS: Mapping[str, Mapping[int, float]] = {"C": {0: -21.4, 1: -11.4}, "H": {0: -13.6}}
ELECTRONS = {"C": 4.0, "H": 1.0}
EXPONENTS = {"C": 1.4, "H": 2.2}
WOLFSBERG_HELMHOLZ = 1.75


def gaussian(l: int, exponent: float) -> GaussianRadial:
    """r^l exp(-a r²), normalised: ∫ R² r² dr = 1."""
    norm = 2 * (2 * exponent) ** (l + 1.5) / gamma(l + 1.5)
    return GaussianRadial(l, np.array([exponent]), np.array([sqrt(norm)]))


def huckel_basis(symbols: str = "CH") -> OrbitalBasis:
    """One s shell, and one p shell on carbon."""
    return OrbitalBasis(
        {
            s: SpeciesBasis(
                tuple(LEVELS[s]), ELECTRONS[s], tuple(gaussian(l, EXPONENTS[s]) for l in LEVELS[s])
            )
            for s in symbols
        }
    )


class Huckel:
    """source(atoms) -> H with H_ij = K (e_i + e_j) S_ij / 2 off the diagonal, e_i on it; counts its calls."""

    def __init__(self, shift: float = 0.0, basis: OrbitalBasis | None = None) -> None:
        self.basis = basis or huckel_basis()
        self.shift = shift
        self.calls = 0

    def __call__(self, atoms: Atoms) -> RealSpaceMatrix:
        self.calls += 1
        s = overlap(atoms, self.basis)
        symbols = atoms.get_chemical_symbols()
        levels = [np.repeat(list(LEVELS[x].values()), [2 * l + 1 for l in LEVELS[x]]) for x in symbols]
        blocks = []
        for i, j, on_site, block in zip(s.pairs.i, s.pairs.j, s.pairs.on_site, s.blocks(), strict=True):
            if on_site:
                blocks.append(np.diag(levels[i]) + self.shift * block)
            else:
                mean = 0.5 * (levels[i][:, None] + levels[j][None, :])
                blocks.append((WOLFSBERG_HELMHOLZ * mean + self.shift) * block)
        return RealSpaceMatrix.from_blocks(self.basis, s.pairs, atoms.copy(), blocks)
