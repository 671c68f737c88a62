"""What bands, dos and fermi do with --engine: large systems by sparse matrices, resumable, with progress."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from ase.dft.kpoints import BandPath

    from ase_deeph.electronic_structure import ElectronicStructure
    from ase_deeph.sparse.bands import BandEngine, NearBands, Progress

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
        worst = max(float(r.max(initial=0.0)) for row in found.residuals for r in row)
        print(
            f"{output}: {n_states} states nearest the Fermi level {level:.4f} eV at {len(found.kpts)} k-points, "
            f"bands {first} to {end - 1}, residuals below {worst:.0e} eV"
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
    from ase_deeph.bands import as_band_structure

    first, end = found.band_range
    n_spins = len(found.energies)
    lines = np.array([[found.of_band(band, spin) for band in range(first, end)] for spin in range(n_spins)])
    if output.suffix == ".json":
        content = {
            "kpts": found.kpts.tolist(),
            "first_band": found.first_band.tolist(),
            "energies_eV": [[e.tolist() for e in channel] for channel in found.energies],
            "residuals_eV": [[r.tolist() for r in channel] for channel in found.residuals],
            "fermi_level_eV": level,
        }
        output.write_text(json.dumps(content) + "\n", encoding="utf-8")
    elif output.suffix == ".csv":
        from ase_deeph.cli.table import write_csv

        header = ["distance_per_Ang", "k1", "k2", "k3"]
        header += [f"band{band}_spin{spin}_eV" for spin in range(n_spins) for band in range(first, end)]
        columns = lines.reshape(-1, len(found.kpts)).T - level
        distance = path.get_linear_kpoint_axis()[0]
        write_csv(output, header, np.column_stack([distance, found.kpts, columns]))
    else:
        from ase_deeph.cli.picture import draw_bands, figure

        with figure(output) as axis:
            draw_bands(axis, as_band_structure(path, lines.transpose(0, 2, 1), level), window)


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
    structure: ElectronicStructure, energies: np.ndarray, arguments: argparse.Namespace
) -> dict[str, np.ndarray]:
    """Curves of `deeph dos --engine kpm`: the total, the groups of --project, and the standard error of the total."""
    from ase_deeph.dos import orbital_groups

    h = structure.hamiltonian
    labels: list[str] = ["total"]
    groups = None
    if arguments.project:
        labels, groups = orbital_groups(
            h.basis, structure.atoms, arguments.project, spinor=h.spin == "spinor"
        )
    curves, errors = structure.dos_by_moments(
        energies,
        arguments.broadening,
        groups=groups,
        n_vectors=arguments.vectors,
        progress=_bar("k-points", quiet=arguments.quiet),
    )
    spins = ("",) if len(curves) == 1 else (" up", " down")
    named = {}
    for spin, word in enumerate(spins):
        if groups is not None:
            named[f"total{word}"] = curves[spin].sum(axis=0)
        named |= {f"{label}{word}": curves[spin, n] for n, label in enumerate(labels)}
        if groups is None:
            named[f"standard error{word}"] = errors[spin, 0]
    return named
