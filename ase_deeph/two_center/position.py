"""Position matrix elements <i,0|r|j,R> (Å) of a structure, by two-centre integrals.

About its own atom a component of r turns a shell into its neighbours,

    r_c R(r) Y_lm = √(4π/3) Σ_{l' = l±1} Σ_m' G(1c, lm, l'm') [r R(r)] Y_l'm',

so ⟨(r - x_i) φ_i|φ_j⟩ is an overlap with raised radial functions.  In a PAW basis each atom a adds
Σ_pq ⟨φ_i|p_p⟩ (x_a ΔO_pq) ⟨p_q|φ_j⟩: its augmentation charge stands at the nucleus.  The dipole of the
augmentation, ⟨φ_p|r - x_a|φ_q⟩ minus the same of the smooth partial waves, is not in the basis and is left out
(GPAW's carbon: 0.003 Å at most, where the largest on-site element is 0.48 Å).
"""

from __future__ import annotations

from functools import lru_cache
from math import pi, sqrt

import numpy as np
from ase import Atoms

from ase_deeph.basis import OrbitalBasis
from ase_deeph.matrix import RealSpaceMatrix
from ase_deeph.two_center.fourier import gaunt
from ase_deeph.two_center.overlap import (
    _NEGLIGIBLE,
    Projections,
    _assembled,
    _blocks,
    _check_atoms,
    _projections,
)
from ase_deeph.two_center.plan import Bonds, OverlapPlan, PairGroup
from ase_deeph.two_center.tables import delta_overlap_factor, raised_degrees, raised_table

_HOUSE_COMPONENT = (2, 0, 1)
"""Where x, y, z stand among the harmonics of l = 1, which are y, z, x."""

Vectors = dict[tuple[str, str], np.ndarray]


def position(atoms: Atoms, basis: OrbitalBasis) -> tuple[RealSpaceMatrix, RealSpaceMatrix, RealSpaceMatrix]:
    """⟨i,0|x|j,R⟩, ⟨i,0|y|j,R⟩ and ⟨i,0|z|j,R⟩ in Å, the origin being that of the coordinates.

    They obey r_ij(R) = r_ji(-R)† + (R·cell) S_ij(R), and a translation by t adds t·S.

    Parameters
    ----------
    atoms : the structure.
    basis : orbitals with radial functions.

    Returns
    -------
    Three matrices on the same pairs: all those with an element above 1e-10.

    Raises
    ------
    ValueError : radial functions are absent.
    KeyError : an element that the basis lacks.
    """
    _check_atoms(atoms, basis)
    plan = OverlapPlan(atoms, basis)
    x, cell = atoms.positions, atoms.cell.array
    projections = _projections(plan.bonds, basis, x, cell, np)
    arms = _arms(plan.bonds, x, cell)
    kept: list[list[tuple[np.ndarray, np.ndarray]]] = [[], [], [], []]
    for groups in plan.chunks():
        for group in groups:
            blocks = _centred_and_overlap(group, basis, projections, arms, atoms)
            large = group.on_site | (np.abs(blocks).max(axis=(0, 2, 3)) > _NEGLIGIBLE)
            for part, block in zip(kept, blocks, strict=True):
                part.append((group.keys[large], block[large]))
    *centred, s = (_assembled(atoms, basis, part) for part in kept)
    middle = x[s.pairs.i] + 0.5 * s.pairs.displacements(atoms)
    sizes = s.block_shapes.prod(axis=1)
    px, py, pz = (
        RealSpaceMatrix(basis, s.pairs, atoms, m.entries + np.repeat(middle[:, c], sizes) * s.entries)
        for c, m in enumerate(centred)
    )
    return px, py, pz


@lru_cache(maxsize=64)
def _raising(shells: tuple[int, ...]) -> np.ndarray:
    """T[c, orbital, raised orbital]: r_c φ = Σ T φ_raised, raised shells as in `build_raised_table`."""
    n = sum(2 * l + 1 for l in shells)
    n_raised = sum(2 * degree + 1 for l in shells for degree in raised_degrees(l))
    tensor = np.zeros((3, n, n_raised))
    row = col = 0
    for l in shells:
        for degree in raised_degrees(l):
            part = sqrt(4 * pi / 3) * gaunt(1, l, degree)[list(_HOUSE_COMPONENT)]
            tensor[:, row : row + 2 * l + 1, col : col + 2 * degree + 1] = part
            col += 2 * degree + 1
        row += 2 * l + 1
    return tensor


def _arms(bonds: Bonds | None, x: np.ndarray, cell: np.ndarray) -> Vectors:
    """x_a - x_i of every bond, by (projector species, orbital species) and slot."""
    if bonds is None:
        return {}
    vectors = x[bonds.a] + bonds.R @ cell - x[bonds.i]
    return {(c, s): vectors[members] for c, s, members in bonds.kinds}


def _centred_and_overlap(
    group: PairGroup, basis: OrbitalBasis, projections: Projections, arms: Vectors, atoms: Atoms
) -> np.ndarray:
    """(4, n, rows, columns): ⟨i|r_c - middle of the pair|j⟩, symmetric under exchange of the pair, and S."""
    x, cell = atoms.positions, atoms.cell.array
    vectors = group.vectors(x, group.keys[:, 2:] @ cell)
    s = _blocks(group, basis, projections, x, cell, np)
    raised = raised_table(basis, group.row, group.col).blocks(vectors)
    blocks = np.einsum("cor,nrk->cnok", _raising(basis.shells(group.row)), raised, optimize=True)
    for third in group.thirds:
        signs = delta_overlap_factor(basis, third.symbol)[1]
        left = projections[third.symbol, group.row][third.left] * signs[None, None, :, None]
        right = projections[third.symbol, group.col][third.right]
        arm = arms[third.symbol, group.row][third.left]
        blocks[:, third.rows] += np.einsum("nac,napi,napj->cnij", arm, left, right, optimize=True)
    blocks -= 0.5 * vectors.T[:, :, None, None] * s
    blocks = np.concatenate([blocks, s[None]])
    if group.row == group.col:
        own = group.on_site
        blocks[:, own] = 0.5 * (blocks[:, own] + blocks[:, own].swapaxes(2, 3))
    return blocks
