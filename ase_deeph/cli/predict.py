"""`deeph predict`: H(R) and S(R) of a structure, or of each of many, written as folders of the DeepH format."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """STRUCTURE and model, the folder, many structures, several processes."""
    from ase_deeph.cli.hosts import add_host_arguments
    from ase_deeph.cli.many import add_many_arguments
    from ase_deeph.cli.options import add_structure_and_model

    add_structure_and_model(parser)
    parser.add_argument("-o", "--output", metavar="FOLDER", required=True, help="made when absent")
    add_many_arguments(parser)
    add_host_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Predict and write.

    Raises
    ------
    ValueError, KeyError : bad structure or model, or a file in place of the folder.
    """
    from ase_deeph.cli.hosts import predict_together
    from ase_deeph.cli.many import are_many, predict_many
    from ase_deeph.io.deeph import check_replaceable

    folder = Path(arguments.output)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"-o {folder}: expected a folder, found a file of that name")
    several = (arguments.process_id, arguments.num_processes) != (None, None)
    if several and arguments.coordinator is None:
        raise ValueError("--process-id and --num-processes need --coordinator HOST:PORT")
    many = are_many(arguments)
    if many and arguments.coordinator is not None:
        raise ValueError(
            "--coordinator shares one structure among processes; many take --workers or --scheduler"
        )
    if arguments.coordinator is not None and arguments.kpts is not None:
        raise ValueError("--kpts: several processes write H and S without a Fermi level; leave it out")
    if many:
        return predict_many(arguments)
    check_replaceable(folder)
    if arguments.coordinator is not None:
        predict_together(arguments)
    else:
        _predict_one(arguments, folder)
    return 0


def _predict_one(arguments: argparse.Namespace, folder: Path) -> None:
    """One structure, in this process."""
    from ase_deeph.cli.options import calculator_from
    from ase_deeph.cli.progress import progress_of_large_structures
    from ase_deeph.io import write_deeph
    from ase_deeph.workflow.predictions import prediction

    atoms, calculator = calculator_from(arguments)
    with progress_of_large_structures(quiet=arguments.quiet):
        data = prediction(calculator, atoms)
    write_deeph(folder, data)
    if not arguments.quiet:
        level = (
            f"Fermi level {data.fermi_level:.4f} eV"
            if data.fermi_level is not None
            else "Fermi level left out (deeph fermi --engine count finds it)"
        )
        hamiltonian = data.hamiltonian
        assert hamiltonian is not None
        print(f"{folder}: H(R) on {len(hamiltonian.pairs)} pairs, {hamiltonian.n_orbitals} orbitals, {level}")
