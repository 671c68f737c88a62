"""`deeph convert SRC DST`: output of a DFT code, or a legacy folder, as a folder of the new DeepH format."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ase_deeph.reference import ReferenceData

_SIGNS: dict[str, tuple[str, ...]] = {
    "siesta": ("*.HSX", "*.TSHS"),
    "abacus": (
        "data-HR-sparse*",
        "OUT.*/data-HR-sparse*",
        "*hrs1_nao*",
        "OUT.*/*hrs1_nao*",
        "data-SR-sparse*",
        "OUT.*/data-SR-sparse*",
    ),
    "aims": ("rs_hamiltonian*.out", "rs_overlap.out"),
    "cp2k": ("*KS_SPIN_[12]_R_*.csr", "*KS_SPIN_[12]-*.csr", "*-S_SPIN_1*.csr"),
    "hpro": ("Hdecay.png",),
    "deeph": ("info.json", "lat.dat", "hamiltonian.h5", "overlap.h5"),
}
"""Files that tell which code wrote a folder."""

_SINGLE_FILES = {".HSX": "siesta", ".TSHS": "siesta"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Source, destination, and which code wrote the source."""
    parser.add_argument(
        "source", metavar="SRC", help="output of a DFT code, or a DeepH folder, new or legacy"
    )
    parser.add_argument("destination", metavar="DST", help="the folder to write")
    parser.add_argument(
        "--from", dest="code", choices=sorted(_SIGNS), help="the code that wrote SRC (default: by its files)"
    )
    parser.add_argument("--force", action="store_true", help="replace DST when it is a DeepH folder")
    parser.add_argument("--check", action="store_true", help="examine what was read, as deeph doctor does")


def run(arguments: argparse.Namespace) -> int:
    """Read, write, say what was written.

    Returns
    -------
    0, or with --check 1 when something is wrong with the data (they are written all the same).

    Raises
    ------
    ValueError, OSError : a source that cannot be read, or a destination that exists.
    """
    from ase_deeph.io import write_deeph

    source, destination = Path(arguments.source), Path(arguments.destination)
    if not source.exists():
        raise ValueError(f"{source} does not exist; give the folder of a calculation")
    if destination.is_file() or (destination.is_dir() and any(destination.iterdir()) and not arguments.force):
        raise ValueError(f"{destination} is there already; give another folder, or --force to replace it")
    if source.resolve() == destination.resolve():
        raise ValueError(f"{destination}: expected another folder than the source")
    code = arguments.code or code_of(source)
    data = reader_of(code)(source)
    write_deeph(destination, data)
    if not arguments.quiet:
        _tell(code, source, destination, data)
    return _examine(data) if arguments.check else 0


def code_of(source: Path) -> str:
    """The code that wrote a folder or file, by the names of files.

    Raises
    ------
    ValueError : no code's files are there, or those of several codes.
    """
    if source.is_file():
        if source.suffix in _SINGLE_FILES:
            return _SINGLE_FILES[source.suffix]
        raise ValueError(f"{source}: expected a folder; name the code with --from {'|'.join(sorted(_SIGNS))}")
    found = [code for code, patterns in _SIGNS.items() if any(any(source.glob(p)) for p in patterns)]
    if "deeph" in found and ("hpro" in found or _by_hpro(source)):
        found = ["hpro", *(code for code in found if code not in ("deeph", "hpro"))]
    if not found:
        known = ", ".join(f"{patterns[0]} ({code})" for code, patterns in _SIGNS.items())
        raise ValueError(f"{source}: no matrices of a known code in it; looked for {known}")
    if len(found) > 1:
        raise ValueError(f"{source}: files of {' and '.join(found)} in it; choose one with --from")
    return found[0]


def _by_hpro(source: Path) -> bool:
    from ase_deeph.io.hpro import is_hpro

    return is_hpro(source)


def reader_of(code: str) -> Callable[[Path], ReferenceData]:
    """read_<code> of ase_deeph.io; ValueError when this version has none."""
    readers: Any = import_module("ase_deeph.io")
    try:
        return getattr(readers, f"read_{code}")
    except AttributeError:
        raise ValueError(f"this version of ase-deeph cannot read {code}; update it") from None


def _tell(code: str, source: Path, destination: Path, data: ReferenceData) -> None:
    matrix = data.hamiltonian if data.hamiltonian is not None else data.overlap
    assert matrix is not None
    parts = [name for name, part in (("H", data.hamiltonian), ("S", data.overlap)) if part is not None]
    print(
        f"{destination}: {' and '.join(parts)} of {data.atoms.get_chemical_formula()} on {len(matrix.pairs)} "
        f"pairs, spin {matrix.spin!r}, from {code}"
    )
    if (source / "density_matrix.h5").exists():
        print("  density_matrix.h5 is not carried over")


def _examine(data: ReferenceData) -> int:
    from ase_deeph.validation import validate

    findings = validate(data)
    for finding in findings:
        print(f"  {finding}")
    return 1 if findings else 0
