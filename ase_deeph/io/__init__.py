"""Files: the DeepH folder format, bases, and the output of DFT codes."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ase_deeph.io.abacus import read_abacus
    from ase_deeph.io.aims import read_aims
    from ase_deeph.io.cp2k import read_cp2k
    from ase_deeph.io.deeph import read_deeph, write_deeph
    from ase_deeph.io.hpro import read_hpro
    from ase_deeph.io.mesh import hamiltonian_from_mesh
    from ase_deeph.io.packed import PackedDataset, PackedWriter, read_packed
    from ase_deeph.io.siesta import read_siesta

_HOMES = {
    "PackedDataset": "ase_deeph.io.packed",
    "PackedWriter": "ase_deeph.io.packed",
    "hamiltonian_from_mesh": "ase_deeph.io.mesh",
    "read_abacus": "ase_deeph.io.abacus",
    "read_aims": "ase_deeph.io.aims",
    "read_cp2k": "ase_deeph.io.cp2k",
    "read_deeph": "ase_deeph.io.deeph",
    "read_hpro": "ase_deeph.io.hpro",
    "read_packed": "ase_deeph.io.packed",
    "read_siesta": "ase_deeph.io.siesta",
    "write_deeph": "ase_deeph.io.deeph",
}

__all__ = [
    "PackedDataset",
    "PackedWriter",
    "hamiltonian_from_mesh",
    "read_abacus",
    "read_aims",
    "read_cp2k",
    "read_deeph",
    "read_hpro",
    "read_packed",
    "read_siesta",
    "write_deeph",
]


def __getattr__(name: str) -> Any:
    """The readers and writers, imported when first used."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'ase_deeph.io' has no attribute {name!r}")
