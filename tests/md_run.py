"""A run for the tests to kill: python -m tests.md_run FILE STEPS; says each step that is recorded."""

from __future__ import annotations

import sys
from pathlib import Path

from ase_deeph import ElectronicTrajectory, ElectronicTrajectoryReader
from tests.md_systems import moving


def main(path: str, n_steps: int) -> None:
    """Start, or go on where the file ends."""
    atoms, dynamics = moving()
    if Path(path).exists():
        last = ElectronicTrajectoryReader(path).atoms()
        atoms.positions, atoms.arrays["momenta"] = last.positions, last.arrays["momenta"]
    record = ("fermi_level", "gap", "eigenvalues", "dos", "mulliken")
    electrons = ElectronicTrajectory(path, atoms, record=record, dynamics=dynamics)
    dynamics.attach(electrons)
    dynamics.attach(lambda: print(len(electrons), flush=True))
    dynamics.run(n_steps)
    electrons.close()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
