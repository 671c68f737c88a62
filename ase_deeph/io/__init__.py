"""Files: the DeepH folder format, bases, and the output of DFT codes."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ase_deeph.io.deeph import read_deeph, write_deeph

_HOMES = {"read_deeph": "ase_deeph.io.deeph", "write_deeph": "ase_deeph.io.deeph"}

__all__ = ["read_deeph", "write_deeph"]


def __getattr__(name: str) -> Any:
    """The readers and writers, imported when first used."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'ase_deeph.io' has no attribute {name!r}")
