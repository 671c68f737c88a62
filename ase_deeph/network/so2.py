"""SO(2) layers in an edge's frame: everything that commutes with turns about the edge and with reflections.

Reference: S. Passaro, C. L. Zitnick, ICML 2023 (arXiv:2302.03655), extended here to O(3).

Features of an edge are (edges, (l_max+1)², channels) with rows sorted by |m| ("m-major"): first m = 0 for all
l, then for each m > 0 the *even* and then the *odd* components for l = m ... l_max.  Even and odd refer to a
reflection in a plane through the edge.  A channel of natural parity has even = x_{l,m} and odd = x_{l,-m}; a
pseudo channel, whose sign under inversion is the opposite, has even = x_{l,-m} and odd = -x_{l,m}.  Both then
turn alike about the edge, so one real matrix per m mixes all l and all channels, applied to even and odd rows
alike, and the layer is equivariant under O(3), not SO(3) alone.  For m = 0 natural and pseudo stay apart.
"""

from __future__ import annotations

from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Float

from ase_deeph.harmonics import degree_slice
from ase_deeph.network.products import weighed

Features = Float[Array, "edges components channels"]
_EXACT = jax.lax.Precision.HIGHEST


@cache
def m_major_order(l_max: int) -> np.ndarray:
    """((l_max+1)²,) position in the l-major order of each m-major row."""
    rows = [l * l + l for l in range(l_max + 1)]
    for m in range(1, l_max + 1):
        rows += [l * l + l + m for l in range(m, l_max + 1)]
        rows += [l * l + l - m for l in range(m, l_max + 1)]
    return np.array(rows, dtype=np.int32)


@cache
def degree_of_row(l_max: int) -> np.ndarray:
    """((l_max+1)²,) degree l of each m-major row."""
    return np.sqrt(m_major_order(l_max)).astype(np.int32)


@cache
def order_slices(l_max: int) -> tuple[slice, ...]:
    """Rows of each |m| (even and odd together)."""
    counts = [l_max + 1] + [2 * (l_max + 1 - m) for m in range(1, l_max + 1)]
    ends = np.cumsum(counts)
    return tuple(slice(int(e - c), int(e)) for e, c in zip(ends, counts, strict=True))


def by_order(x: Features, l_max: int) -> list[Array]:
    """The rows of each |m|; a split, for its gradient is one concatenation and slices' are as many padded sums."""
    return jnp.split(x, [rows.stop for rows in order_slices(l_max)[:-1]], axis=1)


def by_degree(x: Float[Array, "n degrees channels"], l_max: int) -> Features:
    """Numbers of each degree, repeated for every m-major row of that degree."""
    parts = [x]
    for m in range(1, l_max + 1):
        parts += [x[:, m:], x[:, m:]]
    return jnp.concatenate(parts, axis=1)


def by_parity(x: Features, n_natural: int) -> list[Array]:
    """The natural and the pseudo channels."""
    return jnp.split(x, [n_natural], axis=-1)


def _parities_swapped(x: Features, l_max: int, sign: float) -> Features:
    """Even and odd rows of every |m| > 0 in each other's place: (sign · odd, -sign · even)."""
    orders = by_order(x, l_max)
    parts = [orders[0]]
    for order in orders[1:]:
        even, odd = jnp.split(order, 2, axis=1)
        parts += [sign * odd, -sign * even]
    return jnp.concatenate(parts, axis=1)


@jax.custom_jvp
def _turned(
    matrices: Float[Array, "edges n n"], transposed: Float[Array, "edges n n"], x: Features
) -> Features:
    """matrices @ x of each edge, for which the transposed ones are asked too.

    XLA's batched product on a CPU is two to four times as fast when it sums over the last axis of the matrices as over
    the first, and the gradient of the one asks for the other.  So the derivative is written with the transposed
    matrices: it sums over their first axis, and its own transpose, the gradient with respect to x, over the last.
    """
    return jnp.einsum("eab,ebc->eac", matrices, x, precision=_EXACT)


@partial(_turned.defjvp, symbolic_zeros=True)
def _turned_tangent(primals: tuple[Array, ...], tangents: tuple[Any, ...]) -> tuple[Features, Any]:
    matrices, transposed, x = primals
    change, _, dx = tangents
    moved = (
        jnp.zeros_like(x)
        if isinstance(dx, SymbolicZero)
        else jnp.einsum("eba,ebc->eac", transposed, dx, precision=_EXACT)
    )
    if not isinstance(change, SymbolicZero):
        moved = moved + jnp.einsum("eab,ebc->eac", change, x, precision=_EXACT)
    return _turned(matrices, transposed, x), moved


class EdgeFrames:
    """The rotations of a set of edges, applied to features.

    Parameters
    ----------
    rotations : D_l of each edge for l = 0 ... l_max, as `harmonics.edge_rotations` gives them.
    """

    def __init__(self, rotations: list[Array]) -> None:
        self.rotations = rotations
        self.l_max = len(rotations) - 1
        size = (self.l_max + 1) ** 2
        places = np.eye(size)[:, m_major_order(self.l_max)].astype(rotations[0].dtype)
        each = [(rotation, places[degree_slice(l)]) for l, rotation in enumerate(rotations)]
        self._out = jnp.concatenate([rotation @ place for rotation, place in each], axis=1)
        self._into = jnp.concatenate([place.T @ rotation.swapaxes(1, 2) for rotation, place in each], axis=2)

    def subset(self, edges: Array) -> EdgeFrames:
        """The frames of some of the edges."""
        part = object.__new__(EdgeFrames)
        part.rotations = [rotation[edges] for rotation in self.rotations]
        part.l_max, part._out, part._into = self.l_max, self._out[edges], self._into[edges]
        return part

    def into(self, features: Features, n_natural: int) -> Features:
        """From the global frame (l-major rows) to the edge's (m-major, even and odd)."""
        natural, pseudo = by_parity(_turned(self._into, self._out, features), n_natural)
        return jnp.concatenate([natural, _parities_swapped(pseudo, self.l_max, 1.0)], axis=-1)

    def out(self, features: Features, n_natural: int) -> Features:
        """From the edge's frame back to the global one."""
        natural, pseudo = by_parity(features, n_natural)
        both = jnp.concatenate([natural, _parities_swapped(pseudo, self.l_max, -1.0)], axis=-1)
        return _turned(self._out, self._into, both)

    @staticmethod
    def blocks_out_of(
        rotations: list[Array], blocks: Float[Array, "edges n n"], shells: tuple[int, ...]
    ) -> Float[Array, "edges n n"]:
        """Blocks D B D^T over shells, from the edge's frame to the global one."""
        starts = np.concatenate([[0], np.cumsum([2 * l + 1 for l in shells])])
        turn = jnp.zeros_like(blocks)
        for start, l in zip(starts, shells, strict=False):
            where = slice(int(start), int(start) + 2 * l + 1)
            turn = turn.at[:, where, where].set(rotations[l])
        return jnp.einsum("eab,ebc,edc->ead", turn, blocks, turn)


def normal(rng: np.random.Generator, shape: tuple[int, ...], scale: float = 1.0) -> nnx.Param:
    """Normal numbers of a standard deviation; NumPy's generator, which needs no compilation."""
    return nnx.Param(jnp.asarray(scale * rng.normal(size=shape), dtype=jnp.float32))


def weights(rng: np.random.Generator, n_in: int, n_out: int, gain: float = 1.0) -> nnx.Param:
    """(n_in, n_out) normal weights of variance gain² / n_in."""
    return normal(rng, (n_in, n_out), gain / np.sqrt(n_in))


class SO2Linear(nnx.Module):
    """Linear map of an edge's features that mixes all l of equal |m| (Passaro & Zitnick 2023, eq. 6).

    Parameters
    ----------
    n_in, n_out : (natural, pseudo) channels.
    n_scalars : extra invariant outputs, read from the natural m = 0 components.
    gain : scale of the initial weights.
    """

    def __init__(
        self,
        l_max: int,
        n_in: tuple[int, int],
        n_out: tuple[int, int],
        *,
        rng: np.random.Generator,
        n_scalars: int = 0,
        gain: float = 1.0,
    ) -> None:
        self.l_max, self.n_in, self.n_out, self.n_scalars = l_max, n_in, n_out, n_scalars
        degrees = l_max + 1
        self.natural = weights(rng, degrees * n_in[0], degrees * n_out[0], gain)
        self.pseudo = weights(rng, degrees * n_in[1], degrees * n_out[1], gain)
        self.scalars = weights(rng, degrees * n_in[0], n_scalars) if n_scalars else None
        self.scalar_bias = nnx.Param(jnp.zeros(n_scalars)) if n_scalars else None
        self.orders = nnx.List(
            [
                weights(rng, (degrees - m) * sum(n_in), (degrees - m) * sum(n_out), gain)
                for m in range(1, degrees)
            ]
        )

    def __call__(self, x: Features) -> tuple[Features, Float[Array, "edges scalars"] | None]:
        """Features and the extra scalars (None when there are none)."""
        n, degrees = x.shape[0], self.l_max + 1
        orders = by_order(x, self.l_max)
        natural, pseudo = (part.reshape(n, -1) for part in by_parity(orders[0], self.n_in[0]))
        rows = [
            jnp.concatenate(
                [
                    weighed(natural, self.natural[...]).reshape(n, degrees, -1),
                    weighed(pseudo, self.pseudo[...]).reshape(n, degrees, -1),
                ],
                axis=-1,
            )
        ]
        for m, weight in enumerate(self.orders, start=1):
            pairs = weighed(orders[m].reshape(n, 2, -1), weight[...])
            rows.append(pairs.reshape(n, 2 * (degrees - m), -1))
        scalars = None
        if self.scalars is not None and self.scalar_bias is not None:
            scalars = weighed(natural, self.scalars[...]) + self.scalar_bias[...][None]
        return jnp.concatenate(rows, axis=1), scalars


def gate(x: Features, gates: Float[Array, "edges gates"], l_max: int, n_natural: int) -> Features:
    """SiLU on natural m = 0 components (invariants of the frame), sigmoid gates per (l, channel) on all others."""
    n, _, channels = x.shape
    per_degree = jax.nn.sigmoid(gates.reshape(n, l_max + 1, channels))
    axial, rest = jnp.split(x, [l_max + 1], axis=1)
    invariant = jnp.arange(channels) < n_natural
    axial = axial * jnp.where(invariant, jax.nn.sigmoid(axial), per_degree)
    return jnp.concatenate([axial, rest * by_degree(per_degree, l_max)[:, l_max + 1 :]], axis=1)


def n_gates(l_max: int, channels: int) -> int:
    """How many gates `gate` wants."""
    return (l_max + 1) * channels
