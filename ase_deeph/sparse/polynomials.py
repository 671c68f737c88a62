"""Functions of a Hermitian operator by Chebyshev polynomials on blocks of vectors, and ends of its spectrum.

f(M) x = Σ_m c_m T_m((M - b)/a) x on an interval b ± a that holds the spectrum; only products M x are needed, so the
memory is that of a few blocks of vectors.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.fft import dct
from scipy.linalg import eigh_tridiagonal

Operator = Callable[[np.ndarray], np.ndarray]
_SAMPLES = 4096
_LANCZOS_STEPS = 40
_HALVINGS = 24
_PART_OF_ONE = 1e-3


def chebyshev_coefficients(values: np.ndarray) -> np.ndarray:
    """(…, n) c_m of functions given at x_j = cos(π (j + 1/2) / n), along the last axis."""
    c = dct(values, type=2, axis=-1) / values.shape[-1]
    c[..., 0] *= 0.5
    return c


def chebyshev_nodes(n: int) -> np.ndarray:
    """(n,) cos(π (j + 1/2) / n)."""
    return np.cos(np.pi * (np.arange(n) + 0.5) / n)


@dataclass(frozen=True, eq=False)
class MatrixFunction:
    """f(M) as a polynomial on [low, high].

    Parameters
    ----------
    apply : x -> M x for (n, n_vectors).
    low, high : ends of an interval that holds the spectrum.
    coefficients : (n,) c_m.
    """

    apply: Operator
    low: float
    high: float
    coefficients: np.ndarray

    @classmethod
    def of(
        cls,
        apply: Operator,
        bounds: tuple[float, float],
        function: Callable[[np.ndarray], np.ndarray],
        tolerance: float,
    ) -> MatrixFunction:
        """The shortest polynomial whose left-out coefficients sum to less than tolerance times the largest value."""
        low, high = bounds
        values = function(0.5 * (high + low) + 0.5 * (high - low) * chebyshev_nodes(_SAMPLES))
        c = chebyshev_coefficients(values)
        rest = np.cumsum(np.abs(c[::-1]))[::-1]
        return cls(apply, low, high, c[: max(int(np.sum(rest > tolerance * np.abs(values).max())), 1)])

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """f(M) x for (n, n_vectors)."""
        total = self.coefficients[0] * x
        if len(self.coefficients) == 1:
            return total
        before, now = x, self._scaled(x)
        total += self.coefficients[1] * now
        for c in self.coefficients[2:]:
            before, now = now, 2 * self._scaled(now) - before
            total += c * now
        return total

    def _scaled(self, x: np.ndarray) -> np.ndarray:
        return (2 * (self.apply(x)) - (self.high + self.low) * x) / (self.high - self.low)


def lanczos_range(
    apply: Operator, n: int, dtype: np.dtype, *, metric: Operator | None = None, steps: int = _LANCZOS_STEPS
) -> tuple[float, float, float]:
    """Lowest and highest Ritz value of an operator Hermitian in x† G y, and the last off-diagonal as their error."""
    inner: Operator = metric if metric is not None else np.asarray
    v = np.random.default_rng(3).standard_normal((n, 1)).astype(dtype)
    gv = inner(v)
    length = np.sqrt(np.real(np.vdot(v, gv)))
    basis, metric_basis = [v / length], [gv / length]
    alpha: list[float] = []
    beta: list[float] = []
    for _ in range(min(steps, n)):
        w = apply(basis[-1])
        alpha.append(float(np.real(np.vdot(metric_basis[-1], w))))
        for _ in range(2):
            for q, gq in zip(basis, metric_basis, strict=True):
                w = w - q * np.vdot(gq, w)
        gw = inner(w)
        beta.append(max(float(np.real(np.vdot(w, gw))), 0.0) ** 0.5)
        if beta[-1] < 1e-12 * max(abs(alpha[0]), 1e-300):
            break
        basis.append(w / beta[-1])
        metric_basis.append(gw / beta[-1])
    ritz, vectors = eigh_tridiagonal(np.array(alpha), np.array(beta[:-1][: len(alpha) - 1]))
    error = beta[-1] * float(np.abs(vectors[-1, [0, -1]]).max())
    return float(ritz[0]), float(ritz[-1]), error


def power(
    apply: Operator,
    n: int,
    ends: tuple[float, float, float],
    exponent: float,
    wrong: Callable[[MatrixFunction], float],
    tolerance: float,
) -> MatrixFunction:
    """M^exponent of a positive M, on an interval lowered until a probe confirms that it holds the spectrum.

    Parameters
    ----------
    n : its size.
    ends : of `lanczos_range`.
    exponent : -1 or -1/2.
    wrong : relative error of the function on a vector that has a part of every eigenvector.
    tolerance : of the polynomial, relative to its largest value; the probe may be wrong by 100 times the
        condition number times that, and by a thousandth of the part that a single eigenvector has of it.

    Raises
    ------
    ValueError : M is not positive, or so near singular that no polynomial of moderate degree inverts it.
    """
    low, high, error = ends
    bounds = [max(low - error, 0.5 * low), high + error]
    for _ in range(_HALVINGS):
        if low <= 0 or bounds[0] < 1e-6 * high:
            break
        function = MatrixFunction.of(apply, (bounds[0], bounds[1]), lambda x: x**exponent, tolerance)
        if wrong(function) < min(100 * tolerance * bounds[1] / bounds[0], _PART_OF_ONE / n**0.5):
            return function
        bounds[0] *= 0.5
    raise ValueError(
        f"overlap: expected a positive matrix with a condition number below about 1e5, received eigenvalues from "
        f"{min(low, bounds[0]):.1e} to {high:.1e}; use an engine that factorises, or a smaller basis"
    )
