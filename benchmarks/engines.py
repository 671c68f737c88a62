"""PySCF and CP2K on one cell: seconds per structure, and how far their matrices, levels, energy and forces differ.

Run: OMP_NUM_THREADS=1 python benchmarks/engines.py [--basis gth-szv-molopt-sr] [--element Si] [--kpts 2 2 2]
Needs the extra ase-deeph[pyscf] and CP2K on the path.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import scipy.linalg
from ase import Atoms
from ase.build import bulk

from ase_deeph.dft import run_cp2k, run_pyscf
from ase_deeph.matrix import gauge_shift
from ase_deeph.reference import ReferenceData
from ase_deeph.two_center import overlap


def levels(data: ReferenceData, k: np.ndarray) -> np.ndarray:
    """(n_k, n_bands) eV."""
    return np.array([scipy.linalg.eigvalsh(data.hamiltonian.at_k(x), data.overlap.at_k(x)) for x in k])


def compare(
    first: ReferenceData, second: ReferenceData, on_mesh: np.ndarray, off_mesh: np.ndarray
) -> list[str]:
    """Lines of differences, second minus first."""
    mu = gauge_shift(second.hamiltonian - first.hamiltonian, first.overlap)
    rest = second.hamiltonian - first.hamiltonian - first.overlap * mu
    lines = [
        f"overlap: max|dS(R)| {(second.overlap - first.overlap).max_abs():.1e}; CP2K against our two-centre S(R) "
        f"{(second.overlap - overlap(second.atoms, second.basis)).max_abs():.1e}",
        f"constant shift of H: mu = {mu:.4f} eV (removed below)",
        f"Hamiltonian: max|dH(R) - mu S(R)| {1e3 * rest.max_abs():.2f} meV",
    ]
    for name, k in (("on the mesh", on_mesh), ("off the mesh", off_mesh)):
        difference = 1e3 * (levels(second, k) - levels(first, k) - mu)
        lines.append(
            f"levels {name} ({difference.size}): max {np.abs(difference).max():.2f} meV, raw "
            f"{np.abs(difference + 1e3 * mu).max():.1f} meV"
        )
    n_atoms = len(first.atoms)
    lines.append(
        f"Fermi level: {1e3 * (second.fermi_level - first.fermi_level - mu):.2f} meV after the shift"
    )
    lines.append(f"energy: {1e3 * (second.energy - first.energy) / n_atoms:.3f} meV per atom")
    if first.forces is not None and second.forces is not None:
        lines.append(f"forces: max {np.abs(second.forces - first.forces).max():.2e} eV/Å")
    return lines


def main() -> None:
    """Run both engines on a rattled cubic cell of eight atoms."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--element", default="Si")
    parser.add_argument("--basis", default="gth-szv-molopt-sr")
    parser.add_argument("--kpts", type=int, nargs=3, default=(2, 2, 2))
    parser.add_argument("--no-forces", action="store_true")
    arguments = parser.parse_args()
    atoms: Atoms = bulk(arguments.element, "diamond", cubic=True)
    atoms.rattle(0.05, seed=1)
    options = {"basis": arguments.basis, "kpts": tuple(arguments.kpts), "forces": not arguments.no_forces}
    results, seconds = {}, {}
    for name, engine in (("CP2K", run_cp2k), ("PySCF", run_pyscf)):
        wall, cpu = time.perf_counter(), sum(times())
        results[name] = engine(atoms, **options)
        seconds[name] = (time.perf_counter() - wall, sum(times()) - cpu)
        print(f"{name:6s} {seconds[name][0]:8.1f} s wall {seconds[name][1]:8.1f} s CPU", flush=True)
    mesh = np.array(list(np.ndindex(*arguments.kpts))) / arguments.kpts
    off_mesh = np.random.default_rng(0).uniform(-0.5, 0.5, (4, 3))
    print(f"{atoms.get_chemical_formula()} {options}")
    for line in compare(results["PySCF"], results["CP2K"], mesh, off_mesh):
        print(" ", line)


def times() -> tuple[float, float]:
    """CPU seconds of this process and of finished children."""
    import os

    used = os.times()
    return used.user + used.system, used.children_user + used.children_system


if __name__ == "__main__":
    main()
