"""`deeph md`: molecular dynamics with the electronic structure of every frame, safe to kill and to resume."""

from __future__ import annotations

import argparse
import logging
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ase_deeph.cli.md_run import Run
    from ase_deeph.electronic_trajectory import ElectronicTrajectoryReader

_FORCE_FIELDS = "emt, lj:sigma=2.0,epsilon=0.3 or tblite:method=GFN1-xTB"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """STRUCTURE and model, the ensemble, what is recorded, and the folder."""
    from ase_deeph.cli.options import add_structure_and_model

    add_structure_and_model(parser)
    parser.add_argument(
        "--forcefield", metavar="F", help=f"energies and forces, where the model has none: {_FORCE_FIELDS}"
    )
    parser.add_argument(
        "--ensemble", choices=("nvt", "nve"), default="nvt", help="Langevin or Verlet (default nvt)"
    )
    parser.add_argument("--temperature", type=float, default=300.0, metavar="K", help="default 300")
    parser.add_argument(
        "--friction", type=float, default=0.01, metavar="F", help="of nvt, 1/fs (default 0.01)"
    )
    parser.add_argument("--timestep", type=float, default=0.5, metavar="FS", help="fs (default 0.5)")
    parser.add_argument("--steps", type=int, default=1000, metavar="N", help="in all (default 1000)")
    parser.add_argument(
        "--seed", type=int, default=0, metavar="S", help="of velocities and noise (default 0)"
    )
    parser.add_argument(
        "--interval", type=int, default=1, metavar="N", help="steps between frames (default 1)"
    )
    parser.add_argument(
        "--record",
        metavar="NAMES",
        default="fermi_level,gap,dos",
        help="of each frame (default fermi_level,gap,dos); also direct_gap, eigenvalues, mulliken, lowdin, bond_orders",
    )
    parser.add_argument("-o", "--output", metavar="FOLDER", required=True, help="made when absent")
    parser.add_argument(
        "--resume", action="store_true", help="continue the run in FOLDER, up to N steps in all"
    )


def run(arguments: argparse.Namespace) -> None:
    """Set up or resume, run, print a summary, draw.

    Raises
    ------
    ValueError, KeyError : bad structure, model, force field or numbers; a model without forces and no force
        field; a folder that holds a run already, or none of these settings.
    """
    from ase_deeph.cli.md_run import open_run
    from ase_deeph.cli.progress import progress
    from ase_deeph.electronic_trajectory import ElectronicTrajectoryReader

    _check(arguments)
    with _quieter_warnings(), open_run(arguments) as running:
        first, start = running.dynamics.nsteps, time.perf_counter()
        missing = arguments.steps - first
        if missing > 0 or not first:
            steps = running.dynamics.irun(max(missing, 0))
            for _ in progress(steps, "steps", quiet=arguments.quiet, total=missing + 1):
                pass
        seconds = time.perf_counter() - start
    reader = ElectronicTrajectoryReader(running.electrons_file)
    reader.plot(running.picture)
    if not arguments.quiet:
        _print_summary(arguments, running, reader, seconds / max(missing, 1))


def _check(arguments: argparse.Namespace) -> None:
    """ValueError for numbers that cannot be meant."""
    for name, lowest, unit in (("temperature", 0.0, "K"), ("friction", 0.0, "1/fs")):
        if not lowest <= getattr(arguments, name) < 1e6:
            raise ValueError(
                f"--{name}: expected a number >= 0 in {unit}, received {getattr(arguments, name)}"
            )
    if not 0 < arguments.timestep < 100:
        raise ValueError(f"--timestep: expected a positive number of fs, received {arguments.timestep}")
    for name, lowest_count in (("steps", 0), ("interval", 1), ("seed", 0)):
        if getattr(arguments, name) < lowest_count:
            raise ValueError(
                f"--{name}: expected at least {lowest_count}, received {getattr(arguments, name)}"
            )


@contextmanager
def _quieter_warnings() -> Iterator[None]:
    """Within the block a warning passes once, whatever its numbers: a run is not told the same at each step."""
    told: set[str] = set()

    def is_new(record: logging.LogRecord) -> bool:
        kind = re.sub(r"[-\d.]+", "#", record.getMessage())
        seen = kind in told
        told.add(kind)
        return not seen

    log = logging.getLogger("ase_deeph.calculator")
    log.addFilter(is_new)
    try:
        yield
    finally:
        log.removeFilter(is_new)


def _print_summary(
    arguments: argparse.Namespace, running: Run, reader: ElectronicTrajectoryReader, seconds: float
) -> None:
    from ase_deeph.cli.table import print_rows

    total = reader["energy"] + reader["kinetic_energy"]
    rows = [
        (
            "run",
            f"{running.atoms.get_chemical_formula()}, {arguments.ensemble.upper()}, {len(reader)} frames",
        ),
        ("time", f"{reader['time'][-1]:g} fs, {seconds:.2f} s per step"),
        ("temperature", f"{reader['temperature'].mean():.0f} K (mean)"),
    ]
    if arguments.ensemble == "nve" and len(reader) > 1:
        drift = (total[-1] - total[0]) / len(running.atoms) / (reader["time"][-1] - reader["time"][0])
        rows.append(("drift", f"{1e6 * drift:+.3f} meV per atom and ps"))
    for name, label in (("gap", "gap"), ("fermi_level", "Fermi level")):
        if name in reader:
            rows.append((label, f"{reader[name].mean():.4f} ± {reader[name].std():.4f} eV"))
    print_rows([*rows, ("files", ", ".join(str(f) for f in running.files))])


def folder_of(arguments: argparse.Namespace) -> Path:
    """The folder of -o; ValueError when it is a file, or its own folder is missing."""
    folder = Path(arguments.output)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"-o {folder}: expected a folder, found a file of that name")
    if not folder.absolute().parent.is_dir():
        raise ValueError(f"-o {folder}: the folder {folder.absolute().parent} does not exist")
    return folder
