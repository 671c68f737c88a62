"""Target statistics of the parts of H that have spin: means and scales as in statistics.py.

Spin-orbit coupling has a two-centre mean of its own in irreps of (l1 ⊗ l2) ⊗ 1.  Moments enter by weights: on a
pair, (a_ij f(d) + b_ij g(d)) times the two-centre irreps; on an atom, c_i (const + Σ_j f(d_ij) Y_L)
+ Σ_j o_ij g(d_ij) Y_L, with

    odd:   a = c = m_i, b = o = m_j;
    even:  a = o = m_i·m_j, b = (m_i² + m_j²)/2, c = m_i²  (Heisenberg's).

The rest has scales alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ase_deeph.coupling import BlockCoupling
from ase_deeph.graph import CrystalGraph
from ase_deeph.harmonics import edge_rotations
from ase_deeph.network.elct import safe_norm
from ase_deeph.network.embedding import ONSET, envelope
from ase_deeph.network.layout import OrbitalLayout
from ase_deeph.network.readout import out_of_frames
from ase_deeph.network.spin import Part, PartLayout
from ase_deeph.network.statistics import (
    N_KNOTS,
    SCALE_FLOOR,
    Statistics,
    distance_knots,
    empty_statistics,
    fit_hops,
    fit_sites,
    per_pair,
    solve_ridge,
)

WEIGHTED = ("odd", "even")
"""Parts with a mean that depends on the moments."""
_TABLES = ("linear_row", "linear_column", "linear_field_own", "linear_field_other")
SPIN_RIDGE = 1e-5
"""Data with spin are few: a larger ridge than elsewhere, which matters at distances that are hardly sampled."""
_EVEN_SHARE = 0.3
"""Moments change A_0 by this much of what structures do, to start from."""


def empty_part(of_part: PartLayout) -> Statistics:
    """Zero means and unit scales of a part."""
    statistics = empty_statistics(of_part)  # type: ignore[arg-type]
    if of_part.part.name in WEIGHTED:
        statistics |= empty_linear(of_part)
    return statistics


def empty_linear(of_part: PartLayout) -> Statistics:
    """Zero tables of the mean that is linear in the weights; their irreps are those of one block."""
    n, paths = of_part.n_species, len(BlockCoupling(of_part.shells).paths)
    tables = {name: np.zeros((n * n, N_KNOTS, paths), dtype=np.float32) for name in _TABLES}
    return {**tables, "linear_site": np.zeros((n, paths), dtype=np.float32)}


class SpinSample:
    """One structure's target of one part as irreps, with what they are fitted on (NumPy, float64).

    Parameters
    ----------
    layout : the common shells.
    coupling : of the part: a BlockCoupling for (n_pairs, n, n) targets, a SpinCoupling for (n_pairs, 3, n, n).
    target : blocks over the common shells in eV, padding left out.
    cutoff : Å.
    """

    def __init__(
        self, layout: OrbitalLayout, coupling: Any, graph: CrystalGraph, target: np.ndarray, cutoff: float
    ) -> None:
        i, j, vectors = (np.asarray(a) for a in (graph.i, graph.j, graph.vectors))
        species, on_site = np.asarray(graph.species), np.asarray(graph.on_site)
        irreps = coupling.to_irreps(np.asarray(target, dtype=float))
        hop = ~on_site
        d = np.linalg.norm(vectors[hop].astype(float), axis=1)
        self.i, self.j = i[hop], j[hop]
        self.rotations = edge_rotations(coupling.l_max, vectors[hop].astype(float) / d[:, None])
        self.site_species, self.site = species[i[on_site]], irreps[on_site]
        self.hop = _into_frames(irreps[hop], self.rotations, coupling)
        self.kind = species[self.i] * layout.n_species + species[self.j]
        self.knots = distance_knots(d, cutoff, np)
        self.distance = d
        self.decay = np.asarray(envelope(jnp.asarray(d), cutoff, ONSET), dtype=float)[:, None]
        atoms = {atom: n for n, atom in enumerate(i[on_site])}
        self.row = np.array([atoms[a] for a in self.i], dtype=int)
        self.arms = [r[:, :, l] for l, r in enumerate(self.rotations)]

    def field_features(self, L: int, n_species: int, radial: np.ndarray | None = None) -> np.ndarray:
        """(n_atoms, n_species · N_KNOTS, 2L+1) Σ_j f_k(d_ij) Y_L(d̂_ij), by the neighbour's species.

        Parameters
        ----------
        radial : (n_hops, N_KNOTS) f_k of each pair; by default the Gaussians that vanish at the cutoff.
        """
        features = np.zeros((len(self.site), n_species, N_KNOTS, 2 * L + 1))
        waves = (self.decay * self.knots if radial is None else radial)[:, :, None] * self.arms[L][:, None, :]
        np.add.at(features, (self.row, self.kind % n_species), waves)
        return features.reshape(len(self.site), n_species * N_KNOTS, 2 * L + 1)


def _into_frames(irreps: np.ndarray, rotations: list[np.ndarray], coupling: Any) -> np.ndarray:
    """Irreps in the order of the coupling's paths, from the global frame to the pairs'."""
    found, at = np.empty_like(irreps), 0
    for path in coupling.paths:
        where = slice(at, at + 2 * path.L + 1)
        found[:, where] = np.einsum("eba,eb->ea", rotations[path.L], irreps[:, where])
        at = where.stop
    return found


class Weights(NamedTuple):
    """How the moments weigh the terms of a mean, by component s of the part.

    Parameters
    ----------
    row, column, other : (n_pairs, s) a, b and o.
    atom : (n_atoms, s) c.
    """

    row: Any
    column: Any
    other: Any
    atom: Any

    def component(self, s: int) -> Weights:
        """Those of one component, (n,) each."""
        return Weights(*(w[:, s] for w in self))


def weights_of(part: Part, moments: Any, i: Any, j: Any) -> Weights:
    """The weights of a part for moments (n_atoms, 3), NumPy or JAX, and pairs of atoms i, j."""
    if part.odd:
        own = moments if part.vector else moments[:, 2:]
        return Weights(own[i], own[j], own[j], own)
    square = (moments * moments).sum(axis=1)[:, None]
    product = (moments[i] * moments[j]).sum(axis=1)[:, None]
    return Weights(product, 0.5 * (square[i] + square[j]), product, square)


class _WithoutMeans:
    """A part whose irreps have no mean: what else than moments would tell up from down?"""

    def __init__(self, of_part: PartLayout) -> None:
        self.n_species, self.coupling = of_part.n_species, self
        own = of_part.coupling
        self.l_max, self.path_of_component = own.l_max, own.path_of_component
        self.paths = tuple(replace(path, natural=False) for path in own.paths)


def fit_part(of_part: PartLayout, samples: Sequence[SpinSample]) -> Statistics:
    """Scales of a part, and means where it has them, in closed form."""
    statistics = empty_statistics(of_part)  # type: ignore[arg-type]
    fitted: Any = of_part if of_part.part.name == "orbit" else _WithoutMeans(of_part)
    fit_hops(list(samples), fitted, statistics, SPIN_RIDGE)  # type: ignore[arg-type]
    fit_sites(list(samples), fitted, statistics, SPIN_RIDGE)  # type: ignore[arg-type]
    for key in ("hop_scale", "site_scale"):
        statistics[key] = np.maximum(statistics[key], SCALE_FLOOR)
    return statistics


def scales_like(of_part: PartLayout, reference: Statistics) -> Statistics:
    """Statistics of the even part: no label tells it from the part without moments, whose scales it gets a share of."""
    shares = {key: _EVEN_SHARE * np.asarray(reference[key]) for key in ("hop_scale", "site_scale")}
    return {**empty_statistics(of_part), **shares}  # type: ignore[arg-type]


def fit_linear(
    of_part: PartLayout, samples: Sequence[tuple[SpinSample, Weights]], magnetic_cutoff: float
) -> Statistics:
    """The mean that depends on the moments.

    Parameters
    ----------
    samples : (target in irreps of one block, weights of its pairs of different atoms and of its atoms), for each
        structure and component.
    magnetic_cutoff : Å, range of the neighbours' moments.
    """
    tables = empty_linear(of_part)
    coupling = BlockCoupling(of_part.shells)
    natural = np.array([p.natural for p in coupling.paths], dtype=float)
    for kind in range(of_part.n_species**2):
        _fit_linear_hops(tables, samples, coupling, natural, kind)
    for species in range(of_part.n_species):
        for L in range(coupling.l_max + 1):
            _fit_linear_sites(tables, samples, coupling, (species, L, of_part.n_species), magnetic_cutoff)
    return tables


def _fit_linear_hops(
    tables: Statistics, samples: Any, coupling: BlockCoupling, natural: np.ndarray, kind: int
) -> None:
    centre = np.cumsum([2 * p.L + 1 for p in coupling.paths]) - [p.L + 1 for p in coupling.paths]
    gram, moment = np.zeros((2 * N_KNOTS, 2 * N_KNOTS)), np.zeros((2 * N_KNOTS, len(coupling.paths)))
    for s, w in samples:
        mine = s.kind == kind
        radial = (s.decay * s.knots)[mine]
        features = np.hstack([w.row[mine, None] * radial, w.column[mine, None] * radial])
        gram += features.T @ features
        moment += features.T @ s.hop[mine][:, centre]
    if gram.any():
        row, column = np.split(solve_ridge(gram, moment, SPIN_RIDGE) * natural, 2)
        tables["linear_row"][kind], tables["linear_column"][kind] = row, column


def _fit_linear_sites(
    tables: Statistics,
    samples: Any,
    coupling: BlockCoupling,
    where: tuple[int, int, int],
    magnetic_cutoff: float,
) -> None:
    species, L, n_species = where
    chosen = [n for n, p in enumerate(coupling.paths) if p.L == L]
    natural = np.array([coupling.paths[n].natural for n in chosen], dtype=float)
    rows, targets = [], []
    for s, w in samples:
        mine = s.site_species == species
        reach = np.asarray(envelope(jnp.asarray(s.distance), magnetic_cutoff, ONSET), dtype=float)
        own = s.field_features(L, n_species) * w.atom[:, None, None]
        other = s.field_features(L, n_species, (reach * w.other)[:, None] * s.knots)
        features = np.concatenate([own, other], axis=1)[mine].transpose(0, 2, 1)
        features = features.reshape(-1, 2 * n_species * N_KNOTS)
        if L == 0:
            features = np.column_stack([features, w.atom[mine]])
        rows.append(features)
        irreps = np.stack([s.site[mine][:, coupling.path_of_component == n] for n in chosen], axis=-1)
        targets.append(irreps.reshape(-1, len(chosen)))
    x, y = np.concatenate(rows), np.concatenate(targets)
    if not x.any():
        return
    solution = solve_ridge(x.T @ x, x.T @ y, SPIN_RIDGE) * natural
    fields = solution[: 2 * n_species * N_KNOTS].reshape(2, n_species, N_KNOTS, len(chosen))
    for neighbour in range(n_species):
        kind = species * n_species + neighbour
        tables["linear_field_own"][kind][:, chosen] = fields[0, neighbour]
        tables["linear_field_other"][kind][:, chosen] = fields[1, neighbour]
    if L == 0:
        tables["linear_site"][species, chosen] = solution[-1]


def linear_blocks(
    statistics: Statistics,
    coupling: BlockCoupling,
    graph: CrystalGraph,
    weights: Weights,
    rotations: list[Array],
    cutoffs: tuple[float, float],
) -> Float[Array, "pairs s n n"]:
    """The mean that depends on the moments, on every pair, over the common shells; not yet symmetrised.

    Parameters
    ----------
    weights : of every pair and atom.
    rotations : D_l of each pair.
    cutoffs : of H and of the moments, Å.
    """
    dtype = weights.atom.dtype
    table = {name: jnp.asarray(statistics[name], dtype=dtype) for name in (*_TABLES, "linear_site")}
    distance, of = safe_norm(graph.vectors), coupling.path_of_component
    axial = np.concatenate([np.eye(2 * p.L + 1)[p.L] for p in coupling.paths]).astype(dtype)[None]
    real = graph.pair_mask & ~graph.on_site
    decay, reach = (jnp.where(real, envelope(distance, c, ONSET), 0.0)[:, None] for c in cutoffs)
    n_species = round(len(table["linear_row"]) ** 0.5)
    kind = graph.species[graph.i] * n_species + graph.species[graph.j]
    knots = distance_knots(distance, cutoffs[0], jnp)
    arms = jnp.concatenate([rotations[p.L][:, :, p.L] for p in coupling.paths], axis=1)
    a, b, o, c = (w[:, :, None] for w in weights)

    def strength(name: str) -> Array:
        return per_pair(knots, table[name], kind)[:, of]

    row, column = ((strength(n) * axial * decay)[:, None] for n in _TABLES[:2])
    framed = (a * row + b * column).reshape(-1, axial.shape[1])
    repeated = [jnp.repeat(r, a.shape[1], axis=0) for r in rotations]
    hops = out_of_frames(framed, repeated, coupling).reshape(*a.shape[:2], -1)
    own = jax.ops.segment_sum(strength("linear_field_own") * decay * arms, graph.i, graph.n_atoms)
    own = own + table["linear_site"][graph.species][:, of] * axial
    other = (strength("linear_field_other") * reach * arms)[:, None] * o
    sites = c * own[:, None] + jax.ops.segment_sum(other, graph.i, graph.n_atoms)
    return coupling.to_block(jnp.where(graph.on_site[:, None, None], sites[graph.i], hops))
