"""The picture of a run: gap and Fermi level over time, beside the mean density of states."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from ase_deeph.electronic_trajectory.reader import ElectronicTrajectoryReader

_CURVE, _MEAN = "#0072B2", "#D55E00"
_LABELS = {"gap": "gap (eV)", "fermi_level": "E$_F$ (eV)"}
_STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.linewidth": 0.8,
    "xtick.direction": "in",
    "ytick.direction": "in",
}


def draw(reader: ElectronicTrajectoryReader, path: Path) -> None:
    """Draw to a file; KeyError when there is nothing to draw."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    curves = [name for name in _LABELS if name in reader]
    if not curves:
        raise KeyError(f"{reader.path} holds neither gap nor Fermi level; record them to draw them")
    with_dos = "dos" in reader
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(6.4 if with_dos else 4.4, 1.6 * len(curves) + 0.6), layout="constrained")
        FigureCanvasAgg(figure)
        grid = figure.add_gridspec(
            len(curves), 2 if with_dos else 1, width_ratios=(2, 1) if with_dos else None
        )
        over, label = _abscissa(reader)
        axes = [figure.add_subplot(grid[n, 0]) for n in range(len(curves))]
        for axis, name in zip(axes, curves, strict=True):
            _draw_curve(axis, over, reader[name], _LABELS[name])
        axes[-1].set_xlabel(label)
        if with_dos:
            _draw_dos(figure.add_subplot(grid[:, 1]), reader)
        figure.savefig(path, dpi=200)


def _abscissa(reader: ElectronicTrajectoryReader) -> tuple[np.ndarray, str]:
    times = reader["time"]
    return (times, "time (fs)") if np.all(np.isfinite(times)) else (reader["step"], "step")


def _draw_curve(axis: Any, over: np.ndarray, values: np.ndarray, label: str) -> None:
    axis.plot(over, values, color=_CURVE, linewidth=1.0, marker="." if len(values) < 40 else None)
    axis.axhline(values.mean(), color=_MEAN, linewidth=0.8, linestyle="--")
    axis.set_ylabel(label)
    axis.set_title(f"mean {values.mean():.3f}, deviation {values.std():.3f} eV", fontsize=8, loc="left")
    axis.margins(x=0.0)


def _draw_dos(axis: Any, reader: ElectronicTrajectoryReader) -> None:
    energies, mean = reader.average_dos()
    for channel in np.atleast_2d(mean):
        axis.plot(channel, energies, color=_CURVE, linewidth=1.0)
    axis.axhline(0.0, color="#555555", linewidth=0.6, linestyle=":")
    axis.set_xlabel("mean DOS (states/eV)")
    axis.set_ylabel("E − E$_F$ (eV)")
    axis.set_xlim(left=0.0)
    axis.margins(y=0.0)
