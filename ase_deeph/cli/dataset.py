"""`deeph dataset ACTION`: make reference data, choose what to compute next, look at data, check and pack them."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

_ROOTS = "folders of structures (or of a dft/ folder) and packed files"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """One subparser per action."""
    from ase_deeph.cli import common_options, dataset_rank
    from ase_deeph.dft.recipe import ENGINES

    actions: Any = parser.add_subparsers(dest="action", metavar="ACTION", required=True)

    def add(name: str, text: str) -> argparse.ArgumentParser:
        return actions.add_parser(
            name, help=text, description=f"{text}.", parents=[common_options(on_verb=True)]
        )

    generate = add("generate", "compute the structures of a recipe")
    listing = add("list", "say what a recipe would generate")
    for recipe in (generate, listing):
        recipe.add_argument("recipe", metavar="RECIPE", help="TOML file, see examples/carbon")
    generate.add_argument("-o", "--output", metavar="FOLDER", help="root of the data set")
    generate.add_argument("--engine", choices=ENGINES, help="instead of the recipe's engine")
    generate.add_argument(
        "--workers", type=int, default=1, metavar="N", help="processes, one core each (default 1)"
    )
    dataset_rank.add_arguments(add("rank", "candidates by the disagreement of a committee, for DFT"))
    info = add("info", "sizes, species, shells and ranges")
    pack = add("pack", "write or continue one packed HDF5 file")
    split = add("split", "training and validation names, stable by their hash")
    check = add("check", "examine every structure, verify checksums, find duplicates")
    plot = add("plot", "a picture of sizes, distances and ranges")
    for action in (info, pack, split, check, plot):
        action.add_argument("roots", metavar="DATASET", nargs="+", help=_ROOTS)
    info.add_argument("--json", action="store_true", help="print JSON")
    pack.add_argument("-o", "--output", metavar="FILE", required=True, help="a .h5 file, made or continued")
    pack.add_argument(
        "--dtype", choices=("float32", "float64"), help="precision of H and S (default float64)"
    )
    pack.add_argument("--compression", choices=("gzip", "lzf", "none"), default="gzip", help="default gzip")
    split.add_argument("--fraction", type=float, default=0.1, help="share held out (default 0.1)")
    split.add_argument("-o", "--output", metavar="FILE", help="also write the names as JSON")
    check.add_argument("--no-duplicates", action="store_true", help="do not compare structures")
    plot.add_argument("-o", "--output", metavar="FILE", default="dataset.png", help=".png, .pdf or .svg")


def run(arguments: argparse.Namespace) -> int:
    """Do the action.

    Returns
    -------
    0, or 1 when a calculation failed or `check` found a fault (each is named).

    Raises
    ------
    ValueError, FileNotFoundError : a bad recipe or dataset, or a folder that holds another data set.
    """
    if arguments.action in ("generate", "list"):
        return _generate(arguments)
    from ase_deeph.cli import dataset_rank, dataset_tools

    if arguments.action == "rank":
        return dataset_rank.run(arguments)
    return getattr(dataset_tools, arguments.action)(arguments)


def _generate(arguments: argparse.Namespace) -> int:
    """Generate or list the structures of a recipe."""
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
