"""One structure, predicted against DFT: errors of H by shells and distance, of levels, of the Fermi level."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ase_deeph.basis import OrbitalBasis
from ase_deeph.electronic_structure import ElectronicStructure
from ase_deeph.matrix import RealSpaceMatrix, gauge_shift

WINDOW = 3.0
BIN_WIDTH = 1.0
_LETTERS = "spdfghik"


@dataclass
class Sums:
    """Σ|r|, Σ|r - μS| and the number of entries, by a label."""

    rows: dict[str, np.ndarray] = field(default_factory=dict)

    def add(self, label: str, raw: float, fixed: float, entries: int) -> None:
        """Add to the sums of a label."""
        self.rows[label] = self.rows.get(label, np.zeros(3)) + (raw, fixed, entries)

    def merge(self, other: Sums) -> None:
        """Add all sums of another table."""
        for label, row in other.rows.items():
            self.add(label, *row)

    def mean(self) -> dict[str, dict[str, float]]:
        """MAE in meV by label."""
        return {
            label: {"raw_meV": 1e3 * raw / n, "gauge_fixed_meV": 1e3 * fixed / n, "entries": int(n)}
            for label, (raw, fixed, n) in sorted(self.rows.items())
        }


@dataclass(frozen=True)
class LevelErrors:
    """Errors of eigenvalues within WINDOW of the reference Fermi level, meV.

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


@dataclass(frozen=True, eq=False)
class Comparison:
    """Everything measured on one structure."""

    name: str
    n_atoms: int
    shift: float
    overall: np.ndarray
    by_shells: Sums
    by_distance: Sums
    levels: LevelErrors
    own_overlap: dict[str, float] | None
    sample: np.ndarray

    def to_dict(self) -> dict[str, Any]:
        """For report.json."""
        raw, fixed, n = self.overall
        return {
            "name": self.name,
            "n_atoms": self.n_atoms,
            "mae_raw_meV": 1e3 * raw / n,
            "mae_gauge_fixed_meV": 1e3 * fixed / n,
            "gauge_shift_meV": 1e3 * self.shift,
            **{f"levels_{key}": value for key, value in vars(self.levels).items()},
            **({f"own_overlap_{k}": v for k, v in self.own_overlap.items()} if self.own_overlap else {}),
        }


def residuals(
    predicted: RealSpaceMatrix, reference: RealSpaceMatrix, overlap: RealSpaceMatrix
) -> tuple[RealSpaceMatrix, RealSpaceMatrix, float]:
    """(r, r - μS, μ) on every pair that either H has; μ = ⟨r, S⟩ / ⟨S, S⟩ in eV."""
    raw = predicted - reference
    shift = gauge_shift(raw, overlap)
    return raw, raw - overlap.restricted_to(raw.pairs) * shift, shift


def shell_labels(basis: OrbitalBasis, symbol: str) -> list[str]:
    """Names of a species' shells: C:s1, C:s2, C:p1 ..., numbered within each l."""
    shells = basis.shells(symbol)
    return [f"{symbol}:{_LETTERS[l]}{shells[: n + 1].count(l)}" for n, l in enumerate(shells)]


def by_shell_pair(raw: RealSpaceMatrix, fixed: RealSpaceMatrix) -> Sums:
    """Error sums by pair of shells."""
    sums, basis = Sums(), raw.basis
    symbols = np.array(raw.atoms.get_chemical_symbols())
    a, b = np.abs(raw.padded_blocks()), np.abs(fixed.padded_blocks())
    for left in sorted(set(symbols)):
        for right in sorted(set(symbols)):
            chosen = (symbols[raw.pairs.i] == left) & (symbols[raw.pairs.j] == right)
            for rows, row_name in zip(basis[left].shell_slices, shell_labels(basis, left), strict=True):
                for cols, col_name in zip(basis[right].shell_slices, shell_labels(basis, right), strict=True):
                    part = a[chosen, rows, cols]
                    label = " - ".join(sorted((row_name, col_name)))
                    sums.add(label, float(part.sum()), float(b[chosen, rows, cols].sum()), part.size)
    return sums


def by_distance(raw: RealSpaceMatrix, fixed: RealSpaceMatrix) -> Sums:
    """Error sums by distance of the atoms: on site, then bins of BIN_WIDTH."""
    sums = Sums()
    d = np.linalg.norm(raw.pairs.displacements(raw.atoms), axis=1)
    a, b = (np.add.reduceat(np.abs(m.entries), raw.offsets[:-1]) for m in (raw, fixed))
    entries = raw.block_shapes.prod(axis=1)
    for n in np.unique(np.where(raw.pairs.on_site, -1, (d / BIN_WIDTH).astype(int))):
        chosen = raw.pairs.on_site if n < 0 else ~raw.pairs.on_site & ((d / BIN_WIDTH).astype(int) == n)
        label = "on site" if n < 0 else f"{n * BIN_WIDTH:04.1f}-{(n + 1) * BIN_WIDTH:04.1f} Å"
        sums.add(label, float(a[chosen].sum()), float(b[chosen].sum()), int(entries[chosen].sum()))
    return sums


def level_errors(
    predicted: ElectronicStructure, reference: ElectronicStructure, shift: float, window: float = WINDOW
) -> LevelErrors:
    """Errors of levels and Fermi level; both structures on the same mesh, smearing and electron number.

    Parameters
    ----------
    shift : μ of the gauge, eV.
    window : eV on both sides of the reference Fermi level.
    """
    fermi, true_fermi = predicted.fermi_level(), reference.fermi_level()
    n_bands = min(predicted.mesh_eigenvalues.shape[2], reference.mesh_eigenvalues.shape[2])
    e, true = (es.mesh_eigenvalues[:, :, :n_bands] for es in (predicted, reference))
    near = np.abs(true - true_fermi) <= window
    if not near.any():
        raise ValueError(f"levels: none within {window} eV of the Fermi level; use a denser mesh")
    weights = np.broadcast_to(reference.mesh.weights[None, :, None], true.shape)[near]
    weights = weights / weights.sum()
    error = (e - true)[near]
    common = float(weights @ error)
    shifted, aligned = error - common, error - (fermi - true_fermi)
    return LevelErrors(
        rms_shifted=1e3 * float(np.sqrt(weights @ shifted**2)),
        mae_shifted=1e3 * float(weights @ np.abs(shifted)),
        rms_fermi=1e3 * float(np.sqrt(weights @ aligned**2)),
        mae_fermi=1e3 * float(weights @ np.abs(aligned)),
        fermi_to_bands=1e3 * (fermi - true_fermi - common),
        fermi_gauge=1e3 * (fermi - true_fermi - shift),
        n_levels=int(near.sum()),
    )
