"""T(E) of a 2,000-atom nanotube with a vacancy at one energy: time of each stage and peak memory.

    python benchmarks/transport_tube.py [--atoms 2000] [--index 10] [--energy 1.2] [--source model|distance]

The (index, 0) tube lies between two leads of itself.  H and S come from the model that ships, or, with
`--source distance`, from smooth functions of distance (benchmarks/transport_build.py).
"""

from __future__ import annotations

import argparse
import logging
import resource
import sys
import time

from ase import Atoms
from ase.build import nanotube
from transport_build import structure

from ase_deeph.electronic_structure import ElectronicStructure
from ase_deeph.transport import Device, Lead


def predicted(atoms: Atoms) -> ElectronicStructure:
    """From the shipped model."""
    from ase_deeph import DeepHCalculator

    return DeepHCalculator().get_electronic_structure(atoms)


class Stages:
    """Prints what each stage took."""

    def __init__(self) -> None:
        self.start = time.perf_counter()

    def done(self, what: str) -> None:
        """Seconds since the last stage, and the process's peak memory."""
        now = time.perf_counter()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        sys.stdout.write(f"{what:32s} {now - self.start:8.1f} s   peak {peak:6.2f} GiB\n")
        sys.stdout.flush()
        self.start = now


def main() -> None:
    """Run the stages one by one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--atoms", type=int, default=2000)
    parser.add_argument("--index", type=int, default=10)
    parser.add_argument(
        "--energy", type=float, default=1.2, help="eV above the middle level of the lead at Γ"
    )
    parser.add_argument("--source", choices=("model", "distance"), default="model")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("jax").setLevel(logging.WARNING)
    source = predicted if options.source == "model" else structure
    cell = nanotube(options.index, 0, bond=1.42, vacuum=6.0)
    cell.pbc = (False, False, True)
    tube = cell * (1, 1, max(6, round(options.atoms / len(cell))))
    del tube[len(tube) // 2]
    stages = Stages()
    bulk = source(cell)
    stages.done("H and S of the lead's cell")
    lead = Lead.from_bulk(bulk, "c")
    stages.done("lead")
    es = source(tube)
    stages.done(f"H and S of {len(tube)} atoms")
    device = Device(es, [lead, lead])
    stages.done(f"device, {int(device.norbs.sum())} orbitals")
    levels = lead.bands([0.0])[0, 0]
    energy = float(levels[2 * len(cell) - 1]) + options.energy
    lead.counter()
    stages.done("bands of the lead")
    report = device.transmission_report([energy])
    stages.done(f"T({energy:.3f} eV), {report.backend}")
    sys.stdout.write(
        f"T = {report.total[0]:.6f} of {report.n_modes[0, 0, 0].tolist()} modes, "
        f"|S†S - 1| = {report.unitarity_error.max():.1e}, stepped aside: {bool(report.stepped_aside[0])}\n"
    )


if __name__ == "__main__":
    main()
