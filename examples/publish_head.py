"""Measure a model's energy head on held-out structures with forces and write the model, provenance included.

    python examples/publish_head.py RUN/model.h5 RECIPES DATA OUTPUT.h5

RUN/model.h5 is what examples/carbon/head.toml and then head_continued.toml train: the Hamiltonian model that ships,
H untouched, with a head.
RECIPES is the folder of forces_train.toml, forces_validation.toml and forces_test.toml (examples/carbon); DATA has
what `deeph dataset generate` made of them, forces-test among it.  The test set chooses nothing.
"""

from __future__ import annotations

import argparse
import sys
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ase_deeph import HamiltonianModel
from ase_deeph.io.dataset import read_dataset

PARTS = ("forces_train", "forces_validation", "forces_test")


def measured(model: HamiltonianModel, dataset: Path) -> dict[str, Any]:
    """Errors of energy (meV per atom) and of force components (meV/Å), pooled, and of the worst structure."""
    forces, energies, references = [], [], []
    for _, data in read_dataset([dataset]):
        found = model.potential(data.atoms)
        forces.append(1e3 * np.abs(found.forces - data.forces).ravel())
        references.append(1e3 * np.abs(data.forces).ravel())
        energies.append(1e3 * abs(found.energy - data.energy) / len(data.atoms))
    return {
        "set": f"{len(forces)} held-out structures of {dataset.name}",
        "forces_mae_meV_per_A": round(float(np.concatenate(forces).mean()), 2),
        "forces_mae_worst_structure_meV_per_A": round(max(float(f.mean()) for f in forces), 2),
        "mean_abs_reference_force_meV_per_A": round(float(np.concatenate(references).mean()), 1),
        "energy_mae_meV_per_atom": round(float(np.mean(energies)), 3),
    }


def main() -> None:
    """Measure, complete the provenance, save."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("recipes", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("output")
    parser.add_argument("--note", default=None, help="what the training record does not say (earlier stages)")
    arguments = parser.parse_args()
    model = HamiltonianModel.load(arguments.model)
    recipes = {
        part: tomllib.loads((arguments.recipes / f"{part}.toml").read_text(encoding="utf-8"))
        for part in PARTS
    }
    head = dict(model.provenance["potential"])
    head |= {"recipe": recipes, "errors": measured(model, arguments.data / "forces-test")}
    if arguments.note:
        head["note"] = arguments.note
    sys.stdout.write(f"{head['errors']}\n")
    replace(model, provenance={**model.provenance, "potential": head}).save(arguments.output)


if __name__ == "__main__":
    main()
