"""What an evaluation found: errors pooled over a dataset, as plain numbers and as a table for people."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from trainers.comparison import SAME_OVERLAP, Comparison, LevelErrors, Sums
from trainers.energy_evaluation import pooled_energies
from trainers.report_tally import Tally, error_over_spread, rank_correlation
from trainers.spin_errors import pooled_spin, spin_lines


@dataclass(frozen=True, eq=False)
class Report:
    """What was measured, by structure and over the dataset.

    Parameters
    ----------
    model, dataset : their names.
    comparisons : one per structure, in order of name.
    tally : histograms over all entries and blocks.
    n_members : models in the committee; 1 for a single model.
    kpts : the mesh that levels were compared on.
    """

    model: str
    dataset: str
    comparisons: tuple[Comparison, ...]
    tally: Tally = field(default_factory=Tally)
    n_members: int = 1
    kpts: Any = None

    def ranked(self) -> list[Comparison]:
        """From the best to the worst level error."""
        return sorted(self.comparisons, key=lambda c: c.levels.rms_shifted)

    def chosen(self) -> dict[str, Comparison]:
        """The best, median and worst structure by level error; of a short dataset, those there are."""
        ranked = self.ranked()
        places = {"best": ranked[0], "median": ranked[len(ranked) // 2], "worst": ranked[-1]}
        if len(ranked) < 3:
            del places["median"]
        return places if len(ranked) > 1 else {"only": ranked[0]}

    def pooled(self, key: str) -> float:
        """Root mean square (rms_...) or mean absolute value of a level error over the structures."""
        values = np.array([getattr(c.levels, key) for c in self.comparisons])
        return float(np.sqrt(np.mean(values**2)) if key.startswith("rms") else np.mean(np.abs(values)))

    def to_dict(self) -> dict[str, Any]:
        """For metrics.json."""
        raw, fixed, size, n = np.sum([c.overall for c in self.comparisons], axis=0)
        squares = sum(c.overall[3] * c.rms**2 for c in self.comparisons)
        keys = [k for k in LevelErrors.__dataclass_fields__ if k != "n_levels"]
        worst = {k: max(abs(getattr(c.levels, k)) for c in self.comparisons) for k in keys}
        return {
            "model": self.model,
            "dataset": self.dataset,
            "n_members": self.n_members,
            "n_structures": len(self.comparisons),
            "kpts": self.kpts,
            "mae_raw_meV": 1e3 * raw / n,
            "mae_gauge_fixed_meV": 1e3 * fixed / n,
            "rms_gauge_fixed_meV": 1e3 * float(np.sqrt(squares / n)),
            "mean_abs_H_meV": 1e3 * size / n,
            "levels_meV": {k: {"over_structures": self.pooled(k), "worst": worst[k]} for k in keys},
            "gap": self._gaps(),
            "dos_error_percent": _mean_and_worst([c.spectrum.dos_error for c in self.comparisons]),
            "own_overlap": self._own_overlap(),
            "warnings": self.warnings(),
            "calibration": self._calibration(),
            "energy": pooled_energies([(c.n_atoms, c.energy) for c in self.comparisons]),
            "spin": pooled_spin([c.spin for c in self.comparisons]),
            **self._tables(),
            "structures": [c.to_dict() for c in self.comparisons],
        }

    def _tables(self) -> dict[str, Any]:
        """MAE by shells and distance."""
        shells, on_site, distance = (
            _merged(getattr(c, name) for c in self.comparisons)
            for name in ("by_shells", "by_shells_on_site", "by_distance")
        )
        return {
            "by_shell_pair": shells.mean(),
            "by_shell_pair_on_site": on_site.mean(),
            "by_shell_pair_between": shells.minus(on_site).mean(),
            "by_distance": distance.mean(),
        }

    def _gaps(self) -> dict[str, Any]:
        """Errors of the gap over the insulators, meV, and how often the character is right."""
        spectra = [c.spectrum for c in self.comparisons]
        errors = [s.gap_error for s in spectra if s.gap_error is not None]
        return {
            "n_insulators": len(errors),
            "n_all_bands_full": sum(s.gap is None for s in spectra),
            "n_wrong_character": sum(not s.same_character for s in spectra),
            **{f"{k}_meV": v for k, v in (_mean_and_worst(errors) if errors else {}).items()},
        }

    def warnings(self) -> list[str]:
        """What makes the other numbers doubtful, one line each."""
        found = {c.name: c.own_overlap["max_error"] for c in self.comparisons if c.own_overlap}
        far = {name: error for name, error in found.items() if error > SAME_OVERLAP}
        if not far:
            return []
        worst = max(far, key=lambda name: far[name])
        return [
            f"the model's own overlap differs from the reference's by up to {far[worst]:.1e} (structure {worst}; by "
            f"more than {SAME_OVERLAP:g} in {len(far)} of {len(self.comparisons)}): the data were computed with other "
            "radial functions than the model's"
        ]

    def _own_overlap(self) -> dict[str, float] | None:
        tables = [c.own_overlap for c in self.comparisons]
        if any(t is None for t in tables):
            return None
        return {
            key: max(abs(t[key]) for t in tables if t)
            for key in ("max_error", "rms_shifted", "fermi_to_bands")
        }

    def _calibration(self) -> dict[str, Any] | None:
        """Spread against true error, per structure and per block; None for a single model."""
        if any(c.spread is None for c in self.comparisons):
            return None
        spread = np.array([c.spread for c in self.comparisons])
        error = np.array([c.rms for c in self.comparisons])
        ratio = error_over_spread(error, spread, np.ones(len(error)))
        return {
            "rank_correlation_of_structures": None if ratio is None else rank_correlation(spread, error),
            "error_over_spread": ratio,
            "blocks": self.tally.blocks(),
        }

    def table(self) -> str:
        """A short table for people."""
        d = self.to_dict()
        levels, worst, gap, dos = d["levels_meV"], self.ranked()[-1], d["gap"], d["dos_error_percent"]
        lines = [
            f"{d['model']} on {d['dataset']}: {d['n_structures']} structures (meV; all, and worst)",
            f"  MAE of H, gauge-fixed            {d['mae_gauge_fixed_meV']:8.3f}",
            f"  MAE of H, raw                    {d['mae_raw_meV']:8.3f}",
        ]
        if d["spin"]:
            lines += spin_lines(d["spin"])
        for label, key in (
            ("levels ±3 eV, RMS, best shift  ", "rms_shifted"),
            ("levels ±3 eV, RMS, Fermi zero  ", "rms_fermi"),
            ("levels ±3 eV, MAE, best shift  ", "mae_shifted"),
            ("levels ±3 eV, MAE, Fermi zero  ", "mae_fermi"),
            ("Fermi level relative to bands  ", "fermi_to_bands"),
            ("Fermi level after gauge aligned", "fermi_gauge"),
        ):
            lines.append(f"  {label}  {levels[key]['over_structures']:8.2f} {levels[key]['worst']:8.2f}")
        if gap["n_insulators"]:
            of = f"gap, MAE ({gap['n_insulators']} insulators)"
            lines.append(f"  {of:<31}  {gap['mean_meV']:8.2f} {gap['worst_meV']:8.2f}")
        if gap["n_all_bands_full"]:
            lines.append(
                f"  {'all bands full, no gap':<31}  {gap['n_all_bands_full']} of {d['n_structures']}"
            )
        lines.append(f"  {'density of states, per cent':<31}  {dos['mean']:8.2f} {dos['worst']:8.2f}")
        if d["own_overlap"]:
            lines.append(
                f"  with the model's own S: max |ΔS| {d['own_overlap']['max_error']:.1e}, worst level RMS "
                f"{d['own_overlap']['rms_shifted']:.2f}"
            )
        if d["calibration"]:
            rank = d["calibration"]["rank_correlation_of_structures"]
            lines.append(
                f"  committee of {self.n_members}: rank correlation of spread and error, structures "
                f"{'unknown' if rank is None else f'{rank:.2f}'}"
            )
        if d["energy"]:
            lines += _energy_lines(d["energy"])
        return "\n".join([*lines, f"  worst structure: {worst.name}"])


def _energy_lines(energy: dict[str, float]) -> list[str]:
    """Errors of the energy head, meV per atom and meV/Å."""
    lines = []
    if "energy_mae_meV_per_atom" in energy:
        mae, worst = energy["energy_mae_meV_per_atom"], energy["energy_worst_meV_per_atom"]
        lines.append(f"  {'energy, MAE, meV per atom':<31}  {mae:8.2f} {worst:8.2f}")
    if "force_mae_meV_per_A" in energy:
        mae, worst = energy["force_mae_meV_per_A"], energy["force_worst_structure_meV_per_A"]
        size = energy["mean_abs_force_meV_per_A"]
        lines.append(f"  {'forces, MAE, meV/Å':<31}  {mae:8.2f} {worst:8.2f} (mean force {size:.0f})")
    return lines


def _mean_and_worst(values: Sequence[float]) -> dict[str, float]:
    return {"mean": float(np.mean(values)), "worst": float(np.max(values))}


def _merged(tables: Iterable[Sums]) -> Sums:
    total = Sums()
    for table in tables:
        total.merge(table)
    return total
