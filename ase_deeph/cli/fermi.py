"""`deeph fermi`: Fermi level, gap and electron count of a structure."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """STRUCTURE and model."""
    from ase_deeph.cli.options import add_structure_and_model

    add_structure_and_model(parser)
    parser.add_argument(
        "--engine",
        choices=("diagonalize", "count"),
        default="diagonalize",
        help="count: states counted by sparse factorisations, for large systems",
    )
    parser.add_argument("-o", "--output", metavar="FILE", help="also write the table as JSON")


def run(arguments: argparse.Namespace) -> None:
    """Predict, fill the bands, print.

    Raises
    ------
    ValueError, KeyError : bad structure, model or k-points.
    """
    import json

    from ase_deeph.cli.options import output_file, structure_from
    from ase_deeph.cli.table import print_rows

    output = output_file(arguments, "fermi", (".json",)) if arguments.output else None
    structure = structure_from(arguments)
    atoms = structure.atoms
    if arguments.engine == "count":
        from ase_deeph.cli.sparse import fermi_rows

        rows, counted = fermi_rows(structure)
        print_rows(rows)
        if output:
            output.write_text(json.dumps(counted, indent=2) + "\n", encoding="utf-8")
        return
    homo, lumo = structure.homo_lumo()
    gap = float(structure.band_gap())
    level = structure.fermi_level()
    n_full, n_reduced = len(structure.mesh.points), len(structure.mesh.irreducible)
    print_rows(
        [
            ("structure", f"{atoms.get_chemical_formula()}, {len(atoms)} atoms"),
            ("orbitals", f"{structure.hamiltonian.n_orbitals}"),
            ("electrons", f"{structure.n_electrons:g}"),
            ("k-points", f"{n_full} ({n_reduced} by symmetry)"),
            ("Fermi level", f"{level:.4f} eV"),
            ("highest occupied", f"{homo:.4f} eV"),
            ("lowest empty", f"{lumo:.4f} eV"),
            ("gap on the mesh", f"{gap:.4f} eV" if gap > 0 else "none (metal)"),
        ]
    )
    if output:
        values = {
            "fermi_level": level,
            "homo": homo,
            "lumo": lumo,
            "gap": gap,
            "n_electrons": float(structure.n_electrons or 0),
        }
        output.write_text(json.dumps({name: float(v) for name, v in values.items()}, indent=2) + "\n")
