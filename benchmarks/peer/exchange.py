"""Our data sets for DeepH-E3 in its own format, and the error of what it predicts, entry by entry as ours.

    python benchmarks/peer/exchange.py convert DATA/graphene WORK [--cutoff 6.6]
    python benchmarks/peer/exchange.py evaluate WORK [--predictions WORK/predictions]

DATA/graphene holds train/dft, validation/dft and test/dft, each with folders as `deeph dataset generate` makes
them. `convert` writes WORK/fit (train and validation, named by their split) and WORK/test, one legacy DeepH
folder per structure: OpenMX's order of orbitals, "[R1, R2, R3, i, j]" with atoms counted from 1, eV, only pairs
closer than the cutoff. Each folder is read back and its levels are compared with ours. Between the two stands
deephe3_run.py, in the peer's own environment.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path

import h5py
import numpy as np
from scipy.linalg import eigh

from ase_deeph.io import read_deeph
from ase_deeph.io.deeph_legacy import read_legacy
from ase_deeph.matrix import RealSpaceMatrix, gauge_shift
from ase_deeph.reference import ReferenceData

# which of our orbitals m = -l ... l stands at each place of OpenMX's order
TO_OPENMX = {0: (0,), 1: (2, 0, 1), 2: (2, 4, 0, 3, 1), 3: (3, 4, 2, 5, 1, 6, 0)}
K_POINTS = ((0.0, 0.0, 0.0), (0.13, -0.21, 0.0), (0.5, 0.25, 0.0))


Matrices = tuple[RealSpaceMatrix, RealSpaceMatrix]


def matrices(data: ReferenceData, cutoff: float = np.inf) -> Matrices:
    """H and S of a structure that has both, on pairs closer than the cutoff in Å."""
    if data.hamiltonian is None or data.overlap is None:
        raise ValueError("expected a folder with H and S, received one without; generate the data set again")
    return data.hamiltonian.cut(cutoff), data.overlap.cut(cutoff)


def openmx_order(shells: tuple[int, ...]) -> np.ndarray:
    """Indices that bring an atom's orbitals into OpenMX's order."""
    starts = np.cumsum([0, *(2 * l + 1 for l in shells)])
    return np.concatenate([start + np.array(TO_OPENMX[l]) for start, l in zip(starts, shells, strict=False)])


def write_matrix(path: Path, matrix: RealSpaceMatrix) -> None:
    """One dataset per pair."""
    pairs, symbols = matrix.pairs, matrix.atoms.get_chemical_symbols()
    order = {s: openmx_order(matrix.basis.shells(s)) for s in set(symbols)}
    with h5py.File(path, "w") as file:
        for i, j, R, block in zip(pairs.i, pairs.j, pairs.R, matrix.blocks(), strict=True):
            key = [*(int(r) for r in R), int(i) + 1, int(j) + 1]
            file[str(key)] = block[np.ix_(order[symbols[i]], order[symbols[j]])]


def write_legacy(folder: Path, data: ReferenceData, cutoff: float) -> None:
    """The structure and both matrices, cut at the distance in Å."""
    folder.mkdir(parents=True, exist_ok=True)
    atoms, cell = data.atoms, data.atoms.cell.array
    tables = {
        "lat.dat": cell.T,
        "rlat.dat": 2 * np.pi * np.linalg.inv(cell),
        "site_positions.dat": atoms.positions.T,
        "element.dat": atoms.numbers,
    }
    for name, table in tables.items():
        np.savetxt(folder / name, table, fmt="%d" if name == "element.dat" else "%.17g")
    hamiltonian, overlap = matrices(data, cutoff)
    shells = [hamiltonian.basis.shells(s) for s in atoms.get_chemical_symbols()]
    (folder / "orbital_types.dat").write_text("".join(" ".join(map(str, own)) + "\n" for own in shells))
    facts = {"nsites": len(atoms), "isorthogonal": False, "isspinful": False, "fermi_level": data.fermi_level}
    (folder / "info.json").write_text(json.dumps(facts))
    write_matrix(folder / "hamiltonians.h5", hamiltonian)
    write_matrix(folder / "overlaps.h5", overlap)


def levels(hamiltonian: RealSpaceMatrix, overlap: RealSpaceMatrix) -> np.ndarray:
    """(n_k, n) generalised eigenvalues in eV at a few k-points."""
    return np.array([eigh(hamiltonian.at_k(k), overlap.at_k(k), eigvals_only=True) for k in K_POINTS])


def convert(source: Path, work: Path, cutoff: float) -> float:
    """Write every structure of the three splits; the largest deviation of a level after reading back, in eV."""
    worst = 0.0
    for split in ("train", "validation", "test"):
        folders = sorted(p for p in (source / split / "dft").iterdir() if (p / "hamiltonian.h5").exists())
        for n, folder in enumerate(folders):
            data = read_deeph(folder)
            target = work / ("test" if split == "test" else "fit") / f"{split}_{folder.name}"
            write_legacy(target, data, cutoff)
            if n % 8 == 0 or split == "test":
                deviation = levels(*matrices(read_legacy(target))) - levels(*matrices(data, cutoff))
                worst = max(worst, float(abs(deviation).max()))
        sys.stdout.write(f"{split}: {len(folders)} structures\n")
    return worst


def predicted(folder: Path, predictions: Path) -> RealSpaceMatrix:
    """The peer's H of a structure, through our reader of its format."""
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch) / folder.name
        shutil.copytree(folder, place, ignore=shutil.ignore_patterns("*.h5"))
        shutil.copyfile(predictions / folder.name / "hamiltonians_pred.h5", place / "hamiltonians.h5")
        found = read_legacy(place).hamiltonian
    if found is None:
        raise ValueError(
            f"{predictions / folder.name}: expected hamiltonians_pred.h5; run deephe3_run.py first"
        )
    return found


def evaluate(work: Path, predictions: Path) -> list[tuple[str, int, float, float]]:
    """(name, entries, MAE raw, MAE gauge-fixed) in meV of each test structure, over all entries of all pairs."""
    rows = []
    for folder in sorted((work / "test").iterdir()):
        hamiltonian, overlap = matrices(read_legacy(folder))
        prediction = predicted(folder, predictions)
        if prediction.pairs != hamiltonian.pairs:
            raise ValueError(f"{folder.name}: the prediction has {prediction.pairs}, DFT {hamiltonian.pairs}")
        error = hamiltonian - prediction
        fixed = error - gauge_shift(error, overlap) * overlap
        size = error.entries.size
        rows.append((folder.name, size, 1e3 * abs(error.entries).mean(), 1e3 * abs(fixed.entries).mean()))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("convert")
    one.add_argument("source", type=Path)
    one.add_argument("work", type=Path)
    one.add_argument("--cutoff", type=float, default=6.6)
    two = commands.add_parser("evaluate")
    two.add_argument("work", type=Path)
    two.add_argument("--predictions", type=Path)
    args = parser.parse_args()
    if args.command == "convert":
        worst = convert(args.source, args.work, args.cutoff)
        sys.stdout.write(f"largest deviation of a level after reading back: {worst:.1e} eV\n")
        return
    rows = evaluate(args.work, args.predictions or args.work / "predictions")
    for name, size, raw, fixed in rows:
        sys.stdout.write(f"{name:28s} {size:8d} entries  raw {raw:8.4f}  gauge-fixed {fixed:8.4f} meV\n")
    sizes, *errors = (np.array(column) for column in list(zip(*rows, strict=True))[1:])
    for label, weight in (("mean over structures", np.ones(len(rows))), ("mean over entries", sizes)):
        means = [float(np.average(column, weights=weight)) for column in errors]
        sys.stdout.write(f"{label:28s} raw {means[0]:8.4f}  gauge-fixed {means[1]:8.4f} meV\n")


if __name__ == "__main__":
    main()
