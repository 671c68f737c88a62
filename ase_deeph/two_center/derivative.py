"""dS/dR: exact derivatives of the two-centre tables, and how they divide between bra and ket.

An entry is S_ij = ⟨φ_i|φ_j⟩ + Σ_a P_ai^T σ P_aj (overlap.py), with P = W⟨p|φ⟩.  Moving the atoms by u changes it by

    ∂S_ij = ⟨∂φ_i|φ_j⟩ + ⟨φ_i|∂φ_j⟩,    ⟨φ_i|∂φ_j⟩ := u_j·∂_j ⟨φ_i|φ_j⟩ + Σ_a P_ai^T σ ∂P_aj,

the ket's part being that in which the right factors alone change.  In a PAW basis this leaves out the antisymmetric
⟨φ_p|∂φ_q⟩ - ⟨φ̃_p|∂φ̃_q⟩ of the partial waves of one atom, which a basis file does not hold; ∂S does not contain it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from ase import Atoms

from ase_deeph.basis import OrbitalBasis
from ase_deeph.harmonics import harmonics_gradient, real_harmonics
from ase_deeph.matrix import RealSpaceMatrix
from ase_deeph.pairs import AtomPairs
from ase_deeph.two_center.overlap import Projections, _assembled, _check_atoms, _projections
from ase_deeph.two_center.plan import OverlapPlan, PairGroup, ThirdAtoms
from ase_deeph.two_center.tables import (
    TwoCenterTable,
    delta_overlap_factor,
    orbital_table,
    projector_table,
)

Kept = list[tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True, eq=False)
class OverlapDerivative:
    """The derivative of S along one displacement u (1/Å times the unit of u).

    Parameters
    ----------
    total : Σ_a u_a · ∂S/∂x_a, Hermitian.
    ket : ⟨φ_i,0|∂φ_j,R⟩ on the same pairs.
    """

    total: RealSpaceMatrix
    ket: RealSpaceMatrix

    @property
    def bra(self) -> RealSpaceMatrix:
        """⟨∂φ_i,0|φ_j,R⟩, the adjoint of `ket`."""
        return self.total - self.ket


def checked_displacements(atoms: Atoms, displacements: np.ndarray) -> np.ndarray:
    """Real displacements of shape (n, n_atoms, 3); ValueError for anything else."""
    given = np.asarray(displacements)
    if given.ndim != 3 or given.shape[1:] != (len(atoms), 3) or given.dtype.kind not in "fiu":
        raise ValueError(
            f"displacements: expected real numbers of shape (n, {len(atoms)}, 3), received {given.dtype} "
            f"{given.shape}; give the real and the imaginary part of a complex one as two"
        )
    if not np.all(np.isfinite(given)):
        raise ValueError(
            "displacements: expected finite numbers, received NaN or infinity; look at what made them"
        )
    return given.astype(float)


def overlap_derivatives(
    atoms: Atoms, basis: OrbitalBasis, displacements: np.ndarray
) -> list[OverlapDerivative]:
    """∂S along some displacements, every atom moving with its images: analytic, no differences.

    Parameters
    ----------
    displacements : (n, n_atoms, 3) u, real.

    Raises
    ------
    ValueError : displacements of another shape, complex or not finite, or radial functions are absent.
    KeyError : an element that the basis lacks.
    """
    _check_atoms(atoms, basis)
    u = checked_displacements(atoms, displacements)
    terms = _Terms(atoms, basis)
    moved = [terms.moved_projections(one) for one in u]
    kept: list[tuple[Kept, Kept]] = [([], []) for _ in u]
    for group in terms.groups():
        slopes = terms.slopes(group)
        for one, projections, (totals, odds) in zip(u, moved, kept, strict=True):
            total, ket = terms.sides(group, slopes, one, projections)
            totals.append((group.keys, total))
            odds.append((group.keys, ket - 0.5 * total))
    return [_derivative(terms, *both) for both in kept]


def overlap_gradient(atoms: Atoms, basis: OrbitalBasis, weights: RealSpaceMatrix) -> np.ndarray:
    """(n_atoms, 3) ∂/∂x of Σ W·S, the sum over all entries of all pairs; 1/Å times the unit of W.

    Parameters
    ----------
    weights : W, real, on any pairs.

    Raises
    ------
    ValueError : radial functions are absent, or W is complex.
    """
    _check_atoms(atoms, basis)
    if weights.spin != "none" or np.iscomplexobj(weights.entries):
        raise ValueError(
            f"weights: expected real entries and spin 'none', received {weights.entries.dtype} and "
            f"{weights.spin!r}"
        )
    terms = _Terms(atoms, basis)
    gradient = np.zeros((len(atoms), 3))
    of_projections = {key: np.zeros_like(p) for key, p in terms.projections.items()}
    padded = weights.padded_blocks()
    for group in terms.groups():
        w = _both_ways(group, basis, weights.pairs, padded)
        of_pairs = np.einsum("nrs,ncrs->nc", w, terms.slopes(group), optimize=True)
        np.add.at(gradient, group.keys[:, 1], of_pairs)
        np.subtract.at(gradient, group.keys[:, 0], of_pairs)
        for third in group.thirds:
            left, right, signs = terms.factors(group, third, terms.projections)
            w_rows = w[third.rows]
            to_left = np.einsum("nrs,naps,p->napr", w_rows, right, signs, optimize=True)
            to_right = np.einsum("nrs,napr,p->naps", w_rows, left, signs, optimize=True)
            np.add.at(of_projections[third.symbol, group.row], third.left, to_left)
            np.add.at(of_projections[third.symbol, group.col], third.right, to_right)
    for (c, s), members in terms.bonds_of.items():
        assert terms.plan.bonds is not None
        of_bonds = np.einsum("npo,ncpo->nc", of_projections[c, s], terms.projection_slopes[c, s])
        np.add.at(gradient, terms.plan.bonds.i[members], of_bonds)
        np.subtract.at(gradient, terms.plan.bonds.a[members], of_bonds)
    return gradient


class _Terms:
    """The factors of S of a structure and their gradients."""

    def __init__(self, atoms: Atoms, basis: OrbitalBasis) -> None:
        self.atoms, self.basis = atoms, basis
        self.plan = OverlapPlan(atoms, basis)
        bonds, x, cell = self.plan.bonds, atoms.positions, atoms.cell.array
        self.projections = _projections(bonds, basis, x, cell, np)
        self.bonds_of = {} if bonds is None else {(c, s): m for c, s, m in bonds.kinds if len(m)}
        self.projection_slopes = {}
        for (c, s), members in self.bonds_of.items():
            assert bonds is not None
            vectors = x[bonds.i[members]] - x[bonds.a[members]] - bonds.R[members] @ cell
            slopes = gradients(projector_table(basis, c, s), vectors)
            self.projection_slopes[c, s] = delta_overlap_factor(basis, c)[0] @ slopes

    def groups(self) -> Iterator[PairGroup]:
        """The leading pairs, a bounded number at a time."""
        return (group for groups in self.plan.chunks() for group in groups)

    def slopes(self, group: PairGroup) -> np.ndarray:
        """(n, 3, rows, columns) ∂⟨φ_i|φ_j⟩/∂d of the pairs of a group."""
        vectors = group.vectors(self.atoms.positions, group.keys[:, 2:] @ self.atoms.cell.array)
        return gradients(orbital_table(self.basis, group.row, group.col), vectors)

    def moved_projections(self, u: np.ndarray) -> Projections:
        """∂P of every bond along a displacement."""
        bonds, found = self.plan.bonds, {}
        for key, members in self.bonds_of.items():
            assert bonds is not None
            change = u[bonds.i[members]] - u[bonds.a[members]]
            found[key] = np.einsum("nc,ncpo->npo", change, self.projection_slopes[key])
        return found

    def factors(
        self, group: PairGroup, third: ThirdAtoms, projections: Projections
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(n, shared, projectors, orbitals) of bra and ket at some third atoms, and σ."""
        left = projections[third.symbol, group.row][third.left]
        right = projections[third.symbol, group.col][third.right]
        return left, right, delta_overlap_factor(self.basis, third.symbol)[1]

    def sides(
        self, group: PairGroup, slopes: np.ndarray, u: np.ndarray, moved: Projections
    ) -> tuple[np.ndarray, np.ndarray]:
        """(n, rows, columns) ∂S and the ket's part of it."""
        bra, ket = (
            np.einsum("nc,ncrs->nrs", sign * u[group.keys[:, side]], slopes)
            for side, sign in ((0, -1.0), (1, 1.0))
        )
        for third in group.thirds:
            left, right, signs = self.factors(group, third, self.projections)
            d_left, d_right, _ = self.factors(group, third, moved)
            ket[third.rows] += np.einsum("napr,p,naps->nrs", left, signs, d_right, optimize=True)
            bra[third.rows] += np.einsum("napr,p,naps->nrs", d_left, signs, right, optimize=True)
        return bra + ket, ket


def gradients(table: TwoCenterTable, vectors: np.ndarray) -> np.ndarray:
    """(n, 3, rows, columns) ∂/∂d of a table's blocks at displacement vectors (n, 3) in Å: I' d̂ Y + I ∂Y/∂d.

    At d = 0 only L = 1 has a slope: I_1'(0) Y_1 along each axis.
    """
    distances = np.linalg.norm(vectors, axis=1)
    apart = distances > 0
    safe = np.where(apart, distances, 1.0)[:, None]
    radial, slope = table.radial(distances), _slope(table).radial(distances)
    bent = harmonics_gradient(table.L_max, vectors / safe) / safe[:, None]
    parts = []
    for axis, along in enumerate(np.eye(3)):
        unit = np.where(apart[:, None], vectors / safe, along)
        straight = table.contracted(slope * unit[:, [axis]], real_harmonics(table.L_max, unit))
        turned = np.where(apart[:, None], radial, 0.0)
        parts.append(straight + table.contracted(turned, bent[:, axis]))
    return np.stack(parts, axis=1)


def _slope(table: TwoCenterTable) -> TwoCenterTable:
    """The table of I_L'(d)."""
    slopes = np.zeros_like(table.coefficients)
    slopes[:, 1:] = table.coefficients[:, :5] * np.arange(5, 0, -1)[:, None]
    return replace(table, coefficients=slopes)


def _derivative(terms: _Terms, totals: Kept, odds: Kept) -> OverlapDerivative:
    """Both matrices from leading blocks; ket - total/2 changes sign with the exchange of the pair."""
    whole, odd = (_assembled(terms.atoms, terms.basis, kept) for kept in (totals, odds))
    keys = np.column_stack([odd.pairs.i, odd.pairs.j, odd.pairs.R])
    sign = np.where(terms.plan._is_leading(keys), 1.0, -1.0)
    whole = whole.hermitian_part()
    entries = np.repeat(sign, odd.block_shapes.prod(axis=1)) * odd.entries + 0.5 * whole.entries
    return OverlapDerivative(whole, replace(whole, entries=entries))


def _both_ways(group: PairGroup, basis: OrbitalBasis, pairs: AtomPairs, padded: np.ndarray) -> np.ndarray:
    """(n, rows, columns) W_ij(R) + W_ji(-R)^T of the pairs of a group, the on-site block once."""
    rows, cols = basis.n_orbitals(group.row), basis.n_orbitals(group.col)
    keys = group.keys
    back = np.column_stack([keys[:, 1], keys[:, 0], -keys[:, 2:]])
    found = []
    for wanted in (keys, back):
        at = pairs.positions_of(wanted)
        found.append(np.where((at >= 0)[:, None, None], padded[at], 0.0))
    return found[0][:, :rows, :cols] + np.where(
        group.on_site[:, None, None], 0.0, found[1][:, :cols, :rows].swapaxes(1, 2)
    )
