"""Measure the trained carbon model on the held-out set and write it, provenance included, as the model that ships.

    python examples/carbon/publish.py RUN/model.h5 TEST_DATASET OUTPUT.h5 [-o REPORT_FOLDER] [--train DATASET]

See README.md beside this file for how often the held-out set was looked at.
"""

from __future__ import annotations

import argparse
import operator
import tomllib
from dataclasses import replace
from functools import reduce
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ase_deeph import HamiltonianModel
from ase_deeph.domain import TrainingDomain
from ase_deeph.io.dataset import read_dataset
from trainers.evaluate import Report, evaluate

HERE = Path(__file__).parent
NAME = "carbon-pbe"
SUMMARY = "carbon (graphene, ripples, bilayers, nanotubes): PBE, GPAW szp(dzp), 9 orbitals per atom"


def measured(report: Report) -> dict[str, Any]:
    """The held-out errors in meV, pooled over structures and of the worst one."""
    numbers = report.to_dict()
    levels = numbers["levels_meV"]
    return {
        "set": f"{report.dataset}: {numbers['n_structures']} held-out structures of examples/carbon/test.toml",
        "H_mae_gauge_fixed_meV": round(numbers["mae_gauge_fixed_meV"], 3),
        "H_mae_raw_meV": round(numbers["mae_raw_meV"], 3),
        "levels_within_3eV_rms_meV": round(levels["rms_shifted"]["over_structures"], 2),
        "levels_within_3eV_rms_worst_structure_meV": round(levels["rms_shifted"]["worst"], 2),
        "fermi_level_relative_to_bands_mean_abs_meV": round(levels["fermi_to_bands"]["over_structures"], 2),
        "fermi_level_relative_to_bands_worst_meV": round(levels["fermi_to_bands"]["worst"], 2),
        "overlap_max_error": float(f"{numbers['own_overlap']['max_error']:.2e}"),
    }


def training_domain(dataset: str | Path, cutoff: float) -> dict[str, Any]:
    """What a training set covers, for a model that was trained before models said so."""
    each = (TrainingDomain.of(data.atoms, cutoff) for _, data in read_dataset([dataset]))
    return reduce(operator.or_, each).to_dict()


def recipe_of(name: str) -> dict[str, Any]:
    """A recipe file as plain values."""
    return tomllib.loads((HERE / name).read_text(encoding="utf-8"))


def engine_versions() -> dict[str, str]:
    """Versions of the engine, where it is installed."""
    found = {}
    for package in ("gpaw", "gpaw-data"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def main() -> None:
    """Evaluate, complete the provenance, save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("test")
    parser.add_argument("output")
    parser.add_argument("-o", "--report", default=None)
    parser.add_argument("--train", default=HERE / "data" / "train", help="where the model knows no domain")
    arguments = parser.parse_args()
    model = HamiltonianModel.load(arguments.model)
    report = evaluate(model, arguments.test, output=arguments.report, kpts={"density": 5.0, "gamma": True})
    print(report.table())
    training = dict(model.provenance)
    recipes = {name: recipe_of(f"{name}.toml") for name in ("train", "validation", "test")}
    train = recipes["train"]
    provenance = {
        "name": NAME,
        "summary": SUMMARY,
        "recipe": recipes,
        "seeds": {
            **{name: recipe["seed"] for name, recipe in recipes.items()},
            "network": training["config"]["training"]["seed"],
        },
        "engine": train["engine"],
        "domain": training.pop("domain", None) or training_domain(arguments.train, model.cutoff),
        "versions": {**training.pop("versions", {}), **engine_versions()},
        "errors": measured(report),
        "training": {key: value for key, value in training.items() if key not in ("name", "errors")},
        "validation_errors": training.get("errors"),
        "licence": "MIT",
    }
    replace(model, provenance=provenance).save(arguments.output)


if __name__ == "__main__":
    main()
