"""A PEP 517 backend that builds Kwant's own source release against NumPy 2.

Kwant 1.5.0 is published as sources only, with C files that Cython made before NumPy 2; they have to be made anew,
and its setup imports NumPy without saying so.  This backend has both in its build requirements and asks for
`--cython`.  Nothing of Kwant is changed; MUMPS is used where the build finds its headers
(Debian: libmumps-scotch-dev), else Kwant solves with SciPy's SuperLU.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

REQUIREMENT = "kwant==1.5.0"


def build_wheel(
    wheel_directory: str, config_settings: dict[str, Any] | None = None, metadata_directory: str | None = None
) -> str:
    """Build the wheel into wheel_directory and return its file name."""
    target = Path(wheel_directory)
    before = set(target.glob("*.whl"))
    options = ["--no-deps", "--no-binary", "kwant", "--use-pep517", "--no-build-isolation"]
    cython = "--config-settings=--build-option=--cython"
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", REQUIREMENT, *options, cython, "-w", wheel_directory],
        check=True,
    )
    (made,) = set(target.glob("*.whl")) - before
    return made.name


def build_sdist(sdist_directory: str, config_settings: dict[str, Any] | None = None) -> str:
    """There is nothing of our own to pack."""
    raise NotImplementedError("this folder only builds Kwant's wheel; take the sources from Kwant's release")
