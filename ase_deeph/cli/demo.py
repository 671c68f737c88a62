"""`deeph demo`: a carbon structure that the model has not seen, predicted and compared with stored DFT."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ase import Atoms
from ase.dft.kpoints import BandPath
from ase.spectrum.band_structure import BandStructure

if TYPE_CHECKING:
    from ase_deeph.calculator import DeepHCalculator

_WINDOW = 3.0
"""eV on both sides of the Fermi level in which band errors are counted."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which model, and where to draw."""
    parser.add_argument(
        "--model", metavar="M", help="a model's name or HDF5 file (default: the one that ships)"
    )
    parser.add_argument("-o", "--output", metavar="FILE", default="deeph_demo.png", help="png, pdf or svg")


def run(arguments: argparse.Namespace) -> None:
    """Predict, compare, print a table, draw a picture.

    Raises
    ------
    ValueError : no such model, or an output that cannot be written.
    """
    from ase_deeph.calculator import DeepHCalculator
    from ase_deeph.cli.options import check_output
    from ase_deeph.cli.picture import PICTURE_SUFFIXES
    from ase_deeph.cli.table import print_rows
    from ase_deeph.pretrained import demo_bands

    output = check_output(arguments.output, PICTURE_SUFFIXES)
    stored = read_stored_bands(demo_bands())
    times: dict[str, float] = {}
    with _timed(times, "load the model"):
        filling = {"name": "fermi-dirac", "width": stored.width}
        calculator = DeepHCalculator(arguments.model, kpts=stored.mesh, occupations=filling)
    atoms = stored.atoms.copy()
    atoms.calc = calculator
    bands, grid, dos = _predict(calculator, stored, times)
    with _timed(times, "draw"):
        _draw(output, stored, bands, grid, dos)
    rows = _table(calculator, stored, bands)
    print(f"deeph demo: {stored.name}, not in the training set")
    print_rows(rows)
    if not arguments.quiet:
        print_rows([("time", ", ".join(f"{label} {seconds:.1f} s" for label, seconds in times.items()))])
    print_rows([("picture", str(output))])


@dataclass(frozen=True)
class StoredBands:
    """A structure and its DFT bands, eV on the scale of the DFT Hamiltonian; mesh and smearing (eV) of its run."""

    name: str
    engine: str
    atoms: Atoms
    bands: BandStructure
    mesh: tuple[int, ...]
    width: float


def read_stored_bands(path: Path) -> StoredBands:
    """The reference of the demo from its HDF5 file.

    Raises
    ------
    ValueError : the file is missing or damaged.
    """
    import h5py
    from ase.io import read

    try:
        with h5py.File(path, "r") as file:
            atoms: Any = read(StringIO(str(file.attrs["extxyz"])), format="extxyz")
            line = _stored_path(atoms, str(file.attrs["path"]), file["kpts"][()])
            bands = BandStructure(
                line, file["energies"][()][None], reference=float(file.attrs["fermi_level"])
            )
            name = str(file.attrs.get("name", atoms.get_chemical_formula()))
            mesh, width = tuple(int(n) for n in file.attrs["mesh"]), float(file.attrs["width"])
            return StoredBands(name, str(file.attrs["engine"]), atoms, bands, mesh, width)
    except (OSError, KeyError, TypeError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"stored DFT bands {path} cannot be read ({reason}); reinstall ase-deeph") from error


def _stored_path(atoms: Atoms, letters: str, kpts: np.ndarray) -> BandPath:
    """The path of the file; with two letters they name its ends, else special points of the lattice."""
    if len(letters) == 2:
        points = {letters[0]: kpts[0], letters[1]: kpts[-1]}
    else:
        points = atoms.cell.bandpath(npoints=0, pbc=atoms.pbc).special_points
    return BandPath(atoms.cell, kpts=kpts, special_points=points, path=letters)


def _predict(
    calculator: DeepHCalculator, stored: StoredBands, times: dict[str, float]
) -> tuple[BandStructure, np.ndarray, np.ndarray]:
    """Bands along the stored path, and the density of states on a grid relative to the Fermi level."""
    with _timed(times, "H(R)"):
        calculator.get_hamiltonian()
    with _timed(times, "S(R)"):
        calculator.get_overlap()
    with _timed(times, "Fermi level"):
        level = calculator.get_fermi_level()
    with _timed(times, "bands"):
        bands = calculator.band_structure(stored.bands.path)
    with _timed(times, "DOS"):
        grid = np.linspace(-10.0, 10.0, 801)
        dos = np.asarray(calculator.get_electronic_structure().dos(grid + level, width=0.1))
    return bands, grid, dos


def band_errors(predicted: BandStructure, reference: BandStructure) -> dict[str, float]:
    """Root mean square errors (eV) of the levels within 3 eV of the reference's Fermi level.

    "raw": as they are; "aligned": each relative to its Fermi level; "gauge-fixed": after the best constant
    shift.  "fermi": error of the Fermi level after that shift, "fermi-raw": before it.
    """
    n_bands = min(predicted.energies.shape[2], reference.energies.shape[2])
    ours, theirs = predicted.energies[..., :n_bands], reference.energies[..., :n_bands]
    counted = np.abs(theirs - reference.reference) < _WINDOW
    error = (ours - theirs)[counted]
    level_error = predicted.reference - reference.reference
    shift = float(error.mean())
    return {
        "raw": float(np.sqrt(np.mean(error**2))),
        "aligned": float(np.sqrt(np.mean((error - level_error) ** 2))),
        "gauge-fixed": float(np.sqrt(np.mean((error - shift) ** 2))),
        "fermi": float(level_error - shift),
        "fermi-raw": float(level_error),
        "n_levels": int(counted.sum()),
    }


def _table(calculator: DeepHCalculator, stored: StoredBands, bands: BandStructure) -> list[tuple[str, str]]:
    structure = calculator.get_electronic_structure()
    error = band_errors(bands, stored.bands)
    model = calculator.model
    n_overlaps = 0 if structure.overlap is None else len(structure.overlap.pairs)
    return [
        (
            "structure",
            f"{stored.atoms.get_chemical_formula()}, {structure.hamiltonian.n_orbitals} orbitals, "
            f"{structure.n_electrons:g} electrons",
        ),
        ("model", f"{model.provenance.get('name', 'unnamed')}, {model.n_parameters:,} parameters"),
        ("reference", stored.engine),
        (
            "H(R), S(R)",
            f"{len(structure.hamiltonian.pairs):,} and {n_overlaps:,} pairs of atoms",
        ),
        (
            "Fermi level",
            f"{bands.reference:.3f} eV; DFT {stored.bands.reference:.3f} eV "
            f"({1e3 * error['fermi-raw']:+.1f} meV; {1e3 * error['fermi']:+.1f} meV gauge-fixed)",
        ),
        (
            "band error",
            f"{1e3 * error['gauge-fixed']:.1f} meV RMS gauge-fixed, {1e3 * error['raw']:.1f} meV raw, "
            f"over {error['n_levels']:,} levels within {_WINDOW:g} eV of the Fermi level",
        ),
    ]


def _draw(output: Path, stored: StoredBands, bands: BandStructure, grid: np.ndarray, dos: np.ndarray) -> None:
    from ase_deeph.cli.picture import REFERENCE, draw_bands, draw_dos_beside_bands, figure

    window = (-_WINDOW, _WINDOW)
    with figure(output, 2, width=5.4, ratios=(2.2, 1.0)) as (left, right):
        draw_bands(
            left, stored.bands, window, color=REFERENCE, linewidth=2.6, label=stored.engine.split(",")[0]
        )
        draw_bands(left, bands, window, linewidth=0.9, linestyle="-", label="predicted")
        left.set_title(stored.name, fontsize=9)
        left.legend(loc="upper right", fontsize=7.5, frameon=True, framealpha=0.9, edgecolor="none")
        draw_dos_beside_bands(right, grid, dos, window)


@contextmanager
def _timed(times: dict[str, float], label: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    times[label] = time.perf_counter() - start
