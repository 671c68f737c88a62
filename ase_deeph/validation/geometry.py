"""Do S and the structure belong together: sign of R, wrapped atoms, order of orbitals, exchanged atoms."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
from scipy.stats import rankdata

from ase_deeph.matrix import RealSpaceMatrix
from ase_deeph.validation.edges import ORDERS, EdgeView, Order, ratio
from ase_deeph.validation.finding import OVERLAP, Case, Finding, Report, atom_text

_SIGNIFICANT = 1e-4
_LEAK = 0.06
_LEAK_OF_ATOM = 0.1
_RANK = -0.75
_RANK_SURELY = -0.55
_ENOUGH_PAIRS = 20
_ENOUGH_OF_ATOM = 6
_GAIN = 0.15
_MOST_EXCHANGES = 300
_SHIFTS = np.array([n for n in product((-1, 0, 1), repeat=3) if any(n)])

_MATCHING = "the structure and S"


@dataclass(frozen=True)
class _Explanation:
    """A supposed fault and how well the blocks fit when it is undone."""

    code: str
    leak: float
    rank: float
    where: str
    what: str
    remedy: str


class _Judge:
    """S against displacements: leakage of the two-centre rule, and rank correlation of |d| with max|S|."""

    def __init__(self, matrix: RealSpaceMatrix) -> None:
        self.matrix = matrix
        self.view = EdgeView.of(matrix, _SIGNIFICANT)
        pairs, chosen = matrix.pairs, self.view.chosen
        self.i, self.j, self.R = pairs.i[chosen], pairs.j[chosen], pairs.R[chosen]
        self.x, self.cell = matrix.atoms.positions, matrix.atoms.cell.array
        self.norms = matrix.block_norms()[chosen]
        self.angular = self.view.has_angular_shells

    def displacements(self, shifts: np.ndarray | None = None, sign: int = 1) -> np.ndarray:
        """(n, 3) Å with R -> sign R, and each atom moved by whole cells."""
        R = sign * self.R
        if shifts is not None:
            R = R + shifts[self.j] - shifts[self.i]
        return self.x[self.j] + R @ self.cell - self.x[self.i]

    def rank(self, d: np.ndarray, mask: np.ndarray | None = None, least: int = _ENOUGH_PAIRS) -> float:
        """Spearman's correlation of |d| with max|S|; NaN for too few pairs."""
        length, norms = np.linalg.norm(d, axis=1), self.norms
        if mask is not None:
            length, norms = length[mask], norms[mask]
        a, b = rankdata(np.round(length, 3)), rankdata(norms)
        if len(a) < least or np.ptp(a) == 0 or np.ptp(b) == 0:
            return float("nan")
        return float(np.corrcoef(a, b)[0, 1])

    def leak(self, d: np.ndarray, order: Order | None = None) -> float:
        """Leakage of all pairs."""
        return ratio(self.view.leakage(d, order)) if self.angular else 0.0

    def fits(self, leak: float, rank: float) -> bool:
        """Whether the blocks fit; a rank that is not known cannot speak against it."""
        return leak <= _LEAK and not rank > (_RANK_SURELY if self.angular else _RANK)

    def misfit_of_atoms(self, d: np.ndarray) -> np.ndarray:
        """(n_atoms,) how badly the blocks of each atom fit: leakage and excess of the rank correlation."""
        broken, whole = self.view.leakage(d)
        n = self.matrix.pairs.n_atoms
        of_atom = np.sqrt(np.bincount(self.i, broken, n) / np.maximum(np.bincount(self.i, whole, n), 1e-300))
        ranks = np.array([self.rank(d, self.i == a, _ENOUGH_OF_ATOM) for a in range(n)])
        return of_atom + 0.5 * np.where(np.isnan(ranks), 0.0, 1.0 + ranks)


def geometry(case: Case) -> Report:
    """Findings about positions, R, the order of atoms and of orbitals, judged by S alone."""
    s = case.overlap
    if s is None or s.spin != "none":
        return Report(unchecked=("positions, R and order of orbitals: they need overlap.h5",))
    judge = _Judge(s)
    if not len(judge.i):
        return Report(unchecked=("positions, R and order of orbitals: no two atoms overlap",))
    d = judge.displacements()
    leak, rank = judge.leak(d), judge.rank(d)
    measures = {}
    if judge.angular:
        measures["two-centre rule in S"] = f"{leak:.1e} of the weight breaks it"
    if not np.isnan(rank):
        measures["rank correlation of |d| and |S|"] = f"{rank:.3f}"
    misfit = judge.misfit_of_atoms(d)
    suspects = np.nonzero(misfit > max(_LEAK_OF_ATOM, 0.2 + 0.5 * (1 + min(rank, -0.9))))[0]
    if judge.fits(leak, rank) and not len(suspects):
        return Report(measures=measures)
    best = _best_explanation(judge, case, suspects, leak, rank)
    if best is not None:
        found = Finding("error", best.code, best.where, best.what, best.remedy)
        return Report((found,), measures)
    if leak <= _LEAK and not rank > _RANK_SURELY:
        return Report(measures=measures)
    what = f"S does not fit the positions (two-centre rule broken by {leak:.2f}, rank correlation {rank:.2f})"
    remedy = "compare cell, positions, order of atoms and of orbitals with the calculation's own"
    return Report((Finding("error", "geometry", _MATCHING, what, remedy),), measures)


def _best_explanation(
    judge: _Judge, case: Case, suspects: np.ndarray, leak: float, rank: float
) -> _Explanation | None:
    """The first of the known faults that, undone, makes the blocks fit clearly better."""
    tried = [*_signs(judge), *_orders(judge), *_wraps(judge, case, 1), *_wraps(judge, case, -1)]
    if not any(_cures(judge, e, leak, rank) for e in tried):
        tried += _exchanges(judge, case, suspects)
    cures = [e for e in tried if _cures(judge, e, leak, rank)]
    if not cures:
        return None
    least = min(e.leak for e in cures)
    return next(e for e in cures if e.leak <= max(1.5 * least, least + 0.01))


def _cures(judge: _Judge, tried: _Explanation, leak: float, rank: float) -> bool:
    better = tried.leak < 0.5 * leak - 1e-3 or (tried.leak <= 1.2 * leak + 1e-6 and tried.rank < rank - 0.1)
    return judge.fits(tried.leak, tried.rank) and better


def _signs(judge: _Judge) -> list[_Explanation]:
    d = judge.displacements(sign=-1)
    leak, rank = judge.leak(d), judge.rank(d)
    return [
        _Explanation(
            "sign-of-R",
            leak,
            rank,
            OVERLAP,
            f"the blocks fit -R, not R (rank correlation {judge.rank(judge.displacements()):.2f}, with -R {rank:.2f})",
            "negate R in every matrix of this folder: pair (i, j, R) means atom j in cell +R",
        )
    ]


def _orders(judge: _Judge) -> list[_Explanation]:
    if not judge.angular:
        return []
    d = judge.displacements()
    now, rank = judge.leak(d), judge.rank(d)
    return [
        _Explanation(
            "m-order",
            leak,
            rank,
            OVERLAP,
            f"orbitals are stored in the order {name}: then {leak:.0e} of S breaks the two-centre rule, now {now:.2f}",
            "reorder every matrix to m = -l..l, p = y,z,x",
        )
        for name, leak in sorted(
            ((name, judge.leak(d, order)) for name, order in ORDERS.items()), key=lambda item: item[1]
        )
    ]


def _wraps(judge: _Judge, case: Case, sign: int) -> list[_Explanation]:
    """Whole cells by which single atoms must be moved, found one atom after the other."""
    n_atoms = judge.matrix.pairs.n_atoms
    shifts = np.zeros((n_atoms, 3), dtype=np.int64)
    if n_atoms < 2:
        return []
    for _ in range(n_atoms // 2 + 1):
        step = _best_move(judge, shifts, sign)
        if step is None:
            break
        shifts[step[0]] += step[1]
    shifts = shifts - _most_common(shifts)
    moved = np.nonzero(shifts.any(axis=1))[0]
    if not len(moved):
        return []
    d = judge.displacements(shifts, sign)
    a = moved[0]
    by = tuple(int(x) for x in shifts[a])
    turned = "" if sign == 1 else "R has the wrong sign, and "
    return [
        _Explanation(
            "wrapped-atom",
            judge.leak(d),
            judge.rank(d),
            f"structure, {atom_text(moved, case.symbols)}",
            f"{turned}S belongs to the position of atom {a} moved by {by} cells",
            f"write atom {a} at its position + {by}·cell (wrapping an atom changes R of its pairs)",
        )
    ]


def _best_move(judge: _Judge, shifts: np.ndarray, sign: int) -> tuple[int, np.ndarray] | None:
    """The atom and cell shift that improve the fit most; None when none improves it clearly."""
    d = judge.displacements(shifts, sign)
    misfit = judge.misfit_of_atoms(d)
    weight = np.bincount(judge.i, judge.norms, len(misfit))
    best, chosen = 0.0, None
    for a in np.nonzero(misfit > _LEAK_OF_ATOM)[0]:
        own = np.nonzero((judge.i == a) & (judge.j != a))[0]
        if not len(own):
            continue
        part = _Part(judge, own)
        now = part.misfit(d[own])
        for n in _SHIFTS:
            gain = now - part.misfit(d[own] - n @ judge.cell)
            if gain > _GAIN and gain * weight[a] > best + 1e-9:
                best, chosen = gain * weight[a], (int(a), n)
    return chosen


class _Part:
    """The blocks of one atom, judged quickly for many displacements."""

    def __init__(self, judge: _Judge, own: np.ndarray) -> None:
        self.judge, self.own = judge, own
        view, place = judge.view, {int(n): at for at, n in enumerate(own)}
        groups = []
        for g in view.groups:
            inside = np.array([int(m) in place for m in g.members])
            if inside.any():
                members = np.array([place[int(m)] for m in g.members[inside]])
                groups.append(type(g)(g.rows, g.cols, members, g.blocks[inside]))
        self.view = EdgeView(view.matrix, view.chosen[own], groups)

    def misfit(self, d: np.ndarray) -> float:
        """As `_Judge.misfit_of_atoms`, for this atom's pairs with other atoms."""
        length = np.linalg.norm(d, axis=1)
        a, b = rankdata(np.round(length, 3)), rankdata(self.judge.norms[self.own])
        known = len(a) >= _ENOUGH_OF_ATOM and np.ptp(a) > 0 and np.ptp(b) > 0
        excess = 0.5 * (1.0 + float(np.corrcoef(a, b)[0, 1])) if known else 0.0
        return excess + ratio(self.view.leakage(d))


def _most_common(shifts: np.ndarray) -> np.ndarray:
    rows, counts = np.unique(shifts, axis=0, return_counts=True)
    return rows[np.argmax(counts)]


def _exchanges(judge: _Judge, case: Case, suspects: np.ndarray) -> list[_Explanation]:
    """Two atoms of different elements whose positions are exchanged."""
    symbols = case.symbols
    candidates = [
        (int(a), int(b))
        for n, a in enumerate(suspects)
        for b in suspects[n + 1 :]
        if symbols[a] != symbols[b]
    ]
    tried = []
    for a, b in candidates[:_MOST_EXCHANGES]:
        x = judge.x.copy()
        x[[a, b]] = x[[b, a]]
        d = x[judge.j] + judge.R @ judge.cell - x[judge.i]
        where = f"structure, {atom_text([a, b], symbols)}"
        what = f"S fits when atoms {a} and {b} exchange their positions"
        remedy = "put the species and positions of the structure into the order of the matrices"
        tried.append(_Explanation("swapped-species", judge.leak(d), judge.rank(d), where, what, remedy))
    return sorted(tried, key=lambda e: e.leak)[:1]
