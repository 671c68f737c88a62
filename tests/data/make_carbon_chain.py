"""Makes carbon_chain_dzvp.npz: H(R) and S(R) of a carbon chain from PySCF, 13 orbitals per atom (minutes).

python tests/data/make_carbon_chain.py
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from ase import Atoms

from ase_deeph.dft import run_pyscf
from ase_deeph.electronic_structure import ElectronicStructure
from ase_deeph.transport import Lead


def main() -> None:
    """Run the calculation and store what the tests read."""
    atoms = Atoms("C2", positions=[[0, 0, 0], [1.27, 0, 0]], cell=[2.6, 0, 0], pbc=(True, False, False))
    data = run_pyscf(atoms, basis="gth-dzvp-molopt-sr", kpts=(6, 1, 1), forces=False)
    lead = Lead.from_bulk(ElectronicStructure(data.hamiltonian, data.overlap), "a")
    np.savez_compressed(
        Path(__file__).with_name("carbon_chain_dzvp.npz"),
        R=lead.R[:, 0],
        H=lead.hamiltonian[0],
        S=lead.overlap,
        norbs=lead.norbs,
        fermi_level=data.fermi_level,
    )


if __name__ == "__main__":
    main()
