"""Read-out by Wigner-Eckart: features -> irreps of every block, and irreps -> blocks over common shells."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from ase_deeph.coupling import BlockCoupling
from ase_deeph.harmonics import degree_slice
from ase_deeph.network.products import weighed
from ase_deeph.network.so2 import Orders, weights, zero_padded_rows


class SiteReadout(nnx.Module):
    """Atom features -> irreps of the on-site block, one matrix per degree and parity."""

    def __init__(self, coupling: BlockCoupling, n_in: tuple[int, int], *, rng: np.random.Generator) -> None:
        self.n_in, self.l_max = n_in, coupling.l_max
        counts = [
            (
                sum(p.L == L and p.natural for p in coupling.paths),
                sum(p.L == L and not p.natural for p in coupling.paths),
            )
            for L in range(self.l_max + 1)
        ]
        self.natural = nnx.List([weights(rng, n_in[0], n, gain=0.3) for n, _ in counts])
        self.pseudo = nnx.List([weights(rng, n_in[1], n, gain=0.3) for _, n in counts])

    def __call__(self, x: Float[Array, "atoms components channels"]) -> Float[Array, "atoms irreps"]:
        """(n_atoms, n_orbitals²) irrep components in the order of the coupling's paths."""
        parts = []
        for L in range(self.l_max + 1):
            rows = x[:, degree_slice(L)]
            for features, weight in (
                (rows[:, :, : self.n_in[0]], self.natural[L]),
                (rows[:, :, self.n_in[0] :], self.pseudo[L]),
            ):
                irreps = jnp.swapaxes(weighed(features, weight[...]), 1, 2)
                parts.append(irreps.reshape(len(x), -1))
        return jnp.concatenate(parts, axis=1)


class HopReadout(nnx.Module):
    """Edge features -> irreps of the hopping block in the edge's frame, one matrix per |m| and parity."""

    def __init__(
        self, coupling: BlockCoupling, l_max: int, n_in: tuple[int, int], *, rng: np.random.Generator
    ) -> None:
        self.l_max, self.n_in, self.top = l_max, n_in, coupling.l_max
        paths = coupling.paths
        degrees = l_max + 1
        self.natural = weights(rng, degrees * n_in[0], sum(p.natural for p in paths), gain=0.3)
        self.pseudo = weights(rng, degrees * n_in[1], sum(not p.natural for p in paths), gain=0.3)
        self.orders = nnx.List(
            [
                weights(rng, (degrees - m) * sum(n_in), sum(m <= p.L for p in paths), gain=0.3)
                for m in range(1, self.top + 1)
            ]
        )
        source, sign = _component_sources(coupling)
        self._source, self._sign = tuple(source), tuple(sign)

    def __call__(self, x: Orders) -> Float[Array, "edges irreps"]:
        """(n_edges, n_orbitals²) irrep components in the order of the coupling's paths."""
        n, degrees = len(x[0]), self.l_max + 1
        axial = jnp.concatenate(
            [
                zero_padded_rows(self.natural[...], degrees, 0, self.n_in[1]),
                zero_padded_rows(self.pseudo[...], degrees, self.n_in[0], 0),
            ],
            axis=1,
        )
        columns = [weighed(x[0].reshape(n, -1), axial)]
        for m, weight in enumerate(self.orders, start=1):
            columns.append(weighed(x[m].reshape(n, 2, -1), weight[...]).reshape(n, -1))
        outputs = jnp.concatenate(columns, axis=1)
        return (
            outputs[:, np.array(self._source, dtype=np.int32)]
            * np.array(self._sign, dtype=np.float32).astype(outputs.dtype)[None]
        )


def out_of_frames(
    irreps: Float[Array, "edges irreps"], rotations: list[Array], coupling: BlockCoupling
) -> Float[Array, "edges irreps"]:
    """Irreps in the order of the coupling's paths, from each edge's frame to the global one."""
    degrees = [p.L for p in coupling.paths]
    parts, at = [], 0
    for L in sorted(set(degrees)):
        size = degrees.count(L) * (2 * L + 1)
        mine = irreps[:, at : at + size].reshape(len(irreps), -1, 2 * L + 1)
        parts.append(jnp.einsum("eab,epb->epa", rotations[L], mine).reshape(len(irreps), -1))
        at += size
    return jnp.concatenate(parts, axis=1)


def _component_sources(coupling: BlockCoupling) -> tuple[list[int], list[float]]:
    """Which output column, with which sign, is each irrep component (see so2.py for even and odd)."""
    paths = coupling.paths
    natural = [n for n, p in enumerate(paths) if p.natural]
    pseudo = [n for n, p in enumerate(paths) if not p.natural]
    columns: dict[tuple[int, int, int], int] = {}
    for c, n in enumerate(natural + pseudo):
        columns[n, 0, 0] = c
    at = len(paths)
    for m in range(1, coupling.l_max + 1):
        members = [n for n, p in enumerate(paths) if m <= p.L]
        for odd in (0, 1):
            for c, n in enumerate(members):
                columns[n, m, odd] = at + odd * len(members) + c
        at += 2 * len(members)
    source, sign = [], []
    for n, path in enumerate(paths):
        for m in range(-path.L, path.L + 1):
            odd = int(m < 0) if path.natural else int(m > 0)
            source.append(columns[n, abs(m), odd])
            sign.append(-1.0 if not path.natural and m > 0 else 1.0)
    return source, sign
