"""`deeph predict`: H(R) and S(R) of a structure, written as a folder of the DeepH format."""

from __future__ import annotations

import argparse
from pathlib import Path

MOST_ORBITALS_DENSE = 8000
"""Beyond so many the Fermi level is not computed on the way: each k-point would take minutes."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """STRUCTURE and model, and the folder."""
    from ase_deeph.cli.options import add_structure_and_model

    add_structure_and_model(parser)
    parser.add_argument("-o", "--output", metavar="FOLDER", required=True, help="made when absent")


def run(arguments: argparse.Namespace) -> None:
    """Predict and write.

    Raises
    ------
    ValueError, KeyError : bad structure or model, or a file in place of the folder.
    """
    from ase_deeph.cli.options import calculator_from
    from ase_deeph.cli.progress import progress_of_large_structures
    from ase_deeph.io import write_deeph
    from ase_deeph.reference import ReferenceData

    folder = Path(arguments.output)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"-o {folder}: expected a folder, found a file of that name")
    atoms, calculator = calculator_from(arguments)
    with progress_of_large_structures(quiet=arguments.quiet):
        structure = calculator.get_electronic_structure(atoms)
    small = structure.hamiltonian.n_orbitals <= MOST_ORBITALS_DENSE
    data = ReferenceData(
        atoms=atoms,
        hamiltonian=structure.hamiltonian,
        overlap=structure.overlap,
        n_electrons=structure.n_electrons,
        fermi_level=calculator.get_fermi_level() if small else None,
        basis=structure.hamiltonian.basis,
    )
    write_deeph(folder, data)
    if not arguments.quiet:
        level = (
            f"Fermi level {data.fermi_level:.4f} eV"
            if data.fermi_level is not None
            else "Fermi level left out (deeph fermi --engine count finds it)"
        )
        print(
            f"{folder}: H(R) on {len(structure.hamiltonian.pairs)} pairs, {structure.hamiltonian.n_orbitals} "
            f"orbitals, {level}"
        )
