"""ase_deeph: deep-learning DFT Hamiltonians as an ASE calculator."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ase_deeph.basis import OrbitalBasis
    from ase_deeph.calculator import DeepHCalculator
    from ase_deeph.electronic_structure import ElectronicStructure
    from ase_deeph.electronic_trajectory import ElectronicTrajectory, ElectronicTrajectoryReader
    from ase_deeph.matrix import RealSpaceMatrix
    from ase_deeph.model import HamiltonianModel
    from ase_deeph.pairs import AtomPairs

__version__ = "0.1.0"

_HOMES = {
    "AtomPairs": "ase_deeph.pairs",
    "DeepHCalculator": "ase_deeph.calculator",
    "ElectronicStructure": "ase_deeph.electronic_structure",
    "ElectronicTrajectory": "ase_deeph.electronic_trajectory",
    "ElectronicTrajectoryReader": "ase_deeph.electronic_trajectory",
    "HamiltonianModel": "ase_deeph.model",
    "OrbitalBasis": "ase_deeph.basis",
    "RealSpaceMatrix": "ase_deeph.matrix",
}

__all__ = [
    "AtomPairs",
    "DeepHCalculator",
    "ElectronicStructure",
    "ElectronicTrajectory",
    "ElectronicTrajectoryReader",
    "HamiltonianModel",
    "OrbitalBasis",
    "RealSpaceMatrix",
    "__version__",
]


def __getattr__(name: str) -> Any:
    """The public names, imported when first used so that `import ase_deeph` does no work."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'ase_deeph' has no attribute {name!r}")
