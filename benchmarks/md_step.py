"""Seconds of one molecular-dynamics step by part: H, S, the mesh, its levels, Fermi level and gap, forces.

    python benchmarks/md_step.py [--atoms 32] [--steps 20] [--model M]

Graphene (the model that ships) with thermal displacements of about 0.005 Å per step, on the default k-mesh.  CPU
time of the whole process and wall time, medians over the steps; then the ways of doing the same thing side by side.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from ase import Atoms
from ase.build import graphene
from ase.calculators.lj import LennardJones

from ase_deeph import AtomPairs, DeepHCalculator

STEP = 0.005


def frame(n_atoms: int) -> Atoms:
    """A square-ish sheet of at least so many atoms, a little displaced."""
    n = max(1, round(np.sqrt(n_atoms / 2)))
    atoms = graphene(size=(n, n, 1), vacuum=8.0)
    atoms.pbc = (True, True, False)
    atoms.rattle(0.03, seed=0)
    return atoms


class Clock:
    """Wall and CPU times of named parts."""

    def __init__(self) -> None:
        self.times: dict[str, list[tuple[float, float]]] = {}

    def __call__(self, part: str, task: Callable[[], Any]) -> Any:
        wall, cpu = time.perf_counter(), time.process_time()
        result = task()
        self.times.setdefault(part, []).append((time.perf_counter() - wall, time.process_time() - cpu))
        return result

    def medians(self) -> dict[str, tuple[float, float]]:
        return {part: tuple(np.median(times, axis=0)) for part, times in self.times.items()}  # type: ignore[misc]


def one_step(calc: DeepHCalculator, atoms: Atoms, clock: Clock) -> None:
    """What a step with gap and Fermi level asks for."""
    clock("forces", lambda: atoms.get_forces())
    clock("H(R)", lambda: calc.get_hamiltonian(atoms))
    clock("S(R)", lambda: calc.get_overlap(atoms))
    structure = calc.get_electronic_structure(atoms)
    clock("mesh and symmetry", lambda: structure.mesh)
    clock("levels on the mesh", lambda: structure.mesh_eigenvalues)
    clock("Fermi level and gap", lambda: (structure.fermi_level(), structure.band_gap()))


def side_by_side(calc: DeepHCalculator, atoms: Atoms, n: int) -> None:
    """The same results, as they were computed and as they are."""
    from ase_deeph.neighbours import neighbours, search

    structure, clock = calc.get_electronic_structure(atoms), Clock()
    h, s, kpts = structure.hamiltonian, structure.overlap, structure.mesh.irreducible
    assert s is not None
    for _ in range(n):
        clock("neighbours: searched anew", lambda: search(atoms, 6.6))
        clock("neighbours: from the kept list", lambda: neighbours(atoms, 6.6))
        for m in (h, s):
            m.__dict__.pop("bloch_sum", None)
        clock("H(k), S(k): one k at a time", lambda: [(h.at_k(k), s.at_k(k)) for k in kpts])
        for m in (h, s):
            m.__dict__.pop("bloch_sum", None)
        together = clock(
            "H(k), S(k): all k together", lambda: list(zip(h.at_each_k(kpts), s.at_each_k(kpts), strict=True))
        )
    assert np.allclose(together[-1][0], h.at_k(kpts[-1]), atol=1e-10)
    for _ in range(2):
        clock("levels: whole mesh", lambda: structure.eigenvalues(structure.mesh.points))
        clock("levels: k and -k once", lambda: structure.eigenvalues(kpts))
    rows = list(clock.medians().items())
    for (name, (_, slow)), (other, (_, fast)) in zip(rows[0::2], rows[1::2], strict=True):
        print(
            f"{name:34s} {1e3 * slow:8.2f} ms   {other:34s} {1e3 * fast:8.2f} ms   {slow / fast:5.1f} times"
        )


def main() -> None:
    """Run the steps, print the parts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--atoms", type=int, default=32)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--model")
    arguments = parser.parse_args()
    atoms = frame(arguments.atoms)
    forcefield = LennardJones(sigma=1.3, epsilon=0.1, rc=4.0)
    calc = DeepHCalculator(arguments.model, forcefield=forcefield)
    atoms.calc = calc
    random, clock = np.random.default_rng(1), Clock()
    start = time.perf_counter()
    one_step(calc, atoms, Clock())
    first = time.perf_counter() - start
    for _ in range(arguments.steps):
        atoms.positions += random.normal(0.0, STEP, atoms.positions.shape)
        one_step(calc, atoms, clock)
    structure = calc.get_electronic_structure()
    pairs = AtomPairs.from_atoms(atoms, calc.model.cutoff)
    print(
        f"{len(atoms)} atoms, {structure.hamiltonian.n_orbitals} orbitals, {len(pairs)} pairs, "
        f"{len(structure.mesh)} k-points; first step {first:.1f} s; {calc.model.n_compilations} compilation(s)"
    )
    total = np.zeros(2)
    for part, (wall, cpu) in clock.medians().items():
        print(f"{part:34s} {1e3 * wall:8.1f} ms wall  {1e3 * cpu:8.1f} ms CPU")
        total += wall, cpu
    print(f"{'step':34s} {1e3 * total[0]:8.1f} ms wall  {1e3 * total[1]:8.1f} ms CPU")
    if hasattr(structure.hamiltonian, "at_each_k"):
        side_by_side(calc, atoms, 5)


if __name__ == "__main__":
    main()
