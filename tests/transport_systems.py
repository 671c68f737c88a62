"""Leads and devices for the tests of transport: repeated, cut, moved and perturbed copies of a periodic matrix."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from ase import Atoms

from ase_deeph.electronic_structure import ElectronicStructure
from ase_deeph.matrix import RealSpaceMatrix, Spin
from ase_deeph.pairs import AtomPairs
from ase_deeph.transport import Device, Lead
from tests.systems import SP_D, random_matrix, random_overlap

DATA = Path(__file__).parent / "data"


def repeated(matrix: RealSpaceMatrix, n: int, axis: int = 0) -> RealSpaceMatrix:
    """The same crystal described by a cell n times longer along an axis."""
    times = [1, 1, 1]
    times[axis] = n
    atoms = matrix.atoms * tuple(times)
    p, size = matrix.pairs, len(matrix.atoms)
    keys, source = [], []
    for cell in range(n):
        to, wrap = (cell + p.R[:, axis]) % n, (cell + p.R[:, axis]) // n
        R = p.R.copy()
        R[:, axis] = wrap
        keys.append(np.column_stack([cell * size + p.i, to * size + p.j, R]))
        source.append(np.arange(len(p)))
    return _rebuilt(matrix, atoms, np.concatenate(keys), np.concatenate(source))


def without(matrix: RealSpaceMatrix, removed: list[int]) -> RealSpaceMatrix:
    """The matrix without the orbitals of some atoms."""
    kept = np.setdiff1d(np.arange(len(matrix.atoms)), removed)
    number = np.full(len(matrix.atoms), -1)
    number[kept] = np.arange(len(kept))
    p = matrix.pairs
    keys = np.column_stack([number[p.i], number[p.j], p.R])
    source = np.nonzero(np.all(keys[:, :2] >= 0, axis=1))[0]
    return _rebuilt(matrix, matrix.atoms[kept], keys[source], source)


def moved(matrix: RealSpaceMatrix, cells: np.ndarray) -> RealSpaceMatrix:
    """The same crystal with each atom given in another cell (n_atoms, 3)."""
    atoms = matrix.atoms.copy()
    atoms.positions += cells @ atoms.cell.array
    p = matrix.pairs
    keys = np.column_stack([p.i, p.j, p.R - cells[p.j] + cells[p.i]])
    return _rebuilt(matrix, atoms, keys, np.arange(len(p)))


def opened(matrix: RealSpaceMatrix, axis: int = 0) -> RealSpaceMatrix:
    """The matrix without the blocks that wrap round an axis, which is no longer periodic."""
    atoms = matrix.atoms.copy()
    atoms.pbc[axis] = False
    source = np.nonzero(matrix.pairs.R[:, axis] == 0)[0]
    keys = np.column_stack([matrix.pairs.i, matrix.pairs.j, matrix.pairs.R])[source]
    return _rebuilt(matrix, atoms, keys, source)


def _rebuilt(matrix: RealSpaceMatrix, atoms: Atoms, keys: np.ndarray, source: np.ndarray) -> RealSpaceMatrix:
    order = np.lexsort(keys.T[::-1])
    keys, source = keys[order], source[order]
    pairs = AtomPairs(keys[:, 0], keys[:, 1], keys[:, 2:], len(atoms))
    blocks = list(matrix.blocks())
    return RealSpaceMatrix.from_blocks(matrix.basis, pairs, atoms, [blocks[n] for n in source], matrix.spin)


def bn_chain(seed: int = 1) -> tuple[RealSpaceMatrix, RealSpaceMatrix]:
    """Random H and S of a BN chain in s, p, d orbitals whose blocks reach over two cells."""
    rng = np.random.default_rng(seed)
    atoms = Atoms(
        "BN", positions=[[0.1, 1, 1], [1.7, 1.5, 1.2]], cell=[3.1, 15, 16], pbc=(True, False, False)
    )
    return random_matrix(atoms, SP_D, 7.0, rng, size=3.0), random_overlap(atoms, SP_D, 7.0, rng)


def with_defect(matrix: RealSpaceMatrix, atom: int, size: float) -> RealSpaceMatrix:
    """A potential step of one atom (eV), with its bonds weakened."""
    blocks = []
    for i, j, R, block in zip(matrix.pairs.i, matrix.pairs.j, matrix.pairs.R, matrix.blocks(), strict=True):
        touches = (i == atom) + (j == atom)
        on_site = i == j and not R.any()
        blocks.append(
            block + size * np.eye(len(block)) if touches and on_site else block * (1 - 0.2 * touches)
        )
    return RealSpaceMatrix.from_blocks(matrix.basis, matrix.pairs, matrix.atoms, blocks, matrix.spin)


def in_channels(
    matrix: RealSpaceMatrix, overlap: RealSpaceMatrix, shift: float, spin: Spin
) -> RealSpaceMatrix:
    """Two copies of H, the second moved by shift·S, as collinear channels or as a spinor H."""
    second = matrix + shift * overlap.on(matrix.pairs)
    channels = zip(matrix.blocks(), second.blocks(), strict=True)
    if spin == "collinear":
        blocks = [np.stack(pair) for pair in channels]
    else:
        zero = [np.zeros_like(b) for b in matrix.blocks()]
        blocks = [
            np.block([[up, o], [o, down]]).astype(complex)
            for (up, down), o in zip(channels, zero, strict=True)
        ]
    return RealSpaceMatrix.from_blocks(matrix.basis, matrix.pairs, matrix.atoms, blocks, spin)


def dft_chain() -> tuple[Lead, float]:
    """A carbon chain in PySCF's gth-dzvp-molopt-sr (13 orbitals per atom, PBE), and its Fermi level."""
    stored = np.load(DATA / "carbon_chain_dzvp.npz")
    lead = Lead.from_matrices(stored["R"], stored["H"], stored["S"], stored["norbs"])
    return lead, float(stored["fermi_level"])


def pieces(lead: Lead, n: int, removed: tuple[int, ...] = ()) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """H, S and norbs of n cells of a lead without some atoms."""
    blocks = lead.blocks()
    place = {int(r): k for k, r in enumerate(blocks.r)}
    norbs = np.tile(lead.norbs, n)
    kept = ~np.isin(np.arange(len(norbs)), removed)
    orbitals = np.repeat(kept, norbs)
    whole = []
    for x in (blocks.h, blocks.s):
        grid = np.zeros((n, lead.n, n, lead.n))
        for row in range(n):
            for column in range(n):
                if column - row in place:
                    grid[row, :, column] = x[place[column - row]]
        whole.append(grid.reshape(n * lead.n, -1)[np.ix_(orbitals, orbitals)])
    return whole[0], whole[1], norbs[kept]


def device_of(h: RealSpaceMatrix, s: RealSpaceMatrix, leads: list[Lead], **options: object) -> Device:
    """A device from H and S."""
    return Device(ElectronicStructure(h, s), leads, **options)  # type: ignore[arg-type]
