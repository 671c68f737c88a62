"""The `deeph` command: one verb per file, each imported only when it is called."""

from __future__ import annotations

import argparse
import logging
import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from ase_deeph import __version__
from ase_deeph.cli.errors import explain

INTERRUPTED = 130
BAD_INPUT = 2
INTERNAL_ERROR = 1

VERBS = {
    "demo": "predict a carbon structure with the model that ships, against stored DFT",
    "bands": "band structure of a structure, as a picture, JSON or CSV",
    "dos": "density of states, as a picture, JSON or CSV",
    "fermi": "Fermi level, gap and electron count of a structure",
    "predict": "H(R) and S(R) of a structure, or of each of many, in the DeepH format",
    "md": "molecular dynamics with gap, Fermi level and more of each frame",
    "transport": "transmission of a device between leads, as a table and a picture",
    "models": "the named models, and where each comes from",
    "dataset": "generate reference DFT data",
    "train": "train a model from a config.toml",
    "evaluate": "errors of a model on a dataset",
    "convert": "output of a DFT code, as a folder of the DeepH format",
    "doctor": "what is wrong with folders of reference data",
}


class _Parser(argparse.ArgumentParser):
    """argparse, with one line instead of a page of usage on an error."""

    def error(self, message: str) -> None:  # type: ignore[override]
        self.exit(BAD_INPUT, f"{self.prog}: error: {' '.join(message.split())} (see {self.prog} --help)\n")


def common_options(*, on_verb: bool) -> argparse.ArgumentParser:
    """The options every verb takes; on the verb they leave alone what stood before it."""
    default = argparse.SUPPRESS if on_verb else False
    parent = argparse.ArgumentParser(add_help=False)
    parent.add_argument(
        "--quiet", action="store_true", default=default, help="no progress bars, results only"
    )
    parent.add_argument("--debug", action="store_true", default=default, help="full log and tracebacks")
    parent.add_argument("--version", action="version", version=f"deeph {__version__}")
    return parent


def _build_parser(arguments: Sequence[str]) -> argparse.ArgumentParser:
    """The parser of all verbs; only the verb that is called is imported."""
    parser = _Parser(
        prog="deeph",
        description="Deep-learning DFT Hamiltonians: H(R), S(R), bands, Fermi levels.",
        parents=[common_options(on_verb=False)],
    )
    verbs: Any = parser.add_subparsers(dest="verb", metavar="VERB", parser_class=_Parser)
    called = next((a for a in arguments if not a.startswith("-")), None)
    for verb, summary in VERBS.items():
        options = verbs.add_parser(
            verb, help=summary, description=f"{summary}.", parents=[common_options(on_verb=True)]
        )
        if verb == called:
            import_module(f"ase_deeph.cli.{verb}").add_arguments(options)
    return parser


def _set_up_logging(arguments: argparse.Namespace) -> None:
    level = logging.DEBUG if arguments.debug else logging.ERROR if arguments.quiet else logging.WARNING
    logging.basicConfig(format="deeph: %(message)s", level=logging.WARNING, stream=sys.stderr)
    logging.getLogger("ase_deeph").setLevel(level)
    logging.captureWarnings(True)
    if not arguments.debug:
        logging.getLogger("py.warnings").setLevel(logging.ERROR)
        warnings.simplefilter("ignore", DeprecationWarning)


def _run(arguments: Sequence[str]) -> int:
    parser = _build_parser(arguments)
    parsed = parser.parse_args(arguments)
    if parsed.verb is None:
        parser.print_help()
        return 0
    _set_up_logging(parsed)
    return import_module(f"ase_deeph.cli.{parsed.verb}").run(parsed) or 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status.

    0 success, 2 bad input (one line on stderr), 1 an error of ours, 3 where some of many structures failed,
    130 interrupted; tracebacks with --debug.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    try:
        status = _run(arguments)
        sys.stdout.flush()
        return status
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else BAD_INPUT if stop.code else 0
    except KeyboardInterrupt:
        sys.stderr.write("deeph: interrupted\n")
        return INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()
        return 0
    except Exception as error:
        if debug:
            raise
        line, is_users = explain(error)
        sys.stderr.write(f"deeph: error: {line}\n")
        return BAD_INPUT if is_users else INTERNAL_ERROR
