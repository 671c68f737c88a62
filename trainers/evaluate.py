"""Errors of a model on a dataset: H, levels near the Fermi level, the Fermi level; a report and pictures."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ase_deeph.compilation_cache import compilation_cache
from ase_deeph.electronic_structure import ElectronicStructure
from ase_deeph.matrix import RealSpaceMatrix
from ase_deeph.model import HamiltonianModel
from ase_deeph.reference import ReferenceData
from trainers.comparison import (
    Comparison,
    LevelErrors,
    Sums,
    by_distance,
    by_shell_pair,
    level_errors,
    residuals,
)
from trainers.plots import plot_bands, plot_parity
from trainers.structures import read_dataset

log = logging.getLogger(__name__)

KPTS = {"density": 2.5, "gamma": True}
_SAMPLE = 20_000


@dataclass(frozen=True, eq=False)
class Report:
    """What was measured, by structure and over the dataset.

    Parameters
    ----------
    model, dataset : their names.
    comparisons : one per structure, in order of name.
    """

    model: str
    dataset: str
    comparisons: tuple[Comparison, ...]

    def ranked(self) -> list[Comparison]:
        """From the best to the worst level error."""
        return sorted(self.comparisons, key=lambda c: c.levels.rms_shifted)

    def pooled(self, key: str) -> float:
        """Root mean square (rms_...) or mean absolute value of a level error over the structures."""
        values = np.array([getattr(c.levels, key) for c in self.comparisons])
        return float(np.sqrt(np.mean(values**2)) if key.startswith("rms") else np.mean(np.abs(values)))

    def to_dict(self) -> dict[str, Any]:
        """For report.json."""
        raw, fixed, n = np.sum([c.overall for c in self.comparisons], axis=0)
        shells, distances = Sums(), Sums()
        for c in self.comparisons:
            shells.merge(c.by_shells)
            distances.merge(c.by_distance)
        keys = [k for k in LevelErrors.__dataclass_fields__ if k != "n_levels"]
        worst = {k: max(abs(getattr(c.levels, k)) for c in self.comparisons) for k in keys}
        return {
            "model": self.model,
            "dataset": self.dataset,
            "n_structures": len(self.comparisons),
            "mae_raw_meV": 1e3 * raw / n,
            "mae_gauge_fixed_meV": 1e3 * fixed / n,
            "levels_meV": {k: {"over_structures": self.pooled(k), "worst": worst[k]} for k in keys},
            "own_overlap": self._own_overlap(),
            "by_shell_pair": shells.mean(),
            "by_distance": distances.mean(),
            "structures": [c.to_dict() for c in self.comparisons],
        }

    def _own_overlap(self) -> dict[str, float] | None:
        tables = [c.own_overlap for c in self.comparisons]
        if any(t is None for t in tables):
            return None
        return {
            key: max(abs(t[key]) for t in tables if t)
            for key in ("max_error", "rms_shifted", "fermi_to_bands")
        }

    def table(self) -> str:
        """A short table for people."""
        d = self.to_dict()
        levels, worst = d["levels_meV"], self.ranked()[-1]
        lines = [
            f"{d['model']} on {d['dataset']}: {d['n_structures']} structures (meV; all, and worst)",
            f"  MAE of H, gauge-fixed            {d['mae_gauge_fixed_meV']:8.3f}",
            f"  MAE of H, raw                    {d['mae_raw_meV']:8.3f}",
        ]
        for label, key in (
            ("levels ±3 eV, RMS, best shift  ", "rms_shifted"),
            ("levels ±3 eV, RMS, Fermi zero  ", "rms_fermi"),
            ("levels ±3 eV, MAE, best shift  ", "mae_shifted"),
            ("levels ±3 eV, MAE, Fermi zero  ", "mae_fermi"),
            ("Fermi level relative to bands  ", "fermi_to_bands"),
            ("Fermi level after gauge aligned", "fermi_gauge"),
        ):
            lines.append(f"  {label}  {levels[key]['over_structures']:8.2f} {levels[key]['worst']:8.2f}")
        if d["own_overlap"]:
            lines.append(
                f"  with the model's own S: max |ΔS| {d['own_overlap']['max_error']:.1e}, worst level RMS "
                f"{d['own_overlap']['rms_shifted']:.2f}"
            )
        return "\n".join([*lines, f"  worst structure: {worst.name}"])


def compare(name: str, data: ReferenceData, model: HamiltonianModel, kpts: Any = None) -> Comparison:
    """Predict one structure and measure it against its reference.

    Raises
    ------
    ValueError : the reference lacks H or S.
    """
    if data.hamiltonian is None or data.overlap is None:
        raise ValueError(
            f"structure {name}: expected H and S to compare with, received a folder without them"
        )
    reference = _in_basis(data.hamiltonian, model)
    overlap = _in_basis(data.overlap, model)
    predicted = model(reference.atoms)
    raw, fixed, shift = residuals(predicted, reference, overlap)
    true, ours = (_structure(h, overlap, data, kpts) for h in (reference, predicted))
    return Comparison(
        name=name,
        n_atoms=len(reference.atoms),
        shift=shift,
        overall=np.array([np.abs(raw.entries).sum(), np.abs(fixed.entries).sum(), fixed.entries.size]),
        by_shells=by_shell_pair(raw, fixed),
        by_distance=by_distance(raw, fixed),
        levels=level_errors(ours, true, shift),
        own_overlap=_with_own_overlap(model, predicted, overlap, true, shift, data, kpts),
        sample=_sample(reference, fixed),
    )


def _in_basis(matrix: RealSpaceMatrix, model: HamiltonianModel) -> RealSpaceMatrix:
    """The same matrix on the model's basis object."""
    for symbol in set(matrix.atoms.get_chemical_symbols()):
        if matrix.basis.shells(symbol) != model.basis.shells(symbol):
            raise ValueError(
                f"dataset: shells of {symbol} are {matrix.basis.shells(symbol)}, the model's are "
                f"{model.basis.shells(symbol)}; evaluate on data of the model's basis"
            )
    return RealSpaceMatrix(model.basis, matrix.pairs, matrix.atoms, matrix.entries, matrix.spin)


def _structure(h: RealSpaceMatrix, s: RealSpaceMatrix, data: ReferenceData, kpts: Any) -> ElectronicStructure:
    return ElectronicStructure(h, s, data.n_electrons, kpts=kpts or dict(KPTS), symmetry="time-reversal")


def _with_own_overlap(
    model: HamiltonianModel,
    predicted: RealSpaceMatrix,
    overlap: RealSpaceMatrix,
    true: ElectronicStructure,
    shift: float,
    data: ReferenceData,
    kpts: Any,
) -> dict[str, float] | None:
    """Errors when S comes from the model's radial functions too; None where it carries none."""
    if not model.basis.has_radial_functions:
        return None
    own = model.overlap(predicted.atoms)
    levels = level_errors(_structure(predicted, own, data, kpts), true, shift)
    return {
        "max_error": (own - overlap).max_abs(),
        "rms_shifted": levels.rms_shifted,
        "rms_fermi": levels.rms_fermi,
        "fermi_to_bands": levels.fermi_to_bands,
    }


def _sample(reference: RealSpaceMatrix, fixed: RealSpaceMatrix) -> np.ndarray:
    """(n, 2) some entries of (DFT, predicted less μS), evenly spaced, for the parity plot."""
    true = reference.on(fixed.pairs).entries
    chosen = np.unique(np.linspace(0, true.size - 1, min(_SAMPLE, true.size)).astype(int))
    return np.column_stack([true[chosen], true[chosen] + fixed.entries[chosen]])


def evaluate(
    model: str | Path | HamiltonianModel,
    dataset: str | Path,
    *,
    output: str | Path | None = None,
    kpts: Any = None,
    bar: Callable[..., Any] | None = None,
) -> Report:
    """Measure a model on every structure of a dataset.

    Parameters
    ----------
    model : a model, its file, or a registered name.
    dataset : root of DeepH folders with H and S.
    output : folder for report.json, parity.png and bands_{best,median,worst}.png.
    kpts : the mesh of the level errors, 2.5 points per Å^-1 if None.

    Raises
    ------
    ValueError, KeyError : model or dataset that cannot be used, in one line.
    """
    chosen = _resolve(model)
    with ExitStack() as context:
        context.enter_context(compilation_cache())
        items: Iterator = read_dataset([dataset])
        shown = items if bar is None else bar(items, "evaluating")
        comparisons = []
        for name, data in shown:
            comparisons.append(compare(name, data, chosen, kpts))
            log.info("%s: %s", name, comparisons[-1].to_dict())
        label = (
            chosen.provenance.get("name", "model")
            if isinstance(model, HamiltonianModel)
            else Path(model).name
        )
        report = Report(str(label), Path(dataset).name, tuple(comparisons))
        if output is not None:
            _write(report, chosen, Path(dataset), Path(output))
    return report


def _resolve(model: str | Path | HamiltonianModel) -> HamiltonianModel:
    if isinstance(model, HamiltonianModel):
        return model
    from ase_deeph.pretrained import load

    return load(model)


def _write(report: Report, model: HamiltonianModel, dataset: Path, folder: Path) -> None:
    """report.json and the pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.json").write_text(json.dumps(report.to_dict(), indent=2), encoding="utf-8")
    plot_parity(
        np.concatenate([c.sample for c in report.comparisons]), report.to_dict(), folder / "parity.png"
    )
    ranked = report.ranked()
    for place, c in (("best", ranked[0]), ("median", ranked[len(ranked) // 2]), ("worst", ranked[-1])):
        data = next(item for name, item in read_dataset([dataset]) if name == c.name)
        assert data.hamiltonian is not None
        assert data.overlap is not None
        reference, overlap = _in_basis(data.hamiltonian, model), _in_basis(data.overlap, model)
        structures = [_structure(h, overlap, data, None) for h in (reference, model(reference.atoms))]
        plot_bands(structures[0], structures[1], f"{place}: {c.name}", folder / f"bands_{place}.png")
