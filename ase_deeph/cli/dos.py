"""`deeph dos`: the density of states of a structure as a picture, JSON or CSV."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from ase_deeph.electronic_structure import ElectronicStructure


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """STRUCTURE and model, the grid of energies, and where to write."""
    from ase_deeph.cli.options import add_structure_and_model

    add_structure_and_model(parser)
    parser.add_argument(
        "--window",
        type=float,
        nargs=2,
        default=(-10.0, 10.0),
        metavar=("LOW", "HIGH"),
        help="energies, eV relative to the Fermi level",
    )
    parser.add_argument("--npoints", type=int, default=801, help="energies in the window (default 801)")
    parser.add_argument(
        "--broadening", type=float, default=0.1, metavar="EV", help="Gaussian width (default 0.1)"
    )
    parser.add_argument(
        "--project", choices=("species", "shell", "atom"), help="also resolved, by Mulliken weights"
    )
    parser.add_argument(
        "--engine",
        choices=("diagonalize", "kpm"),
        default="diagonalize",
        help="kpm: sparse kernel polynomials",
    )
    parser.add_argument(
        "--vectors", type=int, default=64, help="random vectors of --engine kpm (default 64, at least 2)"
    )
    parser.add_argument("-o", "--output", metavar="FILE", help="png, pdf, svg, json or csv by its suffix")


def run(arguments: argparse.Namespace) -> None:
    """Predict, broaden, write.

    Raises
    ------
    ValueError, KeyError : bad structure, model, window or output.
    """
    from ase_deeph.cli.options import output_file, structure_from
    from ase_deeph.cli.picture import PICTURE_SUFFIXES
    from ase_deeph.cli.sparse import check_options
    from ase_deeph.exporters.files import replaced_file

    output = output_file(arguments, "dos", (*PICTURE_SUFFIXES, ".json", ".csv"))
    grid = _grid(arguments)
    check_options(arguments)
    structure = structure_from(arguments)
    error = float("nan")
    if arguments.engine == "kpm":
        from ase_deeph.cli.sparse import moment_curves

        curves, level, error = moment_curves(structure, grid, arguments)
    else:
        level = structure.fermi_level()
        curves = _curves(structure, grid + level, arguments)
    with replaced_file(output) as partial:
        _write(partial, grid, curves, level, arguments.broadening)
    if not arguments.quiet:
        known = f" ± {error:.4f} eV (random vectors)" if np.isfinite(error) else ""
        print(f"{output}: {len(grid)} energies, Fermi level {level:.4f} eV{known}")


def _grid(arguments: argparse.Namespace) -> np.ndarray:
    low, high = arguments.window
    if not low < high:
        raise ValueError(f"--window: expected LOW < HIGH, received {low} {high}")
    if arguments.npoints < 2:
        raise ValueError(f"--npoints: expected at least 2 energies, received {arguments.npoints}")
    if not arguments.broadening > 0:
        raise ValueError(f"--broadening: expected a positive width in eV, received {arguments.broadening}")
    return np.linspace(low, high, arguments.npoints)


def _curves(
    structure: ElectronicStructure, energies: np.ndarray, arguments: argparse.Namespace
) -> dict[str, np.ndarray]:
    """The total and what --project asks for, each (n_energies,) or (2, n_energies) for collinear spin."""
    curves: dict[str, Any] = {"total": structure.dos(energies, width=arguments.broadening)}
    if arguments.project:
        curves |= dict(structure.dos(energies, width=arguments.broadening, project=arguments.project))
    return {
        label if np.ndim(curve) == 1 else f"{label} {'up' if spin == 0 else 'down'}": part
        for label, curve in curves.items()
        for spin, part in enumerate(np.atleast_2d(curve))
    }


def _write(
    output: Path, grid: np.ndarray, curves: Mapping[str, np.ndarray], level: float, broadening: float
) -> None:
    if output.suffix == ".csv":
        from ase_deeph.cli.table import write_csv

        header = ["energy_minus_fermi_eV", *(f"{label} states_per_eV" for label in curves)]
        write_csv(output, header, zip(grid, *curves.values(), strict=True))
    elif output.suffix == ".json":
        content = {
            "energies_minus_fermi_eV": grid.tolist(),
            "dos_states_per_eV": {label: curve.tolist() for label, curve in curves.items()},
            "fermi_level_eV": level,
            "broadening_eV": broadening,
        }
        output.write_text(json.dumps(content) + "\n", encoding="utf-8")
    else:
        from ase_deeph.cli.picture import draw_dos, figure

        with figure(output) as axis:
            draw_dos(axis, grid, curves)
