"""`deeph evaluate MODEL DATASET [-o DIR]`: errors of a model on a dataset; done by the package trainers."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the verb."""
    parser.add_argument("model", help="a model file, or a registered name (see deeph models)")
    parser.add_argument("dataset", help="a dataset folder made by `deeph dataset generate`")
    parser.add_argument("-o", "--output", default=None, help="folder for report.json and pictures")


def run(args: argparse.Namespace) -> int:
    """Measure; ValueError, KeyError or OSError for a bad model or dataset."""
    from trainers.command import run_evaluate

    run_evaluate(args)
    return 0
