"""Figures of an evaluation report about H itself: shells, distance, parity, the learning curve; and their style."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

from trainers.report_tally import LogHistogram, Parity, log_edges

FULL, HALF = 9.0, 4.6
"""Widths in inches: of the page, and of half of it."""
PREDICTED, REFERENCE, NEUTRAL, ACCENT = "#0072B2", "#E69F00", "#555555", "#D55E00"
CURVES = (PREDICTED, ACCENT, "#009E73", "#CC79A7", "#56B4E9", "#000000")
STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.linewidth": 0.8,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "savefig.dpi": 150,
    "svg.fonttype": "path",
    "svg.hashsalt": "ase_deeph",
}
_MOST_ANNOTATED = 14
_NEGLIGIBLE = 1e-8
_LETTERS = "spdfghik"


def to_svg(figure: Figure) -> bytes:
    """The figure as SVG, the same bytes for the same figure."""
    stream = io.BytesIO()
    with rc_context(STYLE):
        figure.savefig(stream, format="svg", metadata={"Date": None})
    return stream.getvalue()


def canvas(width: float, height: float) -> Figure:
    """An empty figure; draw on it within rc_context(STYLE)."""
    return Figure(figsize=(width, height), layout="constrained")


def log_axis(axis: Any, which: str, values: np.ndarray) -> None:
    """A logarithmic axis where positive values span more than a factor of eight, with plain numbers."""
    positive = values[values > 0]
    if not len(positive) or positive.max() < 8 * positive.min():
        getattr(axis, f"set_{which}lim")(0.0 if len(positive) else -0.05, None)
        return
    getattr(axis, f"set_{which}scale")("log")
    along = getattr(axis, f"{which}axis")
    decades = np.log10(positive.max() / positive.min())
    if decades < 2.5:
        along.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if decades < 1.6 else (1.0, 3.0)))
        formatter = ScalarFormatter()
        formatter.set_scientific(False)
        along.set_major_formatter(formatter)
    along.set_minor_formatter(NullFormatter())


def _shell_key(label: str) -> tuple[str, int, str]:
    symbol, shell = label.split(":")
    return symbol, _LETTERS.index(shell[0]), shell


def _matrix(table: Mapping[str, Mapping[str, float]]) -> tuple[list[str], np.ndarray]:
    """Shell labels and the symmetric matrix of their gauge-fixed MAE in meV, NaN where no block is."""
    pairs = {tuple(key.split(" - ")): row["gauge_fixed_meV"] for key, row in table.items()}
    labels = sorted({shell for pair in pairs for shell in pair}, key=_shell_key)
    values = np.full((len(labels), len(labels)), np.nan)
    for (a, b), value in pairs.items():
        i, j = labels.index(a), labels.index(b)
        values[i, j] = values[j, i] = value
    return labels, values


def shell_figure(on_site: Mapping[str, Any], between: Mapping[str, Any]) -> Figure:
    """Heat maps of the MAE by pair of shells: blocks of one atom, and blocks of two atoms."""
    size = len(_matrix(between or on_site)[0])
    figure = canvas(FULL, float(np.clip(1.4 + 0.33 * size, 3.4, 7.5)))
    panels = figure.subplots(1, 2)
    for axis, table, title in zip(
        panels, (on_site, between), ("same atom (on site)", "two atoms"), strict=True
    ):
        axis.set_title(title)
        axis.grid(visible=False)
        if table:
            _heat_map(figure, axis, *_matrix(table))
        else:
            axis.set_axis_off()
    return figure


def _heat_map(figure: Figure, axis: Any, labels: Sequence[str], values: np.ndarray) -> None:
    known = values[np.isfinite(values) & (values > 0)]
    low, high = (known.min(), known.max()) if len(known) else (0.1, 1.0)
    norm: Normalize = LogNorm(low, high) if high > 8 * low else Normalize(0.0, high)
    image = axis.imshow(values, cmap="YlGnBu", norm=norm)
    ticks = range(len(labels))
    small = 10 if len(labels) <= _MOST_ANNOTATED else 6
    axis.set_xticks(ticks, labels, rotation=90 if len(labels) > 4 else 0, fontsize=small)
    axis.set_yticks(ticks, labels, fontsize=small)
    bar = figure.colorbar(image, ax=axis, shrink=0.85, label="MAE, gauge-fixed (meV)")
    log_axis(bar.ax, "y", known)
    if len(labels) > _MOST_ANNOTATED:
        return
    for i, j in np.argwhere(np.isfinite(values)):
        dark = values[i, j] > 0 and norm(values[i, j]) > 0.55
        axis.text(
            j, i, f"{values[i, j]:.2g}", ha="center", va="center", fontsize=8, color="w" if dark else "k"
        )


def _middle(label: str) -> float:
    low, _, high = label.removesuffix(" Å").partition("-")
    return 0.5 * (float(low) + float(high))


def distance_figure(table: Mapping[str, Mapping[str, float]]) -> Figure:
    """MAE over distance with the mean |H| for scale, blocks of one atom beside it."""
    figure = canvas(FULL, 3.4)
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(1, 7))
    far = {_middle(label): row for label, row in table.items() if label != "on site"}
    curves = (
        ("mean_abs_H_meV", "mean |H| of DFT", NEUTRAL, "s:"),
        ("raw_meV", "MAE, raw", REFERENCE, "o--"),
        ("gauge_fixed_meV", "MAE, gauge-fixed", PREDICTED, "o-"),
    )
    for key, label, color, style in curves:
        size = 8 if key == "raw_meV" else 4
        d = np.array(sorted(far))
        values = np.array([far[x][key] for x in d])
        seen = values > 0
        right.plot(d[seen], values[seen], style, color=color, label=label, markersize=size, linewidth=1.2)
        if "on site" in table and table["on site"][key] > 0:
            left.plot([0], [table["on site"][key]], style[0], color=color, markersize=size + 2)
    left.set(xticks=[0], xticklabels=["on site"], xlim=(-1, 1), yscale="log", ylabel="meV")
    right.set(xlabel="distance of the atoms (Å)", xlim=(0, None))
    low, high = right.get_ylim()
    right.set_ylim(max(low, _NEGLIGIBLE * high), high)
    right.legend(loc="upper right")
    return figure


def parity_figure(parity: Parity, sizes: LogHistogram) -> Figure:
    """How many entries lie where: prediction over DFT, and the size of the error over the size of the entry."""
    figure = canvas(FULL, 3.8)
    left, right = figure.subplots(1, 2)
    counts, low, high = parity.image()
    ends = (low, high)
    image = left.imshow(
        np.ma.masked_equal(counts, 0),
        origin="lower",
        extent=(*ends, *ends),
        cmap="viridis_r",
        norm=LogNorm(1, max(2, counts.max())),
        interpolation="nearest",
        zorder=2,
    )
    left.plot(ends, ends, color=ACCENT, linewidth=0.6, zorder=1)
    left.set(xlabel="H of DFT (eV)", ylabel="H predicted, gauge-fixed (eV)", title="parity")
    figure.colorbar(image, ax=left, label="entries")
    _size_panel(figure, right, sizes)
    return figure


def _size_panel(figure: Figure, axis: Any, sizes: LogHistogram) -> None:
    edges, counts = log_edges(), sizes.counts
    image = axis.pcolormesh(
        edges,
        edges,
        np.ma.masked_equal(counts.T, 0),
        cmap="viridis_r",
        norm=LogNorm(1, max(2, counts.max())),
        rasterized=True,
        zorder=2,
    )
    x, y, n = sizes.rms()
    shown = (n >= 5) & (x > edges[0]) & (y > 0)
    axis.plot(x[shown], y[shown], color=ACCENT, linewidth=1.4, label="root mean square", zorder=3)
    axis.plot(
        edges, edges, color=NEUTRAL, linestyle=":", linewidth=1.0, label="as large as the entry", zorder=3
    )
    used = [np.nonzero(counts.sum(axis=1 - n))[0] for n in (0, 1)]
    (xmin, xmax), (ymin, ymax) = ((edges[u[0]], edges[u[-1] + 1]) for u in used)
    axis.set(xscale="log", yscale="log", xlim=(xmin, xmax), ylim=(ymin, max(ymax, 10 * ymin)))
    axis.set(xlabel="|H| of DFT (eV)", ylabel="|error|, gauge-fixed (eV)", title="error over size")
    axis.legend(loc="upper left", fontsize=8, frameon=True, framealpha=0.85, edgecolor="none")
    figure.colorbar(image, ax=axis, label="entries")


def learning_figure(logs: Mapping[str, Sequence[Mapping[str, float]]]) -> Figure:
    """Gauge-fixed MAE of H over epochs, one pair of curves for each log."""
    figure = canvas(FULL, 3.4)
    axis = figure.add_subplot()
    for n, (name, rows) in enumerate(logs.items()):
        color, prefix = CURVES[n % len(CURVES)], f"{name}: " if len(logs) > 1 else ""
        for kind, label, alpha in (("train", "training (running)", 0.4), ("validation", "validation", 1.0)):
            column = f"{kind}_mae_gauge_fixed_mev"
            points = np.array([(row["epoch"] + 1, row[column]) for row in rows if row.get(column, 0.0) > 0])
            if len(points):
                marker = "." if len(points) < 40 else ""
                axis.plot(*points.T, color=color, alpha=alpha, marker=marker, label=prefix + label)
    axis.set(xlabel="epoch", ylabel="MAE of H, gauge-fixed (meV)")
    log_axis(axis, "y", np.concatenate([line.get_ydata() for line in axis.lines] or [np.ones(1)]))
    if axis.lines:
        axis.legend(loc="upper right")
    return figure
