"""TrainingDomain: the species pairs, shortest distances and coordinations a model has seen, and what lies outside."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers, covalent_radii

from ase_deeph.pairs import AtomPairs

BOND_FACTOR = 1.3
CLOSEST = 0.9
"""Distances below this times the shortest of the training set are outside the domain."""

Pair = tuple[str, str]


@dataclass(frozen=True)
class TrainingDomain:
    """What the structures of a training set have in common with a new one, or not.

    Parameters
    ----------
    cutoff : range of the pairs looked at, Å.
    shortest : (symbol, symbol), sorted, -> shortest distance in Å; a pair that is absent was never seen.
    coordination : symbol -> fewest and most bonds of an atom; a bond is a pair closer than `bond_factor` times
        the sum of ASE's covalent radii.
    n_structures : how many structures this describes.

    Examples
    --------
    >>> from ase.build import graphene
    >>> seen = TrainingDomain.of(graphene(vacuum=5.0), 4.0)
    >>> seen.outside(graphene(a=2.0, vacuum=5.0))
    ('C 0 and C 1 are 1.155 Å apart; the shortest C-C distance in training is 1.420 Å',)
    """

    cutoff: float
    shortest: Mapping[Pair, float] = field(default_factory=dict)
    coordination: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    bond_factor: float = BOND_FACTOR
    n_structures: int = 1

    @classmethod
    def of(cls, atoms: Atoms, cutoff: float) -> TrainingDomain:
        """The domain that one structure spans."""
        pairs = AtomPairs.from_atoms(atoms, cutoff)
        pairs = pairs.select(~pairs.on_site)
        distances = np.linalg.norm(pairs.displacements(atoms), axis=1)
        return cls.of_neighbours(atoms.get_chemical_symbols(), pairs.i, pairs.j, distances, cutoff)

    @classmethod
    def of_neighbours(
        cls, symbols: Sequence[str], i: np.ndarray, j: np.ndarray, distances: np.ndarray, cutoff: float
    ) -> TrainingDomain:
        """The domain of one structure whose pairs (both directions, none on site) are known, distances in Å."""
        names = np.asarray(symbols)
        bonds = _bonds(names, i, j, distances, BOND_FACTOR)
        shortest = {pair: float(distances[where].min()) for pair, where in _by_pair(names, i, j)}
        coordination = {
            str(s): (int(bonds[names == s].min()), int(bonds[names == s].max())) for s in sorted(set(names))
        }
        return cls(float(cutoff), shortest, coordination)

    def __or__(self, other: TrainingDomain) -> TrainingDomain:
        """The domain of both sets together."""
        shortest, coordination = dict(self.shortest), dict(self.coordination)
        for pair, distance in other.shortest.items():
            shortest[pair] = min(distance, shortest.get(pair, np.inf))
        for symbol, (low, high) in other.coordination.items():
            known = coordination.get(symbol, (low, high))
            coordination[symbol] = (min(low, known[0]), max(high, known[1]))
        return TrainingDomain(
            max(self.cutoff, other.cutoff),
            shortest,
            coordination,
            self.bond_factor,
            self.n_structures + other.n_structures,
        )

    def outside(self, atoms: Atoms) -> tuple[str, ...]:
        """One line for each way in which a structure leaves the domain; empty when it does not.

        These are: an element or a pair of species that was never seen, a distance more than 10 % below the
        shortest one, an atom with fewer or more bonds than any atom of its element had.
        """
        pairs = AtomPairs.from_atoms(atoms, self.cutoff)
        pairs = pairs.select(~pairs.on_site)
        names = np.asarray(atoms.get_chemical_symbols())
        distances = np.linalg.norm(pairs.displacements(atoms), axis=1)
        strangers = sorted(set(names.tolist()) - set(self.coordination))
        if strangers:
            return (f"no {', '.join(strangers)} in training",)
        return (
            *self._distance_remarks(names, pairs, distances),
            *self._coordination_remarks(names, _bonds(names, pairs.i, pairs.j, distances, self.bond_factor)),
        )

    def _distance_remarks(self, names: np.ndarray, pairs: AtomPairs, distances: np.ndarray) -> Iterator[str]:
        for (a, b), where in _by_pair(names, pairs.i, pairs.j):
            known = self.shortest.get((a, b))
            n = where[np.argmin(distances[where])]
            if known is None:
                yield f"no {a}-{b} pairs closer than {self.cutoff:g} Å in training"
            elif distances[n] < CLOSEST * known:
                i, j = pairs.i[n], pairs.j[n]
                yield (
                    f"{names[i]} {i} and {names[j]} {j} are {distances[n]:.3f} Å apart; the shortest {a}-{b} "
                    f"distance in training is {known:.3f} Å"
                )

    def _coordination_remarks(self, names: np.ndarray, bonds: np.ndarray) -> Iterator[str]:
        for symbol, (low, high) in self.coordination.items():
            strange = np.nonzero((names == symbol) & ((bonds < low) | (bonds > high)))[0]
            if len(strange):
                n = strange[0]
                others = f" (and {len(strange) - 1} more such atoms)" if len(strange) > 1 else ""
                seen = f"{low} to {high}" if high > low else f"always {low}"
                yield f"{symbol} {n} has {bonds[n]} bonds{others}; in training {seen}"

    def to_dict(self) -> dict[str, Any]:
        """As JSON values, for the model file."""
        return {
            "cutoff": self.cutoff,
            "shortest_distances": {"-".join(pair): round(d, 5) for pair, d in sorted(self.shortest.items())},
            "coordination": {s: list(c) for s, c in sorted(self.coordination.items())},
            "bond_factor": self.bond_factor,
            "n_structures": self.n_structures,
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> TrainingDomain:
        """From what `to_dict` gave.

        Raises
        ------
        ValueError : something is missing or of another kind.
        """
        try:
            pairs = {_pair(key): float(d) for key, d in content["shortest_distances"].items()}
            coordination = {str(s): (int(c[0]), int(c[1])) for s, c in content["coordination"].items()}
            numbers = float(content["cutoff"]), float(content["bond_factor"]), int(content["n_structures"])
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise ValueError(
                f"training domain: expected cutoff, shortest_distances, coordination, bond_factor and "
                f"n_structures, received {str(content)[:80]} ({type(error).__name__}: {error})"
            ) from None
        if not all(np.isfinite(v) and v > 0 for v in (*numbers, *pairs.values())):
            raise ValueError(f"training domain: expected positive lengths, received {str(content)[:80]}")
        return cls(numbers[0], pairs, coordination, numbers[1], numbers[2])


def _pair(key: str) -> Pair:
    a, b = sorted(key.split("-"))
    return a, b


def _by_pair(names: np.ndarray, i: np.ndarray, j: np.ndarray) -> Iterator[tuple[Pair, np.ndarray]]:
    """Each sorted pair of symbols that occurs, with the positions of its pairs."""
    for a in sorted(set(names.tolist())):
        for b in sorted(set(names.tolist())):
            where = np.nonzero((names[i] == a) & (names[j] == b))[0]
            if a <= b and len(where):
                yield (a, b), where


def _bonds(
    names: np.ndarray, i: np.ndarray, j: np.ndarray, distances: np.ndarray, factor: float
) -> np.ndarray:
    """(n_atoms,) pairs closer than factor times the sum of the covalent radii."""
    radii = np.array([covalent_radii[atomic_numbers[s]] for s in names])
    return np.bincount(i[distances < factor * (radii[i] + radii[j])], minlength=len(names))
