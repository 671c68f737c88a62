"""`deeph predict` of many structures: one folder each, over workers or one after the other, told at the end."""

from __future__ import annotations

import argparse
import sys
from collections import Counter

SOME_FAILED = 3
"""Exit status where some structures failed; the folders of the others are kept."""


def add_many_arguments(parser: argparse.ArgumentParser) -> None:
    """--all, --workers, --scheduler and --retries."""
    many = parser.add_argument_group(
        "many structures",
        "STRUCTURE is a folder, a packed dataset or a trajectory; each goes to its own folder in -o, and what is "
        "there and complete is left alone. With Dask (pip install 'ase-deeph[workflow]') several at a time.",
    )
    many.add_argument("--all", action="store_true", help="every frame of a trajectory, not the last one")
    many.add_argument("--workers", type=int, metavar="N", help="that many processes on this machine")
    many.add_argument("--scheduler", metavar="ADDRESS", help="of a running Dask cluster (tcp://host:8786)")
    many.add_argument(
        "--retries", type=int, default=2, metavar="N", help="further tries after a failure (default 2)"
    )


def are_many(arguments: argparse.Namespace) -> bool:
    """Whether the command line speaks of many structures."""
    from ase_deeph.workflow.structures import holds_many

    told = arguments.all or arguments.workers is not None or arguments.scheduler is not None
    return told or holds_many(arguments.structure)


def predict_many(arguments: argparse.Namespace) -> int:
    """Predict all, say what failed, and return the exit status.

    Raises
    ------
    ValueError, ModuleNotFoundError : no structures, no such model or scheduler, or no Dask.
    """
    from ase_deeph.cli.options import parse_kpts
    from ase_deeph.cli.progress import progress
    from ase_deeph.workflow import Settings, Workers, named_structures, predict_all

    structures = named_structures(arguments.structure)
    settings = Settings(
        model=arguments.model,
        dtype=arguments.dtype,
        device=arguments.device,
        kpts=None if arguments.kpts is None else parse_kpts(arguments.kpts),
        occupations={"name": arguments.smearing, "width": arguments.width},
    )
    outcomes = predict_all(
        structures.items(),
        arguments.output,
        settings,
        workers=Workers(arguments.workers, arguments.scheduler),
        retries=arguments.retries,
    )
    found = list(progress(outcomes, "structures", quiet=arguments.quiet, total=len(structures)))
    count = Counter(outcome.status for outcome in found)
    for outcome in found:
        if outcome.status == "failed":
            sys.stderr.write(f"deeph: {outcome.name}: {outcome.reason}\n")
    if not arguments.quiet:
        print(
            f"{arguments.output}: {count['done']} structures written, {count['there']} were there, "
            f"{count['failed']} failed"
        )
    return SOME_FAILED if count["failed"] else 0
