"""Densities of states and Fermi levels by kernel polynomials, from products with sparse H and S alone.

With A = (S^-1 H - b) / a, whose spectrum lies in [-1, 1], the moments are

    μ_m = Tr T_m(A) ≈ (1/n_v) Σ_v y_v† S T_m(A) y_v,      y_v = S^-1/2 z_v,

z_v random signs (seeded) or, for an exact trace, the unit vectors.  Only half of the products are needed, since
T_2m = 2 T_m² - 1 is applied to both sides.  Projected on a group of orbitals with Mulliken's weights:
μ_m^g = Σ_v Σ_{μ in g} Re (S y_v)*_μ (T_m(A) y_v)_μ.  Weiße et al., Rev. Mod. Phys. 78, 275.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import brentq
from scipy.special import erfc

from ase_deeph.occupation import Smearing
from ase_deeph.sparse.polynomials import chebyshev_coefficients, chebyshev_nodes
from ase_deeph.sparse.recursion import Backend, recursion_by
from ase_deeph.sparse.states import Pencil

_BLOCK = 16
_SMALL_BLOCK = 400_000
"""Elements of a block of vectors up to which it is widened: short vectors are cheaper in company."""
_WIDTHS_PER_MOMENT = 6.0
_RESOLVED = {"fermi-dirac": 9.0 / np.pi}
_GAUSSIAN_RESOLVED = 4.5
"""Moments times w / a at which the coefficients of a smearing of width w have fallen to about 1e-4."""
_COUNT = 1e-4
"""Electrons to which a Fermi level is right at best; in a gap it is the middle of the levels as right as that."""
Progress = Callable[[int, int], None]


@dataclass(frozen=True, eq=False)
class Moments:
    """Chebyshev moments of the density of states of one pencil.

    Parameters
    ----------
    samples : (n_vectors, n_curves, n_moments) of each vector, scaled so that their mean is the trace (exact
        traces: one sample).
    center, half_width : b and a in eV.
    n_orbitals : states in all.
    exact : whether the sample is the trace itself, so that its standard error is 0.
    """

    samples: np.ndarray
    center: float
    half_width: float
    n_orbitals: int
    exact: bool = False

    def dos(self, energies: np.ndarray, width: float | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Curves (n_curves, n_energies) in states/eV and their standard errors (NaN of one random vector).

        Parameters
        ----------
        width : of a Gaussian in eV, as in `ase_deeph.dos`; None for Jackson's kernel, π a / n_moments.
        """
        grid = np.asarray(energies, dtype=float)
        if width is None:
            x = np.clip((grid - self.center) / self.half_width, -1 + 1e-12, 1 - 1e-12)
            m = np.arange(self.samples.shape[2])
            weights = _jackson(len(m)) * np.cos(m * np.arccos(x)[:, None]) * np.where(m == 0, 1.0, 2.0)
            weights /= np.pi * self.half_width * np.sqrt(1 - x**2)[:, None]
            weights[np.abs(grid - self.center) >= self.half_width] = 0.0
            return self._mean(weights)
        root = np.sqrt(2 * np.pi) * width
        return self._curves(lambda e: np.exp(-0.5 * ((grid[:, None] - e) / width) ** 2) / root)

    def integrated(self, energies: np.ndarray, width: float) -> tuple[np.ndarray, np.ndarray]:
        """States below each energy, (n_curves, n_energies), broadened as `dos`, and their standard errors."""
        grid = np.asarray(energies, dtype=float)
        return self._curves(lambda e: 0.5 * erfc((e - grid[:, None]) / (np.sqrt(2) * width)))

    def fermi_level(self, n_electrons: float, smearing: Smearing, degeneracy: int = 2) -> float:
        """μ in eV with g Tr f((H - μS)/w) = n_electrons; a width is needed.

        Raises
        ------
        ValueError : a width that the moments do not resolve, or an electron number out of range.
        """
        return mesh_fermi_level([(0, float(degeneracy), self)], n_electrons, smearing)[0]

    def filled(self, mu: float, smearing: Smearing) -> tuple[float, float]:
        """Tr f((H - μS)/w) of all curves together, and its standard error."""
        together = replace(self, samples=self.samples.sum(axis=1, keepdims=True))
        curve, error = together._curves(lambda e: smearing.fraction((e - mu) / smearing.width)[None])
        return float(curve[0, 0]), float(error[0, 0])

    def averaged(self) -> Moments:
        """The mean of the samples alone, which takes less memory and knows no standard error."""
        return replace(self, samples=self.samples.mean(axis=0, keepdims=True))

    @property
    def resolution(self) -> float:
        """Narrowest Gaussian in eV that the moments resolve to about 1e-4 of its height."""
        return 4.5 * self.half_width / self.samples.shape[2]

    def _curves(self, kernel: Callable[[np.ndarray], np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Tr k(H) for each row k of a kernel (n_rows, n_nodes) given at energies (n_nodes,)."""
        n = self.samples.shape[2]
        nodes = self.center + self.half_width * chebyshev_nodes(2 * n)
        return self._mean(chebyshev_coefficients(kernel(nodes))[:, :n])

    def _mean(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        curves = self.samples @ weights.T
        n = len(curves)
        if n > 1:
            return curves.mean(axis=0), curves.std(axis=0, ddof=1) / np.sqrt(n)
        return curves[0], np.full(curves.shape[1:], 0.0 if self.exact else np.nan)


def moments(
    pencil: Pencil,
    width: float,
    *,
    n_vectors: int | None = 64,
    groups: np.ndarray | None = None,
    seed: int = 0,
    backend: Backend = "auto",
    progress: Progress | None = None,
) -> Moments:
    """Moments enough for a Gaussian (or smearing) of that width.

    Parameters
    ----------
    width : eV; the number of moments is 6 a / width.
    n_vectors : random vectors, 2 at least for a standard error; None for the exact trace: over all unit vectors, or
        where S^-1 H is dense by 2 √n_moments products of it.
    groups : (n_orbitals,) group of each orbital from 0, for projected densities; costs twice the products.
    backend : "scipy", "jax" (products on JAX's default device) or "auto": JAX where that is not a CPU.
    progress : called with vectors done and their number.

    Raises
    ------
    ValueError : a width or number of vectors that is not positive, an overlap that is not positive.
    """
    if not (np.isfinite(width) and width > 0 and (n_vectors is None or n_vectors > 0)):
        raise ValueError(f"moments: expected a positive width and vectors, received {width} and {n_vectors}")
    n = pencil.h.shape[0]
    recursion = recursion_by(pencil, backend)
    n_moments = int(np.ceil(_WIDTHS_PER_MOMENT * recursion.half_width / width)) // 2 * 2 + 2
    traces = recursion.traces(n_moments) if n_vectors is None and groups is None else None
    if traces is not None:
        return Moments(traces[None, None], recursion.center, recursion.half_width, n, exact=True)
    random = np.random.default_rng(seed)
    total, samples = (n if n_vectors is None else n_vectors), []
    block = max(_BLOCK, min(256, _SMALL_BLOCK // n))
    for start in range(0, total, block):
        size = min(block, total - start)
        if n_vectors is None:
            z = np.eye(n, size, -start)
        else:
            z = random.choice([-1.0, 1.0], (n, size))
        found = recursion.moments(z, n_moments, groups)
        samples.append(found if n_vectors is not None else found.sum(axis=0, keepdims=True))
        if progress is not None:
            progress(start + size, total)
    stacked = np.concatenate(samples)
    if n_vectors is None:
        stacked = stacked.sum(axis=0, keepdims=True)
    return Moments(stacked, recursion.center, recursion.half_width, n, exact=n_vectors is None)


MeshPart = tuple[int, float, Moments]
"""Spin, electrons per state (degeneracy times weight of the k-point) and moments of one pencil of a mesh."""


def mesh_dos(
    parts: Iterable[MeshPart], n_spins: int, energies: np.ndarray, width: float
) -> tuple[np.ndarray, np.ndarray]:
    """Curves (n_spins, n_curves, n_energies) in states/eV of a mesh and their standard errors, see `Moments.dos`."""
    curves = [np.zeros((1, len(energies)))] * n_spins
    variances = list(curves)
    for spin, factor, found in parts:
        curve, error = found.dos(energies, width)
        curves[spin] = curves[spin] + factor * curve
        variances[spin] = variances[spin] + (factor * error) ** 2
    return np.stack(curves), np.sqrt(np.stack(variances))


def mesh_fermi_level(
    parts: Sequence[MeshPart], n_electrons: float, smearing: Smearing
) -> tuple[float, float]:
    """μ in eV with Σ g w_k Tr f((H - μS)/w) = n_electrons, from moments alone.

    Returns
    -------
    The middle of the levels whose count is right to its standard error (1e-4 electrons at least), and half of their
    range, in an insulator about half of the gap; NaN for that where the standard error is unknown.

    Raises
    ------
    ValueError : a smearing that the moments do not resolve, or an electron number out of range.
    """
    _check_resolved(parts, smearing)

    def electrons(mu: float) -> tuple[float, float]:
        found = [(factor * np.array(m.filled(mu, smearing))) for _, factor, m in parts]
        return sum(float(f[0]) for f in found), float(np.sqrt(sum(float(f[1]) ** 2 for f in found)))

    margin = 10 * smearing.width
    low = min(m.center - m.half_width for _, _, m in parts) - margin
    high = max(m.center + m.half_width for _, _, m in parts) + margin
    capacity = sum(factor * m.n_orbitals for _, factor, m in parts)
    if not 0 < n_electrons < capacity:
        raise ValueError(
            f"electrons: expected more than 0 and fewer than {capacity:g}, the states of the basis, "
            f"received {n_electrons:g}"
        )

    def level(count: float) -> float:
        ends = [electrons(e)[0] - count for e in (low, high)]
        if ends[0] >= 0 or ends[1] <= 0:
            return low if ends[0] >= 0 else high
        return float(brentq(lambda mu: electrons(mu)[0] - count, low, high, xtol=1e-6))

    error = electrons(level(n_electrons))[1]
    room = min(n_electrons, capacity - n_electrons)
    off = min(max(error if np.isfinite(error) else 0.0, _COUNT), 0.5 * room)
    below, above = level(n_electrons - off), level(n_electrons + off)
    return 0.5 * (below + above), 0.5 * (above - below) if np.isfinite(error) else float("nan")


def resolving_width(smearing: Smearing) -> float | None:
    """Gaussian width in eV whose moments resolve a smearing as well; None for one without a width."""
    if smearing.name == "fixed" or smearing.width == 0:
        return None
    return _WIDTHS_PER_MOMENT / _RESOLVED.get(smearing.name, _GAUSSIAN_RESOLVED) * smearing.width


def _check_resolved(parts: Sequence[MeshPart], smearing: Smearing) -> None:
    needed = _RESOLVED.get(smearing.name, _GAUSSIAN_RESOLVED)
    narrowest = max(needed * m.half_width / m.samples.shape[2] for _, _, m in parts)
    if smearing.name == "fixed" or not smearing.width >= narrowest:
        raise ValueError(
            f"Fermi level by moments: expected a smearing wider than {narrowest:.3f} eV, received "
            f"{smearing}; compute more moments"
        )


def _jackson(n: int) -> np.ndarray:
    """(n,) damping factors of Jackson's kernel."""
    m = np.arange(n)
    q = np.pi / (n + 1)
    return ((n - m + 1) * np.cos(q * m) + np.sin(q * m) / np.tan(q)) / (n + 1)
