"""Pictures of bands and densities of states: one style, safe for colour-blind readers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from ase.spectrum.band_structure import BandStructure

PREDICTED = "#0072B2"
REFERENCE = "#E69F00"
NEUTRAL = "#555555"
DOWN = "#D55E00"
CURVES = (PREDICTED, "#D55E00", "#009E73", "#CC79A7", REFERENCE, "#56B4E9", "#000000")
PICTURE_SUFFIXES = (".png", ".pdf", ".svg")

STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.linewidth": 0.8,
    "axes.labelsize": 9,
    "xtick.direction": "in",
    "ytick.direction": "in",
    "xtick.top": False,
    "ytick.right": True,
    "legend.frameon": False,
    "figure.dpi": 150,
    "savefig.dpi": 300,
    "svg.fonttype": "none",
    "pdf.fonttype": 42,
}


@contextmanager
def figure(
    path: Path, panels: int = 1, width: float = 3.6, ratios: tuple[float, ...] | None = None
) -> Iterator[Any]:
    """Axes of a new figure that share the energy axis; saved to the path when the block ends."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        canvas = Figure(figsize=(width, 3.2), layout="constrained")
        FigureCanvasAgg(canvas)
        axes = canvas.subplots(1, panels, sharey=True, width_ratios=ratios, squeeze=False)[0]
        yield axes if panels > 1 else axes[0]
        canvas.savefig(path)


def _spelled(label: str) -> str:
    if label == "G":
        return "Γ"
    head, tail = label.rstrip("0123456789"), label[len(label.rstrip("0123456789")) :]
    return f"{'Γ' if head == 'G' else head}$_{{{tail}}}$" if tail else label


def draw_bands(axis: Any, bands: BandStructure, window: tuple[float, float], **line: Any) -> None:
    """Band energies relative to the band structure's reference, with the special points as ticks."""
    distance = bands.get_labels()[0]
    energies = bands.energies - bands.reference
    style = {"color": PREDICTED, "linewidth": 1.1, **line}
    name = style.pop("label", None)
    for channel, channel_energies in enumerate(energies):
        dashes = "--" if channel else style.get("linestyle", "-")
        own = {"color": DOWN} if channel and "color" not in line else {}
        lines = axis.plot(distance, channel_energies, **{**style, "linestyle": dashes, **own})
        lines[0].set_label(name if channel == 0 else None)
        if len(energies) == 2 and name is None:
            lines[0].set_label(("up", "down")[channel])
    if len(energies) == 2:
        axis.legend(fontsize=7, loc="upper right")
    _draw_path(axis, bands, window)


def draw_spin_of_bands(
    axis: Any, bands: BandStructure, window: tuple[float, float], spin: np.ndarray, component: str
) -> None:
    """Spinor bands relative to the reference, coloured by one component of ⟨σ⟩, (n_kpts, n_bands), -1 ... 1."""
    from matplotlib.collections import LineCollection

    distance = bands.get_labels()[0]
    energies = bands.energies[0] - bands.reference
    points = np.stack([np.broadcast_to(distance[:, None], energies.shape), energies], axis=-1)
    segments = np.stack([points[:-1], points[1:]], axis=2).reshape(-1, 2, 2)
    colours = 0.5 * (spin[:-1] + spin[1:]).ravel()
    lines = LineCollection(list(segments), cmap="coolwarm", linewidths=1.4, capstyle="round")
    lines.set_array(colours)
    lines.set_clim(-1.0, 1.0)
    axis.add_collection(lines)
    axis.figure.colorbar(lines, ax=axis, label=f"⟨σ$_{component}$⟩", pad=0.02, ticks=[-1, 0, 1])
    _draw_path(axis, bands, window)


def _draw_path(axis: Any, bands: BandStructure, window: tuple[float, float]) -> None:
    """Special points, the Fermi level and the limits of the axes."""
    distance, ticks, labels = bands.get_labels()
    axis.set_xticks(ticks, [_spelled(label) for label in labels])
    axis.tick_params(axis="x", length=0)
    for tick in ticks:
        axis.axvline(tick, color=NEUTRAL, linewidth=0.5, zorder=0)
    axis.axhline(0.0, color=NEUTRAL, linewidth=0.6, linestyle=":", zorder=0)
    axis.set_xlim(distance[0], distance[-1])
    axis.set_ylim(*window)
    axis.set_ylabel("E − E$_F$ (eV)")


def draw_dos(axis: Any, energies: np.ndarray, curves: Mapping[str, np.ndarray]) -> None:
    """Densities of states over energy relative to the Fermi level; the first one, the total, is filled.

    Curves whose label ends in " down" point down, in the colour of their partner " up".
    """
    names = list(dict.fromkeys(label.removesuffix(" up").removesuffix(" down") for label in curves))
    spins = any(label.endswith(" down") for label in curves)
    for label, values in curves.items():
        n = names.index(label.removesuffix(" up").removesuffix(" down"))
        color = CURVES[n % len(CURVES)]
        curve = -values if label.endswith(" down") else values
        if n == 0:
            axis.fill_between(energies, 0.0, curve, color=color, alpha=0.2, linewidth=0)
        shown = None if label.endswith(" down") else label.removesuffix(" up")
        axis.plot(energies, curve, color=color, linewidth=1.0, label=shown)
    if len(names) > 1:
        axis.legend(fontsize=7)
    axis.axvline(0.0, color=NEUTRAL, linewidth=0.6, linestyle=":", zorder=0)
    axis.set_xlabel("E − E$_F$ (eV)")
    axis.set_ylabel("DOS (states/eV)")
    axis.set_xlim(energies[0], energies[-1])
    if spins:
        axis.axhline(0.0, color=NEUTRAL, linewidth=0.6)
        axis.set_ylabel("DOS (states/eV), up above, down below")
    else:
        axis.set_ylim(bottom=0.0)


def draw_dos_beside_bands(
    axis: Any, energies: np.ndarray, dos: np.ndarray, window: tuple[float, float]
) -> None:
    """A density of states with the energy upright, to stand beside bands."""
    axis.fill_betweenx(energies, 0.0, dos, color=PREDICTED, alpha=0.2, linewidth=0)
    axis.plot(dos, energies, color=PREDICTED, linewidth=1.0)
    axis.axhline(0.0, color=NEUTRAL, linewidth=0.6, linestyle=":", zorder=0)
    axis.set_xlabel("DOS (states/eV)")
    shown = (energies >= window[0]) & (energies <= window[1])
    axis.set_xlim(0.0, 1.1 * float(dos[shown].max()) + 1e-9)
