"""The states nearest an energy by SLEPc on several processes, started with mpirun.

H and S go to the processes as plain .npy files in a temporary folder, of which each process maps only its rows; the
worker, `slepc_worker.py`, needs nothing but numpy, petsc4py and slepc4py, so that it may run under another Python
than this one: Debian's packages serve the system's. Settings by environment variables:

ASE_DEEPH_SLEPC_PYTHON   the Python with slepc4py (default: this one, or /usr/bin/python3 where this has none)
ASE_DEEPH_MPIRUN         the launcher and its options (default: mpirun)
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from ase_deeph.sparse.states import Pencil, States

_WORKER = Path(__file__).with_name("slepc_worker.py")
_SYSTEM_PYTHON = "/usr/bin/python3"
_REMEDY = "install it with: apt install python3-slepc4py (Debian, Ubuntu) or conda install slepc4py"


def states_by_slepc(pencil: Pencil, energy: float, n_states: int, *, n_ranks: int = 2) -> States:
    """The n states nearest an energy; their index from the inertia that MUMPS counts, -1 where it cannot.

    Raises
    ------
    ModuleNotFoundError : no mpirun, or no Python with slepc4py.
    ValueError : the processes ended with an error (one of them killed, out of memory), or found too few states.
    """
    n = pencil.h.shape[0]
    if not 1 <= n_states <= n or n_ranks < 1:
        raise ValueError(
            f"slepc: expected 1 to {n} states and at least one rank, received {n_states}, {n_ranks}"
        )
    command = [*_launcher(), "-n", str(n_ranks), slepc_python(), str(_WORKER)]
    with tempfile.TemporaryDirectory(prefix="deeph-slepc-") as name:
        folder = Path(name)
        _write(folder, pencil)
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [*command, str(folder), repr(float(energy)), str(n_states)],
            capture_output=True, text=True, env=environment,
        )  # fmt: skip
        if done.returncode != 0 or not (folder / "energies.npy").exists():
            raise ValueError(_failure(done.returncode, done.stderr, n_ranks))
        energies, x, residuals, counts = (
            np.load(folder / f"{part}.npy") for part in ("energies", "vectors", "residuals", "count")
        )
    return States(energies, x, residuals, int(counts[0]))


def slepc_python() -> str:
    """The Python that has slepc4py.

    Raises
    ------
    ModuleNotFoundError : none has.
    """
    named = os.environ.get("ASE_DEEPH_SLEPC_PYTHON")
    if named:
        return named
    if find_spec("slepc4py") is not None:
        return sys.executable
    if Path(_SYSTEM_PYTHON).exists():
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        probe = [_SYSTEM_PYTHON, str(_WORKER), "--probe"]
        if subprocess.run(probe, capture_output=True, env=environment).returncode == 0:
            return _SYSTEM_PYTHON
    raise ModuleNotFoundError(f"the engine slepc needs slepc4py; {_REMEDY}", name="slepc4py")


def _launcher() -> list[str]:
    words = shlex.split(os.environ.get("ASE_DEEPH_MPIRUN", "mpirun"))
    if not words or shutil.which(words[0]) is None:
        raise ModuleNotFoundError(
            f"the engine slepc needs {words[:1]}; install an MPI with it", name="mpirun"
        )
    return words


def _write(folder: Path, pencil: Pencil) -> None:
    for name, matrix in (("h", pencil.h), ("s", pencil.s)):
        for part in ("indptr", "indices", "data"):
            np.save(folder / f"{name}_{part}.npy", getattr(matrix, part))


def _failure(status: int, errors: str, n_ranks: int) -> str:
    lines = [line.strip() for line in errors.splitlines() if line.strip(" -*")]
    killed = "signal 9" in errors or "Killed" in errors
    reason = (
        "one of them was killed (signal 9; out of memory?)"
        if killed
        else next((x for x in lines if "rror" in x), "")[:300]
    )
    return (
        f"slepc: the {n_ranks} processes ended with status {status}: {reason or 'no message'}; "
        "k-points already finished are kept, run the same command to go on"
    )
