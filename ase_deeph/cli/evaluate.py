"""`deeph evaluate MODEL DATASET [-o DIR]`: errors of a model or a committee on a dataset, and a report."""

from __future__ import annotations

import argparse
import sys

from ase_deeph.cli.options import parse_kpts
from ase_deeph.cli.progress import progress


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the verb."""
    parser.add_argument(
        "model", metavar="MODEL", help="a model file, or a registered name (see deeph models)"
    )
    parser.add_argument("dataset", metavar="DATASET", help="a dataset folder or packed file, with H and S")
    parser.add_argument(
        "-o", "--output", metavar="DIR", help="folder for the page index.html, metrics.json, structures.csv"
    )
    parser.add_argument(
        "--model",
        dest="further_models",
        metavar="M",
        action="append",
        default=[],
        help="a further member of a committee, whose mean and spread are measured; may be repeated",
    )
    parser.add_argument(
        "--log",
        dest="logs",
        metavar="CSV",
        action="append",
        default=[],
        help="log.csv of the training (default: that beside the model's file); may be repeated",
    )
    parser.add_argument("--kpts", metavar="K", help="mesh N1,N2,N3 or density per Å^-1 (default 2.5)")


def run(args: argparse.Namespace) -> int:
    """Measure, print the table; ValueError, KeyError or OSError for a bad model or dataset."""
    from trainers.evaluate import evaluate

    report = evaluate(
        [args.model, *args.further_models],
        args.dataset,
        output=args.output,
        kpts=None if args.kpts is None else parse_kpts(args.kpts),
        logs=args.logs,
        bar=lambda items, label, total: progress(items, label, quiet=args.quiet, total=total),
    )
    sys.stdout.write(report.table() + "\n")
    if args.output is not None:
        sys.stdout.write(f"  page: {args.output}/index.html\n")
    return 0
