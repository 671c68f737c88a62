"""Blocks of H and S as Kwant's values: h(E) = H - E·S + E·1, functions of the parameter E where S is not 1."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ase_deeph.electronic_structure import ElectronicStructure
from ase_deeph.matrix import RealSpaceMatrix

Key = tuple[int, int, tuple[int, int, int]]
Blocks = dict[Key, tuple[np.ndarray, np.ndarray | None]]
"""⟨i, 0|H|j, R⟩ and ⟨i, 0|S|j, R⟩ (None in an orthogonal basis) by (i, j, R)."""

CHANNELS = {"up": 0, "down": 1}


@dataclass(frozen=True, eq=False)
class OnSiteValue:
    """h_ii(E) = H_ii - E (S_ii - 1)."""

    __name__ = "h_ii(E)"
    h: np.ndarray
    excess: np.ndarray

    def __call__(self, site: Any, E: float) -> np.ndarray:
        return self.h - E * self.excess


@dataclass(frozen=True, eq=False)
class HoppingValue:
    """h_ij(E) = H_ij - E S_ij."""

    __name__ = "h_ij(E)"
    h: np.ndarray
    s: np.ndarray

    def __call__(self, to_site: Any, from_site: Any, E: float) -> np.ndarray:
        return self.h - E * self.s


def on_site_value(h: np.ndarray, s: np.ndarray | None) -> OnSiteValue | np.ndarray:
    """What Kwant is given for a site."""
    return h if s is None else OnSiteValue(h, s - np.eye(len(s)))


def hopping_value(h: np.ndarray, s: np.ndarray | None) -> HoppingValue | np.ndarray:
    """What Kwant is given for a hopping."""
    return h if s is None else HoppingValue(h, s)


def blocks_of(structure: ElectronicStructure, spin: str | None) -> Blocks:
    """Every block of H and S that is not zero in both, Hermitian to the last bit, in double precision.

    Raises
    ------
    ValueError : spin is not "up" or "down" for collinear H, or given for another one.
    """
    h = _double(_channel(structure.hamiltonian, spin))
    s = structure.overlap
    if s is None:
        norms = h.block_norms()
        overlaps: Iterable[np.ndarray | None] = itertools.repeat(None)
    else:
        pairs = h.pairs.union(s.pairs)
        h, s = h.on(pairs), _double(s).on(pairs)
        norms = np.maximum(h.block_norms(), s.block_norms())
        overlaps = s.blocks()
    keys = zip(h.pairs.i.tolist(), h.pairs.j.tolist(), h.pairs.R.tolist(), strict=True)
    listed = zip(keys, h.blocks(), overlaps, norms, h.pairs.on_site, strict=False)
    return {
        (i, j, (R[0], R[1], R[2])): (block, other)
        for (i, j, R), block, other, norm, on_site in listed
        if norm > 0 or on_site
    }


def folded(blocks: Blocks, axis: int, k: np.ndarray) -> Blocks:
    """Bloch sums over the directions other than one axis: Σ exp(+2πi k·R) over R with one R_axis.

    Parameters
    ----------
    blocks : H and S in real space.
    axis : the direction that stays in real space.
    k : (3,) fractional, zero along the axis.
    """
    sums: Blocks = {}
    for (i, j, R), (h, s) in blocks.items():
        phase = np.exp(2j * np.pi * float(np.dot(k, R))) if np.any(k) else 1.0
        key = (i, j, _along(axis, R[axis]))
        known_h, known_s = sums.get(key, (0.0, 0.0))
        sums[key] = (known_h + phase * h, None if s is None or known_s is None else known_s + phase * s)
    return sums


def _along(axis: int, n: int) -> tuple[int, int, int]:
    R = [0, 0, 0]
    R[axis] = n
    return (R[0], R[1], R[2])


def fill_builder(
    builder: Any, families: Sequence[Any], cells: Iterable[tuple[int, int, int]], blocks: Blocks
) -> None:
    """Sites of all families in the cells, and the hoppings that start there (each unordered pair once)."""
    listed = list(cells)
    for i, family in enumerate(families):
        value = on_site_value(*blocks[i, i, (0, 0, 0)])
        for cell in listed:
            builder[family(*cell)] = value
    for i, j, R in half(blocks):
        hopping = hopping_value(*blocks[i, j, R])
        for cell in listed:
            there = (cell[0] + R[0], cell[1] + R[1], cell[2] + R[2])
            builder[families[i](*cell), families[j](*there)] = hopping


def half(blocks: Mapping[Key, Any]) -> list[Key]:
    """One of (i, j, R) and (j, i, -R) for every pair of different sites."""
    return [(i, j, R) for i, j, R in blocks if (i, j, R) > (j, i, (-R[0], -R[1], -R[2]))]


def _double(matrix: RealSpaceMatrix) -> RealSpaceMatrix:
    """Hermitian in double precision: Kwant accepts deviations of 1e-13."""
    kind = complex if np.iscomplexobj(matrix.entries) else float
    return replace(matrix, entries=matrix.entries.astype(kind)).hermitian_part()


def _channel(hamiltonian: RealSpaceMatrix, spin: str | None) -> RealSpaceMatrix:
    """One channel of a collinear H, any other H as it is."""
    if hamiltonian.spin != "collinear":
        if spin is not None:
            raise ValueError(f"spin: expected None for an H of spin {hamiltonian.spin!r}, received {spin!r}")
        return hamiltonian
    if spin not in CHANNELS:
        raise ValueError(
            f"spin: a collinear H has two independent channels; expected 'up' or 'down', received {spin!r}"
        )
    return replace(hamiltonian, entries=hamiltonian.entries[CHANNELS[spin]], spin="none")
