"""`deeph doctor FOLDER ...`: what is wrong with folders of reference data, one line for each fault."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ase_deeph.validation import Report


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Folders, and the form of the answer."""
    parser.add_argument(
        "folders",
        metavar="FOLDER",
        nargs="+",
        help="a structure in the DeepH format, new or legacy, or the output of a DFT code",
    )
    parser.add_argument("--json", action="store_true", help="print findings and measures as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Examine every folder and print its findings.

    Returns
    -------
    0 when all are sound, 1 when something is wrong with one of them.

    Raises
    ------
    FileNotFoundError, ValueError : no such folder, or no matrices in it.
    """
    from ase_deeph.cli.progress import progress

    reports: dict[str, Report] = {}
    quiet = arguments.quiet or len(arguments.folders) == 1
    for folder in progress(arguments.folders, "examining", quiet=quiet):
        reports[folder] = _examined(Path(folder))
    if arguments.json:
        print(json.dumps({folder: _as_json(report) for folder, report in reports.items()}, indent=1))
    else:
        for folder, report in reports.items():
            _print(folder, report, arguments.quiet)
    return 1 if any(report.findings for report in reports.values()) else 0


def _examined(folder: Path) -> Report:
    """The report on a DeepH folder, or on what a reader makes of a DFT code's output."""
    from ase_deeph.cli.convert import code_of, reader_of
    from ase_deeph.validation import examine, examine_folder

    if not folder.exists():
        raise FileNotFoundError(f"folder {folder} does not exist")
    if folder.is_file() and folder.suffix in (".h5", ".hdf5"):
        raise ValueError(f"{folder}: expected a folder; deeph dataset check examines packed files")
    try:
        code = code_of(folder)
    except ValueError:
        if folder.is_file():
            raise
        code = "deeph"
    if code in ("deeph", "hpro") or (folder / "info.json").is_file():
        _refuse_many(folder)
        return examine_folder(folder)
    return examine(reader_of(code)(folder))


def _refuse_many(folder: Path) -> None:
    """ValueError for the root of a dataset."""
    from ase_deeph.io.dataset import structure_folders

    if any(
        (folder / name).exists()
        for name in ("POSCAR", "info.json", "lat.dat", "hamiltonian.h5", "overlap.h5")
    ):
        return
    try:
        n = len(structure_folders(folder))
    except ValueError:
        return
    raise ValueError(f"{folder}: {n} structures are in it; deeph dataset check examines them all")


def _print(folder: str, report: Report, quiet: bool) -> None:
    """The findings; without --quiet also what was measured and what could not be checked."""
    from ase_deeph.cli.table import print_rows

    if not quiet:
        n = len(report.findings)
        print(f"{folder}: {'sound' if not n else f'{n} finding' + 's' * (n > 1)}")
    for finding in report.findings:
        print(finding if not quiet else f"{folder}: {finding}")
    if not quiet:
        print_rows([*report.measures.items(), *(("not checked", line) for line in report.unchecked)])


def _as_json(report: Report) -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "findings": [asdict(finding) for finding in report.findings],
        "measures": report.measures,
        "unchecked": list(report.unchecked),
    }
