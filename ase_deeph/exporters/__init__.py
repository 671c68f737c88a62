"""Exporters: the Hamiltonian of an ElectronicStructure handed to other tools, one file per tool.

Importing this package imports none of them; each function imports its tool when it is called.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ase_deeph.exporters.kwant import kwant_lead, to_kwant
    from ase_deeph.exporters.neutral import read_neutral, write_neutral
    from ase_deeph.exporters.pyatb import write_pyatb
    from ase_deeph.exporters.pythtb import to_pythtb
    from ase_deeph.exporters.sisl import to_sisl, write_sisl, write_tshs
    from ase_deeph.exporters.tbmodels import to_tbmodels
    from ase_deeph.exporters.wannier90 import write_wannier90
    from ase_deeph.exporters.wannierberri import to_wannierberri
    from ase_deeph.exporters.z2 import z2_invariant

_HOMES = {
    "kwant_lead": "ase_deeph.exporters.kwant",
    "read_neutral": "ase_deeph.exporters.neutral",
    "to_kwant": "ase_deeph.exporters.kwant",
    "to_pythtb": "ase_deeph.exporters.pythtb",
    "to_sisl": "ase_deeph.exporters.sisl",
    "to_tbmodels": "ase_deeph.exporters.tbmodels",
    "to_wannierberri": "ase_deeph.exporters.wannierberri",
    "write_neutral": "ase_deeph.exporters.neutral",
    "write_pyatb": "ase_deeph.exporters.pyatb",
    "write_sisl": "ase_deeph.exporters.sisl",
    "write_tshs": "ase_deeph.exporters.sisl",
    "write_wannier90": "ase_deeph.exporters.wannier90",
    "z2_invariant": "ase_deeph.exporters.z2",
}

__all__ = [
    "kwant_lead",
    "read_neutral",
    "to_kwant",
    "to_pythtb",
    "to_sisl",
    "to_tbmodels",
    "to_wannierberri",
    "write_neutral",
    "write_pyatb",
    "write_sisl",
    "write_tshs",
    "write_wannier90",
    "z2_invariant",
]


def __getattr__(name: str) -> Any:
    """The exporters, imported when first used so that no tool is imported before it is wanted."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'ase_deeph.exporters' has no attribute {name!r}")
