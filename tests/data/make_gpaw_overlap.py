"""Writes gpaw_overlap.h5: GPAW's dzp bases of B, C, N, Mo, S and GPAW's own S(k) of three rattled crystals.

Needs the extra `gpaw`; the tests read the file without it.  Run as `python tests/data/make_gpaw_overlap.py`.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import h5py
import numpy as np
from ase import Atoms
from ase.build import graphene, mx2
from ase.units import Bohr
from gpaw.basis_data import Basis
from gpaw.lcao.tci import TCIExpansions
from gpaw.setup import create_setup
from gpaw.xc import XC

from ase_deeph.basis import Augmentation, GridRadial, OrbitalBasis, SpeciesBasis
from ase_deeph.io.basis_file import write_basis

SPACING = 0.02
CRYSTALS = {
    "graphene": (lambda: graphene(a=2.46, vacuum=8), 1, (0.1, 0.23, 0)),
    "BN": (lambda: graphene("BN", a=2.5, vacuum=8), 2, (0.1, 0.23, 0)),
    "MoS2": (lambda: mx2("MoS2", a=3.18, thickness=3.19, vacuum=8), 3, (0, 0, 0)),
}


def sampled(spline) -> GridRadial:  # type: ignore[no-untyped-def]
    """A GPAW spline (f(r)/r^l in Bohr units) on an equidistant grid."""
    l, cutoff = spline.get_angular_momentum_number(), spline.get_cutoff()
    n = int(np.ceil(cutoff * Bohr / SPACING)) + 1
    r = np.linspace(0.0, cutoff, n)
    values = np.array([spline(x) for x in r]) * r**l
    values[-1] = 0.0
    return GridRadial(l, np.linspace(0.0, cutoff * Bohr, n), values * Bohr**-1.5)


def species(setup) -> SpeciesBasis:  # type: ignore[no-untyped-def]
    """The orbitals and the PAW augmentation of a GPAW setup."""
    radial = tuple(sampled(f) for f in setup.basis_functions_J)
    projectors = tuple(sampled(f) for f in setup.pt_j)
    starts = np.cumsum([0] + [2 * p.l + 1 for p in projectors])[:-1]
    equal = np.array([[p.l == q.l for q in projectors] for p in projectors])
    delta = np.where(equal, setup.dO_ii[np.ix_(starts, starts)], 0.0)
    return SpeciesBasis(tuple(f.l for f in radial), setup.Nv, radial, Augmentation(projectors, delta))


def engine_overlap(atoms: Atoms, setups: dict, k: tuple[float, float, float]) -> np.ndarray:
    """GPAW's S(k) in the gauge exp(+2πi k·R), by its own two-centre integrals."""
    symbols = atoms.get_chemical_symbols()
    names = sorted(set(symbols))
    expansions = TCIExpansions(
        [setups[s].basis_functions_J for s in names],
        [setups[s].pt_j for s in names],
        [names.index(s) for s in symbols],
    )
    cell, scaled = atoms.cell.array / Bohr, atoms.get_scaled_positions(wrap=False)
    integrals = expansions.get_tci_calculator(cell, scaled, atoms.pbc, -np.array([k], dtype=float), complex)
    offsets = np.cumsum([0] + [setups[s].nao for s in symbols])
    part = [slice(a, b) for a, b in pairwise(offsets)]
    matrix = np.zeros((offsets[-1], offsets[-1]), dtype=complex)
    for a, b in np.ndindex(len(atoms), len(atoms)):
        block = integrals.O_T(a, b)[0]
        if block is not None:
            matrix[part[a], part[b]] += block[0]
    for c, symbol in enumerate(symbols):
        projections = np.zeros((setups[symbol].ni, offsets[-1]), dtype=complex)
        for a in range(len(atoms)):
            block = integrals.P(c, a)
            if block is not None:
                projections[:, part[a]] = block[0]
        matrix += projections.conj().T @ setups[symbol].dO_ii @ projections
    return matrix


def main() -> None:
    """Write the file beside this script."""
    functional = XC("PBE")
    setups = {
        s: create_setup(s, xc=functional, lmax=0, type="paw", basis=Basis.find(s, "dzp"))
        for s in ("B", "C", "Mo", "N", "S")
    }
    with h5py.File(Path(__file__).with_name("gpaw_overlap.h5"), "w", libver="latest") as file:
        write_basis(file.create_group("basis"), OrbitalBasis({s: species(setups[s]) for s in setups}))
        for name, (build, seed, k) in CRYSTALS.items():
            atoms = build()
            atoms.rattle(0.05, seed=seed)
            matrix = engine_overlap(atoms, setups, k)
            group = file.create_group(f"crystals/{name}")
            group["numbers"], group["positions"] = atoms.numbers, atoms.positions
            group["cell"], group["pbc"] = atoms.cell.array, atoms.pbc
            group["k"] = np.array(k, dtype=float)
            group["overlap"] = matrix if any(k) else matrix.real


if __name__ == "__main__":
    main()
