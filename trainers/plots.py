"""Figures of an evaluation report about structures: errors by family, bands, gaps, calibration of the spread."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from ase_deeph.electronic_structure import ElectronicStructure
from trainers.comparison import INSULATOR
from trainers.report_figures import ACCENT, FULL, HALF, NEUTRAL, PREDICTED, REFERENCE, canvas, log_axis
from trainers.report_tally import LogHistogram, log_edges

_SMALL = 400
_POINTS = {True: 80, False: 30}
_MOST_FAMILIES = 40
_CROWDED = 0.08
BAND_WINDOW = 5.0


def family_figure(structures: Sequence[Mapping[str, Any]]) -> Figure:
    """Every structure as a dot, by family; the worst families where there are too many for a page."""
    families: dict[str, list[Mapping[str, Any]]] = {}
    for s in structures:
        families.setdefault(s["family"], []).append(s)

    def error(name: str) -> float:
        return float(np.median([s["levels_rms_shifted"] for s in families[name]]))

    names = sorted(families, key=error)[-_MOST_FAMILIES:]
    figure = canvas(FULL, 1.3 + 0.27 * len(names))
    panels = figure.subplots(1, 4, sharey=True)
    for axis, key, label in zip(
        panels,
        ("mae_gauge_fixed_meV", "levels_rms_shifted", "levels_fermi_to_bands", "dos_error_percent"),
        ("MAE of H (meV)", "levels, RMS (meV)", "Fermi level, |error| (meV)", "DOS error (%)"),
        strict=True,
    ):
        _strips(axis, [np.abs([s[key] for s in families[name]]) for name in names])
        axis.set_xlabel(label)
    panels[0].set_yticks(range(len(names)), [_short(name) for name in names], fontsize=9)
    panels[0].set_ylim(-0.6, len(names) - 0.4)
    return figure


def _short(name: str, longest: int = 28) -> str:
    return name if len(name) <= longest else f"{name[: longest - 10]}…{name[-9:]}"


def _strips(axis: Any, groups: Sequence[np.ndarray]) -> None:
    """One row of dots for each group, and a bar at its median."""
    for row, values in enumerate(groups):
        spread = 0.0 if len(values) == 1 else 0.22
        heights = row + spread * np.linspace(-1, 1, len(values))
        axis.plot(
            values, heights, ".", color=PREDICTED, markersize=6, alpha=0.75, rasterized=len(values) > 400
        )
        axis.plot([np.median(values)] * 2, [row - 0.32, row + 0.32], color=ACCENT, linewidth=1.4)
    log_axis(axis, "x", np.concatenate(groups))


def bands_figure(pairs: Mapping[str, tuple[str, ElectronicStructure, ElectronicStructure]]) -> Figure:
    """Predicted over DFT bands, each with its Fermi level at zero; one panel for each title.

    A structure without periodic axes, hence without a path, is drawn as levels.
    """
    figure = canvas(FULL, 3.9)
    panels = np.atleast_1d(figure.subplots(1, len(pairs), sharey=True))
    for axis, (title, (note, reference, predicted)) in zip(panels, pairs.items(), strict=True):
        npoints = _POINTS[reference.hamiltonian.n_orbitals < _SMALL]
        for es, style, color, width in (
            (reference, "-", REFERENCE, 2.2),
            (predicted, "-", PREDICTED, 0.9),
        ):
            x, ticks, labels, energies = _bands(es, npoints)
            near = np.any(np.abs(energies) <= BAND_WINDOW, axis=0)
            lines = axis.plot(x, energies[:, near], style, color=color, linewidth=width)
            if lines:
                lines[0].set_label("DFT" if es is reference else "predicted")
        axis.set_xticks(ticks, labels)
        axis.set(ylim=(-BAND_WINDOW, BAND_WINDOW), xlim=(x[0], x[-1]))
        axis.set_title(f"{title}\n{note}", fontsize=9, fontweight="normal")
        axis.axhline(0.0, color=NEUTRAL, linewidth=0.7, linestyle=":")
    panels[0].set_ylabel("energy − Fermi level (eV)")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def _bands(es: ElectronicStructure, npoints: int) -> tuple[np.ndarray, list[float], list[str], np.ndarray]:
    """x, ticks, labels and energies (n_kpts, n_bands) relative to the Fermi level."""
    if not es.atoms.pbc.any():
        levels = es.eigenvalues([[0.0, 0.0, 0.0]])[0]
        return np.array([0.0, 1.0]), [], [], np.repeat(levels, 2, axis=0) - es.fermi_level()
    bands = es.band_structure(npoints=npoints)
    x, ticks, labels = bands.path.get_linear_kpoint_axis()
    names = ["Γ" if name == "G" else name for name in labels]
    return x, *_merged_ticks(ticks, names), bands.energies[0] - bands.reference


def _merged_ticks(ticks: Sequence[float], labels: Sequence[str]) -> tuple[list[float], list[str]]:
    """Two special points at one place, where the path jumps, share a label."""
    places: dict[float, list[str]] = {}
    for x, label in zip(ticks, labels, strict=True):
        places.setdefault(round(float(x), 9), []).append(label)
    names = ["|".join(dict.fromkeys(names)) for names in places.values()]
    return list(places), _staggered(list(places), names)


def _staggered(places: Sequence[float], labels: Sequence[str]) -> list[str]:
    """A label that would run into the one before it stands a line lower, or higher again."""
    span = places[-1] - places[0] if places else 0.0
    shown: list[str] = []
    for n, label in enumerate(labels):
        crowded = n > 0 and places[n] - places[n - 1] < _CROWDED * span
        shown.append(f"\n{label}" if crowded and not shown[-1].startswith("\n") else label)
    return shown


def gap_figure(structures: Sequence[Mapping[str, Any]]) -> Figure:
    """Predicted against DFT gaps on the mesh, those that count as insulators apart from the metals."""
    figure = canvas(HALF, 3.6)
    axis = figure.add_subplot()
    gaps = 1e-3 * np.array([[s["gap_dft_meV"], s["gap_predicted_meV"]] for s in structures])
    counted = gaps[:, 0] > INSULATOR
    for chosen, color, label in (
        (counted, PREDICTED, _counted(int(counted.sum()), "insulator")),
        (~counted, NEUTRAL, _counted(int((~counted).sum()), "metal")),
    ):
        if chosen.any():
            axis.plot(*gaps[chosen].T, "o", color=color, markersize=4, alpha=0.8, label=label)
    top = 1.08 * max(float(gaps.max()), 1.2 * INSULATOR)
    axis.plot([0, top], [0, top], color=ACCENT, linewidth=0.8, zorder=1)
    axis.axvline(INSULATOR, color=NEUTRAL, linestyle=":", linewidth=0.9)
    axis.set(xlim=(-0.03 * top, top), ylim=(-0.03 * top, top), aspect="equal")
    axis.set(xlabel="gap of DFT (eV)", ylabel="gap predicted (eV)")
    axis.legend(loc="upper left")
    return figure


def _counted(n: int, word: str) -> str:
    return f"{n} {word}" if n == 1 else f"{n} {word}s"


def calibration_figure(
    structures: Sequence[Mapping[str, Any]], blocks: LogHistogram, n_members: int
) -> Figure:
    """True error over the committee's spread: of whole structures, and of single blocks."""
    figure = canvas(FULL, 3.9)
    left, right = figure.subplots(1, 2)
    x, y = np.array([[s["spread_meV"], s["rms_gauge_fixed_meV"]] for s in structures]).T
    left.plot(x, y, "o", color=PREDICTED, markersize=4, alpha=0.8, label="structures")
    left.set(title="structures", xlabel="spread, RMS (meV)", ylabel="error, RMS, gauge-fixed (meV)")
    edges, counts = 1e3 * log_edges(), blocks.counts
    image = right.pcolormesh(
        edges,
        edges,
        np.ma.masked_equal(counts.T, 0),
        cmap="Greys",
        norm=LogNorm(1, max(2, 3 * counts.max())),
        rasterized=True,
    )
    bx, by, n = blocks.rms()
    known = (n >= 5) & (bx > log_edges()[1])
    bx, by = 1e3 * bx[known], 1e3 * by[known]
    right.plot(bx, by, "o-", color=PREDICTED, markersize=3, linewidth=1.2, label="RMS error of each bin")
    right.set(title="blocks", xlabel="spread of the block, RMS (meV)", ylabel="error of the block, RMS (meV)")
    figure.colorbar(image, ax=right, label="blocks")
    _calibration_lines(left, np.concatenate([x, y]), n_members)
    _calibration_lines(right, np.concatenate([bx, by]), n_members)
    return figure


def _calibration_lines(axis: Any, values: np.ndarray, n_members: int) -> None:
    """Equal axes around positive values; where the error is the spread, and where independent members put it."""
    values = values[values > 0] if np.any(values > 0) else np.ones(1)
    for which in "xy":
        log_axis(axis, which, values)
    is_log = axis.get_xscale() == "log"
    low, high = (values.min() / 1.5, values.max() * 1.5) if is_log else (0.0, 1.15 * values.max())
    ends = np.array([low, high])
    axis.plot(ends, ends, color=ACCENT, linewidth=1.0, label="error = spread")
    if n_members > 2:
        label = f"{n_members} independent members"
        axis.plot(ends, ends / np.sqrt(n_members - 1), ":", color=NEUTRAL, linewidth=1.0, label=label)
    axis.set(xlim=(low, high), ylim=(low, high), aspect="equal")
    axis.legend(loc="upper left", fontsize=8, frameon=True, framealpha=0.85, edgecolor="none")
