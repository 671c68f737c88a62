"""Reference calculations: Atoms -> H(R), S(R), radial functions, energy and forces."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ase_deeph.dft.cp2k import run_cp2k
    from ase_deeph.dft.gpaw import run_gpaw
    from ase_deeph.dft.pyscf import run_pyscf

_HOMES = {
    "run_cp2k": "ase_deeph.dft.cp2k",
    "run_gpaw": "ase_deeph.dft.gpaw",
    "run_pyscf": "ase_deeph.dft.pyscf",
}

__all__ = ["run_cp2k", "run_gpaw", "run_pyscf"]


def __getattr__(name: str) -> Any:
    """The engines, imported when first used: none of them is needed to import this package."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'ase_deeph.dft' has no attribute {name!r}")
