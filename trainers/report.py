"""The evaluation report: index.html beside metrics.json, structures.csv and the figures."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from matplotlib import rc_context

from ase_deeph.basis import OrbitalBasis
from ase_deeph.electronic_structure import ElectronicStructure
from ase_deeph.model import HamiltonianModel
from ase_deeph.pretrained import find
from trainers import plots, report_figures
from trainers import report_page as html
from trainers.comparison import DOS_WIDTH, WINDOW, Comparison
from trainers.log import is_of_head, read_log
from trainers.provenance import package_versions
from trainers.report_numbers import Report

LOG = "log.csv"
Curves = Mapping[str, Sequence[Mapping[str, float]]]
Bands = Mapping[str, tuple[Comparison, tuple[ElectronicStructure, ElectronicStructure]]]


def learning_logs(models: Sequence[Any], logs: Sequence[str | Path]) -> dict[str, list[dict[str, float]]]:
    """Rows of the training logs of H by name: those given, else every log.csv beside a model's file.

    Raises
    ------
    ValueError : a log that was given is missing, holds no epoch, or is none.
    """
    if not logs:
        files = [find(m) for m in models if isinstance(m, (str, Path))]
        found = [f.parent / LOG for f in files if (f.parent / LOG).is_file()]
        beside = [log for log in found if not is_of_head(log)]
        return {name: rows for name, rows in _read_logs(dict.fromkeys(beside)).items() if rows}
    curves = _read_logs([Path(path) for path in logs])
    for name, rows in curves.items():
        if not rows:
            raise ValueError(f"log {name}: expected a log.csv of a training with at least one epoch in it")
    return curves


def _read_logs(paths: Any) -> dict[str, list[dict[str, float]]]:
    curves: dict[str, list[dict[str, float]]] = {}
    for path in paths:
        name = path.parent.name if path.name == LOG and path.parent.name else path.name
        try:
            curves[name if name not in curves else str(path)] = read_log(path)
        except FileNotFoundError as error:
            raise ValueError(f"log {path}: no such file; give the log.csv of a training") from error
        except ValueError as error:
            raise ValueError(f"log {path}: {error}; give the log.csv of a training") from error
    for name, rows in curves.items():
        lacking = {"epoch", "validation_mae_gauge_fixed_mev"} - (rows[0].keys() if rows else set())
        if rows and lacking:
            raise ValueError(f"log {name}: it has no column {min(lacking)}; give the log.csv of a training")
    return curves


def about(report: Report, members: Sequence[Any]) -> dict[str, Any]:
    """Models, versions, platform and date, for metrics.json and the head of the page."""
    return {
        "models": [_about_model(m) for m in members],
        "versions": package_versions(),
        "python": platform.python_version(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "windows_eV": {"levels": WINDOW, "dos_width": DOS_WIDTH},
    }


def _about_model(model: Any) -> dict[str, Any]:
    if not isinstance(model, HamiltonianModel):
        return {"name": type(model).__name__, "basis": _basis_text(model.basis), "provenance": {}}
    return {
        "name": str(model.provenance.get("name", "unnamed")),
        "basis": _basis_text(model.basis),
        "cutoff_A": model.cutoff,
        "n_parameters": model.n_parameters,
        "network": model.config.to_dict(),
        "provenance": dict(model.provenance),
    }


def _basis_text(basis: OrbitalBasis) -> str:
    """Like "C 2s2p1d" (shells counted within each l)."""
    parts = []
    for symbol in basis:
        shells = basis.shells(symbol)
        counted = "".join(f"{shells.count(l)}{'spdfghik'[l]}" for l in sorted(set(shells)))
        parts.append(f"{symbol} {counted} ({basis.n_orbitals(symbol)} orbitals)")
    return ", ".join(parts)


def write_report(
    report: Report, members: Sequence[Any], bands: Bands, folder: Path, curves: Curves | None = None
) -> None:
    """Write the page, the numbers and the figures, each file atomically.

    Parameters
    ----------
    members : the models, for the head of the page.
    bands : place ("best", "median", "worst") -> structure, and its (reference, predicted).
    folder : made where it does not exist.
    curves : name -> rows of a training log; no learning curve without any.
    """
    metrics = _finite({**report.to_dict(), "about": about(report, members)})
    figures = {name: _drawn(draw) for name, draw in _figures(report, metrics, bands, curves or {}).items()}
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    for name, svg in figures.items():
        _write(folder / "figures" / f"{name}.svg", svg)
    _write(folder / "structures.csv", _csv(metrics["structures"]))
    text = json.dumps(metrics, indent=2, ensure_ascii=False, default=str, allow_nan=False)
    _write(folder / "metrics.json", text.encode())
    _write(folder / "index.html", _page(metrics, figures).encode())


def _finite(value: Any) -> Any:
    """The same with None for NaN and infinity, which JSON does not know."""
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _write(path: Path, content: bytes) -> None:
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_bytes(content)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _csv(rows: Sequence[Mapping[str, Any]]) -> bytes:
    stream = io.StringIO()
    names = list(dict.fromkeys(name for row in rows for name in row))
    writer = csv.DictWriter(stream, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows({k: f"{v:.9g}" if isinstance(v, float) else v for k, v in row.items()} for row in rows)
    return stream.getvalue().encode()


def _drawn(draw: Callable[[], Any]) -> bytes:
    with rc_context(report_figures.STYLE):
        return report_figures.to_svg(draw())


def _figures(
    report: Report, metrics: Mapping[str, Any], bands: Bands, curves: Curves
) -> dict[str, Callable[[], Any]]:
    """Name -> how to draw it."""
    shown = {
        f"{place}: {c.name}": (f"levels RMS {html.number(c.levels.rms_shifted)} meV", *pair)
        for place, (c, pair) in bands.items()
    }
    on_site, between = metrics["by_shell_pair_on_site"], metrics["by_shell_pair_between"]
    drawings: dict[str, Callable[[], Any]] = {
        "shells": lambda: report_figures.shell_figure(on_site, between),
        "distance": lambda: report_figures.distance_figure(metrics["by_distance"]),
        "parity": lambda: report_figures.parity_figure(report.tally.parity, report.tally.sizes),
        "families": lambda: plots.family_figure(metrics["structures"]),
        "bands": lambda: plots.bands_figure(shown),
    }
    gapped = [s for s in metrics["structures"] if None not in (s["gap_dft_meV"], s["gap_predicted_meV"])]
    if gapped:
        drawings["gaps"] = lambda: plots.gap_figure(gapped)
    if curves:
        drawings["learning"] = lambda: report_figures.learning_figure(curves)
    if metrics["calibration"]:
        drawings["calibration"] = lambda: plots.calibration_figure(
            metrics["structures"], report.tally.calibration, report.n_members
        )
    return drawings


def _page(metrics: Mapping[str, Any], figures: Mapping[str, bytes]) -> str:
    """The page of numbers and figures."""

    def shown(name: str, caption: str) -> str:
        return html.figure(figures[name], caption)

    sections = [("Model and data", _head(metrics)), ("Summary", html.summary(metrics))]
    if "learning" in figures:
        caption = "Mean absolute error of H over the epochs of training, gauge-fixed."
        sections.append(("Learning curve", shown("learning", caption)))
    sections += [
        (
            "Matrix elements by shells and distance",
            shown(
                "shells",
                "Gauge-fixed MAE by pair of shells, in meV; shells are numbered within each angular momentum.",
            )
            + shown(
                "distance",
                "MAE by distance of the atoms, and the mean |H| of DFT for scale; single atoms at the left.",
            ),
        ),
        (
            "Parity of matrix elements",
            shown(
                "parity",
                "Number of entries (logarithmic colours). Left: prediction, gauge-fixed, against DFT. Right: size of "
                "the error against size of the entry; values beyond the axes count in the outermost bins.",
            ),
        ),
        (
            "Errors by family",
            shown(
                "families",
                "One dot per structure, bars at the medians; a family is an id without its trailing number. "
                "Definitions as in the summary.",
            ),
        ),
        (
            "Bands over DFT's",
            shown(
                "bands",
                "The best, the median and the worst structure by RMS of levels; each Fermi level is at zero.",
            ),
        ),
        (
            "Gaps",
            shown("gaps", "Gaps on the k-mesh; structures right of the dotted line count as insulators.")
            if "gaps" in figures
            else html.note("There are no gaps: all bands full in every structure."),
        ),
        ("Structures", html.structure_table(metrics["structures"])),
    ]
    if metrics["calibration"]:
        sections.insert(-1, ("Calibration of the committee's spread", _calibration(metrics, shown)))
    n = metrics["n_structures"]
    title = f"{metrics['model']} on {metrics['dataset']}"
    subtitle = f"{n} structure{'s' if n != 1 else ''} · {metrics['about']['date'][:16].replace('T', ' ')} UTC"
    return html.page(title, subtitle, sections)


def _calibration(metrics: Mapping[str, Any], shown: Callable[[str, str], str]) -> str:
    """Rank correlations in words, and the figure."""
    found, blocks = metrics["calibration"], metrics["calibration"]["blocks"]
    text = {
        "members": metrics["n_members"],
        "rank correlation, structures": _correlation(found["rank_correlation_of_structures"]),
        "rank correlation, blocks": _correlation(blocks["rank_correlation"]),
        "error / spread, structures": _ratio(
            found["error_over_spread"], " (1 is calibrated; multiply the spread by it)"
        ),
        "error / spread, blocks": _ratio(blocks["error_over_spread"]),
    }
    caption = (
        "True error of the committee's mean over the spread of its members (standard deviation, each member's own "
        "μ removed). Left: RMS over each structure. Right: blocks counted in grey, RMS error of each bin of spread; "
        "on the full line the spread is as large as the error; on the dotted one lies what independent, unbiased "
        "members would give, error = spread / √(members − 1)."
    )
    return html.definitions(text) + shown("calibration", caption)


def _ratio(value: float | None, meaning: str = "") -> str:
    return "–" if value is None else f"{value:.2f}{meaning}"


def _correlation(value: float | None) -> str:
    return "not defined here" if value is None else f"{value:.2f} (Spearman)"


def _head(metrics: Mapping[str, Any]) -> str:
    """What was measured on what, with which versions."""
    known, atoms = metrics["about"], [s["n_atoms"] for s in metrics["structures"]]
    size = f"{min(atoms)}" if min(atoms) == max(atoms) else f"{min(atoms)} to {max(atoms)}"
    rows: dict[str, Any] = {}
    for n, model in enumerate(known["models"], 1):
        rows["model" if len(known["models"]) == 1 else f"model {n}"] = _model_line(model)
    first = known["models"][0]
    rows["basis"] = first["basis"]
    if "cutoff_A" in first:
        rows["cutoff"] = f"{first['cutoff_A']:g} Å"
    rows |= {
        f"provenance, {k.replace('_', ' ')}": v for k, v in _short_provenance(first["provenance"]).items()
    }
    rows["dataset"] = f"{metrics['dataset']}: {metrics['n_structures']} structures of {size} atoms"
    rows["k-points of levels"] = metrics["kpts"]
    rows["versions"] = {**known["versions"], "Python": known["python"]}
    return html.definitions(rows)


def _model_line(model: Mapping[str, Any]) -> str:
    if "n_parameters" not in model:
        return model["name"]
    network = model["network"]
    count = f"{model['n_parameters']:,}".replace(",", "\u202f")
    return f"{model['name']}: {network['kind']}, {count} parameters"


def _short_provenance(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """The entries that fit on a line: plain values, and mappings of plain values; all are in metrics.json."""

    def plain(value: Any) -> bool:
        return isinstance(value, (str, int, float))

    return {
        key: value
        for key, value in provenance.items()
        if key not in ("name", "versions")
        and (plain(value) or (isinstance(value, Mapping) and all(map(plain, value.values()))))
    }
