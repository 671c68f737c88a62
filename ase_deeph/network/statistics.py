"""Target statistics: a two-centre mean and a scale for each (species pair, shell pair, irrep), by distance.

Hopping irreps in the edge's frame have a mean in m = 0 alone, a function of distance: the two-centre
(Slater-Koster) part of H, fitted in closed form.  On-site irreps have a mean (L = 0) and a field of the
neighbours, Σ_j f(d_ij) Y_L(d̂_ij).  What is left is divided by its root mean square, itself a smooth function of
distance.  The network learns that quotient.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ase_deeph.graph import CrystalGraph
from ase_deeph.harmonics import edge_rotations
from ase_deeph.network.embedding import ONSET, envelope
from ase_deeph.network.layout import OrbitalLayout

N_KNOTS = 32
SCALE_FLOOR = 1e-5
RIDGE = 1e-7
"""Of the least squares, in units of the largest sum of squares; more of it for small data sets."""

Statistics = dict[str, Any]


def distance_knots(distance: Any, cutoff: float, xp: Any) -> Any:
    """(n, N_KNOTS) Gaussians over [0, cutoff], as wide as they are apart."""
    centres = np.linspace(0.0, cutoff, N_KNOTS).astype(distance.dtype)
    return xp.exp(-0.5 * ((distance[:, None] - centres[None]) * ((N_KNOTS - 1) / cutoff)) ** 2)


def empty_statistics(layout: OrbitalLayout) -> Statistics:
    """Zero means and unit scales: what an untrained network starts from."""
    n, paths = layout.n_species, len(layout.coupling.paths)
    return {
        "hop_mean": np.zeros((n * n, N_KNOTS, paths), dtype=np.float32),
        "hop_scale": np.ones((n * n, N_KNOTS, paths), dtype=np.float32),
        "site_mean": np.zeros((n, paths), dtype=np.float32),
        "site_field": np.zeros((n * n, N_KNOTS, paths), dtype=np.float32),
        "site_scale": np.ones((n, paths), dtype=np.float32),
    }


def per_pair(knots: Array, table: Array, kind: Array) -> Array:
    """Σ_k knots[p, k] table[kind_p, k, :], one product per kind of pair."""
    if len(table) == 1:
        return knots @ table[0]
    return sum(((kind == n)[:, None] * knots) @ rows for n, rows in enumerate(table))


def denormalised(
    statistics: Statistics,
    layout: OrbitalLayout,
    graph: CrystalGraph,
    hop: Float[Array, "pairs irreps"],
    site: Float[Array, "atoms irreps"],
    rotations: list[Array],
    distance: Float[Array, " pairs"],
    cutoff: float,
) -> tuple[Float[Array, "pairs irreps"], Float[Array, "atoms irreps"]]:
    """Irreps in eV: mean + scale · (network's output), hopping ones vanishing smoothly at the cutoff."""
    coupling = layout.coupling
    table = {key: jnp.asarray(value, dtype=hop.dtype) for key, value in statistics.items()}
    kind = graph.species[graph.i] * layout.n_species + graph.species[graph.j]
    decay = jnp.where(graph.pair_mask & ~graph.on_site, envelope(distance, cutoff, ONSET), 0.0)[:, None]
    knots = distance_knots(distance, cutoff, jnp)
    of = coupling.path_of_component
    axial = axial_components(layout).astype(hop.dtype)[None]
    mean = per_pair(knots, table["hop_mean"], kind)[:, of] * axial
    share = knots / (jnp.sum(knots, axis=1, keepdims=True) + 1e-20)
    scale = per_pair(share, table["hop_scale"], kind)[:, of]
    hops = decay * (mean + scale * hop)

    strength = per_pair(knots, table["site_field"], kind)[:, of] * decay
    arms = jnp.concatenate([rotations[path.L][:, :, path.L] for path in coupling.paths], axis=1)
    field = jax.ops.segment_sum(strength * arms, graph.i, graph.n_atoms)
    mean_site = table["site_mean"][graph.species][:, of] * axial
    return hops, mean_site + field + table["site_scale"][graph.species][:, of] * site


def axial_components(layout: OrbitalLayout) -> np.ndarray:
    """(irreps,) 1 for m = 0, else 0."""
    return np.concatenate([np.eye(2 * p.L + 1)[p.L] for p in layout.coupling.paths])


class _Sample:
    """One structure's targets as irreps, with the features they are fitted on (NumPy, float64)."""

    def __init__(self, layout: OrbitalLayout, graph: CrystalGraph, blocks: np.ndarray, cutoff: float) -> None:
        real, coupling = np.asarray(graph.pair_mask), layout.coupling
        i, j, vectors = (np.asarray(a)[real] for a in (graph.i, graph.j, graph.vectors))
        species, on_site = np.asarray(graph.species), np.asarray(graph.on_site)[real]
        common = layout.to_common(np.asarray(blocks, dtype=float)[real], species[i], species[j])
        self.site_species = species[i[on_site]]
        self.site = coupling.to_irreps(common[on_site])
        hop = ~on_site
        d = np.linalg.norm(vectors[hop].astype(float), axis=1)
        rotations = edge_rotations(coupling.l_max, vectors[hop].astype(float) / d[:, None])
        turn = np.zeros((len(d), coupling.n_orbitals, coupling.n_orbitals))
        at = 0
        for l in layout.shells:
            turn[:, at : at + 2 * l + 1, at : at + 2 * l + 1] = rotations[l]
            at += 2 * l + 1
        framed = np.einsum("eab,eac,ecd->ebd", turn, common[hop], turn, optimize=True)
        self.hop = coupling.to_irreps(framed)
        self.kind = species[i[hop]] * layout.n_species + species[j[hop]]
        self.knots = distance_knots(d, cutoff, np)
        self.decay = np.asarray(envelope(jnp.asarray(d), cutoff, ONSET), dtype=float)[:, None]
        atoms = {atom: n for n, atom in enumerate(i[on_site])}
        self.row = np.array([atoms[a] for a in i[hop]], dtype=int)
        self.arms = [r[:, :, l] for l, r in enumerate(rotations)]

    def field_features(self, L: int, n_species: int) -> np.ndarray:
        """(n_atoms, n_species · N_KNOTS, 2L+1) Σ_j f_k(d_ij) Y_L(d̂_ij), by the neighbour's species."""
        features = np.zeros((len(self.site), n_species, N_KNOTS, 2 * L + 1))
        waves = (self.decay * self.knots)[:, :, None] * self.arms[L][:, None, :]
        np.add.at(features, (self.row, self.kind % n_species), waves)
        return features.reshape(len(self.site), n_species * N_KNOTS, 2 * L + 1)


def solve_ridge(gram: np.ndarray, moment: np.ndarray, relative: float = RIDGE) -> np.ndarray:
    """(G + ρ 1)⁻¹ M with ρ in units of the largest diagonal entry of G."""
    ridge = relative * max(float(np.diag(gram).max(initial=0.0)), 1e-12)
    return np.linalg.solve(gram + ridge * np.eye(len(gram)), moment)


def fit_hops(
    samples: list[_Sample], layout: OrbitalLayout, statistics: Statistics, ridge: float = RIDGE
) -> None:
    """Mean and scale of the hopping irreps of each kind of pair."""
    paths = layout.coupling.paths
    centre = np.nonzero(axial_components(layout))[0]
    natural = np.array([p.natural for p in paths], dtype=float)
    of = layout.coupling.path_of_component
    degree = np.array([2 * p.L + 1 for p in paths])
    for kind in range(layout.n_species**2):
        gram, moment = np.zeros((N_KNOTS, N_KNOTS)), np.zeros((N_KNOTS, len(paths)))
        for s in samples:
            mine = s.kind == kind
            features = (s.decay * s.knots)[mine]
            gram += features.T @ features
            moment += features.T @ s.hop[mine][:, centre]
        if not gram.any():
            continue
        mean = solve_ridge(gram, moment, ridge) * natural
        statistics["hop_mean"][kind] = mean
        weight, square = np.zeros(N_KNOTS), np.zeros((N_KNOTS, len(paths)))
        for s in samples:
            mine = s.kind == kind
            rest = s.hop[mine].copy()
            rest[:, centre] -= (s.decay * s.knots)[mine] @ mean
            share = s.knots[mine] / s.knots[mine].sum(axis=1, keepdims=True)
            weight += share.sum(axis=0)
            per_path = (
                np.stack([(rest[:, of == n] ** 2).sum(axis=1) for n in range(len(paths))], axis=1) / degree
            )
            square += share.T @ per_path
        seen = weight > 1e-6 * weight.max()
        rms = np.sqrt(square[seen] / weight[seen][:, None])
        knots = np.arange(N_KNOTS)
        for n in range(len(paths)):
            statistics["hop_scale"][kind, :, n] = np.interp(knots, knots[seen], rms[:, n])


def fit_sites(
    samples: list[_Sample], layout: OrbitalLayout, statistics: Statistics, ridge: float = RIDGE
) -> None:
    """Mean, neighbour field and scale of the on-site irreps of each species."""
    n_species, paths = layout.n_species, layout.coupling.paths
    of = layout.coupling.path_of_component
    for species in range(n_species):
        for L in range(layout.coupling.l_max + 1):
            chosen = [n for n, p in enumerate(paths) if p.L == L]
            natural = np.array([paths[n].natural for n in chosen], dtype=float)
            rows, targets = [], []
            for s in samples:
                mine = s.site_species == species
                features = (
                    s.field_features(L, n_species)[mine].transpose(0, 2, 1).reshape(-1, n_species * N_KNOTS)
                )
                if L == 0:
                    features = np.column_stack([features, np.ones(len(features))])
                rows.append(features)
                irreps = np.stack([s.site[mine][:, of == n] for n in chosen], axis=-1)
                targets.append(irreps.reshape(-1, len(chosen)))
            x, y = np.concatenate(rows), np.concatenate(targets)
            if not len(x):
                continue
            solution = solve_ridge(x.T @ x, x.T @ y, ridge) * natural
            rms = np.sqrt(np.mean((y - x @ solution) ** 2, axis=0))
            statistics["site_scale"][species, chosen] = rms
            field = solution[: n_species * N_KNOTS].reshape(n_species, N_KNOTS, len(chosen))
            for neighbour in range(n_species):
                statistics["site_field"][species * n_species + neighbour][:, chosen] = field[neighbour]
            if L == 0:
                statistics["site_mean"][species, chosen] = solution[-1]


def fit_statistics(
    layout: OrbitalLayout,
    cutoff: float,
    samples: Iterable[tuple[CrystalGraph, np.ndarray]],
    ridge: float = RIDGE,
) -> Statistics:
    """Means and scales of the targets of a training set, in closed form.

    Parameters
    ----------
    layout : the common shells.
    cutoff : the network's, Å.
    samples : (graph, (n_pairs, M, M) blocks in eV) of each structure; padding is ignored.
    ridge : of the least squares, see RIDGE.

    Returns
    -------
    hop_mean, hop_scale, site_field : (n_species², N_KNOTS, n_paths); site_mean, site_scale : (n_species, n_paths)
    """
    statistics = empty_statistics(layout)
    prepared = [_Sample(layout, graph, blocks, cutoff) for graph, blocks in samples]
    if not prepared:
        raise ValueError("fit_statistics: expected at least one structure, received none")
    fit_hops(prepared, layout, statistics, ridge)
    fit_sites(prepared, layout, statistics, ridge)
    for key in ("hop_scale", "site_scale"):
        statistics[key] = np.maximum(statistics[key], SCALE_FLOOR)
    return statistics
