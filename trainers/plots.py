"""Pictures of an evaluation: predicted bands over DFT bands, and the parity of matrix entries."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ase_deeph.electronic_structure import ElectronicStructure

_SMALL = 400
_POINTS = {True: 80, False: 30}


def plot_bands(
    reference: ElectronicStructure,
    predicted: ElectronicStructure,
    title: str,
    path: Path,
    window: float = 5.0,
) -> None:
    """Predicted over DFT bands within a window (eV) of the Fermi levels, each at zero.

    A structure without periodic axes, hence without a path, is drawn as levels.
    """
    from matplotlib.figure import Figure

    npoints = _POINTS[reference.hamiltonian.n_orbitals < _SMALL]
    figure = Figure(figsize=(5, 4), layout="constrained")
    axes = figure.add_subplot()
    for es, style, label in ((reference, "k-", "DFT"), (predicted, "r--", "predicted")):
        x, ticks, labels, energies = _bands(es, npoints)
        lines = axes.plot(x, energies, style, linewidth=1.0)
        lines[0].set_label(label)
    axes.set_xticks(ticks, labels)
    axes.set(ylim=(-window, window), ylabel="energy − Fermi level (eV)", xlim=(x[0], x[-1]), title=title)
    axes.axhline(0.0, color="0.7", linewidth=0.5)
    axes.legend(loc="upper right")
    figure.savefig(path, dpi=150)


def _bands(es: ElectronicStructure, npoints: int) -> tuple[np.ndarray, np.ndarray, list[str], np.ndarray]:
    """x, ticks, labels and energies (n_kpts, n_bands) relative to the Fermi level."""
    if not es.atoms.pbc.any():
        levels = es.eigenvalues([[0.0, 0.0, 0.0]])[0]
        return np.array([0.0, 1.0]), np.array([]), [], np.repeat(levels, 2, axis=0) - es.fermi_level()
    bands = es.band_structure(npoints=npoints)
    x, ticks, labels = bands.path.get_linear_kpoint_axis()
    return x, ticks, ["Γ" if name == "G" else name for name in labels], bands.energies[0] - bands.reference


def plot_parity(sample: np.ndarray, report: Mapping[str, Any], path: Path) -> None:
    """Entries of H, predicted (gauge-fixed) against DFT, and the distribution of their errors."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(sample[:, 0], sample[:, 1], ".", markersize=1, rasterized=True)
    ends = [sample.min(), sample.max()]
    left.plot(ends, ends, "k-", linewidth=0.5)
    left.set(xlabel="H of DFT (eV)", ylabel="H predicted, gauge-fixed (eV)")
    left.set_title(
        f"MAE {report['mae_gauge_fixed_meV']:.3f} meV gauge-fixed, {report['mae_raw_meV']:.3f} raw"
    )
    error = 1e3 * (sample[:, 1] - sample[:, 0])
    reach = max(float(np.quantile(np.abs(error), 0.995)), 1e-6)
    right.hist(np.clip(error, -reach, reach), bins=101)
    right.set(xlabel="error (meV)", ylabel="entries", yscale="log")
    figure.savefig(path, dpi=150)
