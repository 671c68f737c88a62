"""One structure, predicted against DFT: errors of H by shells and distance, of levels, gap and density of states."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ase_deeph.basis import OrbitalBasis
from ase_deeph.electronic_structure import ElectronicStructure
from ase_deeph.matrix import RealSpaceMatrix, gauge_shift
from trainers.energy_evaluation import EnergyComparison
from trainers.spin_errors import entry_sizes, n_channels, overlap_of_spin, pair_sums, spin_errors

WINDOW = 3.0
"""Levels and the density of states are compared within this many eV of the reference's Fermi level."""
WIDE_GAP = 1.0
"""Above this gap (eV) the window is measured from the band edges instead of the Fermi level."""
INSULATOR = 0.1
"""Smallest reference gap on the mesh (eV) that counts as one; below, structures are metals."""
SAME_OVERLAP = 1e-3
"""Largest error of the model's own S that interpolation of radial functions explains; more is another basis."""
DOS_WIDTH = 0.1
DOS_STEP = 0.02
BIN_WIDTH = 0.5
_LETTERS = "spdfghik"


@dataclass
class Sums:
    """Σ|r|, Σ|r - μS|, Σ|H| of the reference and the number of entries, by a label."""

    rows: dict[str, np.ndarray] = field(default_factory=dict)

    def add(self, label: str, row: np.ndarray) -> None:
        """Add (4,) sums to those of a label."""
        self.rows[label] = self.rows.get(label, np.zeros(4)) + row

    def merge(self, other: Sums) -> None:
        """Add all sums of another table."""
        for label, row in other.rows.items():
            self.add(label, row)

    def minus(self, part: Sums) -> Sums:
        """The sums of the entries that are not in a part of this table."""
        rest = {label: row - part.rows.get(label, np.zeros(4)) for label, row in self.rows.items()}
        return Sums({label: row for label, row in rest.items() if row[3] > 0})

    def mean(self) -> dict[str, dict[str, float]]:
        """MAE in meV by label, and the mean |H| in meV to measure it by."""
        return {
            label: {
                "raw_meV": 1e3 * raw / n,
                "gauge_fixed_meV": 1e3 * fixed / n,
                "mean_abs_H_meV": 1e3 * size / n,
                "entries": int(n),
            }
            for label, (raw, fixed, size, n) in sorted(self.rows.items())
        }


@dataclass(frozen=True, eq=False)
class Residuals:
    """Errors of every entry of H, on every pair that either H has.

    Parameters
    ----------
    raw : r = predicted - reference, eV.
    fixed : r - μS.
    reference : the reference on the same pairs.
    shift : μ = ⟨r, S⟩ / ⟨S, S⟩, eV.
    """

    raw: RealSpaceMatrix
    fixed: RealSpaceMatrix
    reference: RealSpaceMatrix
    shift: float

    def magnitudes(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """|r|, |r - μS| and |H| entry by entry, eV."""
        return np.abs(self.raw.entries), np.abs(self.fixed.entries), np.abs(self.reference.entries)

    def overall(self) -> np.ndarray:
        """(4,) Σ|r|, Σ|r - μS|, Σ|H|, entries."""
        return np.array([*(m.sum() for m in self.magnitudes()), self.raw.entries.size])

    def of_spin(self) -> dict[str, float] | None:
        """Errors of channels, exchange or spin-orbit coupling (see spin_errors.py); None without spin."""
        return spin_errors(self.fixed, self.reference)

    def distances(self) -> np.ndarray:
        """(n_pairs,) Å."""
        return np.linalg.norm(self.raw.pairs.displacements(self.raw.atoms), axis=1)


def residuals(predicted: RealSpaceMatrix, reference: RealSpaceMatrix, overlap: RealSpaceMatrix) -> Residuals:
    """Errors raw and gauge-fixed; H and S share one basis, their pairs may differ.  One μ for all channels of spin."""
    raw = predicted - reference
    overlap = overlap_of_spin(overlap, raw.spin)
    shift = gauge_shift(raw, overlap)
    fixed = raw - overlap.restricted_to(raw.pairs) * shift
    return Residuals(raw, fixed, reference.on(raw.pairs), shift)


def shell_labels(basis: OrbitalBasis, symbol: str) -> list[str]:
    """Names of a species' shells: C:s1, C:s2, C:p1 ..., numbered within each l."""
    shells = basis.shells(symbol)
    return [f"{symbol}:{_LETTERS[l]}{shells[: n + 1].count(l)}" for n, l in enumerate(shells)]


def by_shell_pair(errors: Residuals, pairs: np.ndarray | None = None) -> Sums:
    """Error sums by unordered pair of shells.

    Parameters
    ----------
    pairs : (n_pairs,) bool, the pairs to count (on site alone, say); all if None.
    """
    sums, raw = Sums(), errors.raw
    counted = np.ones(len(raw.pairs), dtype=bool) if pairs is None else pairs
    symbols = np.array(raw.atoms.get_chemical_symbols())
    padded, channels = [entry_sizes(m) for m in (raw, errors.fixed, errors.reference)], n_channels(raw.spin)
    for left in sorted(set(symbols)):
        for right in sorted(set(symbols)):
            chosen = counted & (symbols[raw.pairs.i] == left) & (symbols[raw.pairs.j] == right)
            if chosen.any():
                tables = [_shell_sums(m[chosen].sum(axis=0), raw.basis, left, right) for m in padded]
                sums.merge(_labelled(tables, channels * int(chosen.sum()), raw.basis, left, right))
    return sums


def _shell_sums(block: np.ndarray, basis: OrbitalBasis, left: str, right: str) -> np.ndarray:
    """(shells of left, shells of right) sums of a padded (M, M) block."""
    rows = [s.start for s in basis[left].shell_slices]
    cols = [s.start for s in basis[right].shell_slices]
    used = block[: basis.n_orbitals(left), : basis.n_orbitals(right)]
    return np.add.reduceat(np.add.reduceat(used, rows, axis=0), cols, axis=1)


def _labelled(tables: list[np.ndarray], n_pairs: int, basis: OrbitalBasis, left: str, right: str) -> Sums:
    sums = Sums()
    for a, (row, l1) in enumerate(zip(shell_labels(basis, left), basis.shells(left), strict=True)):
        for b, (col, l2) in enumerate(zip(shell_labels(basis, right), basis.shells(right), strict=True)):
            entries = n_pairs * (2 * l1 + 1) * (2 * l2 + 1)
            sums.add(" - ".join(sorted((row, col))), np.array([*(t[a, b] for t in tables), entries]))
    return sums


def distance_label(n: int) -> str:
    """Name of the n-th distance bin; -1 is the on-site one."""
    return "on site" if n < 0 else f"{n * BIN_WIDTH:04.1f}-{(n + 1) * BIN_WIDTH:04.1f} Å"


def by_distance(errors: Residuals) -> Sums:
    """Error sums by distance of the atoms: on site, then bins of BIN_WIDTH."""
    sums, pairs = Sums(), errors.raw.pairs
    bins = np.where(pairs.on_site, -1, (errors.distances() / BIN_WIDTH).astype(int))
    of_pair = [pair_sums(m, errors.raw.offsets) for m in errors.magnitudes()]
    sizes = errors.raw.block_shapes.prod(axis=1) * (2 if errors.raw.spin == "collinear" else 1)
    rows = np.column_stack([*of_pair, sizes])
    for n in np.unique(bins):
        sums.add(distance_label(int(n)), rows[bins == n].sum(axis=0))
    return sums


@dataclass(frozen=True)
class LevelErrors:
    """Errors of eigenvalues near the reference Fermi level, meV.

    Parameters
    ----------
    rms_shifted, mae_shifted : after the best common shift of all levels.
    rms_fermi, mae_fermi : with both Fermi levels at zero.
    fermi_to_bands : predicted less reference Fermi level, each relative to its own bands (best common shift).
    fermi_gauge : predicted less reference Fermi level after the gauge of H is aligned.
    n_levels : levels compared.
    """

    rms_shifted: float
    mae_shifted: float
    rms_fermi: float
    mae_fermi: float
    fermi_to_bands: float
    fermi_gauge: float
    n_levels: int


@dataclass(frozen=True)
class Spectrum:
    """Gaps on the k-mesh, meV (0 for a metal), and the error of the density of states.

    Parameters
    ----------
    gap, predicted_gap : of the reference and of the model; None where all bands are full.
    dos_error : ∫|D - D_DFT| dE / ∫D_DFT dE over the window, per cent of the states in it; the predicted
        levels are moved by the best common shift, both are broadened by DOS_WIDTH.
    """

    gap: float | None
    predicted_gap: float | None
    dos_error: float

    @property
    def is_insulator(self) -> bool:
        """Whether the reference has a gap that counts, or no empty band at all."""
        return _is_wide(self.gap)

    @property
    def same_character(self) -> bool:
        """Whether model and reference agree on metal or insulator."""
        return self.is_insulator == _is_wide(self.predicted_gap)

    @property
    def gap_error(self) -> float | None:
        """|predicted - reference| in meV of an insulator; None for a metal and where all bands are full."""
        if self.gap is None or self.predicted_gap is None or not self.is_insulator:
            return None
        return abs(self.predicted_gap - self.gap)


def _is_wide(gap: float | None) -> bool:
    return gap is None or gap > 1e3 * INSULATOR


@dataclass(frozen=True, eq=False)
class Comparison:
    """Everything measured on one structure; small, so that thousands fit in memory.

    `spread` is the root mean square over entries of the committee's standard deviation in eV, None for one model;
    `rms` that of the gauge-fixed error; `energy` is None where model or reference has no energy and forces, `spin`
    where H has no spin.
    """

    name: str
    n_atoms: int
    shift: float
    overall: np.ndarray
    rms: float
    by_shells: Sums
    by_shells_on_site: Sums
    by_distance: Sums
    levels: LevelErrors
    spectrum: Spectrum
    own_overlap: dict[str, float] | None = None
    spread: float | None = None
    energy: EnergyComparison | None = None
    spin: dict[str, float] | None = None

    @property
    def family(self) -> str:
        """The id without its trailing number."""
        return re.sub(r"[-_.]*\d+$", "", self.name) or self.name

    def to_dict(self) -> dict[str, Any]:
        """For metrics.json and structures.csv."""
        raw, fixed, _, n = self.overall
        return {
            "name": self.name,
            "family": self.family,
            "n_atoms": self.n_atoms,
            "mae_raw_meV": 1e3 * raw / n,
            "mae_gauge_fixed_meV": 1e3 * fixed / n,
            "rms_gauge_fixed_meV": 1e3 * self.rms,
            "gauge_shift_meV": 1e3 * self.shift,
            **{f"levels_{key}": value for key, value in vars(self.levels).items()},
            "gap_dft_meV": self.spectrum.gap,
            "gap_predicted_meV": self.spectrum.predicted_gap,
            "dos_error_percent": self.spectrum.dos_error,
            **({f"own_overlap_{k}": v for k, v in self.own_overlap.items()} if self.own_overlap else {}),
            **({} if self.spread is None else {"spread_meV": 1e3 * self.spread}),
            **({} if self.energy is None else self.energy.to_dict()),
            **(self.spin or {}),
        }


def energy_window(reference: ElectronicStructure, window: float = WINDOW) -> tuple[float, float]:
    """Energies (eV, scale of H) between which levels count: around the Fermi level, or around a wide gap.

    Where all bands are full, around the highest level.
    """
    gap, fermi = reference.band_gap(), reference.fermi_level()
    edges = [edge for edge in (gap.vbm, gap.cbm) if np.isfinite(edge)] if gap > WIDE_GAP else [fermi]
    return min(edges) - window, max(edges) + window


def _near_levels(
    predicted: ElectronicStructure, reference: ElectronicStructure, bounds: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray]:
    """Errors in eV of the reference's levels within the bounds, and their k-point weights (sum 1)."""
    n_bands = min(predicted.mesh_eigenvalues.shape[2], reference.mesh_eigenvalues.shape[2])
    e, true = (es.mesh_eigenvalues[:, :, :n_bands] for es in (predicted, reference))
    near = (true >= bounds[0]) & (true <= bounds[1])
    if not near.any():
        raise ValueError(f"levels: none between {bounds[0]:.2f} and {bounds[1]:.2f} eV; use a denser mesh")
    weights = np.broadcast_to(reference.mesh.weights[None, :, None], true.shape)[near]
    return (e - true)[near], weights / weights.sum()


def level_errors(
    predicted: ElectronicStructure, reference: ElectronicStructure, shift: float, window: float = WINDOW
) -> LevelErrors:
    """Errors of levels and Fermi level; both structures on the same mesh, smearing and electron number.

    Parameters
    ----------
    shift : μ of the gauge, eV.
    window : eV on both sides of the reference Fermi level (of the band edges where the gap is above WIDE_GAP).
    """
    fermi, true_fermi = predicted.fermi_level(), reference.fermi_level()
    error, weights = _near_levels(predicted, reference, energy_window(reference, window))
    common = float(weights @ error)
    shifted, aligned = error - common, error - (fermi - true_fermi)
    return LevelErrors(
        rms_shifted=1e3 * float(np.sqrt(weights @ shifted**2)),
        mae_shifted=1e3 * float(weights @ np.abs(shifted)),
        rms_fermi=1e3 * float(np.sqrt(weights @ aligned**2)),
        mae_fermi=1e3 * float(weights @ np.abs(aligned)),
        fermi_to_bands=1e3 * (fermi - true_fermi - common),
        fermi_gauge=1e3 * (fermi - true_fermi - shift),
        n_levels=len(error),
    )


def spectrum_errors(
    predicted: ElectronicStructure, reference: ElectronicStructure, levels: LevelErrors
) -> Spectrum:
    """Gaps of the meshes, and the density of states after the best common shift of the levels.

    Parameters
    ----------
    levels : of the same two structures; they hold the common shift.
    """
    low, high = energy_window(reference)
    energies = np.linspace(low, high, round((high - low) / DOS_STEP) + 1)
    common = predicted.fermi_level() - reference.fermi_level() - 1e-3 * levels.fermi_to_bands
    ours, true = _dos(predicted, energies + common), _dos(reference, energies)
    return Spectrum(
        gap=_gap(reference),
        predicted_gap=_gap(predicted),
        dos_error=100.0 * float(np.sum(np.trapezoid(np.abs(ours - true))) / np.sum(np.trapezoid(true))),
    )


def _gap(structure: ElectronicStructure) -> float | None:
    """The gap on the mesh, meV; None where there is no empty level."""
    gap = float(structure.band_gap())
    return 1e3 * gap if np.isfinite(gap) else None


def _dos(structure: ElectronicStructure, energies: np.ndarray) -> np.ndarray:
    curve = structure.dos(energies, width=DOS_WIDTH)
    assert isinstance(curve, np.ndarray)
    return curve
