"""The verbs fit and evaluate: arguments in, a short table on stdout; for `deeph` and `python -m trainers`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trainers.config import TrainingConfig


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
    parser.add_argument(
        "--dry-run", action="store_true", help="print parameters, memory and time per epoch; write nothing"
    )
    parser.add_argument(
        "--committee", type=int, default=None, metavar="N", help="train N models, seed by seed"
    )
    several = parser.add_argument_group("several processes, each started with the same config")
    several.add_argument(
        "--coordinator", metavar="HOST:PORT", help='of process 0, or "auto" under Slurm or MPI'
    )
    several.add_argument("--process-id", type=int, metavar="I", help="0, 1, ...")
    several.add_argument("--num-processes", type=int, metavar="N", help="how many there are")


def _config(args: argparse.Namespace) -> TrainingConfig:
    """The config with what the command line says."""
    from trainers.config import load_config

    config = load_config(args.config)
    if args.committee is None:
        return config
    if args.committee < 1:
        raise ValueError(f"--committee: expected at least 1, received {args.committee}")
    training = config.training.model_copy(update={"committee": args.committee})
    return config.model_copy(update={"training": training})


def run_fit(args: argparse.Namespace) -> None:
    """Train, and print where each model is and how good; or print what training would cost."""
    from ase_deeph.processes import is_first_process, join_processes

    config, bar = _config(args), None if args.quiet else _bar
    if args.coordinator is None and (args.process_id is not None or args.num_processes is not None):
        raise ValueError(
            "--process-id and --num-processes need --coordinator HOST:PORT; without it every process would train "
            "alone into the same output"
        )
    if args.coordinator is not None:
        join_processes(args.coordinator, args.process_id, args.num_processes)
    if args.dry_run:
        from trainers.dryrun import dry_run

        sys.stdout.write(dry_run(config, bar).table() + "\n")
        return
    if config.training.committee > 1:
        from trainers.committee import fit_committee

        results = fit_committee(config, resume=args.resume, bar=bar)
    else:
        from trainers.fit import fit

        results = [fit(config, resume=args.resume, bar=bar)]
    for result in results if is_first_process() else []:
        sys.stdout.write(
            f"{result.model_path}: {result.reason} ({result.epochs} epochs, {result.seconds:.0f} s, "
            f"{result.structures_per_second:.3g} structures/s, host wait {100 * result.host_wait:.1f} %, "
            f"peak memory {result.peak_memory / 2**30:.2f} GiB)\n"
            f"{result.errors}\n"
        )


def add_evaluate_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of evaluate."""
    parser.add_argument("model", help="a model file, or a registered name")
    parser.add_argument("dataset", help="a dataset folder, or a packed file")
    parser.add_argument(
        "-o", "--output", default=None, help="folder for the page, the numbers and the figures"
    )
    parser.add_argument(
        "--model",
        dest="more",
        action="append",
        default=[],
        metavar="M",
        help="a further member of a committee",
    )
    parser.add_argument(
        "--log",
        action="append",
        default=[],
        metavar="CSV",
        help="log.csv of a training, for its learning curve",
    )


def run_evaluate(args: argparse.Namespace) -> None:
    """Measure a model, or a committee, on a dataset, and print the table."""
    from trainers.evaluate import evaluate

    report = evaluate(
        [args.model, *args.more],
        args.dataset,
        output=args.output,
        kpts=getattr(args, "kpts", None),
        logs=args.log,
        bar=None if args.quiet else _bar,
    )
    sys.stdout.write(report.table() + "\n")


Verb = tuple[Callable[[argparse.ArgumentParser], None], Callable[[argparse.Namespace], None]]

VERBS: dict[str, Verb] = {
    "fit": (add_fit_arguments, run_fit),
    "evaluate": (add_evaluate_arguments, run_evaluate),
}
