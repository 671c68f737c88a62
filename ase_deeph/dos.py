"""Densities of states: Gaussian broadening or linear tetrahedra, total or projected by Mulliken weights.

D(E) = g Σ_nk w_k δ(E - ε_nk), with δ a Gaussian of standard deviation `width`; its integral over all energies
is the number of states of the cell (g times the number of bands).  The weight of orbital μ in a state is
Re C*_μ (S C)_μ; the weights of a state sum to one.
"""

from __future__ import annotations

from itertools import permutations
from typing import Literal

import numpy as np
from ase import Atoms

from ase_deeph.basis import OrbitalBasis

Projection = Literal["species", "shell", "atom"]
PROJECTIONS = ("species", "shell", "atom")
_CHUNK = 2048
_REACH = 9.0


def gaussian_dos(grid: np.ndarray, levels: np.ndarray, weights: np.ndarray, width: float) -> np.ndarray:
    """(n_curves, n_energies) Σ_l weights · exp(-(E - ε_l)² / 2 width²) / (width √2π) in states/eV.

    Parameters
    ----------
    grid : (n_energies,) eV.
    levels : (n_levels,) eV.
    weights : (n_curves, n_levels) states that each level counts for in each curve.
    width : standard deviation in eV.

    Raises
    ------
    ValueError : the width is not positive.
    """
    if not np.isfinite(width) or width <= 0:
        raise ValueError(f"density of states: expected a positive width in eV, received {width}")
    curves = np.zeros((len(weights), len(grid)))
    if not len(grid):
        return curves
    near = np.nonzero((levels > grid.min() - _REACH * width) & (levels < grid.max() + _REACH * width))[0]
    for start in range(0, len(near), _CHUNK):
        part = near[start : start + _CHUNK]
        x = (grid[None, :] - levels[part, None]) / width
        curves += weights[:, part] @ np.exp(-0.5 * x * x)
    return curves / (width * np.sqrt(2 * np.pi))


def tetrahedron_dos(
    grid: np.ndarray, energies: np.ndarray, weights: np.ndarray, size: tuple[int, int, int]
) -> np.ndarray:
    """(n_curves, n_energies) states/eV by linear tetrahedra on a full mesh, averaged around each energy.

    The value at E_i is [N(E_i + h/2) - N(E_i - h/2)] / h with h the local spacing of the grid and N the
    number of states below, so that no flat tetrahedron is missed and the curve sums to the number of states.
    Within a tetrahedron a weight is the mean of its corners.
    Blöchl, Jepsen and Andersen, PRB 49, 16223, appendix A.

    Parameters
    ----------
    grid : (n_energies,) eV, increasing, at least two.
    energies : (n_bz, n_bands) eV on the full mesh in C order.
    weights : (n_curves, n_bz, n_bands) states that each level counts for in each curve.
    size : points of the mesh along each axis.

    Raises
    ------
    ValueError : fewer than two energies, or energies that do not increase.
    """
    if len(grid) < 2 or np.any(np.diff(grid) <= 0):
        raise ValueError("tetrahedra: expected at least two increasing energies; give a width > 0 for others")
    middles = 0.5 * (grid[1:] + grid[:-1])
    edges = np.concatenate([[2 * grid[0] - middles[0]], middles, [2 * grid[-1] - middles[-1]]])
    corners = _tetrahedra(size)
    levels = np.sort(np.moveaxis(energies[corners], 1, 2).reshape(-1, 4), axis=1)
    shares = weights[:, corners].mean(axis=2).reshape(len(weights), -1) / len(corners)
    below = np.zeros((len(weights), len(edges)))
    near = (levels[:, 0] < edges[-1]) & (levels[:, 3] > edges[0])
    levels, shares = levels[near], shares[:, near]
    for start in range(0, len(levels), _CHUNK):
        part = slice(start, start + _CHUNK)
        below += shares[:, part] @ _filled_fraction(levels[part], edges)
    return np.diff(below, axis=1) / np.diff(edges)


def _tetrahedra(size: tuple[int, int, int]) -> np.ndarray:
    """(6 n_bz, 4) mesh points at the corners of the six equal tetrahedra of each microcell."""
    steps = np.array([np.cumsum(np.eye(3, dtype=int)[list(p)], axis=0) for p in permutations(range(3))])
    offsets = np.concatenate([np.zeros((6, 1, 3), dtype=int), steps], axis=1)
    origins = np.indices(size).reshape(3, -1).T
    corners = np.mod(origins[:, None, None, :] + offsets, size).reshape(-1, 4, 3)
    return np.ravel_multi_index(tuple(np.moveaxis(corners, -1, 0)), size)


def _filled_fraction(levels: np.ndarray, at: np.ndarray) -> np.ndarray:
    """(n, n_energies) share of each tetrahedron below each energy; corner levels (n, 4) ascending."""
    e1, e2, e3, e4 = (levels[:, n, None] for n in range(4))

    def ratio(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return a / np.where(b > 0, b, 1.0)

    x = np.clip(at, e1, e2) - e1
    low = ratio(x, e2 - e1) * ratio(x, e3 - e1) * ratio(x, e4 - e1)
    y, a = np.clip(at, e2, e3) - e2, e2 - e1
    by31, by41, by42 = ratio(y, e3 - e1), ratio(y, e4 - e1), ratio(y, e4 - e2)
    middle = ratio(a, e3 - e1) * (ratio(a, e4 - e1) + 3 * by41) + by41 * (
        3 * by31 - (by31 + by42) * ratio(y, e3 - e2)
    )
    z = e4 - np.clip(at, e3, e4)
    high = 1 - ratio(z, e4 - e1) * ratio(z, e4 - e2) * ratio(z, e4 - e3)
    return np.select([at <= e1, at <= e2, at <= e3, at < e4], [0.0, low, middle, high], 1.0)


def mulliken_weights(coefficients: np.ndarray, s: np.ndarray | None, groups: np.ndarray) -> np.ndarray:
    """(n_groups, n_bands) share of each group of orbitals in each state: Σ_{μ in group} Re C*_μ (S C)_μ.

    Parameters
    ----------
    coefficients : (n_orbitals, n_bands) with C† S C = 1.
    s : (n_orbitals, n_orbitals) S(k), None for an orthogonal basis.
    groups : (n_orbitals,) group of each orbital, from 0.
    """
    populations = np.real(coefficients.conj() * (coefficients if s is None else s @ coefficients))
    membership = np.arange(groups.max() + 1)[:, None] == groups[None, :]
    return membership.astype(float) @ populations


def orbital_groups(
    basis: OrbitalBasis, atoms: Atoms, project: Projection, *, spinor: bool = False
) -> tuple[list[str], np.ndarray]:
    """Labels and the group of each orbital of the cell.

    "species" gives "C"; "shell" gives "C s1", "C s2", "C p1" (counted within each l); "atom" gives "C0".
    """
    if project not in PROJECTIONS:
        raise ValueError(f"project: expected one of {', '.join(PROJECTIONS)} or None, received {project!r}")
    names: list[str] = []
    for n, symbol in enumerate(atoms.get_chemical_symbols()):
        own = []
        for shell, l in enumerate(basis.shells(symbol)):
            rank = basis.shells(symbol)[: shell + 1].count(l)
            label = {"species": symbol, "atom": f"{symbol}{n}", "shell": f"{symbol} {'spdfghik'[l]}{rank}"}[
                project
            ]
            own += [label] * (2 * l + 1)
        names += own * (2 if spinor else 1)
    labels = list(dict.fromkeys(names))
    position = {label: n for n, label in enumerate(labels)}
    return labels, np.array([position[name] for name in names])
