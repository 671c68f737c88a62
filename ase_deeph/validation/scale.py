"""Is H in eV: the spread of its levels against the kinetic energy that the range of the orbitals asks for.

Two Gaussians of exponent α at distance d overlap by exp(-α d²/2) and hold the kinetic energy
(2l + 3) α ħ²/2m: lengths in Å and S alone give an energy in eV, whatever the zero of H is.  The quartiles of
the levels of real H lie 0.8 to 4 of these apart; Rydberg and Hartree matrices fall short by 13.6 and 27.2.
"""

from __future__ import annotations

import numpy as np
from ase.units import Bohr, Hartree, Rydberg

from ase_deeph.matrix import RealSpaceMatrix

KINETIC = 0.5 * Hartree * Bohr**2
"""ħ²/2m in eV Å²."""

UNITS = {"Rydberg": Rydberg, "Hartree": Hartree}
SMALLEST_RATIO, LARGEST_RATIO = 0.4, 12.0
_NEAREST = 1.3
_BONDED = 0.5
_MOST_PAIRS = 400


def kinetic_scale(overlap: RealSpaceMatrix) -> float | None:
    """Median kinetic energy (eV) of the orbitals, from the decay of S between neighbours; None without any."""
    pairs, symbols = overlap.pairs, overlap.atoms.get_chemical_symbols()
    d = np.linalg.norm(pairs.displacements(overlap.atoms), axis=1)
    apart = np.nonzero((d > 0.3) & (overlap.block_norms() > 1e-3))[0]
    if not len(apart):
        return None
    nearest = np.full(pairs.n_atoms, np.inf)
    np.minimum.at(nearest, pairs.i[apart], d[apart])
    reach = np.maximum(nearest[pairs.i[apart]], nearest[pairs.j[apart]])
    close = apart[d[apart] <= _NEAREST * reach]
    norms = {
        int(pairs.i[n]): np.sqrt(np.abs(np.diag(overlap.block_at(int(n)))))
        for n in np.nonzero(pairs.on_site)[0]
    }
    energies: list[float] = []
    for n in close[:: max(1, -(-len(close) // _MOST_PAIRS))]:
        i, j = int(pairs.i[n]), int(pairs.j[n])
        if not (norms[i].all() and norms[j].all()):
            continue
        block = np.abs(overlap.block_at(int(n))) / np.outer(norms[i], norms[j])
        a, b = overlap.basis[symbols[i]], overlap.basis[symbols[j]]
        for l, rows in zip(a.shells, a.shell_slices, strict=True):
            for m, cols in zip(b.shells, b.shell_slices, strict=True):
                s = np.linalg.norm(block[rows, cols]) / np.sqrt(min(2 * l + 1, 2 * m + 1))
                exponent = -2.0 * np.log(np.clip(s, 1e-3, 0.97)) / d[n] ** 2
                energies.append(KINETIC * (l + m + 3) * float(exponent))
    return float(np.median(energies)) if energies else None


def spread(levels: np.ndarray, share: float = 0.0) -> float:
    """Distance in eV of the quartiles of all levels.

    Where one shell holds half of the orbitals or more (`share`, see largest_share), the central half of the levels
    may be the 2l + 1 of that shell alone, which need not split: the range then holds half of the others, too.
    """
    held = 0.5 if share < 0.5 else 0.5 * (1.0 + share)
    low, high = np.quantile(levels, [0.5 - 0.5 * held, 0.5 + 0.5 * held])
    return float(high - low)


def tells_little(overlap: RealSpaceMatrix) -> bool:
    """Whether all orbitals are one shell that hardly overlaps its neighbours: its levels lie together in any unit."""
    if largest_share(overlap) < 1.0:
        return False
    pairs, norms = overlap.pairs, overlap.block_norms()
    return float(norms[~pairs.on_site].max(initial=0.0)) < _BONDED * float(
        norms[pairs.on_site].max(initial=0.0)
    )


def largest_share(overlap: RealSpaceMatrix) -> float:
    """The share of the orbitals that are one shell of one species."""
    symbols = overlap.atoms.get_chemical_symbols()
    sizes = [symbols.count(s) * (2 * l + 1) for s in set(symbols) for l in overlap.basis.shells(s)]
    return max(sizes) / overlap.basis.n_orbitals(symbols)
