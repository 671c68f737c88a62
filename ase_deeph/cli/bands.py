"""`deeph bands`: the band structure of a structure as a picture, ASE's JSON or CSV."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """STRUCTURE and model, the path, and where to write."""
    from ase_deeph.cli.options import add_structure_and_model

    add_structure_and_model(parser)
    parser.add_argument("--path", metavar="GMKG", help="special points (default: ASE's path of the lattice)")
    parser.add_argument("--npoints", type=int, default=100, help="k-points along the path (default 100)")
    parser.add_argument(
        "--window",
        type=float,
        nargs=2,
        default=(-10.0, 10.0),
        metavar=("LOW", "HIGH"),
        help="energies shown, eV relative to the Fermi level",
    )
    parser.add_argument("-o", "--output", metavar="FILE", help="png, pdf, svg, json or csv by its suffix")


def run(arguments: argparse.Namespace) -> None:
    """Predict, diagonalise along the path, write.

    Raises
    ------
    ValueError, KeyError : bad structure, model, path or output.
    """
    from ase_deeph.cli.options import calculator_from, output_file
    from ase_deeph.cli.picture import PICTURE_SUFFIXES

    output = output_file(arguments, "bands", (*PICTURE_SUFFIXES, ".json", ".csv"))
    atoms, calculator = calculator_from(arguments)
    bands = calculator.band_structure(_path(atoms, arguments), npoints=arguments.npoints)
    if output.suffix == ".json":
        bands.write(output)  # type: ignore[attr-defined]  # ASE's @jsonable adds it
    elif output.suffix == ".csv":
        _write_csv(bands, output)
    else:
        _draw(bands, output, tuple(arguments.window))
    if not arguments.quiet:
        _, n_kpts, n_bands = bands.energies.shape
        print(
            f"{output}: {n_bands} bands at {n_kpts} k-points along {bands.path.path or 'the path'}, "
            f"Fermi level {bands.reference:.4f} eV"
        )


def _path(atoms, arguments: argparse.Namespace):
    if not atoms.pbc.any():
        raise ValueError(
            f"{arguments.structure}: no periodic axis, so no bands; use `deeph fermi` or `deeph dos`"
        )
    if arguments.npoints < 1:
        raise ValueError(f"--npoints: expected at least one k-point, received {arguments.npoints}")
    if arguments.path is None:
        return None
    try:
        return atoms.cell.bandpath(arguments.path, npoints=arguments.npoints, pbc=atoms.pbc)
    except (KeyError, ValueError) as error:
        known = ", ".join(atoms.cell.bandpath(npoints=0, pbc=atoms.pbc).special_points)
        raise ValueError(
            f"--path {arguments.path}: {error}; the special points of this cell are {known}"
        ) from error


def _write_csv(bands, output: Path) -> None:
    from ase_deeph.cli.table import write_csv

    distance = bands.get_labels()[0]
    energies = bands.energies - bands.reference
    header = ["distance_per_Ang", "k1", "k2", "k3"]
    header += [f"band{n}_spin{s}_eV" for s in range(energies.shape[0]) for n in range(energies.shape[2])]
    rows = ([distance[k], *bands.path.kpts[k], *energies[:, k].ravel()] for k in range(len(distance)))
    write_csv(output, header, rows)


def _draw(bands, output: Path, window: tuple[float, float]) -> None:
    from ase_deeph.cli.picture import draw_bands, figure

    if not window[0] < window[1]:
        raise ValueError(f"--window: expected LOW < HIGH, received {window[0]} {window[1]}")
    with figure(output) as axis:
        draw_bands(axis, bands, window)
