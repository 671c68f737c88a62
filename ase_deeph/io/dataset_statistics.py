"""What a dataset holds: sizes, species, shells, distances, and how far H and S reach."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from ase_deeph.reference import ReferenceData

_BIN = 0.25
_ANGULAR = "spdfghik"


@dataclass(frozen=True, eq=False)
class DatasetStatistics:
    """Numbers about a dataset.

    Parameters
    ----------
    names : of the structures.
    n_atoms, n_pairs, n_orbitals : (n,) of each structure.
    species : atoms of each element.
    shells : shells of each element, such as "2s2p1d".
    spins, periodicity : structures of each kind of spin, and of each number of periodic axes.
    nearest : (n_atoms,) distance of every atom to its nearest neighbour in Å.
    bins : (n_bins,) lower ends of the distance bins in Å.
    largest_h, largest_s : (n_bins,) largest |H| (eV) and |S| of the pairs in each bin; NaN without pairs.
    n_bytes : of the entries of H and S.
    without : structures that lack something: "hamiltonian", "overlap", "fermi level".
    """

    names: tuple[str, ...]
    n_atoms: np.ndarray
    n_pairs: np.ndarray
    n_orbitals: np.ndarray
    species: Mapping[str, int]
    shells: Mapping[str, str]
    spins: Mapping[str, int]
    periodicity: Mapping[int, int]
    nearest: np.ndarray
    bins: np.ndarray
    largest_h: np.ndarray
    largest_s: np.ndarray
    n_bytes: int
    without: Mapping[str, int] = field(default_factory=dict)


def statistics(structures: Iterable[tuple[str, ReferenceData]]) -> DatasetStatistics:
    """Go through a dataset once; ValueError when it is empty."""
    names, sizes, nearest = [], [], []
    species: Counter[str] = Counter()
    spins: Counter[str] = Counter()
    periodicity: Counter[int] = Counter()
    without: Counter[str] = Counter()
    shells: dict[str, str] = {}
    h_bins: dict[int, float] = {}
    s_bins: dict[int, float] = {}
    n_bytes = 0
    for name, data in structures:
        matrix = data.hamiltonian if data.hamiltonian is not None else data.overlap
        assert matrix is not None
        symbols = data.atoms.get_chemical_symbols()
        names.append(name)
        sizes.append((len(symbols), len(matrix.pairs), matrix.basis.n_orbitals(symbols)))
        species.update(symbols)
        spins[matrix.spin] += 1
        periodicity[int(data.atoms.pbc.sum())] += 1
        shells.update({s: shell_text(matrix.basis.shells(s)) for s in set(symbols)})
        parts = (
            ("hamiltonian", data.hamiltonian),
            ("overlap", data.overlap),
            ("fermi level", data.fermi_level),
        )
        without.update(what for what, part in parts if part is None)
        distance = np.linalg.norm(matrix.pairs.displacements(data.atoms), axis=1)
        away = ~matrix.pairs.on_site
        closest = np.full(len(symbols), np.inf)
        np.minimum.at(closest, matrix.pairs.i[away], distance[away])
        nearest.append(closest[np.isfinite(closest)])
        for bins, operator in ((h_bins, data.hamiltonian), (s_bins, data.overlap)):
            if operator is not None:
                n_bytes += operator.entries.nbytes
                far = np.linalg.norm(operator.pairs.displacements(data.atoms), axis=1)
                _fill(bins, far, operator.block_norms())
    if not names:
        raise ValueError("statistics: the dataset is empty")
    n_bins = 1 + max([*h_bins, *s_bins], default=0)
    columns = np.array(sizes)
    return DatasetStatistics(
        tuple(names),
        columns[:, 0],
        columns[:, 1],
        columns[:, 2],
        dict(sorted(species.items())),
        dict(sorted(shells.items())),
        dict(spins),
        dict(sorted(periodicity.items())),
        np.concatenate(nearest),
        _BIN * np.arange(n_bins),
        _as_array(h_bins, n_bins),
        _as_array(s_bins, n_bins),
        n_bytes,
        dict(without),
    )


def shell_text(shells: tuple[int, ...]) -> str:
    """Shells by number and letter: (0, 0, 1, 2) is 2s1p1d."""
    return "".join(f"{n}{_ANGULAR[l]}" for l, n in sorted(Counter(shells).items()))


def _fill(bins: dict[int, float], distance: np.ndarray, norms: np.ndarray) -> None:
    """Note the largest entry of each distance bin."""
    for n in np.unique(at := (distance / _BIN).astype(int)):
        bins[int(n)] = max(bins.get(int(n), 0.0), float(norms[at == n].max()))


def _as_array(bins: Mapping[int, float], n_bins: int) -> np.ndarray:
    return np.array([bins.get(n, np.nan) for n in range(n_bins)])
