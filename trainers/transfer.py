"""Fine-tuning from a model of another basis: what fits is taken, species are added, other read-outs start fresh."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from ase_deeph.model import HamiltonianModel
from ase_deeph.network import Network
from ase_deeph.network.layout import OrbitalLayout


@dataclass(frozen=True)
class Transfer:
    """Parameters for a new basis, and where each array comes from.

    Parameters
    ----------
    params : nested dicts of arrays, with the names and shapes of the new network.
    taken, extended, fresh : names of the arrays that are the model's, that have the model's rows for known
        species and new ones for others, and that start anew.
    """

    params: Mapping[str, Any]
    taken: tuple[str, ...]
    extended: tuple[str, ...]
    fresh: tuple[str, ...]

    def __str__(self) -> str:
        shown = ", ".join(self.fresh[:3]) + (", ..." if len(self.fresh) > 3 else "")
        return (
            f"{len(self.taken)} parameter arrays taken, {len(self.extended)} extended by species, "
            f"{len(self.fresh)} fresh{f' ({shown})' if self.fresh else ''}, statistics refitted"
        )


def transfer(model: HamiltonianModel, network: Network, seed: int) -> Transfer:
    """The parameters of a model for a network of another basis and the same architecture.

    Arrays named species..., and arrays whose first axis counts species or pairs of species, keep the rows of
    the species that both know.  Read-outs are the model's only where the common shells are equal; an array of
    another shape starts anew.

    Parameters
    ----------
    model : trained on some species.
    network : of the new basis.
    seed : for what starts anew.
    """
    old, new = list(model.basis.symbols), list(network.basis.symbols)
    rows = [(n, old.index(s)) for n, s in enumerate(new) if s in old]
    same_shells = OrbitalLayout(model.basis).shells == OrbitalLayout(network.basis).shells
    known = {_name(path): np.asarray(leaf) for path, leaf in _leaves(dict(model.params))}
    kinds: dict[str, list[str]] = {"taken": [], "extended": [], "fresh": []}

    def chosen(path: tuple[Any, ...], leaf: Any) -> np.ndarray:
        name, value = _name(path), np.array(leaf)
        source = known.get(name)
        if source is None or ("readout" in name and not same_shells):
            kind, result = "fresh", value
        else:
            kind, result = _merged(name, source, value, rows, (len(old), len(new)))
        kinds[kind].append(name)
        return result

    params = jax.tree_util.tree_map_with_path(chosen, network.init(seed))
    return Transfer(params, *(tuple(kinds[k]) for k in ("taken", "extended", "fresh")))


def _merged(
    name: str, source: np.ndarray, fresh: np.ndarray, rows: list[tuple[int, int]], counts: tuple[int, int]
) -> tuple[str, np.ndarray]:
    """(kind, array): the source, or the fresh array with the source's rows of known species."""
    n_old, n_new = counts
    by_name = name.rsplit(".", 1)[-1].startswith("species")
    if source.ndim and source.shape[1:] == fresh.shape[1:]:
        sizes = (len(source), len(fresh))
        if sizes == (n_old, n_new) and (by_name or n_old != n_new):
            return _with_rows(source, fresh, rows)
        if sizes == (n_old**2, n_new**2) and (by_name or n_old != n_new):
            pairs = [(a * n_new + b, c * n_old + d) for a, c in rows for b, d in rows]
            return _with_rows(source, fresh, pairs)
    return ("taken", source) if source.shape == fresh.shape else ("fresh", fresh)


def _with_rows(source: np.ndarray, fresh: np.ndarray, rows: list[tuple[int, int]]) -> tuple[str, np.ndarray]:
    """The fresh array with some rows of the source."""
    result = fresh.copy()
    for to, origin in rows:
        result[to] = source[origin]
    return ("taken" if len(rows) == len(fresh) else "extended"), result


def _leaves(tree: Any) -> list[tuple[tuple[Any, ...], Any]]:
    return jax.tree_util.tree_flatten_with_path(tree)[0]


def _name(path: tuple[Any, ...]) -> str:
    return ".".join(str(getattr(key, "key", key)) for key in path)
