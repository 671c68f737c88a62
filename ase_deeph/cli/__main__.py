"""`python -m ase_deeph.cli` is the `deeph` command."""

import sys

from ase_deeph.cli import main

if __name__ == "__main__":
    sys.exit(main())
