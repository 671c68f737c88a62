"""`deeph transport`: T(E) and the modes of the leads of a device, as a table and a picture."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from ase import Atoms

    from ase_deeph.calculator import DeepHCalculator
    from ase_deeph.transport import Device, TransmissionReport

_MOST_ENERGIES = 100_000
_TABLES = (".csv", ".h5")
_SIGNED = re.compile(r"^-[\d.]")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Device, leads, direction, energies, transverse k, model, and where to write."""
    from ase_deeph.cli.options import add_structure_and_model

    # "-2:2:0.01" is a value, not an option.
    parser._negative_number_matcher = _SIGNED  # type: ignore[attr-defined]
    add_structure_and_model(parser)
    _rename_structure(
        parser, "DEVICE", "the device, whose ends continue the leads; any file that ase.io reads"
    )
    parser.add_argument(
        "--lead",
        metavar="LEAD",
        action="append",
        required=True,
        help="one period of a lead; once: the same bulk on both ends, twice: low end and high end",
    )
    parser.add_argument(
        "--direction", choices=("a", "b", "c"), default="a", help="axis of transport (default a)"
    )
    parser.add_argument(
        "--energies",
        metavar="E",
        default="-2:2:0.02",
        help="START:STOP:STEP or E1,E2,... in eV relative to the first lead's Fermi level (default -2:2:0.02)",
    )
    parser.add_argument(
        "--kpts-perp",
        metavar="N",
        help="k-points across: N or N1,N2 (default: as dense as --kpts, 1 along open axes)",
    )
    parser.add_argument("--backend", choices=("kwant", "ase"), default="kwant", help="solver (default kwant)")
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="processes (default 1)")
    parser.add_argument(
        "-o", "--output", metavar="FILE", help="table, .csv or .h5; a picture is put beside it"
    )
    parser.add_argument("--picture", metavar="FILE", help="png, pdf or svg (default: the table's name, .png)")


def run(arguments: argparse.Namespace) -> None:
    """Predict device and leads, attach, solve, write.

    Raises
    ------
    ValueError, KeyError : bad structures, model, energies or output; leads that the device does not continue.
    ModuleNotFoundError : Kwant is not installed.
    """
    from ase_deeph.cli.options import calculator_from, check_output
    from ase_deeph.cli.picture import PICTURE_SUFFIXES

    name = arguments.output or f"{Path(arguments.structure).stem}_transport.csv"
    table = check_output(name, _TABLES)
    picture = check_output(arguments.picture or str(table.with_suffix(".png")), PICTURE_SUFFIXES)
    grid = parse_energies(arguments.energies)
    if arguments.workers < 1:
        raise ValueError(f"--workers: expected at least one process, received {arguments.workers}")
    across = None if arguments.kpts_perp is None else parse_transverse(arguments.kpts_perp)
    if len(arguments.lead) > 2:
        raise ValueError(f"--lead: expected one or two leads, received {len(arguments.lead)}")
    atoms, calculator = calculator_from(arguments)
    device, level = _build(atoms, calculator, arguments)
    kpts, weights = transverse_mesh(atoms, "abc".index(arguments.direction), across)
    report = device.transmission_report(
        grid + level,
        kperp=kpts,
        weights=weights.tolist(),
        backend=arguments.backend,
        n_workers=arguments.workers,
    )
    _write(table, grid, report, level)
    draw(picture, grid, report)
    if not arguments.quiet:
        _tell(table, picture, device, report, level)


def parse_energies(text: str) -> np.ndarray:
    """(n_energies,) eV from "START:STOP:STEP", STOP included, or "E1,E2,...".

    Raises
    ------
    ValueError : anything else, a range that never arrives, or too many energies.
    """
    wrong = f"--energies: expected START:STOP:STEP such as -2:2:0.01, or E1,E2,... in eV, received {text!r}"
    try:
        parts = [float(part) for part in re.split("[:,]", text)]
    except ValueError:
        raise ValueError(wrong) from None
    if not np.all(np.isfinite(parts)) or (":" in text and (len(parts) != 3 or "," in text)):
        raise ValueError(wrong)
    if ":" not in text:
        return np.array(parts)
    start, stop, step = parts
    if step <= 0 or stop < start:
        raise ValueError(f"{wrong}; STEP must be positive and STOP not below START")
    if (stop - start) / step > _MOST_ENERGIES:
        raise ValueError(f"{wrong}; that is more than {_MOST_ENERGIES} energies")
    return start + step * np.arange(int(np.floor((stop - start) / step + 1e-9)) + 1)


def parse_transverse(text: str) -> tuple[int, int]:
    """Points along the two axes across from "N" (both) or "N1,N2".

    Raises
    ------
    ValueError : anything else.
    """
    wrong = f"--kpts-perp: expected a positive count N or two, N1,N2, received {text!r}"
    try:
        counts = [int(part) for part in text.replace("x", ",").split(",")]
    except ValueError:
        raise ValueError(wrong) from None
    if len(counts) > 2 or min(counts) < 1:
        raise ValueError(wrong)
    return counts[0], counts[-1]


def transverse_mesh(
    atoms: Atoms, direction: int, counts: tuple[int, int] | None
) -> tuple[np.ndarray, np.ndarray]:
    """Fractional k (n, 3) across a direction and their weights, k and -k taken as one (H is real).

    Parameters
    ----------
    atoms : the device; axes that are not periodic get one point.
    direction : axis of transport.
    counts : points along the other two axes, or None for 3.5 per Å^-1.
    """
    from ase.calculators.calculator import kpts2sizeandoffsets

    from ase_deeph.kpoints import DEFAULT_KPTS

    others = [axis for axis in range(3) if axis != direction]
    size = np.ones(3, dtype=int)
    if counts is None:
        size[others] = np.array(kpts2sizeandoffsets(atoms=atoms, **DEFAULT_KPTS)[0])[others]
    else:
        size[others] = counts
    size[~atoms.pbc] = 1
    # Centred on Γ for odd counts and between the points for even ones, so that -k is always among them.
    steps = np.indices(tuple(size.tolist())).reshape(3, -1).T
    kpts = (2 * steps + 1 - size) / (2 * size)
    known: dict[tuple[float, ...], int] = {}
    for k in np.round(kpts, 12) + 0.0:
        image = max(tuple(k.tolist()), tuple((-k + 0.0).tolist()))
        known[image] = known.get(image, 0) + 1
    return np.array(list(known)), np.array(list(known.values())) / len(kpts)


def _rename_structure(parser: argparse.ArgumentParser, metavar: str, text: str) -> None:
    for action in parser._actions:
        if action.dest == "structure":
            action.metavar, action.help = metavar, text


def _build(atoms: Atoms, calculator: DeepHCalculator, arguments: argparse.Namespace) -> tuple[Device, float]:
    """The device between its leads, and the first lead's Fermi level in eV on the device's scale."""
    from ase_deeph.cli.errors import read_structure
    from ase_deeph.transport import Device, Lead

    direction = arguments.direction
    leads = []
    for path in arguments.lead:
        bulk = calculator.get_electronic_structure(read_structure(path))
        try:
            leads.append(Lead.from_bulk(bulk, direction))
        except ValueError as error:
            raise ValueError(f"--lead {path}: {error}") from None
    structure = calculator.get_electronic_structure(atoms)
    sides = [f"-{direction}", f"+{direction}"]
    device = Device(structure, [leads[0], leads[-1]], boundary=sides)
    return device, device.fermi_level()


def _columns(report: TransmissionReport) -> dict[str, np.ndarray]:
    """Transmission and modes of each lead, means over k, by the name of their column."""
    modes = np.tensordot(report.weights, report.n_modes, axes=(0, 1))
    spins = [""] if len(modes) == 1 else [" up", " down"]
    columns = {f"transmission{s}": curve for s, curve in zip(spins, np.atleast_2d(report.total), strict=True)}
    for lead in range(modes.shape[-1]):
        columns |= {f"modes_lead{lead + 1}{s}": modes[n, :, lead] for n, s in enumerate(spins)}
    return columns


def _write(path: Path, grid: np.ndarray, report: TransmissionReport, level: float) -> None:
    """The table, complete or not at all."""
    from ase_deeph.cli.table import write_csv
    from ase_deeph.exporters.files import replaced_file

    columns = _columns(report)
    with replaced_file(path) as partial:
        if path.suffix.lower() == ".csv":
            header = ["energy_minus_fermi_eV", *columns]
            write_csv(partial, header, zip(grid, *columns.values(), strict=True))
        else:
            _write_hdf5(partial, grid, report, level)


def _write_hdf5(path: Path, grid: np.ndarray, report: TransmissionReport, level: float) -> None:
    """Everything of the report: axes spin, k, energy, lead."""
    import h5py

    with h5py.File(path, "w") as file:
        file.attrs["fermi_level_eV"] = level
        file.attrs["backend"] = report.backend
        file["energy_minus_fermi_eV"] = grid
        file["transmission"] = report.total
        file["transmission_ske"] = report.transmission
        file["modes_skel"] = report.n_modes
        file["stepped_aside_eV_ske"] = report.step
        file["k_transverse"] = report.kpts
        file["k_weights"] = report.weights


def draw(path: Path, grid: np.ndarray, report: TransmissionReport) -> None:
    """T(E) over the modes of the leads, energies in eV relative to the Fermi level; complete or not at all."""
    from ase_deeph.cli.picture import NEUTRAL, PREDICTED, REFERENCE, figure
    from ase_deeph.exporters.files import replaced_file

    columns = _columns(report)
    transmission = [name for name in columns if name.startswith("transmission")]
    spins = ["", ""] if len(transmission) == 1 else [" ↑", " ↓"]
    with replaced_file(path) as partial, figure(partial) as axis:
        modes = [columns[name] for name in columns if name.startswith("modes")]
        _draw_modes(axis, grid, modes, len(transmission), NEUTRAL)
        for name, spin, color in zip(transmission, spins, (PREDICTED, REFERENCE), strict=False):
            axis.plot(
                grid,
                columns[name],
                color=color,
                linewidth=1.2,
                marker="" if len(grid) > 1 else "o",
                label=f"T{spin}",
            )
        axis.axvline(0.0, color=NEUTRAL, linewidth=0.6, linestyle=":", zorder=0)
        axis.set_xlabel("E − E$_F$ (eV)")
        axis.set_ylabel("transmission, modes per lead")
        if len(grid) > 1:
            axis.set_xlim(grid.min(), grid.max())
        axis.set_ylim(0.0, 1.25 * max(1.0, *(float(np.nanmax(c)) for c in columns.values())))
        axis.legend(fontsize=7, ncols=2, loc="upper center")


def _draw_modes(axis: Any, grid: np.ndarray, modes: Sequence[np.ndarray], n_spins: int, color: str) -> None:
    """Modes of each lead, filled for the first one; equal leads are drawn once."""
    first, second = modes[:n_spins], modes[n_spins:]
    same = all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    for n, count in enumerate(first):
        label = ("modes of a lead" if same else "modes of lead 1") if n == 0 else None
        axis.fill_between(grid, 0.0, count, step="mid", color=color, alpha=0.15, linewidth=0, label=label)
    if not same:
        for n, count in enumerate(second):
            style = {"color": color, "linewidth": 0.8, "linestyle": "--", "where": "mid"}
            axis.step(grid, count, label="modes of lead 2" if n == 0 else None, **style)


def _tell(table: Path, picture: Path, device: Device, report: TransmissionReport, level: float) -> None:
    """One line about the result, one about how it was reached."""
    n_kpts, aside = len(report.kpts), int(report.stepped_aside.sum())
    print(
        f"{table}, {picture}: T(E) at {len(report.energies)} energies, {n_kpts} transverse k, "
        f"Fermi level of the lead {level:.4f} eV"
    )
    print(
        f"  device aligned by {device.shift:+.4f} eV (residual {device.residual:.3f} eV), {report.backend}"
        + (f", {aside} energies solved 0.1-0.5 meV aside" if aside else "")
    )
