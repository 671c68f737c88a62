"""The options that several verbs share, and the calculator they describe."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from ase import Atoms

from ase_deeph.calculator import DeepHCalculator
from ase_deeph.cli.errors import read_structure
from ase_deeph.electronic_structure import ElectronicStructure


def parse_kpts(text: str) -> dict[str, Any] | tuple[int, ...]:
    """A mesh "12,12,1" (or 12x12x1), or a density in k-points per Å^-1 such as "3.5".

    Raises
    ------
    ValueError : anything else, or no k-points at all.
    """
    parts = text.replace("x", ",").split(",")
    wrong = f"--kpts: expected a mesh such as 12,12,1 or a density such as 3.5, received {text!r}"
    try:
        if len(parts) == 1:
            density = float(text)
            if not 0 < density < 1000:
                raise ValueError(f"{wrong}; the density must be positive")
            return {"density": density, "gamma": True}
        size = tuple(int(p) for p in parts)
    except ValueError as error:
        raise ValueError(str(error) if str(error).startswith("--kpts") else wrong) from None
    if len(size) != 3 or min(size) < 1:
        raise ValueError(f"{wrong}; every axis needs at least one k-point")
    return size


def add_structure_and_model(parser: argparse.ArgumentParser) -> None:
    """STRUCTURE, --model, --kpts, --occupations, --width, --dtype and --device."""
    parser.add_argument(
        "structure", metavar="STRUCTURE", help="any file that ase.io reads (bands, dos: or a DeepH folder)"
    )
    parser.add_argument(
        "--model", metavar="M", help="a model's name or HDF5 file (default: the one that ships)"
    )
    parser.add_argument("--kpts", metavar="K", help="mesh N1,N2,N3 or density per Å^-1 (default 3.5)")
    parser.add_argument(
        "--smearing", metavar="NAME", default="fermi-dirac", help="occupations (default fermi-dirac)"
    )
    parser.add_argument(
        "--width", metavar="EV", type=float, default=0.05, help="smearing width, eV (default 0.05)"
    )
    parser.add_argument(
        "--dtype", choices=("float32", "float64"), default="float32", help="network precision"
    )
    parser.add_argument("--device", help="cpu or gpu (default: what JAX finds)")


def calculator_from(arguments: argparse.Namespace) -> tuple[Atoms, DeepHCalculator]:
    """The structure of the command line with its calculator attached.

    Raises
    ------
    ValueError, KeyError : an unreadable structure, model or mesh.
    """
    atoms = structure_at(arguments.structure)
    calculator = DeepHCalculator(
        arguments.model,
        kpts=None if arguments.kpts is None else parse_kpts(arguments.kpts),
        occupations={"name": arguments.smearing, "width": arguments.width},
        device=arguments.device,
        dtype=arguments.dtype,
    )
    atoms.calc = calculator
    return atoms, calculator


def structure_at(path: str) -> Atoms:
    """The structure of a file that ASE reads, or of a DeepH folder."""
    if not (Path(path) / "info.json").is_file():
        return read_structure(path)
    from ase_deeph.io import read_deeph

    return read_deeph(path).atoms


def structure_from(arguments: argparse.Namespace) -> ElectronicStructure:
    """The levels of the command line's structure: by the model, or a DeepH folder's own where no --model is given.

    Raises
    ------
    ValueError, KeyError : an unreadable structure, folder, model or mesh, or a folder without H.
    """
    if arguments.model is not None or not Path(arguments.structure).is_dir():
        _, calculator = calculator_from(arguments)
        return calculator.get_electronic_structure()
    from ase_deeph.io import read_deeph
    from ase_deeph.kpoints import DEFAULT_KPTS

    data = read_deeph(arguments.structure)
    if data.hamiltonian is None:
        raise ValueError(
            f"{arguments.structure}: no hamiltonian.h5 in this folder; give --model to predict H"
        )
    return ElectronicStructure(
        data.hamiltonian,
        data.overlap,
        data.n_electrons,
        kpts=dict(DEFAULT_KPTS) if arguments.kpts is None else parse_kpts(arguments.kpts),
        occupations={"name": arguments.smearing, "width": arguments.width},
    )


def output_file(arguments: argparse.Namespace, kind: str, suffixes: tuple[str, ...]) -> Path:
    """The file of -o, by default STRUCTURE's name with _bands.png or the like.

    Raises
    ------
    ValueError : see `check_output`.
    """
    return check_output(arguments.output or f"{Path(arguments.structure).stem}_{kind}.png", suffixes)


def check_output(name: str, suffixes: tuple[str, ...]) -> Path:
    """A file to write, checked before any work is done.

    Raises
    ------
    ValueError : a suffix that is not offered, a folder that does not exist, or a file that cannot be written.
    """
    path = Path(name)
    if path.suffix.lower() not in suffixes:
        raise ValueError(f"-o {name}: expected a name that ends in {', '.join(suffixes)}")
    if not path.absolute().parent.is_dir():
        raise ValueError(f"-o {name}: the folder {path.absolute().parent} does not exist")
    if path.is_dir() or (path.exists() and not os.access(path, os.W_OK)):
        raise ValueError(f"-o {name}: this is a folder, or a file that cannot be written")
    return path
