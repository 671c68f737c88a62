"""Time and peak memory of S(R) from two-centre integrals against the number of atoms (graphene, GPAW basis).

Each size runs in a process of its own.  Run as
`python benchmarks/overlap_scaling.py [SIZE ...] [--shells 0 1 4]`.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import h5py

DATA = Path(__file__).parents[1] / "tests" / "data" / "gpaw_overlap.h5"


def measure(n_atoms: int, shells: list[int]) -> dict[str, float]:
    """Seconds and peak memory of one overlap matrix."""
    from ase.build import graphene

    from ase_deeph.basis import OrbitalBasis, SpeciesBasis
    from ase_deeph.io.basis_file import read_basis
    from ase_deeph.two_center import overlap

    with h5py.File(DATA) as file:
        carbon = read_basis(file["basis"])["C"]
    assert carbon.radial is not None
    radial = tuple(carbon.radial[n] for n in shells) if shells else carbon.radial
    basis = OrbitalBasis({"C": SpeciesBasis(tuple(f.l for f in radial), 4, radial, carbon.augmentation)})
    side = max(1, round((n_atoms / 2) ** 0.5))
    atoms = graphene(a=2.46, size=(side, side, 1), vacuum=10)
    atoms.rattle(0.02, seed=0)
    overlap(graphene(a=2.46, vacuum=10), basis)
    base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    start = time.perf_counter()
    matrix = overlap(atoms, basis)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "atoms": len(atoms),
        "orbitals": matrix.n_orbitals,
        "pairs": len(matrix.pairs),
        "seconds": seconds,
        "ms_per_atom": 1000 * seconds / len(atoms),
        "result_MB": matrix.entries.nbytes / 2**20,
        "peak_MB_above_start": peak - base,
    }


def main() -> None:
    """Run every size and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sizes", nargs="*", type=int, default=[1000, 3000, 10000])
    parser.add_argument("--shells", nargs="*", type=int, default=[], help="shells of C to keep (0 1 4: szp)")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        sys.stdout.write(json.dumps(measure(options.one, options.shells)) + "\n")
        return
    shells = ["--shells", *map(str, options.shells)] if options.shells else []
    for n, size in enumerate(options.sizes):
        command = [sys.executable, __file__, "--one", str(size), *shells]
        row = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        if n == 0:
            sys.stdout.write("  ".join(f"{name:>20s}" for name in row) + "\n")
        sys.stdout.write("  ".join(f"{value:20.3f}" for value in row.values()) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
