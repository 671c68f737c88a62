"""Energy conservation of a model's head: NVE of carbon atoms, drift of the total energy and of the momentum.

python benchmarks/potential_nve.py [MODEL] [--atoms 64] [--steps 5000] [--timestep 0.5] [--temperature 300]
"""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

import numpy as np
from ase import Atoms, units
from ase.build import graphene
from ase.calculators.calculator import Calculator, all_changes
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution, Stationary
from ase.md.verlet import VelocityVerlet

from ase_deeph.compilation_cache import compilation_cache
from ase_deeph.model import HamiltonianModel
from ase_deeph.pretrained import load


class HeadCalculator(Calculator):
    """The head of a model, and nothing else, as an ASE calculator."""

    implemented_properties = ["energy", "forces"]  # noqa: RUF012 (declared so by ASE)

    def __init__(self, model: HamiltonianModel, dtype: Any) -> None:
        super().__init__()
        self.model, self.dtype = model, dtype

    def calculate(
        self, atoms: Atoms | None = None, properties: Any = None, system_changes: Any = tuple(all_changes)
    ) -> None:
        """Energy and forces."""
        super().calculate(atoms, properties, system_changes)
        assert self.atoms is not None
        found = self.model.potential(self.atoms, dtype=self.dtype, stress=False)
        self.results = {"energy": found.energy, "forces": found.forces}


def sheet(n_atoms: int) -> Atoms:
    """A nearly square sheet of graphene."""
    cells = max(n_atoms // 2, 1)
    across = max(n for n in range(1, int(cells**0.5) + 1) if cells % n == 0)
    atoms = graphene(a=2.46, size=(cells // across, across, 1), vacuum=8.0)
    atoms.pbc = (True, True, False)
    return atoms


def drift_per_picosecond(times: np.ndarray, energies: np.ndarray) -> float:
    """Slope of a line through the total energies."""
    return float(np.polyfit(times, energies, 1)[0])


def main() -> None:
    """Run, and print what was conserved."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default=None, help="a file or a registered name")
    parser.add_argument("--atoms", type=int, default=64)
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--timestep", type=float, default=0.5, help="fs")
    parser.add_argument("--temperature", type=float, default=300.0, help="K")
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    args = parser.parse_args()
    model, atoms = load(args.model), sheet(args.atoms)
    rng = np.random.default_rng(0)
    # Half of the energy goes into the potential: start with twice the temperature.
    MaxwellBoltzmannDistribution(atoms, temperature_K=2 * args.temperature, rng=rng)
    Stationary(atoms)
    atoms.calc = HeadCalculator(model, args.dtype)
    rows: list[tuple[float, float, float, float]] = []
    dynamics = VelocityVerlet(atoms, timestep=args.timestep * units.fs)

    def record() -> None:
        rows.append(
            (
                dynamics.get_time() / units.fs * 1e-3,
                1e3 * atoms.get_total_energy() / len(atoms),
                atoms.get_temperature(),
                float(np.abs(atoms.get_momenta().sum(axis=0)).max()),
            )
        )

    dynamics.attach(record, interval=10)
    with compilation_cache():
        atoms.get_forces()
        began = time.perf_counter()
        dynamics.run(args.steps)
        seconds = time.perf_counter() - began
    times, energies, temperatures, momenta = np.array(rows).T
    thermal = np.sqrt(len(atoms) * atoms.get_masses()[0] * units.kB * args.temperature)
    sys.stdout.write(
        f"{len(atoms)} atoms, {args.steps} steps of {args.timestep} fs, {args.dtype}, mean temperature "
        f"{temperatures[len(temperatures) // 5 :].mean():.0f} K\n"
        f"drift of the total energy      {drift_per_picosecond(times, energies):+.4f} meV/atom/ps\n"
        f"largest excursion of it        {np.ptp(energies):.4f} meV/atom\n"
        f"largest total momentum         {momenta.max():.2e} (thermal scale {thermal:.2f})\n"
        f"time per step                  {1e3 * seconds / args.steps:.1f} ms, "
        f"{model.n_compilations} compilations\n"
    )


if __name__ == "__main__":
    main()
