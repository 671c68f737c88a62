"""H of about 2,000 carbon atoms predicted whole, in chunks, and over four devices: the largest differences.

python benchmarks/large_equality.py [ATOMS] [--dtype float32|float64]

Rippled graphene of about ATOMS atoms (2,000 if left out), the shipped carbon model, in both precisions if none is
named.  The four devices are simulated ones of the processor.  Each row: the largest difference of any element of H
from that of one pass over all pairs, and the bound it must keep; the exit status is 1 where one does not.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable

os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=4")

import jax
import numpy as np
from ase import Atoms
from predict_scaling import structure

from ase_deeph.compilation_cache import compilation_cache
from ase_deeph.graph import CrystalGraph
from ase_deeph.matrix import RealSpaceMatrix
from ase_deeph.model import HamiltonianModel
from ase_deeph.pairs import AtomPairs
from ase_deeph.pretrained import load

BOUND = {"float32": 1e-5, "float64": 1e-10}


def in_one_pass(model: HamiltonianModel, atoms: Atoms, dtype: str) -> RealSpaceMatrix:
    """H by one call of the network, however many pairs there are."""
    pairs = AtomPairs.from_atoms(atoms, model.cutoff)
    graph = CrystalGraph.from_atoms(
        atoms, pairs, model.basis, message_cutoff=model.config.reach, dtype=np.dtype(dtype).type
    )
    with jax.enable_x64(dtype == "float64"):
        padded = graph.pad(graph.n_atoms + 1, graph.n_pairs + 1, graph.n_near)
        blocks = jax.jit(model.network.apply)(model.params, model.statistics, padded)
    blocks = np.asarray(blocks, dtype=float)[: len(pairs)]
    return RealSpaceMatrix.from_padded_blocks(model.basis, pairs, atoms, blocks)


def ways(model: HamiltonianModel) -> dict[str, Callable[..., RealSpaceMatrix]]:
    """What is compared with one pass."""
    devices = tuple(jax.devices())
    return {
        "chunks, edges stored": model.large_prediction(),
        "chunks, edges rebuilt": model.large_prediction(edges="rebuilt"),
        f"{len(devices)} devices, stored": model.large_prediction(devices=devices),
        f"{len(devices)} devices, rebuilt": model.large_prediction(devices=devices, edges="rebuilt"),
    }


def main() -> int:
    """A row per precision and way."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("atoms", nargs="?", type=int, default=2000)
    parser.add_argument("--dtype", choices=tuple(BOUND), action="append")
    options = parser.parse_args()
    atoms, model, kept = structure(options.atoms), load(), True
    in_precision = {}
    for dtype in options.dtype or BOUND:
        with compilation_cache():
            start = time.process_time()
            whole = in_precision[dtype] = in_one_pass(model, atoms, dtype)
            sys.stdout.write(
                f"{len(atoms)} atoms, {len(whole.pairs)} pairs, {dtype}, one pass: max |H| "
                f"{whole.max_abs():.2f} eV, {time.process_time() - start:.0f} CPU s\n"
            )
            for name, predict in ways(model).items():
                start = time.process_time()
                difference = float(np.abs(predict(atoms, dtype=dtype).entries - whole.entries).max())
                kept &= difference <= BOUND[dtype]
                sys.stdout.write(
                    f"  {name:22s} max |ΔH| {difference:.1e} eV (bound {BOUND[dtype]:.0e}), "
                    f"{time.process_time() - start:.0f} CPU s\n"
                )
                sys.stdout.flush()
    if len(in_precision) == 2:
        of_precision = np.abs(in_precision["float64"].entries - in_precision["float32"].entries).max()
        sys.stdout.write(f"for comparison: the two precisions differ by {of_precision:.1e} eV\n")
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
