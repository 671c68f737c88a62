"""`deeph dataset info|pack|split|check|plot`: what to do with data that are there."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from ase_deeph.io.dataset_statistics import DatasetStatistics
    from ase_deeph.reference import ReferenceData


def _structures(arguments: argparse.Namespace, label: str) -> Iterator[tuple[str, ReferenceData]]:
    """Every structure of the datasets, with a progress bar."""
    from ase_deeph.cli.progress import progress
    from ase_deeph.io.dataset import read_dataset

    yield from progress(read_dataset(arguments.roots), label, quiet=arguments.quiet)


def info(arguments: argparse.Namespace) -> int:
    """Print sizes, species, shells and ranges."""
    from ase_deeph.cli.table import print_rows
    from ase_deeph.io.dataset_statistics import statistics

    found = statistics(_structures(arguments, "reading"))
    if arguments.json:
        print(json.dumps(_as_json(found), indent=1))
    else:
        print_rows(_rows(found))
    return 0


def _range(values: np.ndarray, form: str = "{:.0f}") -> str:
    low, middle, high = (form.format(float(v)) for v in np.quantile(values, [0, 0.5, 1]))
    return f"{low} to {high}, median {middle}"


def _size(n_bytes: int) -> str:
    return f"{n_bytes / 2**20:.1f} MiB" if n_bytes >= 2**20 else f"{n_bytes / 2**10:.1f} KiB"


def _reach(found: DatasetStatistics, limit: float) -> str:
    """The distance beyond which no |H| exceeds the limit."""
    large = np.nonzero(np.nan_to_num(found.largest_h) > limit)[0]
    if not len(large):
        return "no H"
    return f"{found.bins[large[-1]] + found.bins[1] - found.bins[0]:.2f} Å"


def _rows(found: DatasetStatistics) -> list[tuple[str, str]]:
    axes = {0: "molecules", 1: "wires", 2: "layers", 3: "crystals"}
    rows = [
        ("structures", f"{len(found.names)}"),
        ("kinds", ", ".join(f"{n} {axes[k]}" for k, n in found.periodicity.items())),
        ("spin", ", ".join(f"{n} {k}" for k, n in found.spins.items())),
        ("atoms", _range(found.n_atoms)),
        ("pairs", _range(found.n_pairs)),
        ("orbitals", _range(found.n_orbitals)),
        *((f"element {s}", f"{n} atoms, {found.shells[s]}") for s, n in found.species.items()),
        ("H and S", _size(found.n_bytes)),
    ]
    if len(found.nearest):
        rows.append(("nearest neighbour", f"{_range(found.nearest, '{:.3f}')} Å"))
    rows += [(f"|H| > {limit:g} eV up to", _reach(found, limit)) for limit in (1e-1, 1e-3, 1e-5)]
    return rows + [("without", f"{what}: {n}") for what, n in found.without.items()]


def _as_json(found: DatasetStatistics) -> dict[str, Any]:
    def plain(value: Any) -> Any:
        if isinstance(value, np.ndarray):
            return [None if isinstance(v, float) and np.isnan(v) else v for v in value.tolist()]
        return value

    return {name: plain(value) for name, value in vars(found).items()}


def pack(arguments: argparse.Namespace) -> int:
    """Write the structures that are not in the packed file yet."""
    from ase_deeph.io.packed import PackedWriter

    compression = None if arguments.compression == "none" else arguments.compression
    output, there, added = Path(arguments.output), 0, 0
    if output.suffix not in (".h5", ".hdf5"):
        raise ValueError(f"-o {output}: expected a name that ends in .h5")
    if any(Path(root).resolve() == output.resolve() for root in arguments.roots):
        raise ValueError(f"-o {output}: expected another file than the dataset itself")
    new = not output.exists()
    try:
        with PackedWriter(output, dtype=arguments.dtype, compression=compression) as writer:
            for name, data in _structures(arguments, "packing"):
                if name in writer:
                    there += 1
                else:
                    writer.append(name, data)
                    added += 1
    finally:
        if new and not added and not there:
            output.unlink(missing_ok=True)
    if not arguments.quiet:
        print(f"{output}: {added} packed, {there} were there, {_size(output.stat().st_size)}")
    return 0


def split(arguments: argparse.Namespace) -> int:
    """Print, or write as JSON, which structures are held out."""
    from ase_deeph.cli.options import check_output
    from ase_deeph.io.dataset import split as divide

    if not 0 <= arguments.fraction < 1:
        raise ValueError(f"--fraction: expected 0 <= fraction < 1, received {arguments.fraction:g}")
    output = check_output(arguments.output, (".json",)) if arguments.output else None
    names = [name for name, _ in _structures(arguments, "reading")]
    training, validation = ([names[n] for n in part] for part in divide(names, arguments.fraction))
    if output is not None:
        from ase_deeph.exporters.files import replaced_file

        with replaced_file(output) as partial:
            partial.write_text(json.dumps({"training": training, "validation": validation}, indent=1) + "\n")
    if not arguments.quiet:
        print(f"{len(training)} for training, {len(validation)} for validation")
        if output is None:
            for name in validation:
                print(f"  validation  {name}")
    return 0


def check(arguments: argparse.Namespace) -> int:
    """Examine every structure; 1 when something is wrong."""
    from ase_deeph.io.dataset import structure_folders
    from ase_deeph.io.packed import PackedDataset, is_packed
    from ase_deeph.validation import examine, examine_folder

    said: list[str] = []
    kept: list[tuple[str, Any]] = []
    n = 0
    for root in arguments.roots:
        if is_packed(root):
            packed = PackedDataset(root)
            bad = set(packed.damaged())
            said += [f"{root}: {name}: error: unreadable: checksum: damaged; pack it again" for name in bad]
            for name in _bar(packed.names, arguments):
                n += 1
                if name not in bad:
                    data = packed[name]
                    said += [f"{root}: {name}: {f}" for f in examine(data).findings]
                    kept.append((f"{root}: {name}", data.atoms))
            continue
        for folder in _bar(structure_folders(root), arguments):
            n += 1
            report = examine_folder(folder)
            said += [f"{folder}: {f}" for f in report.findings]
            atoms = _atoms(folder)
            if atoms is not None:
                kept.append((str(folder), atoms))
    if not arguments.no_duplicates:
        from ase_deeph.io.duplicates import duplicates

        said += [f"{a}: warning: duplicate: the same structure as {b}" for a, b in duplicates(kept)]
    for line in said:
        print(line)
    if not arguments.quiet:
        print(f"{n} structures, {len(said)} findings" if said else f"{n} structures, sound")
    return 1 if said else 0


def _bar(items: Any, arguments: argparse.Namespace) -> Any:
    from ase_deeph.cli.progress import progress

    return progress(items, "examining", quiet=arguments.quiet)


def _atoms(folder: Path) -> Any:
    """The structure of a folder, None where it cannot be read (a finding tells)."""
    from ase_deeph.io import read_deeph

    try:
        return read_deeph(folder).atoms
    except (OSError, KeyError, ValueError):
        return None


def plot(arguments: argparse.Namespace) -> int:
    """Draw sizes, nearest-neighbour distances, and the largest |H| and |S| over distance."""
    from ase_deeph.cli.options import check_output
    from ase_deeph.cli.picture import PICTURE_SUFFIXES
    from ase_deeph.io.dataset_statistics import statistics

    output = check_output(arguments.output, PICTURE_SUFFIXES)
    found = statistics(_structures(arguments, "reading"))
    _draw(output, found)
    if not arguments.quiet:
        print(f"{output}: {len(found.names)} structures")
    return 0


def _draw(output: Path, found: DatasetStatistics) -> None:
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from ase_deeph.cli.picture import PREDICTED, REFERENCE, STYLE

    with matplotlib.rc_context(STYLE):
        canvas = Figure(figsize=(9.0, 3.0), layout="constrained")
        FigureCanvasAgg(canvas)
        sizes, near, reach = canvas.subplots(1, 3)
        sizes.hist(found.n_atoms, bins=min(30, max(3, len(set(found.n_atoms.tolist())))), color=PREDICTED)
        sizes.set_xlabel("atoms")
        sizes.set_ylabel("structures")
        near.hist(found.nearest, bins=40, color=PREDICTED)
        near.set_xlabel("nearest neighbour (Å)")
        near.set_ylabel("atoms")
        middle = found.bins + 0.5 * (found.bins[1] if len(found.bins) > 1 else 0.25)
        for values, color, label in (
            (found.largest_h, PREDICTED, "largest |H| (eV)"),
            (found.largest_s, REFERENCE, "largest |S|"),
        ):
            if np.nansum(values) > 0:
                reach.semilogy(middle, np.where(values > 0, values, np.nan), color=color, label=label)
        reach.set_xlabel("distance (Å)")
        reach.legend(fontsize=7)
        canvas.savefig(output)
