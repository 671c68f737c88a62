"""Toy matrices with spin: extended-Hückel H, exchange and bonds that feel the moments, l·σ on p shells."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from ase import Atoms

from ase_deeph.basis import OrbitalBasis, SpeciesBasis
from ase_deeph.io.deeph import write_basis_file, write_deeph
from ase_deeph.matrix import RealSpaceMatrix
from ase_deeph.pauli import from_pauli
from ase_deeph.reference import ReferenceData
from tests.training_data import hueckel, sp_basis

EXCHANGE, NEIGHBOUR, BOND, COUPLING = 0.8, 0.1, 0.3, 0.6


def angular_momentum() -> np.ndarray:
    """(3, 3, 3) imaginary part of L_x, L_y, L_z on p orbitals in the order y, z, x: (L_s)_ab = -i ε_sab."""
    order, epsilon = [1, 2, 0], np.zeros((3, 3, 3))
    for a, b, c in ((0, 1, 2), (1, 2, 0), (2, 0, 1)):
        epsilon[a, b, c], epsilon[a, c, b] = 1.0, -1.0
    return -epsilon[:, order][:, :, order]


def chain(seed: int, n: int = 4) -> Atoms:
    """A rattled chain of carbon atoms, open in two directions."""
    atoms = Atoms(f"C{n}", cell=[1.9 * n, 0, 0], pbc=(True, False, False))
    atoms.positions[:, 0] = 1.9 * np.arange(n)
    atoms.rattle(0.12, seed=seed)
    return atoms


def basis_of(spin: str) -> OrbitalBasis:
    """s and p on carbon for spinors, s alone (which compiles faster) for collinear spin."""
    full = sp_basis()
    if spin == "spinor":
        return full
    carbon = full["C"]
    return OrbitalBasis({"C": SpeciesBasis(carbon.shells[:1], 1.0, carbon.radial[:1])})


def labelled(atoms: Atoms, moments: np.ndarray | None, spin: str) -> ReferenceData:
    """H and S of a structure; without moments spin-orbit coupling alone."""
    basis = basis_of(spin)
    spinless = hueckel(atoms, basis)
    h, s = spinless.hamiltonian, spinless.overlap
    assert h is not None
    assert s is not None
    pairs, n = h.pairs, basis.max_orbitals
    zero, vector = h.padded_blocks().astype(complex), np.zeros((3, len(pairs), n, n), dtype=complex)
    overlap, on_site = s.restricted_to(pairs).padded_blocks(), pairs.on_site
    distance = np.linalg.norm(pairs.displacements(atoms), axis=1)
    if spin == "spinor":
        crowd = np.bincount(pairs.i, weights=np.exp(-distance), minlength=len(atoms))
        strength = (crowd**2)[None, :, None, None]
        vector[:, on_site, 1:, 1:] = 1j * COUPLING * angular_momentum()[:, None] * strength
    if moments is not None:
        full = np.zeros((len(atoms), 3))
        full[:, 2 if moments.ndim == 1 else slice(None)] = moments
        atoms = atoms.copy()
        atoms.set_initial_magnetic_moments(moments)
        around = np.zeros((len(atoms), 3))
        np.add.at(around, pairs.i, np.where(on_site, 0.0, np.exp(-distance))[:, None] * full[pairs.j])
        field = EXCHANGE * full + NEIGHBOUR * around
        both = 0.5 * (field[pairs.i] + field[pairs.j])
        vector += both.T[:, :, None, None] * overlap[None]
        product = np.einsum("ps,ps->p", full[pairs.i], full[pairs.j])
        zero += BOND * product[:, None, None] * overlap
    parts = np.stack([zero, *vector]) if spin == "spinor" else np.stack([zero.real, vector[2].real])
    matrix = from_pauli(basis, pairs, atoms, parts, spin)  # type: ignore[arg-type]
    overlap_of = RealSpaceMatrix(basis, s.pairs, atoms, s.entries)
    electrons = basis.n_electrons(atoms.get_chemical_symbols())
    return ReferenceData(atoms, matrix, overlap_of, n_electrons=electrons, basis=basis)


def moments_of(seed: int, spin: str, n: int = 4) -> np.ndarray:
    """Random moments, all zero for seed 0."""
    rng = np.random.default_rng(seed)
    found = rng.choice([-1.0, 1.0], size=n) if spin == "collinear" else rng.normal(size=(n, 3))
    return found * (seed > 0)


def write_set(folder: Path, spin: str, count: int, *, magnetic: bool = True) -> None:
    """A dataset of toy chains."""
    (folder / "dft").mkdir(parents=True)
    for seed in range(count):
        moments = moments_of(seed, spin) if magnetic else None
        write_deeph(folder / "dft" / f"chain-{seed}", labelled(chain(seed), moments, spin), own_basis=False)
    write_basis_file(folder / "basis.h5", basis_of(spin))
