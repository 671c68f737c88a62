"""What bands, dos and fermi do with --engine: large systems by sparse matrices, resumable, with progress."""

from __future__ import annotations

import argparse
import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from ase.dft.kpoints import BandPath

    from ase_deeph.electronic_structure import ElectronicStructure
    from ase_deeph.occupation import Smearing
    from ase_deeph.sparse.bands import BandEngine, NearBands, Progress

logger = logging.getLogger(__name__)

_NEAR = 10


def add_near_options(parser: argparse.ArgumentParser) -> None:
    """--near, --engine and --ranks of `deeph bands`."""
    from ase_deeph.sparse.bands import BAND_ENGINES

    parser.add_argument(
        "--near",
        type=int,
        metavar="N",
        help="only the N states nearest the Fermi level at each k, by sparse solvers",
    )
    parser.add_argument(
        "--engine", choices=BAND_ENGINES, help="of --near (default auto); with it N is 10 where not given"
    )
    parser.add_argument("--ranks", type=int, default=2, help="processes of --engine slepc (default 2)")


def check_options(arguments: argparse.Namespace) -> None:
    """Numbers that no computation can meet, refused before one begins.

    Raises
    ------
    ValueError : --near, --ranks or --vectors too small.
    """
    least = {"near": 1, "ranks": 1, "vectors": 2}
    for name, smallest in least.items():
        received = getattr(arguments, name, None)
        if received is not None and received < smallest:
            raise ValueError(f"--{name}: expected at least {smallest}, received {received}")


def run_bands(
    structure: ElectronicStructure, path: BandPath, output: Path, arguments: argparse.Namespace
) -> None:
    """The states nearest the Fermi level along a path; finished k-points are kept until the output is written.

    Raises
    ------
    ValueError : see `ase_deeph.sparse.bands.bands_near`.
    """
    n_states = _NEAR if arguments.near is None else arguments.near
    engine: BandEngine = arguments.engine or "auto"
    level = structure.fermi_level_by_count("auto" if engine == "slepc" else engine).fermi_level
    unfinished = output.with_name(f"{output.name}.unfinished.npz")
    found = structure.eigenvalues_near(
        path,
        level,
        n_states,
        engine=engine,
        n_ranks=arguments.ranks,
        checkpoint=unfinished,
        progress=_bar("k-points", quiet=arguments.quiet),
    )
    _write(found, path, level, output, tuple(arguments.window))
    unfinished.unlink(missing_ok=True)
    if not arguments.quiet:
        first, end = found.band_range
        bands = f"bands {first} to {end - 1}" if found.counted else "without band indices (not counted)"
        worst = max(float(r.max(initial=0.0)) for row in found.residuals for r in row)
        print(
            f"{output}: {n_states} states nearest the Fermi level {level:.4f} eV at {len(found.kpts)} k-points, "
            f"{bands}, residuals below {worst:.0e} eV"
        )


def _bar(label: str, *, quiet: bool) -> Progress:
    """A bar with the time left, on a terminal."""
    import sys

    from tqdm import tqdm

    bar: Any = tqdm(desc=label, disable=quiet or not sys.stderr.isatty(), leave=False)

    def show(done: int, total: int) -> None:
        bar.total = total
        bar.update(done - bar.n)
        if done == total:
            bar.close()

    return show


def _write(found: NearBands, path: BandPath, level: float, output: Path, window: tuple[float, float]) -> None:
    """Whole or not at all; the JSON is a plain object of its own keys, not ASE's: the bands are incomplete."""
    from ase_deeph.exporters.files import replaced_file

    with replaced_file(output) as partial:
        if output.suffix == ".json":
            partial.write_text(json.dumps(_content(found, level)) + "\n", encoding="utf-8")
        elif output.suffix == ".csv":
            _write_csv(found, path, level, partial)
        else:
            _draw(found, path, level, partial, window)


def _content(found: NearBands, level: float) -> dict[str, Any]:
    """Of the JSON; the first band is null where it was not counted."""
    return {
        "kpts": found.kpts.tolist(),
        "first_band": [[n if n >= 0 else None for n in row] for row in found.first_band.tolist()],
        "energies_eV": [[e.tolist() for e in channel] for channel in found.energies],
        "residuals_eV": [[r.tolist() for r in channel] for channel in found.residuals],
        "fermi_level_eV": level,
    }


def _write_csv(found: NearBands, path: BandPath, level: float, output: Path) -> None:
    """A column for each band; of states without a band index for each place in their order at each k, "state"."""
    from ase_deeph.cli.table import write_csv

    n_spins = len(found.energies)
    if found.counted:
        numbers, word = range(*found.band_range), "band"
        lines = [found.of_band(band, spin) for spin in range(n_spins) for band in numbers]
    else:
        numbers, word = range(max(len(e) for row in found.energies for e in row)), "state"
        lines = [_in_order(row, n) for row in found.energies for n in numbers]
    header = ["distance_per_Ang", "k1", "k2", "k3"]
    header += [f"{word}{n}_spin{spin}_eV" for spin in range(n_spins) for n in numbers]
    distance = path.get_linear_kpoint_axis()[0]
    write_csv(output, header, np.column_stack([distance, found.kpts, *(line - level for line in lines)]))


def _in_order(energies: list[np.ndarray], n: int) -> np.ndarray:
    """(n_kpts,) the nth energy of each k-point, NaN where there are fewer."""
    return np.array([e[n] if n < len(e) else np.nan for e in energies])


def _draw(found: NearBands, path: BandPath, level: float, output: Path, window: tuple[float, float]) -> None:
    """Lines of the bands that were counted, points of states that were not."""
    from ase_deeph.bands import as_band_structure
    from ase_deeph.cli.picture import DOWN, PREDICTED, draw_bands, figure

    first, end = found.band_range
    bands, n_spins = range(first, max(end, first + 1)), len(found.energies)
    lines = np.array([[found.of_band(band, spin) for band in bands] for spin in range(n_spins)])
    distance = path.get_linear_kpoint_axis()[0]
    with figure(output) as axis:
        draw_bands(axis, as_band_structure(path, lines.transpose(0, 2, 1), level), window)
        for spin, color in zip(range(n_spins), (PREDICTED, DOWN), strict=False):
            for x, energies in zip(distance, found.uncounted(spin), strict=True):
                axis.plot(np.full(len(energies), x), energies - level, ".", color=color, markersize=2)


def fermi_rows(structure: ElectronicStructure) -> tuple[list[tuple[str, str]], dict[str, float]]:
    """What `deeph fermi --engine count` prints and writes."""
    found = structure.fermi_level_by_count()
    gap = found.lowest_empty - found.highest_occupied
    rows = [
        ("structure", f"{structure.atoms.get_chemical_formula()}, {len(structure.atoms)} atoms"),
        ("orbitals", f"{structure.hamiltonian.n_orbitals}"),
        ("electrons", f"{structure.n_electrons:g}"),
        ("counted", f"by {found.n_counts} factorisations, {found.n_states} states computed"),
        ("Fermi level", f"{found.fermi_level:.4f} eV"),
        ("levels beside it", f"{found.highest_occupied:.4f} and {found.lowest_empty:.4f} eV"),
    ]
    values = {
        "fermi_level": found.fermi_level,
        "homo": found.highest_occupied,
        "lumo": found.lowest_empty,
        "gap": gap,
        "n_electrons": float(structure.n_electrons or 0),
    }
    return rows, values


def moment_curves(
    structure: ElectronicStructure, grid: np.ndarray, arguments: argparse.Namespace
) -> tuple[dict[str, np.ndarray], float, float]:
    """What `deeph dos --engine kpm` shows, all of it from moments: nothing is factorised or diagonalised.

    Returns
    -------
    Curves (the total, the groups of --project, else the standard error of the total) at energies relative to the
    Fermi level, the Fermi level in eV and half the range that the random vectors leave it (NaN with --project).
    """
    from ase_deeph.dos import orbital_groups
    from ase_deeph.sparse.facade import mesh_moments
    from ase_deeph.sparse.kpm import mesh_dos, mesh_fermi_level

    h = structure.hamiltonian
    if structure.n_electrons is None:
        raise ValueError(
            "electrons: unknown for this basis, so no Fermi level; give a model or data with them"
        )
    labels: list[str] = ["total"]
    groups = None
    if arguments.project:
        labels, groups = orbital_groups(
            h.basis, structure.atoms, arguments.project, spinor=h.spin == "spinor"
        )
    if structure.symmetry == "full":
        structure = replace(structure, symmetry="time-reversal")
    smearing, width = _moment_smearing(structure, arguments.broadening)
    bar = _bar("k-points", quiet=arguments.quiet)
    found = mesh_moments(
        h, structure.overlap, structure.mesh, width, groups=groups, n_vectors=arguments.vectors, progress=bar
    )
    parts = [(spin, factor, m if groups is None else m.averaged()) for spin, factor, m in found]
    level, level_error = mesh_fermi_level(parts, float(structure.n_electrons or 0), smearing)
    curves, errors = mesh_dos(parts, structure.n_spins, grid + level, arguments.broadening)
    spins = ("",) if len(curves) == 1 else (" up", " down")
    named = {}
    for spin, word in enumerate(spins):
        if groups is not None:
            named[f"total{word}"] = curves[spin].sum(axis=0)
        named |= {f"{label}{word}": curves[spin, n] for n, label in enumerate(labels)}
        if groups is None:
            named[f"standard error{word}"] = errors[spin, 0]
    return named, level, level_error


def _moment_smearing(structure: ElectronicStructure, broadening: float) -> tuple[Smearing, float]:
    """The smearing of a Fermi level by moments, and the Gaussian width in eV that they have to resolve."""
    from ase_deeph.occupation import Smearing
    from ase_deeph.sparse.kpm import resolving_width

    smearing = Smearing.from_dict(structure.occupations)
    width = resolving_width(smearing)
    if width is None:
        smearing = Smearing("gaussian", float(np.sqrt(2)) * broadening)
        logger.warning(
            "moments resolve no step: Fermi level with the density's Gaussian of %g eV", broadening
        )
        width = resolving_width(smearing)
    assert width is not None
    return smearing, min(broadening, width)
