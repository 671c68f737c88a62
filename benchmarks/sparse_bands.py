"""Ten bands nearest an energy at one k: our engines beside SciPy's plain eigsh, each in a process of its own.

    python benchmarks/sparse_bands.py H.npz S.npz ENERGY [--solvers pardiso superlu dense eigsh] [--states 10]

H.npz and S.npz are CSR matrices by scipy.sparse.save_npz, as `RealSpaceMatrix.at_k(k, format="csr")` gives them.
Reported per solver: CPU and wall seconds, peak memory, largest residual |H c - e S c| and, for ours, the band index
of the first state, proved by counts on both sides.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import scipy.sparse as sp


def ours(h, s, energy: float, n_states: int, engine: str) -> dict:
    """Shift-invert block Krylov with counts."""
    from ase_deeph.sparse.states import Pencil, states_near

    found = states_near(Pencil.of(h, s, engine), energy, n_states)
    return {
        "energies": found.energies.tolist(),
        "residual": float(found.residuals.max()),
        "first_band": found.first_band,
    }


def plain_eigsh(h, s, energy: float, n_states: int) -> dict:
    """scipy.sparse.linalg.eigsh(H, M=S, sigma=E), as anyone would call it."""
    from scipy.sparse.linalg import eigsh

    energies, x = eigsh(sp.csc_matrix(h), n_states, M=sp.csc_matrix(s), sigma=energy)
    order = np.argsort(energies)
    energies, x = energies[order], x[:, order]
    residual = np.linalg.norm(h @ x - (s @ x) * energies, axis=0) / np.sqrt(
        np.real(np.sum(x.conj() * (s @ x), 0))
    )
    return {"energies": energies.tolist(), "residual": float(residual.max()), "first_band": None}


def one(arguments: argparse.Namespace) -> None:
    """One solver, its result as a line of JSON."""
    h, s = sp.load_npz(arguments.h), sp.load_npz(arguments.s)
    solver = arguments.solvers[0]
    cpu, wall = time.process_time(), time.perf_counter()
    if solver == "eigsh":
        result = plain_eigsh(h, s, arguments.energy, arguments.states)
    else:
        result = ours(h, s, arguments.energy, arguments.states, solver)
    result |= {
        "solver": solver,
        "cpu_s": round(time.process_time() - cpu, 1),
        "wall_s": round(time.perf_counter() - wall, 1),
        "peak_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2),
    }
    sys.stdout.write(json.dumps(result) + "\n")


def main() -> None:
    """Every solver in a fresh process, a table at the end."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("h", type=Path)
    parser.add_argument("s", type=Path)
    parser.add_argument("energy", type=float)
    parser.add_argument("--solvers", nargs="+", default=["pardiso", "superlu", "dense", "eigsh"])
    parser.add_argument("--states", type=int, default=10)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        one(arguments)
        return
    for solver in arguments.solvers:
        command = [
            sys.executable,
            __file__,
            str(arguments.h),
            str(arguments.s),
            str(arguments.energy),
            "--one",
        ]
        command += ["--states", str(arguments.states), "--solvers", solver]
        done = subprocess.run(command, capture_output=True, text=True)
        sys.stdout.write(done.stdout if done.returncode == 0 else f"{solver}: {done.stderr.strip()[-300:]}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
