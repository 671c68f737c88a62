"""Time and peak memory of H(R) and S(R) of the shipped carbon model against the number of atoms.

python benchmarks/predict_scaling.py [SIZE ...] [--magic] [--edges stored|rebuilt]

Rippled graphene of about SIZE atoms (1,000, 3,000, 10,000 and 30,000 if none is named); --magic adds the twisted
bilayer of 11,164 atoms near the magic angle.  Each runs in a process of its own, with as many threads as JAX takes.
The last lines are the exponents of time and memory in the number of atoms.
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
from ase import Atoms

MAGIC = 31


def structure(n_atoms: int) -> Atoms:
    """Graphene with thermal displacements and a long ripple; n_atoms = 0: the twisted bilayer."""
    from ase.build import graphene

    from ase_deeph.dft.builders import build

    if n_atoms == 0:
        options = {"indices": [MAGIC, MAGIC - 1], "distance": 3.35}
        return build("twisted", options, np.random.default_rng(0), folder=Path(), label="magic")
    side = max(1, round((n_atoms / 2) ** 0.5))
    atoms = graphene(a=2.46, size=(side, side, 1), vacuum=10)
    waves = atoms.get_scaled_positions() @ [1.0, 0.0, 0.0]
    atoms.positions[:, 2] += 0.3 * np.sin(2 * np.pi * waves * max(1, side // 8))
    atoms.rattle(0.04, seed=0)
    return atoms


def peak_megabytes() -> float:
    """Largest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(n_atoms: int, edges: str) -> dict[str, float]:
    """Seconds and peak memory of H and of S; what is compiled is compiled before, on 300 atoms."""
    from ase_deeph.compilation_cache import compilation_cache
    from ase_deeph.pretrained import load

    model = load()
    prediction = model.large_prediction(edges=edges)  # type: ignore[arg-type]
    atoms = structure(n_atoms)
    with compilation_cache():
        prediction(structure(300))
        base = peak_megabytes()
        start, cpu = time.perf_counter(), time.process_time()
        h = prediction(atoms)
        middle, cpu = time.perf_counter(), time.process_time() - cpu
        h_peak = peak_megabytes()
        s = model.overlap(atoms)
    end = time.perf_counter()
    assert h.hermiticity_error() == 0.0
    return {
        "atoms": len(atoms),
        "pairs": len(h.pairs),
        "H_seconds": middle - start,
        "H_cpu": cpu,
        "S_seconds": end - middle,
        "ms_per_atom": 1000 * (end - start) / len(atoms),
        "H_peak_MB": h_peak - base,
        "peak_MB": peak_megabytes(),
        "result_MB": (h.entries.nbytes + s.entries.nbytes) / 2**20,
        "compilations": prediction.network.n_compilations,
    }


def exponent(sizes: list[float], values: list[float]) -> float:
    """p of value ∝ size^p."""
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


def main() -> None:
    """Every size, a table, the exponents."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sizes", nargs="*", type=int, default=[1000, 3000, 10000, 30000])
    parser.add_argument("--magic", action="store_true")
    parser.add_argument("--edges", choices=("stored", "rebuilt"), default="stored")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one is not None:
        sys.stdout.write(json.dumps(measure(options.one, options.edges)) + "\n")
        return
    rows = []
    for n, size in enumerate([*options.sizes, *([0] if options.magic else [])]):
        command = [sys.executable, __file__, "--one", str(size), "--edges", options.edges]
        row = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        if n == 0:
            sys.stdout.write("  ".join(f"{name:>12s}" for name in row) + "\n")
        sys.stdout.write("  ".join(f"{value:12.2f}" for value in row.values()) + "\n")
        sys.stdout.flush()
        rows += [row] if size else []
    if len(rows) > 1:
        sizes = [r["atoms"] for r in rows]
        times = [r["H_seconds"] + r["S_seconds"] for r in rows]
        sys.stdout.write(
            f"exponent of time {exponent(sizes, times):.2f}, of memory above the start "
            f"{exponent(sizes, [r['H_peak_MB'] for r in rows]):.2f}\n"
        )


if __name__ == "__main__":
    main()
