"""A sound crystal in closed form, and faults planted into reference data one at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np
from ase import Atoms

from ase_deeph import ElectronicStructure
from ase_deeph.basis import OrbitalBasis, SpeciesBasis
from ase_deeph.matrix import RealSpaceMatrix
from ase_deeph.pairs import AtomPairs
from ase_deeph.reference import ReferenceData
from ase_deeph.two_center import overlap
from tests.toys import gaussian

LEVELS = {"Zn": (-9.0, -4.0), "S": (-20.0, -11.0)}
EXPONENTS = {"Zn": 0.5, "S": 0.7}
WOLFSBERG_HELMHOLZ = 1.75


@cache
def sound() -> ReferenceData:
    """A skewed zinc-sulphide-like crystal: extended Hückel, with a crystal field that feels the neighbours."""
    cell = [[3.3, 0.1, 0.0], [0.7, 3.5, 0.2], [0.1, -0.4, 3.8]]
    atoms = Atoms(
        "ZnSZnS",
        scaled_positions=[[0.02, 0.1, 0.0], [0.2, 0.4, 0.3], [0.5, 0.07, 0.55], [0.73, 0.52, 0.78]],
        cell=np.array(cell) * [[1.6], [1.2], [1.5]],
        pbc=True,
    )
    basis = OrbitalBasis(
        {
            s: SpeciesBasis((0, 1), {"Zn": 2.0, "S": 6.0}[s], (gaussian(0, a), gaussian(1, a)))
            for s, a in EXPONENTS.items()
        }
    )
    s = overlap(atoms, basis)
    h = _hueckel(s)
    structure = ElectronicStructure(h, s, 16.0, kpts={"density": 3.5, "gamma": True})
    return ReferenceData(atoms, h, s, n_electrons=16.0, fermi_level=structure.fermi_level(), basis=basis)


def _hueckel(s: RealSpaceMatrix) -> RealSpaceMatrix:
    symbols = s.atoms.get_chemical_symbols()
    d = s.pairs.displacements(s.atoms)
    fields = np.zeros((len(symbols), 4, 4))
    for n in np.nonzero(~s.pairs.on_site)[0]:
        y_z_x = d[n][[1, 2, 0]]
        fields[s.pairs.i[n], 1:, 1:] += np.exp(-0.5 * d[n] @ d[n]) * np.outer(y_z_x, y_z_x)
    levels = [np.repeat(LEVELS[x], (1, 3)) for x in symbols]
    blocks = []
    for n, block in enumerate(s.blocks()):
        i, j = s.pairs.i[n], s.pairs.j[n]
        if s.pairs.on_site[n]:
            blocks.append(np.diag(levels[i]) + 3.0 * fields[i])
        else:
            mean = 0.5 * (levels[i][:, None] + levels[j][None, :])
            blocks.append(WOLFSBERG_HELMHOLZ * mean * block + fields[i] @ block + block @ fields[j])
    return RealSpaceMatrix.from_blocks(s.basis, s.pairs, s.atoms, blocks).hermitian_part()


def both(data: ReferenceData, change: Callable[[RealSpaceMatrix], RealSpaceMatrix]) -> ReferenceData:
    """The same change of H and S."""
    assert data.hamiltonian is not None
    assert data.overlap is not None
    return replace(data, hamiltonian=change(data.hamiltonian), overlap=change(data.overlap))


def in_hartree(data: ReferenceData) -> ReferenceData:
    return replace(data, hamiltonian=data.hamiltonian * (1 / 27.211386))


def in_rydberg(data: ReferenceData) -> ReferenceData:
    return replace(data, hamiltonian=data.hamiltonian * (1 / 13.605693))


def negative_R(data: ReferenceData) -> ReferenceData:
    def turn(m: RealSpaceMatrix) -> RealSpaceMatrix:
        order = np.lexsort(np.column_stack([m.pairs.i, m.pairs.j, -m.pairs.R]).T[::-1])
        pairs = AtomPairs(m.pairs.i, m.pairs.j, -m.pairs.R, m.pairs.n_atoms)
        blocks = list(m.blocks())
        return RealSpaceMatrix.from_blocks(m.basis, pairs, m.atoms, [blocks[n] for n in order])

    return both(data, turn)


def wrapped(data: ReferenceData) -> ReferenceData:
    atoms = data.atoms.copy()
    atoms.positions[-1] -= atoms.cell.array[1]
    return replace(data, atoms=atoms)


def x_first(data: ReferenceData) -> ReferenceData:
    """p as x, y, z where it should be y, z, x."""

    def reorder(m: RealSpaceMatrix) -> RealSpaceMatrix:
        symbols, places = m.atoms.get_chemical_symbols(), {}
        for s in set(symbols):
            slices = zip(m.basis.shells(s), m.basis[s].shell_slices, strict=True)
            own = [
                np.arange(c.start, c.stop)[[2, 0, 1]] if l == 1 else np.arange(c.start, c.stop)
                for l, c in slices
            ]
            places[s] = np.concatenate(own)
        blocks = [
            b[np.ix_(places[symbols[i]], places[symbols[j]])]
            for i, j, b in zip(m.pairs.i, m.pairs.j, m.blocks(), strict=True)
        ]
        return RealSpaceMatrix.from_blocks(m.basis, m.pairs, m.atoms, blocks)

    return both(data, reorder)


def without_a_reverse(data: ReferenceData) -> ReferenceData:
    def drop(m: RealSpaceMatrix) -> RealSpaceMatrix:
        kept = np.arange(len(m.pairs)) != np.nonzero(~m.pairs.on_site)[0][3]
        blocks = [b for b, k in zip(m.blocks(), kept, strict=True) if k]
        return RealSpaceMatrix.from_blocks(m.basis, m.pairs.select(kept), m.atoms, blocks)

    return both(data, drop)


def zeroth_step(data: ReferenceData) -> ReferenceData:
    """On-site levels of free atoms, spherical, and nothing of the neighbours in the rest."""
    s, h = data.overlap, data.hamiltonian
    symbols = data.atoms.get_chemical_symbols()
    levels = {}
    for n in np.nonzero(h.pairs.on_site)[0]:
        block, a = np.diag(h.block_at(n)), int(h.pairs.i[n])
        shells = h.basis[symbols[a]].shell_slices
        levels[a] = np.concatenate([np.full(c.stop - c.start, block[c].min() - 1.0) for c in shells])
    blocks = []
    for n, block in enumerate(s.blocks()):
        i, j = int(s.pairs.i[n]), int(s.pairs.j[n])
        mean = 0.5 * (levels[i][:, None] + levels[j][None, :])
        blocks.append(np.diag(levels[i]) if s.pairs.on_site[n] else 1.2 * mean * block)
    return replace(data, hamiltonian=RealSpaceMatrix.from_blocks(s.basis, s.pairs, s.atoms, blocks))


def rounded(data: ReferenceData) -> ReferenceData:
    return both(data, lambda m: replace(m, entries=m.entries.astype(np.float32).astype(float)))


def noisy(data: ReferenceData) -> ReferenceData:
    random = np.random.default_rng(0)
    return both(
        data, lambda m: replace(m, entries=m.entries * (1 + 6e-8 * random.standard_normal(m.entries.shape)))
    )


def two_electrons_more(data: ReferenceData) -> ReferenceData:
    return replace(data, n_electrons=data.n_electrons + 2)


def singular(data: ReferenceData) -> ReferenceData:
    """The second orbital of atom 0 a copy of its first."""
    s = data.overlap
    blocks = [b.copy() for b in s.blocks()]
    for i, j, block in zip(s.pairs.i, s.pairs.j, blocks, strict=True):
        if i == 0:
            block[1] = block[0]
        if j == 0:
            block[:, 1] = block[:, 0]
    return replace(data, overlap=RealSpaceMatrix.from_blocks(s.basis, s.pairs, s.atoms, blocks))


def _relabelled(data: ReferenceData, symbols: list[str]) -> ReferenceData:
    atoms = data.atoms.copy()
    atoms.set_chemical_symbols(symbols)
    return replace(data, atoms=atoms)


def exchanged(data: ReferenceData) -> ReferenceData:
    """Two atoms called by each other's element."""
    symbols = data.atoms.get_chemical_symbols()
    other = next(n for n, s in enumerate(symbols) if s != symbols[0])
    symbols[0], symbols[other] = symbols[other], symbols[0]
    return _relabelled(data, symbols)


def renamed(data: ReferenceData) -> ReferenceData:
    """Every atom called by the other element."""
    symbols = data.atoms.get_chemical_symbols()
    a, b = sorted(set(symbols))
    return _relabelled(data, [b if s == a else a for s in symbols])


def moved_to_each_other(data: ReferenceData) -> ReferenceData:
    """Two atoms of different elements at each other's position."""
    atoms = data.atoms.copy()
    symbols = atoms.get_chemical_symbols()
    other = next(n for n, s in enumerate(symbols) if s != symbols[0])
    atoms.positions[[0, other]] = atoms.positions[[other, 0]]
    return replace(data, atoms=atoms)


def with_nan(data: ReferenceData) -> ReferenceData:
    entries = data.hamiltonian.entries.copy()
    entries[7] = np.nan
    return replace(data, hamiltonian=replace(data.hamiltonian, entries=entries))


FAULTS: list[tuple[Callable[[ReferenceData], ReferenceData], str]] = [
    (in_hartree, "units"),
    (in_rydberg, "units"),
    (negative_R, "sign-of-R"),
    (wrapped, "wrapped-atom"),
    (x_first, "m-order"),
    (without_a_reverse, "missing-reverse"),
    (zeroth_step, "h0"),
    (rounded, "float32"),
    (noisy, "float32"),
    (two_electrons_more, "electron-count"),
    (singular, "singular-overlap"),
    (exchanged, "swapped-species"),
    (moved_to_each_other, "swapped-species"),
    (with_nan, "nan"),
]
"""Each fault, and the code of the finding that must name it (truncated files are planted in folders)."""
