"""What a user can get wrong, told in one line; and reading a structure with such a line."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ase import Atoms

_EXTRA_OF_PACKAGE = {
    "distributed": "workflow",
    "gpaw": "gpaw",
    "kwant": "transport",
    "optax": "train",
    "orbax": "train",
    "pydantic": "train",
    "pypardiso": "pardiso",
    "pyscf": "pyscf",
    "sisl": "export",
}
_NOT_OF_PIP = ("mpirun", "mumps", "slepc4py")
_LONGEST_LINE = 500


def _one_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST_LINE else line[: _LONGEST_LINE - 4] + " ..."


def _missing_package(error: ModuleNotFoundError) -> str:
    package = (error.name or "").partition(".")[0]
    if package in _NOT_OF_PIP:
        return _one_line(str(error))
    extra = _EXTRA_OF_PACKAGE.get(package)
    remedy = f"pip install 'ase-deeph[{extra}]'" if extra else f"pip install {package}"
    return f"this needs the package {package!r}, which is not installed; {remedy}"


def explain(error: BaseException) -> tuple[str, bool]:
    """One line about an error, and whether the user's input caused it (a missing package counts)."""
    if isinstance(error, ModuleNotFoundError) and not (error.name or "").startswith("ase_deeph"):
        return _missing_package(error), True
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror.lower()}", True
    if isinstance(error, KeyError):
        return _one_line(str(error.args[0]) if error.args else "a key is missing"), True
    if isinstance(error, (ValueError, OSError, NotImplementedError)):
        return _one_line(str(error)), True
    return _one_line(f"internal: {type(error).__name__}: {error}; --debug shows where"), False


def read_structure(path: str) -> Atoms:
    """The (last) structure of a file that ASE reads.

    Raises
    ------
    ValueError : the file is missing, empty, of no known format, or holds no atoms.
    """
    from ase import Atoms
    from ase.io import read

    file = Path(path.partition("@")[0])
    if not file.exists():
        raise ValueError(
            f"structure file {str(file)!r} does not exist; give any file that ase.io.read can open"
        )
    if file.is_file() and file.stat().st_size == 0:
        raise ValueError(f"structure file {str(file)!r} is empty")
    try:
        atoms = read(path)
    except Exception as error:
        reason = _one_line(str(error)) or type(error).__name__
        raise ValueError(f"cannot read a structure from {str(file)!r}: {reason}") from error
    if not isinstance(atoms, Atoms) or len(atoms) == 0:
        raise ValueError(f"structure file {str(file)!r} holds no atoms")
    return atoms
