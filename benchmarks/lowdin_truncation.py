"""Error of Löwdin's truncated H' against its cutoff: bands of a DFT carbon chain and of the shipped model's graphene,
and T(E) of the chain with a defect.

    python benchmarks/lowdin_truncation.py

The chain is PySCF's PBE in gth-dzvp-molopt-sr (two atoms a cell), graphene is of the carbon model.  Bands within
5 eV of the Fermi level, at a dozen k-points off the mesh; T(E) through an atom whose levels are raised by 2 eV
(H + 2 S on it), at 41 energies within 3 eV of the Fermi level.  The exact route keeps S and has no such error.
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
    atoms = Atoms("C2", [(0, 0, 0), (1.27, 0, 0)], cell=[2.6, 12, 12], pbc=(True, False, False))
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


def with_defect(es: ElectronicStructure, n_cells: int) -> ElectronicStructure:
    """n_cells of the chain in a row, the levels of one atom in the middle raised by 2 eV."""
    atoms = es.atoms * (n_cells, 1, 1)
    n_atoms = len(es.atoms)

    def repeated(matrix: RealSpaceMatrix) -> tuple[AtomPairs, list[np.ndarray]]:
        pairs = matrix.pairs
        cell = np.arange(n_cells)[:, None]
        other, far = (cell + pairs.R[:, 0]) % n_cells, (cell + pairs.R[:, 0]) // n_cells
        i, j = (cell * n_atoms + pairs.i).ravel(), (other * n_atoms + pairs.j).ravel()
        R = np.column_stack([far.ravel(), 0 * far.ravel(), 0 * far.ravel()])
        known = {
            (int(a), int(b), int(r)): matrix.block(a, b, (r, 0, 0))
            for a, b, r in zip(pairs.i, pairs.j, pairs.R[:, 0], strict=True)
        }
        big = AtomPairs(i, j, R, len(atoms))
        cells = [
            (int(a) % n_atoms, int(b) % n_atoms, int(b) // n_atoms + n_cells * int(r) - int(a) // n_atoms)
            for a, b, r in zip(big.i, big.j, big.R[:, 0], strict=True)
        ]
        return big, [known[key] for key in cells]

    assert es.overlap is not None
    (pairs, h), (s_pairs, s) = repeated(es.hamiltonian), repeated(es.overlap)
    middle = n_atoms * (n_cells // 2)
    at = int(np.nonzero(pairs.on_site & (pairs.i == middle))[0][0])
    at_s = int(np.nonzero(s_pairs.on_site & (s_pairs.i == middle))[0][0])
    h[at] = h[at] + 2.0 * s[at_s]
    basis = es.hamiltonian.basis
    hamiltonian = RealSpaceMatrix.from_blocks(basis, pairs, atoms, h)
    overlap = RealSpaceMatrix.from_blocks(basis, s_pairs, atoms, s)
    return ElectronicStructure(hamiltonian, overlap, kpts=(1, 1, 1))


def transmission_table(es: ElectronicStructure, cutoffs: tuple[float, ...], n_cells: int) -> list[str]:
    """T(E) of the chain with a defect: the truncated route against the exact one."""
    from ase_deeph.transport import Device, Lead

    device, level = with_defect(es, n_cells), es.fermi_level()
    energies = level + np.linspace(-3.0, 3.0, 41)
    lead = Lead.from_bulk(es, "a")
    exact = Device(device, [lead, lead]).transmission(energies)
    lines = [
        f"T(E) of {n_cells} cells with a defect, exact {exact.min():.3f} to {exact.max():.3f}",
        "cutoff/Å   layer/cells   max |ΔT|   mean |ΔT|",
    ]
    for cutoff in cutoffs:
        parts = []
        for part in (es, device):
            assert part.overlap is not None
            result = lowdin(part.hamiltonian, part.overlap, cutoff, max_error=np.inf)
            parts.append(ElectronicStructure(result.hamiltonian, None, part.n_electrons))
        orthogonal = Lead.from_bulk(parts[0], "a")
        cut = Device(parts[1], [orthogonal, orthogonal]).transmission(energies)
        error = np.abs(cut - exact)
        lines.append(f"{cutoff:8.0f} {orthogonal.n_cells:10d}     {error.max():8.4f}   {error.mean():8.4f}")
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
    print("\n".join(transmission_table(carbon_chain(), (4.0, 6.0, 8.0, 10.0, 12.0, 16.0), 24)))
