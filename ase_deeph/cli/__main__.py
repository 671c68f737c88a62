"""`python -m ase_deeph.cli` is the `deeph` command."""

import sys

from ase_deeph.cli import main

sys.exit(main())
