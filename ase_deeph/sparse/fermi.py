"""The Fermi level of a large system by counting states, without diagonalising H.

N(E) = g Σ_k w_k n_k(E), with n_k(E) the negative eigenvalues of H(k) - E S(k), costs one factorisation per k.  It
is searched for the electron number; then only the states within the reach of the smearing are computed, and the
occupations of those and of the counted states below give the level exactly as full diagonalisation does.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ase_deeph.occupation import Smearing, fill
from ase_deeph.sparse.states import Pencil, states_within

logger = logging.getLogger(__name__)

MAX_STATES = 800
"""States computed at one k-point; more are a case for kernel polynomials."""
_REACH = {"fermi-dirac": 12.0, "fixed": 1.0}
_GAUSSIAN_REACH = 5.0
_NARROWEST = 0.1
_STEPS = 60


@dataclass(frozen=True, eq=False)
class CountedFermiLevel:
    """A Fermi level and how it was found.

    Parameters
    ----------
    fermi_level : eV.
    highest_occupied, lowest_empty : the levels on either side of it, eV.
    n_counts : factorisations that counted.
    n_states : states computed, all k together.
    """

    fermi_level: float
    highest_occupied: float
    lowest_empty: float
    n_counts: int
    n_states: int


@dataclass(frozen=True, eq=False)
class CountingProblem:
    """The pencils of a mesh, made one at a time.

    Parameters
    ----------
    pencil : (spin, k-point number) -> H(k) and S(k).
    weights : (n_kpts,) summing to 1.
    n_spins : 2 for collinear spin, else 1.
    degeneracy : electrons per level.
    n_electrons : per cell.
    """

    pencil: Callable[[int, int], Pencil]
    weights: np.ndarray
    n_spins: int
    degeneracy: int
    n_electrons: float

    @property
    def channels(self) -> list[tuple[int, int]]:
        """(spin, k-point number) of each pencil."""
        return [(spin, k) for spin in range(self.n_spins) for k in range(len(self.weights))]

    def counts(self, energy: float) -> np.ndarray:
        """(n_spins, n_kpts) states below an energy."""
        found = [self.pencil(spin, k).count_below(energy) for spin, k in self.channels]
        return np.array(found).reshape(self.n_spins, -1)

    def electrons(self, counts: np.ndarray) -> float:
        """Electrons in counted states."""
        return self.degeneracy * float((counts @ self.weights).sum())


def fermi_level_by_count(
    problem: CountingProblem, smearing: Smearing | None = None, *, guess: Sequence[float] | None = None
) -> CountedFermiLevel:
    """The Fermi level of `ase_deeph.occupation.fill`, from counts and the states near it.

    Parameters
    ----------
    smearing : Fermi-Dirac of 0.05 eV if None.
    guess : two energies in eV to begin with; the range of on-site energies if None.

    Raises
    ------
    ValueError : too many states within the reach of the smearing, no electrons, or more than the states hold.
    """
    smearing = smearing or Smearing()
    n_orbitals = problem.pencil(0, 0).h.shape[0]
    capacity = problem.degeneracy * problem.n_spins * n_orbitals
    if not 0 < problem.n_electrons < capacity:
        raise ValueError(
            f"electrons: expected more than 0 and fewer than {capacity}, the states of the basis, "
            f"received {problem.n_electrons:g}"
        )
    reach = max(_REACH.get(smearing.name, _GAUSSIAN_REACH) * smearing.width, _NARROWEST)
    search = _Search(problem, guess or _onsite_range(problem.pencil(0, 0)))
    search.narrow_to(2 * reach)
    low, high = search.around(search.middle, reach)
    step = reach
    for _ in range(_STEPS):
        spectra, base = _spectra(problem, search, low, high)
        levels = _padded(spectra, base, low - 1e3, high + 1e3)
        counted = problem.degeneracy * problem.n_spins * int(base.min())
        level = fill(
            levels.reshape(problem.n_spins, len(problem.weights), -1),
            problem.weights,
            problem.n_electrons - counted,
            smearing,
            degeneracy=problem.degeneracy,
        ).fermi_level
        inside = np.sort(np.concatenate(spectra))
        n_below = int(np.searchsorted(inside, level, side="right"))
        if not 0 < n_below < len(inside):
            step *= 2
            low, high = low - step, high + step
            continue
        below, above = float(inside[n_below - 1]), float(inside[n_below])
        if low <= below - 0.9 * reach and high >= above + 0.9 * reach:
            return CountedFermiLevel(level, below, above, search.n_counts, len(inside))
        low, high = min(low, below - reach), max(high, above + reach)
    raise ValueError("Fermi level by count: no level found that its window encloses; give a wider smearing")


class _Search:
    """An interval of energies whose counts enclose the electron number."""

    def __init__(self, problem: CountingProblem, guess: Sequence[float]) -> None:
        self._problem, self._known = problem, dict[float, np.ndarray]()
        self.low, self.high = float(guess[0]), float(guess[1])
        step = max(self.high - self.low, 1.0)
        while self._excess(self.low) >= 0:
            self.high = min(self.high, self.low)
            self.low, step = self.low - step, 2 * step
        step = max(self.high - self.low, 1.0)
        while self._excess(self.high) <= 0:
            self.low = max(self.low, self.high)
            self.high, step = self.high + step, 2 * step

    @property
    def n_counts(self) -> int:
        """Factorisations done."""
        return len(self._known) * len(self._problem.channels)

    @property
    def middle(self) -> float:
        """Of the interval, by the counts at its ends, kept off both."""
        below, above = self._excess(self.low), self._excess(self.high)
        share = min(max(-below / (above - below), 0.1), 0.9)
        return self.low + share * (self.high - self.low)

    def counts(self, energy: float) -> np.ndarray:
        """(n_spins, n_kpts), remembered."""
        if energy not in self._known:
            self._known[energy] = self._problem.counts(energy)
            logger.info("%.6f eV: %g electrons", energy, self._problem.electrons(self._known[energy]))
        return self._known[energy]

    def _excess(self, energy: float) -> float:
        return self._problem.electrons(self.counts(energy)) - self._problem.n_electrons

    def narrow_to(self, width: float) -> None:
        """Shorten the interval, by interpolation and bisection in turn, until it is that wide (or in a gap)."""
        for step in range(_STEPS):
            if self.high - self.low <= width:
                return
            at = self.middle if step % 3 < 2 else 0.5 * (self.low + self.high)
            excess = self._excess(at)
            if abs(excess) < 1e-9:
                return
            self.low, self.high = (at, self.high) if excess < 0 else (self.low, at)

    def around(self, level: float, reach: float) -> tuple[float, float]:
        """Ends of a window about a level with states on both sides of the electron number."""
        low, high = level - reach, level + reach
        if self._excess(low) >= -1e-9:
            low = self._outside(low, self.low, reach)
        if self._excess(high) <= 1e-9:
            high = self._outside(high, self.high, reach)
        return low, high

    def _outside(self, inner: float, outer: float, reach: float) -> float:
        """An energy of the wrong side of a gap, by less than the reach; from one in the gap and one far outside."""
        sign = np.sign(outer - inner)
        step = reach
        while sign * (outer - inner) > reach:
            at = inner + sign * min(step, 0.5 * abs(outer - inner))
            if sign * self._excess(at) > 1e-9:
                outer = at
            else:
                inner, step = at, 2 * step
        return float(outer)


def _spectra(
    problem: CountingProblem, search: _Search, low: float, high: float
) -> tuple[list[np.ndarray], np.ndarray]:
    """States between two energies of each channel, and the counts (n_channels,) below them."""
    below, above = search.counts(low).ravel(), search.counts(high).ravel()
    if int((above - below).max()) > MAX_STATES:
        raise ValueError(
            f"Fermi level by count: {int((above - below).max())} states between {low:.3f} and {high:.3f} eV; "
            "use a smaller smearing width, or kernel polynomials, which factorise nothing: dos with the engine kpm"
        )
    spectra, base = [], []
    start = None
    for spin, k in problem.channels:
        found = states_within(problem.pencil(spin, k), low, high, start=start)
        spectra.append(found.energies)
        base.append(found.first_band)
        start = found.coefficients
    return spectra, np.array(base)


def _padded(spectra: list[np.ndarray], base: np.ndarray, far_below: float, far_above: float) -> np.ndarray:
    """(n_channels, n_levels) levels of channels that differ in number, filled up with full and empty ones."""
    n_levels = max(n + len(e) for n, e in zip(base - base.min(), spectra, strict=True)) + 1
    levels = np.full((len(spectra), n_levels), far_above)
    for row, n, energies in zip(levels, base - base.min(), spectra, strict=True):
        row[:n], row[n : n + len(energies)] = far_below, energies
    return levels


def _onsite_range(pencil: Pencil) -> tuple[float, float]:
    onsite = np.real(pencil.h.diagonal()) / np.real(pencil.s.diagonal())
    return float(onsite.min()) - 1.0, float(onsite.max()) + 1.0
