"""The orbital basis: which shells each species carries, their radial functions and its valence electrons.

Orbitals are ordered by shell as declared and, inside a shell, by m = -l ... +l (real harmonics, no
Condon-Shortley sign; p is y, z, x).  Everything is in Å and electrons.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.interpolate import CubicSpline

_GAUSSIAN_TAIL = 1e-9


def _frozen(values: object, name: str) -> np.ndarray:
    array = np.array(values, dtype=float)
    if not np.all(np.isfinite(array)):
        raise ValueError(f"{name}: expected finite numbers, received NaN or infinity")
    array.setflags(write=False)
    return array


def _end_slope(r: np.ndarray, values: np.ndarray) -> float:
    """Slope at the last point of the parabola through the last three."""
    x, y = r[-3:] - r[-1], values[-3:] - values[-1]
    return float(np.linalg.solve(np.array([x[:2], x[:2] ** 2]).T, y[:2])[0])


@dataclass(frozen=True, eq=False)
class GridRadial:
    """A radial function given on a grid: φ(r) = R(|r|) Y_lm(r̂), zero beyond the last grid point.

    Parameters
    ----------
    l : angular momentum.
    r : (n,) Å, increasing from 0.
    values : (n,) R(r) in Å^(-3/2), the factor r^l included.

    Raises
    ------
    ValueError : when the grid does not start at 0, does not increase, or the lengths differ.
    """

    l: int
    r: np.ndarray
    values: np.ndarray

    def __post_init__(self) -> None:
        object.__setattr__(self, "r", _frozen(self.r, "radial grid"))
        object.__setattr__(self, "values", _frozen(self.values, "radial function"))
        if self.r.ndim != 1 or self.r.shape != self.values.shape or len(self.r) < 4:
            raise ValueError(
                f"radial function: expected r and values of one length >= 4, received {self.r.shape} "
                f"and {self.values.shape}"
            )
        if self.r[0] != 0.0 or np.any(np.diff(self.r) <= 0):
            raise ValueError("radial function: expected a grid that starts at 0 and increases")

    @property
    def cutoff(self) -> float:
        """Radius in Å beyond which the function is zero."""
        return float(self.r[-1])

    @cached_property
    def _spline(self) -> CubicSpline:
        start = (2, 0.0) if self.l == 1 else (1, 0.0)
        return CubicSpline(self.r, self.values, bc_type=(start, (1, _end_slope(self.r, self.values))))

    def __call__(self, r: np.ndarray) -> np.ndarray:
        """R(r) in Å^(-3/2) at any distances r (Å), by cubic spline."""
        r = np.asarray(r, dtype=float)
        return np.where(r <= self.cutoff, self._spline(np.minimum(r, self.cutoff)), 0.0)

    def key(self) -> tuple:
        """A hashable identity: equal functions have equal keys."""
        return ("grid", self.l, self.r.tobytes(), self.values.tobytes())


@dataclass(frozen=True, eq=False)
class GaussianRadial:
    """A contracted Gaussian: R(r) = r^l Σ_k c_k exp(-a_k r²).

    Parameters
    ----------
    l : angular momentum.
    exponents : (n,) a_k in Å^-2.
    coefficients : (n,) c_k in Å^(-3/2-l), normalisation included.
    """

    l: int
    exponents: np.ndarray
    coefficients: np.ndarray

    def __post_init__(self) -> None:
        object.__setattr__(self, "exponents", _frozen(self.exponents, "Gaussian exponents"))
        object.__setattr__(self, "coefficients", _frozen(self.coefficients, "Gaussian coefficients"))
        if self.exponents.shape != self.coefficients.shape or self.exponents.ndim != 1:
            raise ValueError(
                f"contracted Gaussian: expected exponents and coefficients of one length, received "
                f"{self.exponents.shape} and {self.coefficients.shape}"
            )
        if np.any(self.exponents <= 0):
            raise ValueError(f"contracted Gaussian: expected positive exponents, received {self.exponents}")

    @cached_property
    def cutoff(self) -> float:
        """Radius in Å beyond which r |R(r)| stays under 1e-9 Å^(-1/2)."""
        r = np.linspace(0.0, np.sqrt(60.0 / self.exponents.min()), 4000)
        large = np.nonzero(np.abs(self(r)) * r > _GAUSSIAN_TAIL)[0]
        return float(r[min(large[-1] + 1, len(r) - 1)]) if len(large) else float(r[1])

    def __call__(self, r: np.ndarray) -> np.ndarray:
        """R(r) in Å^(-3/2) at any distances r (Å)."""
        r = np.asarray(r, dtype=float)
        return r**self.l * (np.exp(-np.multiply.outer(r * r, self.exponents)) @ self.coefficients)

    def key(self) -> tuple:
        """A hashable identity: equal functions have equal keys."""
        return ("gaussian", self.l, self.exponents.tobytes(), self.coefficients.tobytes())


RadialFunction = GridRadial | GaussianRadial


@dataclass(frozen=True, eq=False)
class Augmentation:
    """The overlap augmentation of a PAW or ultrasoft species: S = 1 + Σ_pq |p_p> ΔO_pq <p_q|.

    Parameters
    ----------
    projectors : radial functions of the projector shells.
    delta_overlap : (n_shells, n_shells) symmetric, dimensionless; couples shells of equal l, identity in m.
    """

    projectors: tuple[RadialFunction, ...]
    delta_overlap: np.ndarray

    def __post_init__(self) -> None:
        object.__setattr__(self, "projectors", tuple(self.projectors))
        object.__setattr__(self, "delta_overlap", _frozen(self.delta_overlap, "delta_overlap"))
        n = len(self.projectors)
        if self.delta_overlap.shape != (n, n):
            raise ValueError(f"delta_overlap: expected shape {(n, n)}, received {self.delta_overlap.shape}")

    @property
    def cutoff(self) -> float:
        """Largest projector radius in Å."""
        return max(p.cutoff for p in self.projectors)

    def key(self) -> tuple:
        """A hashable identity: equal augmentations have equal keys."""
        return (*(p.key() for p in self.projectors), self.delta_overlap.tobytes())


@dataclass(frozen=True, eq=False)
class SpeciesBasis:
    """The orbitals of one species.

    Parameters
    ----------
    shells : angular momentum of each shell, in order.
    valence_electrons : electrons this species brings to a neutral cell.
    radial : one radial function per shell, or None where only H and S were given.
    augmentation : PAW projectors and ΔO, or None.
    """

    shells: tuple[int, ...]
    valence_electrons: float
    radial: tuple[RadialFunction, ...] | None = None
    augmentation: Augmentation | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "shells", tuple(int(l) for l in self.shells))
        object.__setattr__(self, "valence_electrons", float(self.valence_electrons))
        if not self.shells or min(self.shells) < 0:
            raise ValueError(f"shells: expected at least one l >= 0, received {self.shells}")
        if self.radial is not None:
            object.__setattr__(self, "radial", tuple(self.radial))
            if tuple(f.l for f in self.radial) != self.shells:
                raise ValueError(
                    f"radial functions: expected l = {self.shells}, received {tuple(f.l for f in self.radial)}"
                )

    @property
    def n_orbitals(self) -> int:
        """Number of orbitals, Σ (2l + 1)."""
        return sum(2 * l + 1 for l in self.shells)

    @property
    def shell_slices(self) -> tuple[slice, ...]:
        """The orbitals of each shell."""
        ends = np.cumsum([2 * l + 1 for l in self.shells])
        return tuple(slice(int(e) - 2 * l - 1, int(e)) for e, l in zip(ends, self.shells, strict=True))

    def key(self) -> tuple:
        """A hashable identity: equal species bases have equal keys."""
        radial = None if self.radial is None else tuple(f.key() for f in self.radial)
        augmentation = None if self.augmentation is None else self.augmentation.key()
        return (self.shells, self.valence_electrons, radial, augmentation)


class OrbitalBasis(Mapping[str, SpeciesBasis]):
    """Species -> shells, radial functions and valence electrons; immutable and hashable.

    >>> basis = OrbitalBasis({"C": SpeciesBasis((0, 1, 2), 4)})
    >>> basis.n_orbitals("C"), basis.n_orbitals(["C", "C"]), basis.shells("C")
    (9, 18, (0, 1, 2))
    """

    def __init__(self, species: Mapping[str, SpeciesBasis]) -> None:
        if not species:
            raise ValueError("orbital basis: expected at least one species, received none")
        self._species = {symbol: species[symbol] for symbol in sorted(species)}
        self._key = tuple((symbol, s.key()) for symbol, s in self._species.items())

    def __getitem__(self, symbol: str) -> SpeciesBasis:
        try:
            return self._species[symbol]
        except KeyError:
            raise KeyError(
                f"element {symbol!r} is not in this basis, which covers {', '.join(self._species)}; "
                "use a model or basis that includes it"
            ) from None

    def __contains__(self, symbol: object) -> bool:
        return symbol in self._species

    def __iter__(self) -> Iterator[str]:
        return iter(self._species)

    def __len__(self) -> int:
        return len(self._species)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, OrbitalBasis) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    def __repr__(self) -> str:
        inside = ", ".join(
            f"{s}: {''.join('spdfghik'[l] for l in b.shells)}" for s, b in self._species.items()
        )
        return f"OrbitalBasis({inside})"

    @property
    def symbols(self) -> tuple[str, ...]:
        """The species, sorted by symbol."""
        return tuple(self._species)

    @property
    def max_orbitals(self) -> int:
        """Largest number of orbitals of one species."""
        return max(s.n_orbitals for s in self._species.values())

    def shells(self, symbol: str) -> tuple[int, ...]:
        """Angular momentum of each shell of a species."""
        return self[symbol].shells

    def n_orbitals(self, symbols: str | Sequence[str]) -> int:
        """Number of orbitals of one species (a string) or of a list of atoms (their symbols)."""
        return (
            self[symbols].n_orbitals if isinstance(symbols, str) else int(self.orbital_counts(symbols).sum())
        )

    def orbital_counts(self, symbols: Sequence[str]) -> np.ndarray:
        """(n_atoms,) number of orbitals of each atom."""
        return np.array([self[s].n_orbitals for s in symbols], dtype=np.int64)

    def offsets(self, symbols: Sequence[str]) -> np.ndarray:
        """(n_atoms + 1,) first orbital of each atom, and the total."""
        return np.concatenate([[0], np.cumsum(self.orbital_counts(symbols))])

    def species_indices(self, symbols: Sequence[str]) -> np.ndarray:
        """(n_atoms,) position of each atom's species in `symbols` of the basis."""
        table = {s: n for n, s in enumerate(self._species)}
        missing = sorted({s for s in symbols if s not in table})
        if missing:
            self[missing[0]]
        return np.array([table[s] for s in symbols], dtype=np.int32)

    def valence_electrons(self, symbol: str) -> float:
        """Electrons that a neutral atom of the species brings."""
        return self[symbol].valence_electrons

    def n_electrons(self, symbols: Sequence[str]) -> float:
        """Electrons of a neutral cell with these atoms."""
        return float(sum(self[s].valence_electrons for s in symbols))

    @property
    def has_radial_functions(self) -> bool:
        """Whether every species carries its radial functions (needed for S of new structures)."""
        return all(s.radial is not None for s in self._species.values())

    def cutoff(self, symbol: str) -> float:
        """Largest orbital radius of a species in Å; ValueError when the radial functions are absent."""
        radial = self[symbol].radial
        if radial is None:
            raise ValueError(
                f"the basis of {symbol} carries no radial functions, so its range is unknown; "
                "read them from the DFT code or give a cutoff"
            )
        return max(f.cutoff for f in radial)
