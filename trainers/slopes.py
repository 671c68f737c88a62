"""Displaced pairs of a dataset: one structure in the middle, with the slope of H along the way between the two.

A pair are two calculations of one cell whose info says {"displaced_pair": {"name": ..., "sign": +1 or -1}}, as
`displacement` in a recipe writes them.  With x± their positions, n atoms and s² = |x₊ - x₋|² / 4n,

    u = (x₊ - x₋) / 2s,    Σ u·∂H/∂x = (H₊ - H₋) / 2s + O(s²)    at (x₊ + x₋) / 2,

and the same of S.  The label of H in the middle is (H₊ + H₋) / 2, which is right to O(s²) as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from ase_deeph.graph import CrystalGraph
from ase_deeph.pairs import AtomPairs
from ase_deeph.reference import ReferenceData
from trainers.config import LossConfig
from trainers.loss import Blocks, gauge_shift, structure_losses

KEY = "displaced_pair"

FARTHEST = 0.5
"""Å; an atom that is farther from the middle was wrapped into the cell, or the slope would be no derivative."""


@dataclass(frozen=True, eq=False)
class Slope:
    """The label of one direction of displacement.

    Parameters
    ----------
    direction : (n_atoms, 3) u, of root mean square length 1 per atom.
    hamiltonian : (n_pairs, M, M) Σ u·∂H/∂x in eV/Å on the pairs of the structure's graph.
    overlap : the same of S, 1/Å.
    """

    direction: np.ndarray
    hamiltonian: np.ndarray
    overlap: np.ndarray


@struct.dataclass
class SlopeBatch:
    """The slopes of a batch (a JAX pytree).

    Attributes
    ----------
    tangents : change of each pair's vector along its structure's direction, zero without one.
    hamiltonian, overlap : slopes, zero where a structure has none.
    weight : 1 for each structure that has one.
    """

    tangents: Float[Array | np.ndarray, "pairs 3"]
    hamiltonian: Float[Array | np.ndarray, "pairs M M"]
    overlap: Float[Array | np.ndarray, "pairs M M"]
    weight: Float[Array | np.ndarray, " n"]


Half = tuple[str, ReferenceData]


def paired(items: Iterable[Half]) -> Iterator[tuple[str, ReferenceData, ReferenceData | None]]:
    """(name, calculation, its partner or None), the plus side first; the pair's name for a pair.

    Raises
    ------
    ValueError : a partner is missing, or one side is there twice.
    """
    waiting: dict[str, tuple[int, ReferenceData]] = {}
    for name, data in items:
        mark = data.info.get(KEY)
        if mark is None:
            yield name, data, None
            continue
        pair, sign = str(mark["name"]), int(mark["sign"])
        if pair not in waiting:
            waiting[pair] = sign, data
            continue
        other, partner = waiting.pop(pair)
        if other == sign:
            raise ValueError(f"displaced pair {pair}: two structures ({name}) have sign {sign}; remove one")
        yield pair, *((data, partner) if sign > 0 else (partner, data))
    if waiting:
        raise ValueError(
            f"displaced pair {next(iter(waiting))}: one of its two structures is missing; "
            "generate it or set [loss] derivative_weight = 0"
        )


def middle(name: str, plus: ReferenceData, minus: ReferenceData) -> tuple[ReferenceData, float]:
    """The calculation between two, and s (Å) of the pair.

    Raises
    ------
    ValueError : other atoms or another cell, no displacement or one beyond 0.5 Å, or no H and S.
    """
    a, b = plus.atoms, minus.atoms
    same = np.array_equal(a.numbers, b.numbers) and np.allclose(a.cell.array, b.cell.array, rtol=0, atol=1e-9)
    if not same or not np.array_equal(a.pbc, b.pbc):
        raise ValueError(f"displaced pair {name}: expected the same atoms in the same cell; regenerate it")
    matrices = [(plus.hamiltonian, minus.hamiltonian), (plus.overlap, minus.overlap)]
    if any(m is None for both in matrices for m in both):
        raise ValueError(f"displaced pair {name}: it has no Hamiltonian or no overlap, which training needs")
    moved = np.linalg.norm(a.positions - b.positions, axis=1) / 2
    s = float(np.sqrt(np.mean(moved**2)))
    if not s > 0:
        raise ValueError(f"displaced pair {name}: both structures are the same; regenerate it")
    if moved.max() > FARTHEST:
        raise ValueError(
            f"displaced pair {name}: expected every atom within {FARTHEST} Å of the middle, received "
            f"{moved.max():.2f} Å for atom {int(np.argmax(moved))}; do not wrap the atoms of a pair, or displace less"
        )
    atoms = a.copy()
    atoms.positions = 0.5 * (a.positions + b.positions)
    mean = [replace((above + below) * 0.5, atoms=atoms) for above, below in matrices]  # type: ignore[operator]
    return replace(plus, atoms=atoms, hamiltonian=mean[0], overlap=mean[1]), s


def slope(name: str, plus: ReferenceData, minus: ReferenceData, pairs: AtomPairs, size: int) -> Slope:
    """The slopes of a pair of calculations on some pairs of atoms, padded to `size` orbitals."""
    _, s = middle(name, plus, minus)
    direction = (plus.atoms.positions - minus.atoms.positions) / (2 * s)

    def part(above: Any, below: Any) -> np.ndarray:
        return ((above - below) * (0.5 / s)).restricted_to(pairs).padded_blocks(size)

    return Slope(direction, part(plus.hamiltonian, minus.hamiltonian), part(plus.overlap, minus.overlap))


def pad_slopes(
    slopes: Sequence[Slope | None], graphs: Sequence[CrystalGraph], shape: tuple[int, ...], n: int
) -> SlopeBatch:
    """The slopes of some structures, where their pairs stand in a batch with blocks of a shape (pairs, M, M)."""
    dtype = np.asarray(graphs[0].vectors).dtype
    tangents = np.zeros((shape[0], 3), dtype=dtype)
    labels = np.zeros((2, *shape), dtype=dtype)
    weight = np.zeros(n, dtype=dtype)
    at = 0
    for position, (one, graph) in enumerate(zip(slopes, graphs, strict=True)):
        where = slice(at, at + graph.n_pairs)
        at = where.stop
        if one is not None:
            tangents[where] = one.direction[graph.j] - one.direction[graph.i]
            labels[0, where], labels[1, where], weight[position] = one.hamiltonian, one.overlap, 1.0
    return SlopeBatch(tangents, labels[0], labels[1], weight)


def slope_losses(
    found: tuple[Blocks, Blocks],
    batch: Any,
    mask: Bool[Array, "pairs M M"],
    structure: Int[Array, " pairs"],
    config: LossConfig,
    on_site: Bool[Array, " pairs"],
) -> Float[Array, " n"]:
    """The mean penalty (eV/Å) of each structure's slope, zero where it has none.

    With a free gauge the residual is that of H less μS, differentiated: without μ ∂S and without ∂μ S.

    Parameters
    ----------
    found : H and its slope, as predicted.
    """
    slopes, n = batch.slopes, batch.weight.shape[0]
    target = jnp.asarray(slopes.hamiltonian)
    if config.gauge == "free":
        residual = jnp.where(mask, found[0] - batch.target, 0.0)
        shift = gauge_shift(residual, jnp.asarray(batch.overlap), structure, n)
        of_pair = jnp.concatenate([shift, jnp.zeros(1, dtype=shift.dtype)])[structure]
        target = target + of_pair[:, None, None] * slopes.overlap
    overlap = jnp.asarray(batch.overlap)
    losses = structure_losses(found[1], target, overlap, mask, structure, n, config, on_site)
    return losses * jnp.asarray(slopes.weight)


def slope_function(apply: Callable[..., Any], graph: Any, tangents: Any) -> tuple[Blocks, Blocks]:
    """(H, its slope) of apply(graph) along tangents of its vectors."""
    return jax.jvp(
        lambda vectors: apply(graph.replace(vectors=vectors)), (graph.vectors,), (jnp.asarray(tangents),)
    )
