"""`deeph predict` by several processes together: each is started with the same command and a number of its own."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_host_arguments(parser: argparse.ArgumentParser) -> None:
    """--coordinator, --process-id and --num-processes, as `deeph train` has them."""
    several = parser.add_argument_group(
        "one structure by several processes, each started with the same words"
    )
    several.add_argument(
        "--coordinator", metavar="HOST:PORT", help='of process 0, or "auto" under Slurm or MPI'
    )
    several.add_argument("--process-id", type=int, metavar="I", help="0, 1, ...")
    several.add_argument("--num-processes", type=int, metavar="N", help="how many there are")


def predict_together(arguments: argparse.Namespace) -> None:
    """Predict and write this process' part of the folder.

    Raises
    ------
    ValueError, KeyError : bad structure or model, or processes that do not find each other.
    OSError : the folder cannot be written, or another process failed.
    """
    from ase_deeph.processes import is_first_process, join_processes, together

    join_processes(arguments.coordinator, arguments.process_id, arguments.num_processes)

    from ase_deeph.cli.options import structure_at
    from ase_deeph.cli.progress import progress_of_large_structures
    from ase_deeph.compilation_cache import compilation_cache
    from ase_deeph.hosts import own_devices, predict_rows
    from ase_deeph.io.deeph_rows import write_deeph_rows
    from ase_deeph.pretrained import load

    with together("start"):
        atoms, model = structure_at(arguments.structure), load(arguments.model)
        prediction = model.large_prediction(devices=own_devices(arguments.device))
    first = is_first_process()
    with progress_of_large_structures(quiet=arguments.quiet or not first), compilation_cache():
        rows = predict_rows(model, atoms, dtype=arguments.dtype, prediction=prediction)
    n_pairs = write_deeph_rows(Path(arguments.output), rows)
    if first and not arguments.quiet:
        n_orbitals = model.basis.n_orbitals(atoms.get_chemical_symbols())
        print(
            f"{arguments.output}: H(R) and S(R) on {n_pairs} pairs, {n_orbitals} orbitals; Fermi level left out "
            "(deeph fermi --engine count finds it)"
        )
