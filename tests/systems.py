"""Named systems with known physics: tight-binding models in closed form, and random matrices."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from ase import Atoms
from ase.build import bulk, graphene

from ase_deeph.basis import OrbitalBasis, SpeciesBasis
from ase_deeph.matrix import RealSpaceMatrix
from ase_deeph.pairs import AtomPairs

S_ORBITAL = OrbitalBasis({"H": SpeciesBasis((0,), 1), "C": SpeciesBasis((0,), 1)})
SP_D = OrbitalBasis({"B": SpeciesBasis((0, 1), 3), "N": SpeciesBasis((0, 0, 1, 2), 5)})


def hopping(
    atoms: Atoms, cutoff: float, on_site: float, nearest: float, basis: OrbitalBasis = S_ORBITAL
) -> RealSpaceMatrix:
    """One s orbital per atom: a number on site and another for every pair within the cutoff (Å)."""
    pairs = AtomPairs.from_atoms(atoms, cutoff)
    return RealSpaceMatrix(basis, pairs, atoms, np.where(pairs.on_site, float(on_site), float(nearest)))


def chain(
    t: float = -1.0, s: float = 0.0, e0: float = 0.0, n: int = 1
) -> tuple[RealSpaceMatrix, RealSpaceMatrix]:
    """H and S of a chain of n atoms per cell: e(k) = (e0 + 2 t cos 2πk) / (1 + 2 s cos 2πk) for n = 1."""
    atoms = Atoms("H", cell=[2.0, 12.0, 11.0], pbc=(True, False, False)) * (n, 1, 1)
    return hopping(atoms, 2.5, e0, t), hopping(atoms, 2.5, 1.0, s)


def dimer_chain(t1: float = -1.5, t2: float = -0.5) -> RealSpaceMatrix:
    """The Su-Schrieffer-Heeger chain, an insulator with gap 2 ||t1| - |t2||."""
    atoms = Atoms("H2", positions=[[0, 0, 0], [1.0, 0, 0]], cell=[2.5, 12, 11], pbc=(True, False, False))
    pairs = AtomPairs.from_atoms(atoms, 1.6)
    length = np.linalg.norm(pairs.displacements(atoms), axis=1)
    return RealSpaceMatrix(S_ORBITAL, pairs, atoms, np.select([length < 0.1, length < 1.2], [0.0, t1], t2))


def square(t: float = -1.0, n: int = 1) -> RealSpaceMatrix:
    """The square lattice: e(k) = 2 t (cos 2πk1 + cos 2πk2)."""
    atoms = Atoms("H", cell=[2.0, 2.0, 12.0], pbc=(True, True, False)) * (n, n, 1)
    return hopping(atoms, 2.5, 0.0, t)


def graphene_pz(t: float = -2.7, s: float = 0.1, n: int = 1) -> tuple[RealSpaceMatrix, RealSpaceMatrix]:
    """H and S of graphene's π bands: e = ± t |f| / (1 ± s |f|), f the sum of phases to the neighbours."""
    atoms = graphene(size=(n, n, 1), vacuum=6.0)
    atoms.pbc = (True, True, False)
    return hopping(atoms, 1.6, 0.0, t), hopping(atoms, 1.6, 1.0, s)


def fcc(t: float = -0.5) -> RealSpaceMatrix:
    """An s band on the fcc lattice, nearest neighbours only; C stands for any element."""
    return hopping(Atoms("C", cell=bulk("Cu", a=3.6).cell, pbc=True), 2.7, 0.0, t)


def random_crystal(seed: int = 0) -> tuple[RealSpaceMatrix, RealSpaceMatrix]:
    """H and S of a skewed BN-like crystal in s, p and d shells, Hermitian, S positive; no symmetry at all."""
    rng = np.random.default_rng(seed)
    cell = [[3.1, 0.1, 0.0], [0.7, 3.3, 0.2], [0.1, -0.4, 3.6]]
    atoms = Atoms("BN", scaled_positions=[[0.02, 0.1, 0.0], [0.4, 0.5, 0.55]], cell=cell, pbc=True)
    return random_matrix(atoms, SP_D, 4.5, rng), random_overlap(atoms, SP_D, 4.5, rng)


def random_matrix(
    atoms: Atoms, basis: OrbitalBasis, cutoff: float, rng: np.random.Generator, size: float = 1.0
) -> RealSpaceMatrix:
    """A Hermitian matrix of random real blocks that fall off with distance."""
    pairs = AtomPairs.from_atoms(atoms, cutoff)
    counts = basis.orbital_counts(atoms.get_chemical_symbols())
    fall = size * np.exp(-0.5 * np.linalg.norm(pairs.displacements(atoms), axis=1))
    blocks = [
        f * rng.normal(size=(counts[i], counts[j])) for i, j, f in zip(pairs.i, pairs.j, fall, strict=True)
    ]
    return RealSpaceMatrix.from_blocks(basis, pairs, atoms, blocks).hermitian_part()


def random_overlap(
    atoms: Atoms, basis: OrbitalBasis, cutoff: float, rng: np.random.Generator
) -> RealSpaceMatrix:
    """A positive overlap: the identity on site and small random blocks, diagonally dominant at every k."""
    small = random_matrix(atoms, basis, cutoff, rng)
    counts = basis.orbital_counts(atoms.get_chemical_symbols())
    blocks = list(small.blocks())
    reach = max(
        sum(np.abs(blocks[n]).sum(axis=1).max() for n in np.nonzero(small.pairs.i == i)[0])
        for i in range(len(atoms))
    )
    unit = [
        np.eye(counts[i]) if own else np.zeros((counts[i], counts[j]))
        for i, j, own in zip(small.pairs.i, small.pairs.j, small.pairs.on_site, strict=True)
    ]
    return RealSpaceMatrix.from_blocks(basis, small.pairs, atoms, unit) + small * (0.7 / reach)


MATERIALS: dict[str, Callable[[], tuple[RealSpaceMatrix, RealSpaceMatrix | None]]] = {
    "chain": lambda: chain(s=0.1),
    "square": lambda: (square(), None),
    "graphene": graphene_pz,
    "fcc": lambda: (fcc(), None),
    "random crystal": random_crystal,
}
