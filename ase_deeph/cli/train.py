"""`deeph train CONFIG.toml [--resume | --dry-run]`: train a model; the work is done by the package trainers."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the verb."""
    from trainers.command import add_fit_arguments

    add_fit_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Train; ValueError or KeyError for a bad config or dataset, OSError for a folder that cannot be written."""
    from trainers.command import run_fit

    run_fit(args)
    return 0
