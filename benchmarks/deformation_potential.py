"""Graphene's optical deformation potential <D²> at Γ (E2g) of the π bands at K: a model's against frozen phonons.

    python benchmarks/deformation_potential.py MODEL gpaw|pyscf [--step 0.01] [--basis B] [--mesh N]

D_ij is the change of the Hamiltonian between the two π states at K under a unit of the mode (Σ|e|² = 1),
<D²> = Σ_ij |D_ij|² / 4 (S. Piscanec et al., Phys. Rev. Lett. 93, 185503 (2004)).  The model's is an exact derivative;
the reference is the splitting of the levels of two self-consistent runs of the engine, (E₂ - E₁) / 2·step = |D|.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
from ase import Atoms
from ase.build import graphene

from ase_deeph.derivatives import deformation_potentials
from ase_deeph.eigen import solve
from ase_deeph.pretrained import load

K = np.array([[1 / 3, 1 / 3, 0]])
BANDS = (3, 4)
SETTINGS: dict[str, dict[str, Any]] = {
    "gpaw": {"basis": "szp(dzp)", "xc": "PBE", "h": 0.2, "vacuum": 5.0, "density_convergence": 1e-6},
    "pyscf": {"kpts": (3, 3, 1), "vacuum": 8.0, "convergence": 1e-7},
}


def sheet(displacement: np.ndarray | None = None) -> Atoms:
    """Graphene at rest, or displaced."""
    atoms = graphene(a=2.46)
    atoms.set_cell([*atoms.cell.array[:2], [0, 0, 0]])
    atoms.pbc = (True, True, False)
    atoms.positions += 0.0 if displacement is None else displacement
    return atoms


def mode(axis: int) -> np.ndarray:
    """E2g along x or y."""
    return np.array([1.0, -1.0])[:, None] * np.eye(3)[axis] / np.sqrt(2)


def reference(engine: str, step: float, axis: int, settings: dict[str, Any]) -> float:
    """|D| in eV/Å by frozen phonon, the mean of both signs."""
    from ase_deeph.dft.generate import engine_function

    found = []
    for sign in (1, -1):
        data = engine_function(engine)(sheet(sign * step * mode(axis)), forces=False, **settings)
        levels = solve(data.hamiltonian, data.overlap, K).eigenvalues[0, 0]  # type: ignore[arg-type]
        found.append((levels[BANDS[1]] - levels[BANDS[0]]) / (2 * step))
    print(
        f"{engine}, frozen phonon along {'xy'[axis]}: |D| = {found[0]:.4f}, {found[1]:.4f} eV/Å", flush=True
    )
    return float(np.mean(found))


def main() -> None:
    """Read the command line and compare."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="a file or a registered name")
    parser.add_argument("engine", choices=sorted(SETTINGS))
    parser.add_argument("--step", type=float, default=0.01)
    parser.add_argument("--axis", type=int, default=1)
    parser.add_argument("--basis", help="of the engine, in place of the one above")
    parser.add_argument("--mesh", type=int, help="N x N k-points of the engine, a multiple of 3")
    given = parser.parse_args()
    model = load(given.model)
    settings = dict(SETTINGS[given.engine])
    settings |= {} if given.basis is None else {"basis": given.basis}
    settings |= {} if given.mesh is None else {"kpts": (given.mesh, given.mesh, 1)}
    shifts = deformation_potentials(model, sheet(), np.stack([mode(0), mode(1)]), K)[:, 0, list(BANDS)]
    own = float(np.sum(shifts**2)) / 8
    print(
        f"model: shifts of the π levels {shifts.round(4).tolist()} eV/Å, <D²> = {own:.3f} (eV/Å)²", flush=True
    )
    true = reference(given.engine, given.step, given.axis, settings) ** 2 / 2
    print(f"{given.engine}: <D²> = {true:.3f} (eV/Å)²; model {own / true - 1:+.2%}")


if __name__ == "__main__":
    main()
