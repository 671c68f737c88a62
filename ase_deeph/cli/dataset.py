"""`deeph dataset`: generate reference data from a recipe, or say what a recipe would generate."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Action, recipe, and where and how to compute."""
    parser.add_argument(
        "action", choices=("generate", "list"), help="compute the structures, or only list them"
    )
    parser.add_argument("recipe", metavar="RECIPE", help="TOML file, see examples/carbon")
    parser.add_argument("-o", "--output", metavar="FOLDER", help="root of the data set (generate)")
    parser.add_argument("--engine", choices=("gpaw", "pyscf"), help="instead of the recipe's engine")
    parser.add_argument(
        "--workers", type=int, default=1, metavar="N", help="processes, one core each (default 1)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Generate or list.

    Returns
    -------
    0, or 1 when a calculation failed (each is named on stderr).

    Raises
    ------
    ValueError, FileNotFoundError : a bad recipe, or a folder that holds another data set.
    """
    from ase_deeph.dft.recipe import read_recipe

    recipe = read_recipe(arguments.recipe)
    if arguments.action == "list":
        for sample in recipe.samples():
            print(f"{sample.id:28s} {len(sample.atoms()):4d} atoms")
        return 0
    if arguments.output is None:
        raise ValueError("deeph dataset generate: expected -o FOLDER, the root of the data set")
    from ase_deeph.dft.generate import generate

    report = generate(
        recipe,
        Path(arguments.output),
        engine=arguments.engine,
        n_workers=arguments.workers,
        progress=not arguments.quiet,
    )
    for name, reason in report.failed.items():
        sys.stderr.write(f"deeph: {name} failed: {reason}\n")
    if not arguments.quiet:
        print(
            f"{arguments.output}: {len(report.computed)} computed, {len(report.found)} were there, "
            f"{len(report.failed)} failed"
        )
    return 1 if report.failed else 0
