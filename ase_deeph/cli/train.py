"""`deeph train CONFIG.toml [--resume]`: train a model; the work is done by the package trainers."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the verb."""
    parser.add_argument("config", help="config.toml")
    parser.add_argument(
        "--resume", action="store_true", help="continue the newest checkpoint of the output folder"
    )


def run(args: argparse.Namespace) -> int:
    """Train; ValueError or KeyError for a bad config or dataset."""
    from trainers.command import run_fit

    run_fit(args)
    return 0
