"""TrainingDomain: the species pairs, distances, coordinations and moments a model has seen, and what lies outside."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers, covalent_radii

from ase_deeph.pairs import AtomPairs

BOND_FACTOR = 1.3
CLOSEST, FARTHEST = 0.9, 1.1
"""Distances below this times the shortest of the training set are outside the domain, as are atoms whose nearest
neighbour is farther than this times the farthest nearest neighbour."""
_SIZE_OF_MOMENTS = 0.02
"""Sizes of moments are compared to this fraction, and to this many μB."""

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
    nearest : symbol -> largest distance in Å of an atom to its nearest neighbour, the cutoff where one had none; empty
        where it was not looked at.
    moments : symbol -> smallest and largest initial magnetic moment in μB; empty for a model that reads none.

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
    nearest: Mapping[str, float] = field(default_factory=dict)
    moments: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    @classmethod
    def of(cls, atoms: Atoms, cutoff: float, *, moments: np.ndarray | None = None) -> TrainingDomain:
        """The domain that one structure spans; `moments` (n_atoms, 3) in μB for a model that reads them."""
        pairs = AtomPairs.from_atoms(atoms, cutoff)
        pairs = pairs.select(~pairs.on_site)
        distances = np.linalg.norm(pairs.displacements(atoms), axis=1)
        symbols = atoms.get_chemical_symbols()
        return cls.of_neighbours(symbols, pairs.i, pairs.j, distances, cutoff, moments=moments)

    @classmethod
    def of_neighbours(
        cls,
        symbols: Sequence[str],
        i: np.ndarray,
        j: np.ndarray,
        distances: np.ndarray,
        cutoff: float,
        *,
        moments: np.ndarray | None = None,
    ) -> TrainingDomain:
        """The domain of one structure whose pairs (both directions, none on site) are known, distances in Å."""
        names = np.asarray(symbols)
        bonds = _bonds(names, i, j, distances, BOND_FACTOR)
        shortest = {pair: float(distances[where].min()) for pair, where in _by_pair(names, i, j)}
        coordination, nearest, sizes = {}, {}, {}
        near = _nearest(len(names), i, distances, cutoff)
        for s in sorted({str(name) for name in names}):
            own = names == s
            coordination[s] = (int(bonds[own].min()), int(bonds[own].max()))
            nearest[s] = float(near[own].max())
            if moments is not None:
                size = np.linalg.norm(np.asarray(moments, dtype=float)[own], axis=1)
                sizes[s] = (float(size.min()), float(size.max()))
        return cls(float(cutoff), shortest, coordination, nearest=nearest, moments=sizes)

    def __or__(self, other: TrainingDomain) -> TrainingDomain:
        """The domain of both sets together."""
        shortest, coordination = dict(self.shortest), dict(self.coordination)
        for pair, distance in other.shortest.items():
            shortest[pair] = min(distance, shortest.get(pair, np.inf))
        for symbol, (low, high) in other.coordination.items():
            known = coordination.get(symbol, (low, high))
            coordination[symbol] = (min(low, known[0]), max(high, known[1]))
        nearest, moments = dict(self.nearest), dict(self.moments)
        for symbol, distance in other.nearest.items():
            nearest[symbol] = max(distance, nearest.get(symbol, 0.0))
        for symbol, (least, most) in other.moments.items():
            seen = moments.get(symbol, (least, most))
            moments[symbol] = (min(least, seen[0]), max(most, seen[1]))
        return TrainingDomain(
            max(self.cutoff, other.cutoff),
            shortest,
            coordination,
            self.bond_factor,
            self.n_structures + other.n_structures,
            nearest,
            moments,
        )

    def outside(self, atoms: Atoms) -> tuple[str, ...]:
        """One line for each way in which a structure leaves the domain; empty when it does not.

        These are: an element or a pair of species that was never seen, a distance more than 10 % below the
        shortest one, an atom with fewer or more bonds than any atom of its element had, or whose nearest neighbour
        is more than 10 % farther than that of any, and for a model that reads them, moments of other sizes.
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
            *self._isolation_remarks(names, _nearest(len(names), pairs.i, distances, self.cutoff)),
            *self._moment_remarks(names, atoms),
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

    def _isolation_remarks(self, names: np.ndarray, near: np.ndarray) -> Iterator[str]:
        for symbol, farthest in self.nearest.items():
            strange = np.nonzero((names == symbol) & (near > FARTHEST * farthest))[0]
            if len(strange):
                n = strange[np.argmax(near[strange])]
                here = f"{near[n]:.3f} Å" if near[n] < self.cutoff else f"beyond {self.cutoff:g} Å"
                yield f"the nearest neighbour of {symbol} {n} is {here} away; in training at most {farthest:.3f} Å"

    def _moment_remarks(self, names: np.ndarray, atoms: Atoms) -> Iterator[str]:
        if not self.moments or not atoms.has("initial_magmoms"):
            return
        given = np.asarray(atoms.get_initial_magnetic_moments(), dtype=float).reshape(len(atoms), -1)
        sizes = np.linalg.norm(given, axis=1)
        for symbol, (low, high) in self.moments.items():
            margin = _SIZE_OF_MOMENTS * (1 + high)
            strange = np.nonzero((names == symbol) & ((sizes < low - margin) | (sizes > high + margin)))[0]
            if len(strange):
                n = strange[0]
                seen = f"{low:.3g} to {high:.3g}" if high > low + margin else f"always {high:.3g}"
                yield f"{symbol} {n} has an initial moment of {sizes[n]:.3g} μB; in training {seen} μB"

    def to_dict(self) -> dict[str, Any]:
        """As JSON values, for the model file."""
        return {
            "cutoff": self.cutoff,
            "shortest_distances": {"-".join(pair): round(d, 5) for pair, d in sorted(self.shortest.items())},
            "coordination": {s: list(c) for s, c in sorted(self.coordination.items())},
            "bond_factor": self.bond_factor,
            "n_structures": self.n_structures,
            **(
                {"nearest": {s: round(d, 5) for s, d in sorted(self.nearest.items())}} if self.nearest else {}
            ),
            **({"moments": {s: list(m) for s, m in sorted(self.moments.items())}} if self.moments else {}),
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
            nearest = {str(s): float(d) for s, d in content.get("nearest", {}).items()}
            moments = {str(s): (float(m[0]), float(m[1])) for s, m in content.get("moments", {}).items()}
            numbers = float(content["cutoff"]), float(content["bond_factor"]), int(content["n_structures"])
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise ValueError(
                f"training domain: expected cutoff, shortest_distances, coordination, bond_factor and "
                f"n_structures, received {str(content)[:80]} ({type(error).__name__}: {error})"
            ) from None
        if not all(np.isfinite(v) and v > 0 for v in (*numbers, *pairs.values(), *nearest.values())):
            raise ValueError(f"training domain: expected positive lengths, received {str(content)[:80]}")
        return cls(numbers[0], pairs, coordination, numbers[1], numbers[2], nearest, moments)


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


def _nearest(n_atoms: int, i: np.ndarray, distances: np.ndarray, cutoff: float) -> np.ndarray:
    """(n_atoms,) distance to the nearest neighbour, the cutoff where there is none within it."""
    near = np.full(n_atoms, float(cutoff))
    np.minimum.at(near, i, distances)
    return near


def _bonds(
    names: np.ndarray, i: np.ndarray, j: np.ndarray, distances: np.ndarray, factor: float
) -> np.ndarray:
    """(n_atoms,) pairs closer than factor times the sum of the covalent radii."""
    radii = np.array([covalent_radii[atomic_numbers[s]] for s in names])
    return np.bincount(i[distances < factor * (radii[i] + radii[j])], minlength=len(names))
