"""Two-column tables and CSV files: what the verbs print and write."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path


def print_rows(rows: Iterable[tuple[str, str]]) -> None:
    """Labels and values, values aligned."""
    listed = list(rows)
    width = max((len(label) for label, _ in listed), default=0)
    for label, value in listed:
        print(f"  {label:<{width}}  {value}".rstrip())


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[float]]) -> None:
    """Numbers with ten significant digits under a header that names units."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(header)
        writer.writerows([f"{value:.10g}" for value in row] for row in rows)
