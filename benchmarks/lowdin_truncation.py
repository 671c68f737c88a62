"""Error in bands of Löwdin's truncated H' against its cutoff: a DFT carbon chain and the shipped model's graphene.

    python benchmarks/lowdin_truncation.py

The chain is PySCF's PBE in gth-dzvp-molopt-sr (two atoms a cell), graphene is of the carbon model.  Bands within
5 eV of the Fermi level, at a dozen k-points off the mesh; the exact route keeps S and has no such error.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from ase import Atoms

from ase_deeph import AtomPairs, ElectronicStructure, OrbitalBasis, RealSpaceMatrix
from ase_deeph.basis import SpeciesBasis
from ase_deeph.exporters import read_neutral
from ase_deeph.orthogonalization import lowdin

DATA = Path(__file__).parents[1] / "tests" / "data"
CUTOFFS = (4.0, 6.0, 8.0, 10.0, 12.0, 16.0, 20.0, 24.0, 32.0, 40.0)


def carbon_chain() -> ElectronicStructure:
    """H(R) and S(R) of two atoms in 2.6 Å, as PySCF gave them (tests/data/carbon_chain_dzvp.npz)."""
    stored = np.load(DATA / "carbon_chain_dzvp.npz")
    atoms = Atoms("C2", [(0, 0, 0), (1.3, 0, 0)], cell=[2.6, 12, 12], pbc=(True, False, False))
    basis = OrbitalBasis({"C": SpeciesBasis((0, 0, 1, 1, 2), 4)})
    keys = [(i, j, cell) for i in range(2) for j in range(2) for cell in stored["R"]]
    i, j, cells = np.array(keys).T
    pairs = AtomPairs(i, j, np.column_stack([cells, 0 * cells, 0 * cells]), 2)
    place = {int(cell): n for n, cell in enumerate(stored["R"])}

    def matrix(whole: np.ndarray) -> RealSpaceMatrix:
        parts = whole.reshape(len(place), 2, 13, 2, 13)
        blocks = [parts[place[int(R[0])], i, :, j] for i, j, R in zip(pairs.i, pairs.j, pairs.R, strict=True)]
        return RealSpaceMatrix.from_blocks(basis, pairs, atoms, blocks).hermitian_part()

    return ElectronicStructure(matrix(stored["H"]), matrix(stored["S"]), kpts=(60, 1, 1))


def layer() -> ElectronicStructure:
    """Graphene of the model that ships, as written by tests/data/make_graphene_model.py."""
    data = read_neutral(DATA / "graphene_model.npz")
    assert data.hamiltonian is not None
    return ElectronicStructure(data.hamiltonian, data.overlap, data.n_electrons, kpts=(12, 12, 1))


def table(name: str, es: ElectronicStructure, longest: float) -> list[str]:
    """One line per cutoff."""
    at_k = np.linspace(0, 0.5, 7)[:, None] * [1.0, 0.0, 0.0]
    assert es.overlap is not None
    smallest = min(np.linalg.eigvalsh(es.overlap.at_k(k))[0] for k in at_k)
    reach = np.linalg.norm(es.hamiltonian.pairs.displacements(es.atoms), axis=1).max()
    lines = [
        f"{name}: H reaches {reach:.1f} Å, smallest eigenvalue of S {smallest:.1e}",
        "cutoff/Å   pairs  mesh          max/eV   rms/eV   max of all bands/eV",
    ]
    for cutoff in CUTOFFS:
        if cutoff > longest:
            break
        result = lowdin(es.hamiltonian, es.overlap, cutoff, fermi_level=es.fermi_level(), max_error=np.inf)
        e, mesh = result.error, "×".join(map(str, result.mesh))
        n = len(result.hamiltonian.pairs)
        lines.append(f"{cutoff:8.0f} {n:7d}  {mesh:12s} {e.max:7.4f}  {e.rms:7.4f}   {e.max_all:7.4f}")
    return lines


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--longest", type=float, default=40.0, help="largest cutoff in Å")
    options = parser.parse_args()
    for name, build in (
        ("carbon chain, gth-dzvp-molopt-sr", carbon_chain),
        ("graphene, carbon model", layer),
    ):
        print("\n".join(table(name, build(), options.longest)), "\n")
