"""Are atoms called by their right element, is H in S's order of orbitals, and does it know its surroundings."""

from __future__ import annotations

from itertools import combinations

import numpy as np

from ase_deeph.matrix import RealSpaceMatrix, gauge_shift
from ase_deeph.validation.edges import ORDERS, EdgeView, ratio
from ase_deeph.validation.finding import HAMILTONIAN, OVERLAP, Case, Finding, Report, atom_text

_SAME_DISTANCE = 1e-3
_SAME_BLOCK = 0.15
_VISIBLE = 0.05
_DIFFERENT_LEVELS = 5.0
_CLEARLY = 0.2
_MOST_ATOMS = 150
_TWO_CENTRE_H = 1e-6
_H_ORDER_GAIN = 0.75


def species(case: Case) -> Report:
    """Exchanged atoms: by the on-site levels of H, else by blocks of S at equal distances."""
    exchanged = _exchanged_levels(case)
    if exchanged is not None:
        return Report((exchanged,))
    unequal = _unequal_blocks(case)
    return Report((unequal,)) if unequal is not None else Report()


def _exchanged_levels(case: Case) -> Finding | None:
    """Two atoms whose on-site levels fit each other's element, not their own."""
    h = case.hamiltonian
    n_atoms = len(case.symbols)
    if h is None or not 2 < n_atoms <= _MOST_ATOMS:
        return None
    symbols = np.array(case.symbols)
    on_site = {int(h.pairs.i[n]): h.block_at(int(n)) for n in np.nonzero(h.pairs.on_site)[0]}
    levels = [np.diagonal(on_site[a], axis1=-2, axis2=-1).real.ravel() for a in range(n_atoms)]

    def scatter(labels: np.ndarray) -> float:
        """Largest deviation (eV) of an atom's levels from the median of its element."""
        worst = 0.0
        for kind in set(labels.tolist()):
            same = np.array([levels[a] for a in np.nonzero(labels == kind)[0]])
            worst = max(worst, float(np.abs(same - np.median(same, axis=0)).max()))
        return worst

    now = scatter(symbols)
    if now < _DIFFERENT_LEVELS:
        return None
    for a, b in combinations(range(n_atoms), 2):
        if symbols[a] == symbols[b] or len(levels[a]) != len(levels[b]):
            continue
        tried = symbols.copy()
        tried[[a, b]] = tried[[b, a]]
        if scatter(tried) < _CLEARLY * now:
            what = f"on-site levels differ by {now:.0f} eV within one element; exchanged, by {scatter(tried):.1f} eV"
            remedy = "put the species of the structure into the order of the matrices"
            return Finding(
                "error", "swapped-species", f"structure, {atom_text([a, b], case.symbols)}", what, remedy
            )
    return None


def _unequal_blocks(case: Case) -> Finding | None:
    """Pairs of the same two elements at the same distance with different S."""
    s = case.overlap
    if s is None or s.spin != "none" or len(set(case.symbols)) < 2:
        return None
    view = EdgeView.of(s, 0.05)
    d = s.pairs.displacements(s.atoms)[view.chosen]
    lengths = np.linalg.norm(d, axis=1)
    broken, whole = view.leakage(d)
    if ratio((broken, whole)) > _SAME_BLOCK:
        return None
    for group in view.groups:
        turned = view.in_edge_frame(group, d[group.members])
        order = np.argsort(lengths[group.members])
        near = np.diff(lengths[group.members][order]) < _SAME_DISTANCE
        change = np.abs(np.diff(turned[order], axis=0)).max(axis=(1, 2))
        size = np.abs(turned[order][:-1]).max(axis=(1, 2))
        bad = np.nonzero(near & (change > np.maximum(_SAME_BLOCK * size, _VISIBLE)))[0]
        if len(bad):
            first, second = (int(view.chosen[group.members[order[bad[0] + n]]]) for n in (0, 1))
            atoms = sorted({int(x) for n in (first, second) for x in (s.pairs.i[n], s.pairs.j[n])})
            length = lengths[group.members][order][bad[0]]
            what = f"pairs of the same elements {length:.3f} Å apart differ by {change[bad[0]]:.2f}"
            remedy = "atoms carry the wrong element: put the species into the order of the matrices"
            where = f"{OVERLAP}, {atom_text(atoms, case.symbols)}"
            return Finding("error", "swapped-species", where, what, remedy)
    return None


def hamiltonian_shape(case: Case) -> Report:
    """Whether H is in the order of S, and whether it is more than a function of single pairs."""
    h, s = case.hamiltonian, case.overlap
    if h is None or s is None or h.spin != "none":
        return Report()
    free = h - s * gauge_shift(h, s)
    view = EdgeView.of(free)
    if not view.has_angular_shells:
        return Report()
    d = free.pairs.displacements(free.atoms)[view.chosen]
    leak = ratio(view.leakage(d))
    tried = {name: ratio(view.leakage(d, order)) for name, order in ORDERS.items()}
    name = min(tried, key=lambda n: tried[n])
    measures = {"two-centre rule in H": f"{leak:.1e} of the weight breaks it"}
    if 0 < tried[name] < _H_ORDER_GAIN * leak:
        what = f"its orbitals are stored in the order {name}, those of S are not"
        remedy = "reorder H to m = -l..l, p = y,z,x, or bring H and S of one structure"
        return Report((Finding("error", "m-order", HAMILTONIAN, what, remedy),), measures)
    if leak < _TWO_CENTRE_H and not _symmetry_asks_for_it(view, d) and _is_spherical(free):
        what = "every block depends on its own two atoms alone, on-site blocks on none: no converged H does"
        remedy = "this is a kinetic, Hückel or zeroth-step matrix (H0): export H of the last iteration"
        return Report((Finding("warning", "h0", HAMILTONIAN, what, remedy),), measures)
    return Report(measures=measures)


def _symmetry_asks_for_it(view: EdgeView, d: np.ndarray) -> bool:
    """Whether a converged H looks two-centre as well: atoms with p orbitals in cubic surroundings, one kind of bond.

    An example is methane: the bonds are threefold axes, and p of carbon cannot split.
    """
    h = view.matrix
    symbols, lengths = h.atoms.get_chemical_symbols(), np.linalg.norm(d, axis=1)
    rows, columns = h.pairs.i[view.chosen], h.pairs.j[view.chosen]
    angular = np.array([max(h.basis.shells(s)) > 0 for s in symbols])
    bonds = lengths[angular[rows] | angular[columns]]
    if not len(bonds) or np.ptp(bonds) > _SAME_DISTANCE:
        return False
    for a in np.nonzero(angular)[0]:
        around = d[rows == a]
        moment = around.T @ around
        if np.abs(moment - np.eye(3) * np.trace(moment) / 3).max() > _SAME_DISTANCE * np.trace(moment):
            return False
    return True


def _is_spherical(h: RealSpaceMatrix) -> bool:
    """Whether all on-site blocks are diagonal in m with one number per shell."""
    symbols, scale = h.atoms.get_chemical_symbols(), h.max_abs()
    for n in np.nonzero(h.pairs.on_site)[0]:
        shells = h.basis[symbols[int(h.pairs.i[n])]].shell_slices
        block = h.block_at(int(n))
        for a in shells:
            own = block[a, a]
            if np.abs(own - np.eye(len(own)) * own[0, 0]).max() > _TWO_CENTRE_H * scale:
                return False
    return True
