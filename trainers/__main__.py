"""`python -m trainers fit CONFIG [--resume]` and `python -m trainers evaluate MODEL DATASET`."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence

from trainers import command

BAD_INPUT = 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run a verb; 0 on success, 2 with one line on stderr for bad input."""
    parser = argparse.ArgumentParser(prog="python -m trainers")
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb, (add_arguments, _) in command.VERBS.items():
        options = verbs.add_parser(verb)
        add_arguments(options)
        options.add_argument("--quiet", action="store_true")
        options.add_argument("--debug", action="store_true")
    args = parser.parse_args(argv)
    logging.basicConfig(format="%(message)s", level=logging.WARNING, stream=sys.stderr)
    logging.getLogger("trainers").setLevel(logging.ERROR if args.quiet else logging.INFO)
    try:
        command.VERBS[args.verb][1](args)
    except (ValueError, KeyError, OSError) as error:
        if args.debug:
            raise
        line = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
        sys.stderr.write(f"trainers: error: {' '.join(line.split())}\n")
        return BAD_INPUT
    return 0


if __name__ == "__main__":
    sys.exit(main())
