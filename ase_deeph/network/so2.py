"""SO(2) layers in an edge's frame: everything that commutes with turns about the edge and with reflections.

Reference: S. Passaro, C. L. Zitnick, ICML 2023 (arXiv:2302.03655), extended here to O(3).

Features of edges are one array for each |m| (`Orders`): (edges, 1, l_max + 1, channels) for m = 0 and, for m > 0,
(edges, 2, l_max + 1 - m, channels) for l = m ... l_max, the *even* components and then the *odd* ones.  Even and odd
refer to a reflection in a plane through the edge.  A channel of natural parity has even = x_{l,m} and odd = x_{l,-m};
a pseudo channel, whose sign under inversion is the opposite, has even = x_{l,-m} and odd = -x_{l,m}.  Both then
turn alike about the edge, so one real matrix per m mixes all l and all channels, applied to even and odd components
alike, and the layer is equivariant under O(3), not SO(3) alone.  For m = 0 natural and pseudo stay apart.  Layers take
and give the arrays of each |m| by themselves: joined and cut again between layers they would be copied each time.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Float, Int

from ase_deeph.harmonics import degree_slice
from ase_deeph.network.products import weighed

Features = Float[Array, "n components channels"]
Orders = tuple[Float[Array, "edges _ _ channels"], ...]
_EXACT = jax.lax.Precision.HIGHEST


@cache
def m_major_order(l_max: int) -> np.ndarray:
    """((l_max+1)²,) position in the l-major order of each row of an edge's frame: by |m|, even, odd, then by l."""
    rows = [l * l + l for l in range(l_max + 1)]
    for m in range(1, l_max + 1):
        rows += [l * l + l + m for l in range(m, l_max + 1)]
        rows += [l * l + l - m for l in range(m, l_max + 1)]
    return np.array(rows, dtype=np.int32)


def by_order(x: Features, l_max: int) -> Orders:
    """Rows sorted by |m| as an array for each |m|; a split, whose gradient is one concatenation."""
    counts = [l_max + 1] + [2 * (l_max + 1 - m) for m in range(1, l_max + 1)]
    parts = jnp.split(x, list(np.cumsum(counts)[:-1]), axis=1)
    return tuple(part.reshape(len(x), min(m, 1) + 1, -1, x.shape[-1]) for m, part in enumerate(parts))


def joined(orders: Orders) -> Features:
    """The inverse of `by_order`."""
    return jnp.concatenate([part.reshape(len(part), -1, part.shape[-1]) for part in orders], axis=1)


def of_each(function: Callable[..., Array], *orders: Orders) -> Orders:
    """function(array, array, ...) of the arrays of each |m|."""
    return tuple(function(*parts) for parts in zip(*orders, strict=True))


def _pseudo_swapped(x: Orders, n_natural: int, sign: float) -> Orders:
    """Even and odd of every |m| > 0 in each other's place, (sign · odd, -sign · even), in pseudo channels alone."""
    natural = jnp.arange(x[0].shape[-1]) < n_natural
    signs = jnp.array([sign, -sign], dtype=x[0].dtype)[None, :, None, None]
    return (x[0], *(jnp.where(natural, part, signs * part[:, ::-1]) for part in x[1:]))


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

    def into(self, features: Features, n_natural: int) -> Orders:
        """From the global frame (l-major rows) to the edge's."""
        turned = by_order(_turned(self._into, self._out, features), self.l_max)
        return _pseudo_swapped(turned, n_natural, 1.0)

    def out(self, features: Orders, n_natural: int) -> Features:
        """From the edge's frame back to the global one."""
        return _turned(self._out, self._into, joined(_pseudo_swapped(features, n_natural, -1.0)))

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

    def __call__(self, x: Orders) -> tuple[Orders, Float[Array, "edges scalars"] | None]:
        """Features and the extra scalars (None when there are none)."""
        degrees = self.l_max + 1
        axial = block_diagonal(self.natural[...], self.pseudo[...], degrees)
        found = []
        for m, (part, weight) in enumerate(zip(x, [axial, *(w[...] for w in self.orders)], strict=True)):
            rows = weighed(part.reshape(*part.shape[:2], -1), weight)
            found.append(rows.reshape(*part.shape[:2], degrees - m, -1))
        scalars = None
        if self.scalars is not None and self.scalar_bias is not None:
            read = zero_padded_rows(self.scalars[...], degrees, 0, self.n_in[1])
            scalars = weighed(x[0].reshape(len(x[0]), -1), read) + self.scalar_bias[...][None]
        return tuple(found), scalars


def zero_padded_rows(
    weight: Float[Array, "rows columns"], degrees: int, before: int, after: int
) -> Float[Array, "more columns"]:
    """Rows (degree, some channels) -> rows (degree, all channels), zero for the so many channels before and after."""
    n, columns = weight.shape[0] // degrees, weight.shape[1]
    rows = jnp.pad(weight.reshape(degrees, n, columns), ((0, 0), (before, after), (0, 0)))
    return rows.reshape(degrees * (before + n + after), columns)


def block_diagonal(
    natural: Float[Array, "rows columns"], pseudo: Float[Array, "others more"], degrees: int
) -> Float[Array, "all outputs"]:
    """One matrix on (degree, natural and pseudo channels) that keeps the two apart.

    Its zeros are multiplied too, but features are then neither cut nor joined, which takes longer on a CPU.
    """
    a = natural.reshape(degrees, natural.shape[0] // degrees, degrees, natural.shape[1] // degrees)
    b = pseudo.reshape(degrees, pseudo.shape[0] // degrees, degrees, pseudo.shape[1] // degrees)
    both = jnp.pad(a, ((0, 0), (0, b.shape[1]), (0, 0), (0, b.shape[3])))
    both = both + jnp.pad(b, ((0, 0), (a.shape[1], 0), (0, 0), (a.shape[3], 0)))
    return both.reshape(degrees * both.shape[1], degrees * both.shape[3])


class SomeEdges(NamedTuple):
    """Features of all edges of which only some have more than natural m = 0 components.

    Attributes
    ----------
    axial : m = 0 components of all edges without those of `more`.
    rows : the edges that have more; none twice, but for edges where `more` is zero.
    more : what is added there.
    """

    axial: Float[Array, "edges 1 degrees channels"]
    rows: Int[Array, " some"]
    more: Orders


class EdgeNorm(nnx.Module):
    """The norm of nodes.py for features of edges: x / rms(x), times a learnt factor per (l, channel)."""

    def __init__(self, l_max: int, channels: int) -> None:
        self.l_max = l_max
        self.factor = nnx.Param(jnp.ones((l_max + 1, channels)))

    def _squares(self, x: Orders, first: int = 0) -> Float[Array, " edges"]:
        """The balanced sum of squares of the arrays of |m| = first, first + 1, ..."""
        l = np.arange(self.l_max + 1)
        balance = (1.0 / ((2 * l + 1) * (self.l_max + 1))).astype(self.factor[...].dtype)
        return sum(jnp.einsum("npdc,d->n", part * part, balance[m:]) for m, part in enumerate(x, first))  # type: ignore[return-value]

    def _factors(self, squares: Float[Array, " edges"]) -> Float[Array, "edges degrees channels"]:
        factor = self.factor[...]
        return jax.lax.rsqrt(squares / factor.shape[1] + 1e-6)[:, None, None] * factor[None]

    def __call__(self, x: Orders) -> Orders:
        """The normalised features."""
        return by_degree(x, self._factors(self._squares(x)))

    def onto(self, given: Orders, x: Orders | SomeEdges) -> Orders:
        """given + the normalised features; nothing is done where edges have none."""
        if not isinstance(x, SomeEdges):
            return of_each(jnp.add, given, self(x))
        axial = x.axial.at[x.rows].add(x.more[0])
        squares = self._squares((axial,)).at[x.rows].add(self._squares(x.more[1:], 1))
        factors = self._factors(squares)
        there = by_degree(x.more, factors[x.rows])
        rest = [part.at[x.rows].add(new) for part, new in zip(given[1:], there[1:], strict=True)]
        return (given[0] + axial * factors[:, None], *rest)


def by_degree(x: Orders, factors: Float[Array, "edges degrees channels"]) -> Orders:
    """x times a number for each edge, degree and channel."""
    return tuple(part * factors[:, None, m:] for m, part in enumerate(x))


def gate(x: Orders, gates: Float[Array, "edges gates"], n_natural: int) -> Orders:
    """SiLU on natural m = 0 components (invariants of the frame), sigmoid gates per (l, channel) on all others."""
    per_degree = jax.nn.sigmoid(gates.reshape(len(gates), *x[0].shape[2:]))
    invariant = jnp.arange(x[0].shape[-1]) < n_natural
    axial = x[0] * jnp.where(invariant, jax.nn.sigmoid(x[0]), per_degree[:, None])
    return (axial, *by_degree(x, per_degree)[1:])


def n_gates(l_max: int, channels: int) -> int:
    """How many gates `gate` wants."""
    return (l_max + 1) * channels
