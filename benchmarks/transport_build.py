"""Time to give Kwant a device: the low-level system around sparse matrices against the Builder, one run.

    python benchmarks/transport_build.py [--orbitals 10000]

A (10, 0) nanotube with nine orbitals per atom and blocks up to 6.5 Å (57 neighbours per atom); H and S are smooth
functions of distance, so that no model is needed.  Both routes start from the same Device; CPU times.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from ase import Atoms
from ase.build import nanotube

from ase_deeph.basis import OrbitalBasis, SpeciesBasis
from ase_deeph.electronic_structure import ElectronicStructure
from ase_deeph.matrix import RealSpaceMatrix
from ase_deeph.pairs import AtomPairs
from ase_deeph.transport import Device, Lead

BASIS = OrbitalBasis({"C": SpeciesBasis((0, 1, 2), 4)})
CUTOFF = 6.5


def structure(atoms: Atoms) -> ElectronicStructure:
    """H and S that fall off with distance, the same for equal displacements; S is diagonally dominant."""
    pairs = AtomPairs.from_atoms(atoms, CUTOFF)
    distance = np.linalg.norm(pairs.displacements(atoms), axis=1)
    shape = np.random.default_rng(0).normal(size=(9, 9))
    shape = shape + shape.T
    fall = np.exp(-distance) * ~pairs.on_site
    h = -3.0 * fall[:, None, None] * shape + pairs.on_site[:, None, None] * np.diag(np.arange(9.0))
    s = 0.01 * fall[:, None, None] * shape + pairs.on_site[:, None, None] * np.eye(9)
    matrices = [RealSpaceMatrix(BASIS, pairs, atoms, x.ravel()) for x in (h, s)]
    return ElectronicStructure(matrices[0], matrices[1])


def systems(n_orbitals: int) -> tuple[Lead, ElectronicStructure]:
    """A lead, and a piece of tube that holds so many orbitals."""
    cell = nanotube(10, 0, bond=1.42, vacuum=6.0)
    cell.pbc = (False, False, True)
    lead = Lead.from_bulk(structure(cell), "c")
    return lead, structure(cell * (1, 1, max(5, round(n_orbitals / (9 * len(cell))))))


def seconds(task: Callable[[], Any]) -> tuple[float, Any]:
    """CPU time of a task, and its result."""
    start = time.process_time()
    result = task()
    return time.process_time() - start, result


def main() -> None:
    """Build both, print the times."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--orbitals", type=int, default=10000)
    n_orbitals = parser.parse_args().orbitals
    lead, es = systems(n_orbitals)
    both, tube = seconds(lambda: Device(es, [lead, lead]))
    fast, system = seconds(tube.to_kwant)
    build, builder = seconds(lambda: tube.to_kwant(view="builder"))
    finalize, finished = seconds(builder.finalized)
    matrix_fast, _ = seconds(lambda: system.hamiltonian_submatrix(sparse=True, params={"E": 0.1}))
    matrix_builder, _ = seconds(lambda: finished.hamiltonian_submatrix(sparse=True, params={"E": 0.1}))
    pairs = len(tube.es.hamiltonian.pairs) / len(tube.norbs)
    sys.stdout.write(
        f"{int(tube.norbs.sum())} orbitals, {pairs - 1:.0f} neighbours per atom\n"
        f"for both routes: {both:.3f} s for the Device (atoms matched, potentials aligned, H and S sparse)\n"
        f"fast path: {fast:.3f} s; matrix at one energy {matrix_fast:.3f} s\n"
        f"Builder: {build:.3f} s + finalized {finalize:.3f} s; matrix at one energy {matrix_builder:.3f} s\n"
        f"ratio of building: {(build + finalize) / fast:.0f}\n"
    )


if __name__ == "__main__":
    main()
