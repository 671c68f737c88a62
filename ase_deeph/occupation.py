"""Occupations and the Fermi level: smearing functions and the search for the electron number.

With x = (e - μ) / w a level holds g f(x) electrons, g = 2 where it stands for both spins, else 1.

Fermi-Dirac         f = 1 / (1 + exp x)
Gaussian            f = erfc(x) / 2
Methfessel-Paxton   f = erfc(x) / 2 + Σ_n A_n H_{2n-1}(x) exp(-x²), A_n = (-1)^n / (n! 4^n √π)  [PRB 40, 3616]
Marzari-Vanderbilt  f = erfc(x + 1/√2) / 2 + exp(-(x + 1/√2)²) / √(2π)                         [PRL 82, 3296]
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import factorial, pi, sqrt
from typing import Any

import numpy as np
from scipy.optimize import brentq
from scipy.special import erfc, eval_hermite, expit

SMEARINGS = ("fermi-dirac", "gaussian", "marzari-vanderbilt", "methfessel-paxton", "fixed")
DEFAULT_OCCUPATIONS: Mapping[str, Any] = {"name": "fermi-dirac", "width": 0.05}
_COUNT_TOLERANCE = 1e-10
_DEGENERATE = 1e-7


@dataclass(frozen=True)
class Smearing:
    """How levels near the Fermi level are filled.

    Parameters
    ----------
    name : "fermi-dirac", "gaussian", "marzari-vanderbilt", "methfessel-paxton" or "fixed" (the lowest bands
        at every k, for insulators).
    width : w in eV; 0 fills levels one by one, degenerate ones equally.
    order : of Methfessel-Paxton.

    >>> Smearing.from_dict({"name": "gaussian", "width": 0.1})
    Smearing(name='gaussian', width=0.1, order=1)
    """

    name: str = "fermi-dirac"
    width: float = 0.05
    order: int = 1

    def __post_init__(self) -> None:
        if self.name not in SMEARINGS:
            raise ValueError(
                f"occupations: expected a name among {', '.join(SMEARINGS)}, received {self.name!r}"
            )
        if not np.isfinite(self.width) or self.width < 0:
            raise ValueError(f"occupations: expected a width >= 0 in eV, received {self.width}")
        if self.order < 0 or int(self.order) != self.order:
            raise ValueError(f"occupations: expected a whole order >= 0, received {self.order}")

    @classmethod
    def from_dict(cls, occupations: Mapping[str, Any] | Smearing) -> Smearing:
        """From GPAW's form {"name": ..., "width": ...}, with "order" for Methfessel-Paxton (1 if absent)."""
        if isinstance(occupations, Smearing):
            return occupations
        if not isinstance(occupations, Mapping) or "name" not in occupations:
            raise ValueError(f'occupations: expected {{"name": ..., "width": ...}}, received {occupations!r}')
        unknown = set(occupations) - {"name", "width", "order"}
        if unknown:
            raise ValueError(
                f"occupations: unknown key {', '.join(sorted(unknown))}; known are name, width, order"
            )
        return cls(**occupations)

    def fraction(self, x: np.ndarray) -> np.ndarray:
        """f(x) at x = (e - μ) / w."""
        return _FRACTIONS[self.name](np.asarray(x, dtype=float), self.order)


@dataclass(frozen=True, eq=False)
class Filling:
    """The Fermi level in eV and the occupations (n_spins, n_kpts, n_bands), 0 to g (but for overshoot)."""

    fermi_level: float
    occupations: np.ndarray


def fill(
    energies: np.ndarray,
    weights: np.ndarray,
    n_electrons: float,
    smearing: Smearing | None = None,
    *,
    degeneracy: int = 2,
) -> Filling:
    """Occupations with Σ_skn w_k f_skn = n_electrons to 1e-9, and the Fermi level.

    Where a range of Fermi levels gives the same count (an insulator), its middle is taken: mid-gap at zero
    width.  Methfessel-Paxton and Marzari-Vanderbilt counts are not monotonic; of their roots the one nearest
    to the Gaussian Fermi level of the same width is taken.

    Parameters
    ----------
    energies : (n_spins, n_kpts, n_bands) eV.
    weights : (n_kpts,) summing to 1.
    n_electrons : per cell.
    smearing : Fermi-Dirac of 0.05 eV if None.
    degeneracy : g, electrons per level: 2 for spin "none", 1 for collinear channels and spinors.

    Raises
    ------
    ValueError : more electrons than states, a negative count, or "fixed" with partly filled bands.
    """
    smearing = smearing or Smearing()
    capacity = degeneracy * energies.shape[0] * energies.shape[2]
    if not np.isfinite(n_electrons) or not -_COUNT_TOLERANCE <= n_electrons <= capacity + 1e-8:
        raise ValueError(
            f"electrons: expected 0 to {capacity}, the states of the basis, received {n_electrons:g}; "
            "check n_electrons or use a larger basis"
        )
    if smearing.name == "fixed":
        return _fill_fixed(energies, n_electrons, degeneracy)
    capacity_of = degeneracy * np.broadcast_to(np.asarray(weights)[None, :, None], energies.shape)
    if smearing.width == 0:
        return _fill_steps(energies, capacity_of, n_electrons, degeneracy)
    mu = _search(energies.ravel(), capacity_of.ravel(), min(max(n_electrons, 0.0), capacity), smearing)
    return Filling(mu, degeneracy * smearing.fraction((energies - mu) / smearing.width))


def _fermi_dirac(x: np.ndarray, order: int) -> np.ndarray:
    return expit(-x)


def _gaussian(x: np.ndarray, order: int) -> np.ndarray:
    return 0.5 * erfc(x)


def _methfessel_paxton(x: np.ndarray, order: int) -> np.ndarray:
    x = np.clip(x, -25.0, 25.0)
    f = 0.5 * erfc(x)
    for n in range(1, order + 1):
        amplitude = (-1) ** n / (factorial(n) * 4**n * sqrt(pi))
        f = f + amplitude * eval_hermite(2 * n - 1, x) * np.exp(-(x**2))
    return f


def _marzari_vanderbilt(x: np.ndarray, order: int) -> np.ndarray:
    x = np.clip(x, -25.0, 25.0) + 1 / sqrt(2)
    return 0.5 * erfc(x) + np.exp(-(x**2)) / sqrt(2 * pi)


_FRACTIONS: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {
    "fermi-dirac": _fermi_dirac,
    "gaussian": _gaussian,
    "methfessel-paxton": _methfessel_paxton,
    "marzari-vanderbilt": _marzari_vanderbilt,
}


def _search(levels: np.ndarray, capacity: np.ndarray, n_electrons: float, smearing: Smearing) -> float:
    """μ with Σ capacity f((e - μ)/w) = n_electrons."""
    w = smearing.width

    def excess_of(kind: Smearing) -> Callable[[float], float]:
        return lambda mu: float(capacity @ kind.fraction((levels - mu) / w)) - n_electrons

    low, high = float(levels.min()) - 50 * w, float(levels.max()) + 50 * w
    tolerance = max(_COUNT_TOLERANCE, 1e-14 * n_electrons)
    excess = excess_of(smearing)
    if smearing.name in ("fermi-dirac", "gaussian"):
        return _middle_root(excess, low, high, tolerance)
    start = _middle_root(excess_of(Smearing("gaussian", w)), low, high, tolerance)
    return start if abs(excess(start)) <= tolerance else _nearest_root(excess, start, (low, high), w / 8)


def _middle_root(excess: Callable[[float], float], low: float, high: float, tolerance: float) -> float:
    """Middle of the range of μ where a monotonic count is right to the tolerance (one point in a metal)."""
    below = _crossing(lambda mu: excess(mu) + tolerance, low, high)
    above = _crossing(lambda mu: excess(mu) - tolerance, low, high)
    return 0.5 * (below + above)


def _crossing(function: Callable[[float], float], low: float, high: float) -> float:
    """Root of an increasing function, or the end of the interval that it does not cross."""
    if function(low) >= 0:
        return low
    if function(high) <= 0:
        return high
    return float(brentq(function, low, high, xtol=1e-14, rtol=8.9e-16, maxiter=500))


def _nearest_root(
    excess: Callable[[float], float], start: float, bounds: tuple[float, float], step: float
) -> float:
    """The root of a continuous function nearest to start, found by steps outwards on both sides."""
    at = [start, start]
    value = [excess(start)] * 2
    while at[0] > bounds[0] or at[1] < bounds[1]:
        for side, direction in enumerate((-1, 1)):
            there = at[side] + direction * step
            new = excess(there)
            if (new > 0) != (value[side] > 0):
                ends = sorted((at[side], there))
                return float(brentq(excess, *ends, xtol=1e-14, rtol=8.9e-16, maxiter=500))
            at[side], value[side] = there, new
    raise ValueError(
        f"Fermi level: no root between {bounds[0]:.3f} and {bounds[1]:.3f} eV; try another smearing"
    )


def _fill_steps(energies: np.ndarray, capacity: np.ndarray, n_electrons: float, degeneracy: int) -> Filling:
    """Zero width: levels filled in order, those degenerate with the last one equally."""
    order = np.argsort(energies, axis=None, kind="stable")
    levels, filled = energies.ravel()[order], np.cumsum(capacity.ravel()[order])
    tolerance = max(_COUNT_TOLERANCE, 1e-13 * n_electrons)
    if n_electrons <= tolerance:
        return Filling(float(levels[0]), np.zeros_like(energies))
    last = min(int(np.searchsorted(filled, n_electrons - tolerance)), len(levels) - 1)
    closed = abs(filled[last] - n_electrons) <= tolerance
    if closed and last + 1 < len(levels) and levels[last + 1] - levels[last] > _DEGENERATE:
        mu = 0.5 * float(levels[last] + levels[last + 1])
        return Filling(mu, np.where(energies < mu, float(degeneracy), 0.0))
    mu = float(levels[last])
    shell = np.abs(energies - mu) <= _DEGENERATE
    below = (energies < mu) & ~shell
    share = (n_electrons - float(capacity[below].sum())) / float(capacity[shell].sum())
    return Filling(mu, np.where(below, 1.0, np.where(shell, share, 0.0)) * degeneracy)


def _fill_fixed(energies: np.ndarray, n_electrons: float, degeneracy: int) -> Filling:
    """The lowest n_electrons / g levels at every k, both spins together; μ between them and the others."""
    n_filled = round(n_electrons / degeneracy)
    if abs(n_filled * degeneracy - n_electrons) > 1e-8:
        raise ValueError(
            f"fixed occupations: expected an electron count divisible by {degeneracy}, received "
            f"{n_electrons:g}; use a smearing such as fermi-dirac"
        )
    n_spins, n_kpts, n_bands = energies.shape
    merged = energies.transpose(1, 0, 2).reshape(n_kpts, -1)
    order = np.argsort(merged, axis=1, kind="stable")
    occupied = np.zeros(merged.shape)
    np.put_along_axis(occupied, order[:, :n_filled], float(degeneracy), axis=1)
    levels = np.sort(merged, axis=1)
    edges = [*levels[:, n_filled - 1 : n_filled].max(axis=0), *levels[:, n_filled : n_filled + 1].min(axis=0)]
    return Filling(float(np.mean(edges)), occupied.reshape(n_kpts, n_spins, n_bands).transpose(1, 0, 2))
