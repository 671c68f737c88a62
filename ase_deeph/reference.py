"""ReferenceData: what one reference calculation, or one folder of DFT output, tells."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from ase import Atoms

from ase_deeph.basis import OrbitalBasis
from ase_deeph.matrix import RealSpaceMatrix


@dataclass(frozen=True, eq=False)
class ReferenceData:
    """A structure with its operators and totals; absent parts are None.

    Parameters
    ----------
    atoms : the structure, positions as given to the engine (Å).
    hamiltonian : H(R) in eV.
    overlap : S(R).
    n_electrons : electrons of the cell.
    fermi_level : eV, on the scale of the Hamiltonian.
    energy : eV.
    forces : (n_atoms, 3) eV/Å.
    stress : (6,) Voigt, eV/Å³.
    basis : the orbitals, with radial functions where the engine gave them.
    info : provenance (engine, version, settings), JSON-serialisable.
    """

    atoms: Atoms
    hamiltonian: RealSpaceMatrix | None = None
    overlap: RealSpaceMatrix | None = None
    n_electrons: float | None = None
    fermi_level: float | None = None
    energy: float | None = None
    forces: np.ndarray | None = None
    stress: np.ndarray | None = None
    basis: OrbitalBasis | None = None
    info: Mapping[str, Any] = field(default_factory=dict)
