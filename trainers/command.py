"""The verbs fit and evaluate: arguments in, a short table on stdout; for `deeph` and `python -m trainers`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable


def _bar(items: Iterable, label: str, total: int | None = None) -> Iterable:
    """A progress bar with ETA on a terminal, none elsewhere."""
    from tqdm import tqdm

    return tqdm(items, desc=label, total=total, disable=not sys.stderr.isatty(), leave=False)


def add_fit_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of fit."""
    parser.add_argument("config", help="config.toml")
    parser.add_argument(
        "--resume", action="store_true", help="continue the newest checkpoint of the output folder"
    )


def run_fit(args: argparse.Namespace) -> None:
    """Train, and print where the model is and how good."""
    from trainers.config import load_config
    from trainers.fit import fit

    result = fit(load_config(args.config), resume=args.resume, bar=None if args.quiet else _bar)
    sys.stdout.write(
        f"{result.model_path}: {result.reason} ({result.epochs} epochs, {result.seconds:.0f} s)\n"
        f"MAE of H: {result.errors.gauge_fixed:.3f} meV gauge-fixed, {result.errors.raw:.3f} meV raw\n"
    )


def add_evaluate_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of evaluate."""
    parser.add_argument("model", help="a model file, or a registered name")
    parser.add_argument("dataset", help="a dataset folder")
    parser.add_argument("-o", "--output", default=None, help="folder for report.json and pictures")


def run_evaluate(args: argparse.Namespace) -> None:
    """Measure a model on a dataset, and print the table."""
    from trainers.evaluate import evaluate

    report = evaluate(args.model, args.dataset, output=args.output, bar=None if args.quiet else _bar)
    sys.stdout.write(report.table() + "\n")


Verb = tuple[Callable[[argparse.ArgumentParser], None], Callable[[argparse.Namespace], None]]

VERBS: dict[str, Verb] = {
    "fit": (add_fit_arguments, run_fit),
    "evaluate": (add_evaluate_arguments, run_evaluate),
}
