"""`deeph bands`: bands as a picture, JSON or CSV; those of spinors in the colours of their spin.

The JSON of all bands is ASE's of a band structure; that of --near is a plain object of its own, see `cli.sparse`.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from ase import Atoms
    from ase.dft.kpoints import BandPath
    from ase.spectrum.band_structure import BandStructure

_EYE = 1e-3
"""Of the window: levels nearer than this are one line in a picture, which shows their mean spin."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """STRUCTURE and model, the path, and where to write."""
    from ase_deeph.cli.options import add_structure_and_model
    from ase_deeph.cli.sparse import add_near_options

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
    parser.add_argument(
        "--spin",
        choices=("x", "y", "z"),
        help="component of the spin that colours a picture of spinor bands (default z); CSV files without --near have "
        "all three",
    )
    add_near_options(parser)
    parser.add_argument("-o", "--output", metavar="FILE", help="png, pdf, svg, json or csv by its suffix")


def run(arguments: argparse.Namespace) -> None:
    """Predict, diagonalise along the path, write.

    Raises
    ------
    ValueError, KeyError : bad structure, model, path or output.
    """
    from ase_deeph.bands import as_band_structure, band_path
    from ase_deeph.cli.options import output_file, structure_from
    from ase_deeph.cli.picture import PICTURE_SUFFIXES
    from ase_deeph.cli.sparse import check_options
    from ase_deeph.exporters.files import replaced_file
    from ase_deeph.spin_states import DEGENERATE, spin_states

    output = output_file(arguments, "bands", (*PICTURE_SUFFIXES, ".json", ".csv"))
    check_options(arguments)
    structure = structure_from(arguments)
    if arguments.spin is not None:
        _check_spin(structure.hamiltonian.spin, output, arguments)
    path = band_path(structure.atoms, _path(structure.atoms, arguments), arguments.npoints)
    if arguments.near is not None or arguments.engine is not None:
        from ase_deeph.cli.sparse import run_bands

        run_bands(structure, path, output, arguments)
        return
    spins = None
    if structure.hamiltonian.spin == "spinor" and output.suffix != ".json":
        low, high = arguments.window
        apart = DEGENERATE if output.suffix == ".csv" else max(_EYE * (high - low), DEGENERATE)
        states = spin_states(structure, path, degenerate=apart)
        energies, spins = states.energies, states.spins[0]
    else:
        energies = structure.eigenvalues(path)
    bands = as_band_structure(path, energies, structure.fermi_level())
    with replaced_file(output) as partial:
        if output.suffix == ".json":
            bands.write(partial)  # type: ignore[attr-defined]  # ASE's @jsonable adds it
        elif output.suffix == ".csv":
            _write_csv(bands, partial, spins)
        else:
            coloured = None if spins is None else (arguments.spin or "z", spins)
            _draw(bands, partial, tuple(arguments.window), coloured)
    if not arguments.quiet:
        _, n_kpts, n_bands = bands.energies.shape
        print(
            f"{output}: {n_bands} bands at {n_kpts} k-points along {bands.path.path or 'the path'}, "
            f"Fermi level {bands.reference:.4f} eV"
        )


def _check_spin(spin: str, output: Path, arguments: argparse.Namespace) -> None:
    """ValueError where --spin has nothing to colour."""
    from ase_deeph.cli.picture import PICTURE_SUFFIXES

    if spin != "spinor":
        raise ValueError(
            f"--spin {arguments.spin}: the Hamiltonian has spin {spin!r}, only spinor bands are coloured"
        )
    if output.suffix not in PICTURE_SUFFIXES or arguments.near is not None or arguments.engine is not None:
        raise ValueError(
            f"--spin {arguments.spin}: only pictures of whole bands are coloured, not {output.name}"
        )


def _path(atoms: Atoms, arguments: argparse.Namespace) -> BandPath | None:
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


def _write_csv(bands: BandStructure, output: Path, spins: np.ndarray | None) -> None:
    """Energies, and of spinors the three components of each band's spin."""
    from ase_deeph.cli.table import write_csv

    distance = bands.get_labels()[0]
    energies = bands.energies - bands.reference
    header = ["distance_per_Ang", "k1", "k2", "k3"]
    header += [f"band{n}_spin{s}_eV" for s in range(energies.shape[0]) for n in range(energies.shape[2])]
    columns = np.moveaxis(energies, 1, 0).reshape(len(distance), -1)
    if spins is not None:
        header += [f"band{n}_sigma_{v}" for n in range(spins.shape[1]) for v in "xyz"]
        columns = np.concatenate([columns, spins.reshape(len(distance), -1)], axis=1)
    write_csv(output, header, np.column_stack([distance, bands.path.kpts, columns]))


def _draw(
    bands: BandStructure, output: Path, window: tuple[float, float], spins: tuple[str, np.ndarray] | None
) -> None:
    """Lines, those of spinors coloured by the component of spin named."""
    from ase_deeph.cli.picture import draw_bands, draw_spin_of_bands, figure

    if not window[0] < window[1]:
        raise ValueError(f"--window: expected LOW < HIGH, received {window[0]} {window[1]}")
    with figure(output) as axis:
        if spins is None:
            draw_bands(axis, bands, window)
        else:
            component, values = spins
            draw_spin_of_bands(axis, bands, window, values[..., "xyz".index(component)], component)
