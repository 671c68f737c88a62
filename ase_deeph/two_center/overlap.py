"""S(R) of a structure: two-centre blocks plus the PAW term, chunk by chunk; and the same as a JAX function.

    S_ij = ⟨φ_i|φ_j⟩ + Σ_a Σ_pq ⟨φ_i|p_p^a⟩ ΔO_pq^a ⟨p_q^a|φ_j⟩

(P. E. Blöchl, Phys. Rev. B 50, 17953 (1994); in an orbital basis A. H. Larsen et al., Phys. Rev. B 80, 195112
(2009)).  ΔO is diagonalised once per species, ΔO = W^T σ W with σ = ±1, so that the last term is
Σ_a (W P)^T σ (W P) with P = ⟨p|φ⟩.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from ase import Atoms

from ase_deeph.basis import OrbitalBasis
from ase_deeph.matrix import RealSpaceMatrix
from ase_deeph.pairs import AtomPairs
from ase_deeph.two_center.plan import Bonds, OverlapPlan, PairGroup, ThirdAtoms
from ase_deeph.two_center.tables import delta_overlap_factor, orbital_table, projector_table

Array = Any
Projections = Mapping[tuple[str, str], Array]

_NEGLIGIBLE = 1e-10
_PIECE = 20_000


def overlap(
    atoms: Atoms,
    basis: OrbitalBasis,
    pairs: AtomPairs | None = None,
    *,
    missing: Literal["raise", "drop"] = "raise",
    tolerance: float = 1e-6,
) -> RealSpaceMatrix:
    """The overlap matrix S(R) of a structure from the radial functions of its basis; no DFT run.

    Time and memory are linear in the number of atoms; the result is exactly Hermitian.

    Parameters
    ----------
    atoms : the structure.
    basis : orbitals with radial functions, and PAW projectors with ΔO where the basis has them.
    pairs : the pairs to give S on; None for all pairs with an element above 1e-10.
    missing : "raise" when `pairs` lacks a pair with an element above `tolerance`, or "drop" those pairs.
    tolerance : elements up to this size may be left out in silence.

    Raises
    ------
    ValueError : radial functions are absent, or overlapping pairs are not in `pairs`.
    KeyError : an element that the basis lacks.
    """
    if missing not in ("raise", "drop"):
        raise ValueError(f"missing: expected 'raise' or 'drop', received {missing!r}")
    _check_atoms(atoms, basis)
    complete = complete_overlap(atoms, basis)
    if pairs is None:
        return complete
    if missing == "raise":
        _check_pairs(complete, pairs, tolerance)
    return complete.restricted_to(pairs)


def overlap_function(atoms: Atoms, basis: OrbitalBasis, pairs: AtomPairs) -> Callable[..., Array]:
    """S as a differentiable JAX function of positions and cell.

    Parameters
    ----------
    atoms : the structure around which derivatives are wanted; it fixes which integrals are not zero.
    pairs : the pairs of the result; overlaps on other pairs are left out.

    Returns
    -------
    function(positions, cell=None) -> entries in the order of RealSpaceMatrix(basis, pairs, atoms, entries),
    for positions (n_atoms, 3) and a cell (3, 3) in Å; pure, so that jax.jit, jax.grad and jax.jvp apply.
    Precision is that of the positions.
    """
    import jax.numpy as jnp

    _check_atoms(atoms, basis)
    plan = OverlapPlan(atoms, basis)
    groups = [_one_third_at_a_time(group) for group in plan.groups()]
    source = _entry_sources(atoms, basis, groups, pairs)
    fixed_cell = atoms.cell.array

    def entries(positions: Array, cell: Array | None = None) -> Array:
        positions = jnp.asarray(positions)
        lattice = jnp.asarray(fixed_cell if cell is None else cell, dtype=positions.dtype)
        projections = _projections(plan.bonds, basis, positions, lattice, jnp)
        parts = [_blocks(g, basis, projections, positions, lattice, jnp).ravel() for g in groups]
        return jnp.concatenate([*parts, jnp.zeros(1, positions.dtype)])[source]

    return entries


def _check_atoms(atoms: Atoms, basis: OrbitalBasis) -> None:
    basis.species_indices(atoms.get_chemical_symbols())
    if not len(atoms):
        raise ValueError("overlap: expected a structure with atoms, received an empty one")


def complete_overlap(atoms: Atoms, basis: OrbitalBasis, n_first: int | None = None) -> RealSpaceMatrix:
    """S on every pair with an element above 1e-10; with n_first, on those with one of so many first atoms."""
    plan = OverlapPlan(atoms, basis, n_first)
    positions, cell = atoms.positions, atoms.cell.array
    projections = _projections(plan.bonds, basis, positions, cell, np)
    kept: list[tuple[np.ndarray, np.ndarray]] = []
    for groups in plan.chunks():
        for group in groups:
            blocks = _blocks(group, basis, projections, positions, cell, np)
            own = group.on_site
            if group.row == group.col:
                blocks[own] = 0.5 * (blocks[own] + blocks[own].transpose(0, 2, 1))
            large = own | (np.abs(blocks).max(axis=(1, 2)) > _NEGLIGIBLE)
            kept.append((group.keys[large], blocks[large]))
    del projections, plan
    return _assembled(atoms, basis, kept)


def _projections(
    bonds: Bonds | None, basis: OrbitalBasis, positions: Array, cell: Array, xp: Any
) -> Projections:
    """W⟨p|φ⟩ of every bond, (n_bonds, n_projectors, n_orbitals) per (projector, orbital) species."""
    if bonds is None:
        return {}
    result = {}
    for c, s, members in bonds.kinds:
        factor = delta_overlap_factor(basis, c)[0]
        table = projector_table(basis, c, s)
        out = []
        for start in range(0, len(members), _PIECE if xp is np else max(len(members), 1)):
            some = members[start : start + _PIECE] if xp is np else members
            lattice = xp.asarray(bonds.R[some], dtype=positions.dtype) @ cell
            vectors = positions[bonds.i[some]] - positions[bonds.a[some]] - lattice
            out.append(xp.asarray(factor, dtype=positions.dtype) @ table.blocks(vectors, xp))
        if out:
            result[c, s] = xp.concatenate(out)
    return result


def _blocks(
    group: PairGroup, basis: OrbitalBasis, projections: Projections, positions: Array, cell: Array, xp: Any
) -> Array:
    """(n, rows, columns) overlap blocks of a group of pairs."""
    lattice = xp.asarray(group.keys[:, 2:], dtype=positions.dtype) @ cell
    blocks = orbital_table(basis, group.row, group.col).blocks(group.vectors(positions, lattice), xp)
    for third in group.thirds:
        signs = delta_overlap_factor(basis, third.symbol)[1].astype(blocks.dtype)[None, None, :, None]
        n_stacked = third.left.shape[1] * signs.size
        left = projections[third.symbol, group.row][third.left] * signs
        right = projections[third.symbol, group.col][third.right]
        left = left.reshape(len(third.rows), n_stacked, -1)
        right = right.reshape(len(third.rows), n_stacked, -1)
        term = xp.swapaxes(left, 1, 2) @ right
        if xp is np:
            blocks[third.rows] += term
        else:
            blocks = blocks.at[third.rows].add(term)
    return blocks


def _one_third_at_a_time(group: PairGroup) -> PairGroup:
    """The same pairs with one row per third atom: a single scatter-add, so that JAX has little to compile."""
    thirds = []
    for symbol in dict.fromkeys(third.symbol for third in group.thirds):
        same = [third for third in group.thirds if third.symbol == symbol]
        rows = np.concatenate([np.repeat(third.rows, third.left.shape[1]) for third in same])
        left, right = (
            np.concatenate([side.ravel() for side in sides])[:, None]
            for sides in zip(*((third.left, third.right) for third in same), strict=True)
        )
        thirds.append(ThirdAtoms(symbol, rows, left, right))
    return replace(group, thirds=tuple(thirds))


def _both_directions(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Leading keys followed by the reverse of those off-site, and the leading pair of each."""
    off_site = np.nonzero(np.any(keys[:, 2:] != 0, axis=1) | (keys[:, 0] != keys[:, 1]))[0]
    reverse = np.column_stack([keys[off_site, 1], keys[off_site, 0], -keys[off_site, 2:]])
    return np.concatenate([keys, reverse]), np.concatenate([np.arange(len(keys)), off_site])


def _assembled(
    atoms: Atoms, basis: OrbitalBasis, kept: list[tuple[np.ndarray, np.ndarray]]
) -> RealSpaceMatrix:
    """The matrix of leading blocks and their transposes; empties the list while it goes."""
    keys, leader = _both_directions(np.concatenate([k for k, _ in kept]))
    order = np.lexsort(keys.T[::-1])
    pairs = AtomPairs(keys[order, 0], keys[order, 1], keys[order, 2:], len(atoms))
    counts = basis.orbital_counts(atoms.get_chemical_symbols())
    offsets = np.concatenate([[0], np.cumsum(counts[pairs.i] * counts[pairs.j])])
    start = np.empty(len(keys), dtype=np.int64)
    start[order] = offsets[:-1]
    n_leading = int(leader.max()) + 1
    reverse_start = np.full(n_leading, -1, dtype=np.int64)
    reverse_start[leader[n_leading:]] = start[n_leading:]
    entries = np.empty(int(offsets[-1]))
    first = 0
    kept.reverse()
    while kept:
        _, blocks = kept.pop()
        n, size = len(blocks), blocks.shape[1] * blocks.shape[2]
        entries[start[first : first + n, None] + np.arange(size)] = blocks.reshape(n, size)
        back = reverse_start[first : first + n]
        turned = blocks[back >= 0].transpose(0, 2, 1).reshape(-1, size)
        entries[back[back >= 0, None] + np.arange(size)] = turned
        first += n
    return RealSpaceMatrix(basis, pairs, atoms, entries)


def _entry_sources(
    atoms: Atoms, basis: OrbitalBasis, groups: list[PairGroup], pairs: AtomPairs
) -> np.ndarray:
    """(n_entries,) where each entry stands among the raveled leading blocks; the last place is a zero."""
    counts = basis.orbital_counts(atoms.get_chemical_symbols())
    total, kept = 0, []
    for group in groups:
        shape = (len(group.keys), basis.n_orbitals(group.row), basis.n_orbitals(group.col))
        n = int(np.prod(shape))
        kept.append((group.keys, np.arange(total, total + n, dtype=float).reshape(shape)))
        total += n
    matrix = _assembled(atoms, basis, kept)
    absent = matrix.pairs.indices_of(pairs) < 0
    source = matrix.restricted_to(pairs).entries.astype(np.int64)
    source[np.repeat(absent, counts[pairs.i] * counts[pairs.j])] = total
    return source


def _check_pairs(complete: RealSpaceMatrix, pairs: AtomPairs, tolerance: float) -> None:
    absent = np.nonzero(pairs.indices_of(complete.pairs) < 0)[0]
    lost = absent[complete.block_norms()[absent] > tolerance] if len(absent) else absent
    if not len(lost):
        return
    found = complete.pairs
    named = ", ".join(
        f"({found.i[n]}, {found.j[n]}, R={tuple(int(x) for x in found.R[n])})" for n in lost[:5]
    )
    farthest = np.linalg.norm(found.displacements(complete.atoms)[lost], axis=1).max()
    raise ValueError(
        f"overlap: {len(lost)} pairs that overlap by more than {tolerance:g} (up to {farthest:.2f} Å apart) "
        f"are not among the {len(pairs)} pairs given: {named}{' ...' if len(lost) > 5 else ''}; "
        "pass pairs=None, pairs that include them, or missing='drop'"
    )
