"""Checksums of the benchmark sets: geometry to the bit of its digits, labels to what engines repeat.

    python benchmarks/sets/checksums.py DATA [--write]

DATA holds graphene/, silicon/, ... with the sets that `deeph dataset generate` made of the recipes here.  Without
--write they are compared with checksums.json beside this file; exit status 1 where one differs or is missing.
Geometry follows from the recipe alone: SHA-256 of names, elements, cells and positions to 1e-6 Å.  Labels come
from an iterative solver: the mean |H| (eV) and |S| of a set must agree to 1e-5 of themselves.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from ase_deeph.io.dataset import read_dataset

_FILE = Path(__file__).with_name("checksums.json")
_TOLERANCE = 1e-5


def checksum(folder: Path) -> dict[str, Any]:
    """Number of structures, hash of their geometry, mean size of their labels."""
    digest, h, s, n = hashlib.sha256(), [], [], 0
    for name, data in read_dataset([folder]):
        atoms = data.atoms
        numbers = np.concatenate([atoms.cell.array.ravel(), atoms.positions.ravel()])
        digits = " ".join(f"{x:.6f}" for x in numbers + 0.0).replace("-0.000000", "0.000000")
        digest.update(f"{name} {atoms.get_chemical_formula(mode='all')} {digits}\n".encode())
        h.append(float(np.abs(data.hamiltonian.entries).mean()))
        s.append(float(np.abs(data.overlap.entries).mean()))
        n += 1
    return {
        "structures": n,
        "geometry_sha256": digest.hexdigest(),
        "mean_abs_H_eV": float(np.mean(h)),
        "mean_abs_S": float(np.mean(s)),
    }


def differences(found: dict[str, Any], expected: dict[str, Any]) -> list[str]:
    """What does not agree."""
    wrong = [key for key in ("structures", "geometry_sha256") if found[key] != expected[key]]
    wrong += [
        key for key in ("mean_abs_H_eV", "mean_abs_S") if abs(found[key] / expected[key] - 1) > _TOLERANCE
    ]
    return [f"{key}: expected {expected[key]}, received {found[key]}" for key in wrong]


def main() -> int:
    """Write or compare."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    recipes = sorted(path for path in _FILE.parent.glob("*/*.toml") if path.stem != "fit")
    found = {
        f"{path.parent.name}/{path.stem}": checksum(arguments.data / path.parent.name / path.stem)
        for path in recipes
        if (arguments.data / path.parent.name / path.stem).is_dir()
    }
    missing = [f"{p.parent.name}/{p.stem}" for p in recipes if f"{p.parent.name}/{p.stem}" not in found]
    if not found:
        parser.error(f"{arguments.data} holds none of the sets: expected folders such as {missing[0]} in it")
    expected, status = json.loads(_FILE.read_text(encoding="utf-8")), 0
    for name in missing:
        print(f"{name}: not in {arguments.data}")
        status = 1
    if arguments.write:
        text = json.dumps(dict(sorted({**expected, **found}.items())), indent=1) + "\n"
        partial = _FILE.with_suffix(".partial")
        partial.write_text(text, encoding="utf-8")
        partial.replace(_FILE)
        return 0
    for name, one in found.items():
        for line in differences(one, expected[name]) if name in expected else ["not in checksums.json"]:
            print(f"{name}: {line}")
            status = 1
    print(f"{len(found)} sets compared")
    return status


if __name__ == "__main__":
    raise SystemExit(main())
