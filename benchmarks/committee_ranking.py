"""Does a committee's spread rank its errors?  Spearman's correlation over structures with reference data.

    deeph dataset generate benchmarks/committee_ranking.toml -o OUTSIDE
    python benchmarks/committee_ranking.py --model A.h5 --model B.h5 ... --data TEST VALIDATION OUTSIDE [-o rows.csv]

One row per structure: the spread of H (mean absolute and root mean square) and of the levels within 3 eV of the
Fermi level, before any reference is read, beside the true errors of the committee's mean, all in meV.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

from ase_deeph.electronic_structure import ElectronicStructure
from ase_deeph.io.dataset import read_dataset
from ase_deeph.matrix import RealSpaceMatrix
from ase_deeph.reference import ReferenceData
from ase_deeph.sources import Committee
from ase_deeph.uncertainty import HamiltonianSpread, Uncertainty

KPTS = {"density": 2.5, "gamma": True}
WINDOW = 3.0
SPREADS = ("H_mean_absolute", "H_rms", "levels_rms")
ERRORS = ("error_H_mean_absolute", "error_levels_rms")


def error_of_h(predicted: RealSpaceMatrix, data: ReferenceData) -> float:
    """Mean absolute error of H after the best shift of its zero, eV."""
    assert data.hamiltonian is not None
    assert data.overlap is not None
    error = predicted - data.hamiltonian
    s = data.overlap.restricted_to(error.pairs).entries
    shift = float(error.entries @ s) / float(s @ s)
    return float(np.abs(error.entries - shift * s).mean())


def error_of_levels(predicted: ElectronicStructure, reference: ElectronicStructure) -> float:
    """Root mean square error of the levels near the reference's Fermi level after the best common shift, eV."""
    true, ours = reference.mesh_eigenvalues, predicted.mesh_eigenvalues
    near = np.abs(true - reference.fermi_level()) <= WINDOW
    weights = np.broadcast_to(reference.mesh.weights[None, :, None], true.shape)[near]
    error = (ours - true)[near]
    return float(np.sqrt(np.average((error - np.average(error, weights=weights)) ** 2, weights=weights)))


def measure(committee: Committee, data: ReferenceData) -> dict[str, float]:
    """Spreads and errors of one structure, meV."""
    assert data.hamiltonian is not None

    def structure(h: RealSpaceMatrix) -> ElectronicStructure:
        return ElectronicStructure(h, data.overlap, data.n_electrons, kpts=KPTS, symmetry="time-reversal")

    spread = HamiltonianSpread.gauge_fixed(committee.predictions(data.atoms), data.overlap)
    mean = structure(spread.mean)
    return {
        "H_mean_absolute": 1e3 * spread.mean_absolute,
        "H_rms": 1e3 * spread.rms,
        "levels_rms": 1e3 * Uncertainty(spread, structure=mean).levels.rms(WINDOW),
        "error_H_mean_absolute": 1e3 * error_of_h(spread.mean, data),
        "error_levels_rms": 1e3 * error_of_levels(mean, structure(data.hamiltonian)),
        "outside": float(bool(committee.outside_domain(data.atoms))),
    }


def rows(committee: Committee, roots: Sequence[str]) -> Iterator[dict[str, float | str]]:
    """One row per structure of every data set."""
    for root in roots:
        for name, data in read_dataset([root]):
            yield {
                "set": Path(root).name,
                "structure": name,
                "atoms": len(data.atoms),
                **measure(committee, data),
            }


def summary(table: list[dict], label: str) -> None:
    """Spearman's correlation of every spread with every error."""
    for error in ERRORS:
        found = [
            f"{spread} {spearmanr([r[spread] for r in table], [r[error] for r in table]).statistic:+.2f}"
            for spread in SPREADS
        ]
        print(f"{label:24s} {len(table):3d} structures  {error:22s} " + "  ".join(found))


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", action="append", required=True, help="twice or more")
    parser.add_argument("--data", nargs="+", required=True, help="folders of reference data")
    parser.add_argument("-o", "--output", help="a CSV file of all rows")
    arguments = parser.parse_args()
    table = []
    for row in rows(Committee(arguments.model), arguments.data):
        table.append(row)
        print(
            "  ".join(f"{v:8.3f}" if isinstance(v, float) else f"{v!s:>10s}" for v in row.values()),
            flush=True,
        )
    for name in dict.fromkeys(r["set"] for r in table):
        summary([r for r in table if r["set"] == name], str(name))
    summary(table, "all")
    if arguments.output:
        with Path(arguments.output).open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, list(table[0]))
            writer.writeheader()
            writer.writerows(table)


if __name__ == "__main__":
    main()
