"""Error against the number of training structures and against the number of parameters, from rows of what_pays.py.

    python benchmarks/curve.py ROWS.csv -o curve.png

Rows named "N structures" make the one curve, rows named "N channels" the other; both axes are logarithmic, so that
a power law is a straight line, whose exponent is printed.
"""

from __future__ import annotations

import argparse
import csv
import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np

mpl.use("Agg")
import matplotlib.pyplot as plt


def points(rows: list[dict[str, str]], unit: str, column: str) -> tuple[np.ndarray, np.ndarray]:
    """(number, error in meV) of the rows named "N unit", in order."""
    mine = [r for r in rows if r["change"].endswith(f" {unit}")]
    pairs = sorted((float(r[column]), float(r["gauge_fixed_meV"])) for r in mine)
    if len(pairs) < 2:
        raise ValueError(f"expected two rows or more named 'N {unit}', received {len(pairs)}")
    x, y = zip(*pairs, strict=True)
    return np.array(x), np.array(y)


def main() -> None:
    """Draw both."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("rows")
    parser.add_argument("-o", "--output", required=True)
    arguments = parser.parse_args()
    with Path(arguments.rows).open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    figure, axes = plt.subplots(1, 2, figsize=(7.0, 3.0), sharey=True, layout="constrained")
    for axis, unit, column, label in (
        (axes[0], "structures", "structures", "training structures"),
        (axes[1], "channels", "parameters", "parameters"),
    ):
        x, y = points(rows, unit, column)
        exponent = np.polyfit(np.log(x), np.log(y), 1)[0]
        sys.stdout.write(f"{label}: error ~ n^{exponent:.2f}\n")
        axis.loglog(x, y, "o-", color="tab:blue")
        axis.set_xlabel(label)
        axis.set_xticks(x, [f"{n:g}" if n < 1000 else f"{n / 1000:,.0f} k" for n in x])
        axis.minorticks_off()
    low, high = axes[0].get_ylim()
    ticks = [t for t in np.arange(0.05, 2.0, 0.05).round(2) if low <= t <= high]
    axes[0].set_ylabel("validation MAE of H (meV)")
    axes[0].set_yticks(ticks, [f"{t:g}" for t in ticks])
    figure.savefig(arguments.output, dpi=130)


if __name__ == "__main__":
    main()
