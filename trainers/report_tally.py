"""Counts over all entries and blocks of a dataset, gathered one structure at a time: parity, sizes, calibration."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ase_deeph.matrix import RealSpaceMatrix
from trainers.comparison import Residuals
from trainers.spin_errors import pair_sums, real_entries

PARITY_WIDTH = 0.1
"""eV; side of the cells in which entries are counted for the parity plot."""
LOWEST, HIGHEST, PER_DECADE = -8, 3, 10
"""Decades of eV that the logarithmic histograms reach over, and bins in each."""
NO_SPREAD = 10.0**LOWEST
"""eV; a committee whose spread is below this agrees, and no error can be measured by it."""
_BASE = 2**31


@dataclass
class Parity:
    """How many entries have (reference, prediction) in each square cell of PARITY_WIDTH.

    Parameters
    ----------
    cells : (n, 2) integers, cell of reference and of prediction; the cell n holds [n, n + 1) PARITY_WIDTH.
    counts : (n,) entries.
    """

    cells: np.ndarray = field(default_factory=lambda: np.zeros((0, 2), dtype=np.int64))
    counts: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))

    def add(self, reference: np.ndarray, predicted: np.ndarray) -> None:
        """Count entries, eV."""
        a, b = (np.floor(v / PARITY_WIDTH).astype(np.int64) for v in (reference, predicted))
        keys, counts = np.unique(a * _BASE + (b + _BASE // 2), return_counts=True)
        old = self.cells[:, 0] * _BASE + (self.cells[:, 1] + _BASE // 2)
        merged, inverse = np.unique(np.concatenate([old, keys]), return_inverse=True)
        self.counts = np.bincount(inverse, weights=np.concatenate([self.counts, counts])).astype(np.int64)
        self.cells = np.column_stack([merged // _BASE, merged % _BASE - _BASE // 2])

    def image(self, most: int = 160) -> tuple[np.ndarray, float, float]:
        """(n, n) counts with the reference along the second axis, and the energies (eV) of its two ends."""
        first, last = int(self.cells.min()), int(self.cells.max()) + 1
        coarse = max(1, -(-(last - first) // most))
        size = -(-(last - first) // coarse)
        where = (self.cells - first) // coarse
        counts = np.zeros((size, size), dtype=np.int64)
        np.add.at(counts, (where[:, 1], where[:, 0]), self.counts)
        return counts, first * PARITY_WIDTH, (first + size * coarse) * PARITY_WIDTH


def log_edges() -> np.ndarray:
    """Edges of the logarithmic bins, eV."""
    return 10.0 ** (LOWEST + np.arange((HIGHEST - LOWEST) * PER_DECADE + 1) / PER_DECADE)


def _log_bin(values: np.ndarray) -> np.ndarray:
    """The bin of each value; what is smaller or larger counts in the end bins."""
    exponent = np.log10(np.maximum(values, 10.0 ** (LOWEST - 1)))
    last = (HIGHEST - LOWEST) * PER_DECADE - 1
    return np.clip(np.floor((exponent - LOWEST) * PER_DECADE), 0, last).astype(int)


def _empty_counts() -> np.ndarray:
    n = (HIGHEST - LOWEST) * PER_DECADE
    return np.zeros((n, n), dtype=np.int64)


@dataclass
class LogHistogram:
    """Counts of (x, y) in logarithmic bins, and Σx², Σy² of each bin of x.

    Parameters
    ----------
    counts : (bins of x, bins of y).
    squares : (bins of x, 2) eV².
    """

    counts: np.ndarray = field(default_factory=_empty_counts)
    squares: np.ndarray = field(default_factory=lambda: np.zeros((len(_empty_counts()), 2)))

    def add(self, x: np.ndarray, y: np.ndarray) -> None:
        """Count pairs of magnitudes, eV."""
        n, at = len(self.counts), _log_bin(x)
        self.counts += np.bincount(at * n + _log_bin(y), minlength=n * n).reshape(n, n)
        self.squares += np.column_stack([np.bincount(at, weights=v**2, minlength=n) for v in (x, y)])

    def rms(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Root mean squares of x and of y in each occupied bin of x (eV), and how many fell in it."""
        n = self.counts.sum(axis=1)
        kept = n > 0
        x, y = np.sqrt(self.squares[kept] / n[kept, None]).T
        return x, y, n[kept]

    def rank_correlation(self) -> float | None:
        """Spearman's coefficient of the binned pairs; None where one of them falls into one bin only."""
        ranks = [_middle_ranks(self.counts.sum(axis=axis)) for axis in (1, 0)]
        a, b = np.broadcast_arrays(ranks[0][:, None], ranks[1][None, :])
        covariance = np.cov(a.ravel(), b.ravel(), fweights=self.counts.ravel(), ddof=0)
        scale = np.sqrt(covariance[0, 0] * covariance[1, 1])
        return float(covariance[0, 1] / scale) if scale > 0 else None


def _middle_ranks(counts: np.ndarray) -> np.ndarray:
    return np.cumsum(counts) - 0.5 * (counts - 1)


def block_rms(matrix: RealSpaceMatrix) -> np.ndarray:
    """(n_pairs,) root mean square entry of each block."""
    squares = pair_sums(np.abs(matrix.entries) ** 2, matrix.offsets)
    sizes = matrix.block_shapes.prod(axis=1) * (2 if matrix.spin == "collinear" else 1)
    return np.sqrt(squares / sizes)


def rank_correlation(x: np.ndarray, y: np.ndarray) -> float | None:
    """Spearman's coefficient; None for fewer than three points or where one of them never varies."""
    from scipy.stats import spearmanr

    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    return float(spearmanr(x, y).statistic)


def error_over_spread(errors: np.ndarray, spreads: np.ndarray, weights: np.ndarray) -> float | None:
    """Ratio of the root mean squares, both in eV; None where the members agree."""
    error, spread = (float(np.sqrt(np.average(v**2, weights=weights))) for v in (errors, spreads))
    return error / spread if spread > NO_SPREAD else None


@dataclass
class Tally:
    """The three histograms of an evaluation.

    Parameters
    ----------
    parity : entries, predicted less μS against the reference.
    sizes : entries, |r - μS| over |H|.
    calibration : blocks, root mean square of the error over that of the committee's spread.
    """

    parity: Parity = field(default_factory=Parity)
    sizes: LogHistogram = field(default_factory=LogHistogram)
    calibration: LogHistogram = field(default_factory=LogHistogram)

    def add(self, errors: Residuals, spread: RealSpaceMatrix | None) -> None:
        """Count one structure."""
        reference, fixed = real_entries(errors.reference), real_entries(errors.fixed)
        self.parity.add(reference, reference + fixed)
        self.sizes.add(np.abs(reference), np.abs(fixed))
        if spread is not None:
            self.calibration.add(block_rms(spread.on(errors.fixed.pairs)), block_rms(errors.fixed))

    def blocks(self) -> dict[str, Any]:
        """Calibration of the spread of blocks, meV, for metrics.json."""
        x, y, n = self.calibration.rms()
        return {
            "n_blocks": int(n.sum()),
            "rank_correlation": self.calibration.rank_correlation(),
            "error_over_spread": error_over_spread(y, x, n),
            "bins": [
                {"spread_meV": 1e3 * float(a), "error_meV": 1e3 * float(b), "blocks": int(c)}
                for a, b, c in zip(x, y, n, strict=True)
            ],
        }
