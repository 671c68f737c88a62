"""Measure a trained model on its held-out set and write it, provenance included, as a model that ships.

    python examples/publish.py RUN/model.h5 RECIPES DATA OUTPUT.h5 --name carbon-pbe --summary "..." [-o REPORT]

RECIPES is the folder of train.toml, test.toml and perhaps validation.toml (examples/carbon, benchmarks/sets/silicon);
DATA has the datasets that `deeph dataset generate` made of them under the same names.  The test set chooses nothing.
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

PARTS = ("train", "validation", "test")


def measured(report: Report, recipe: Path) -> dict[str, Any]:
    """The held-out errors in meV, pooled over structures and of the worst one."""
    numbers = report.to_dict()
    levels = numbers["levels_meV"]
    spin = {key: round(value["mean"], 4) for key, value in (numbers["spin"] or {}).items()}
    return {
        "set": f"{numbers['n_structures']} held-out structures of {recipe.parent.name}/{recipe.name}",
        "H_mae_gauge_fixed_meV": round(numbers["mae_gauge_fixed_meV"], 3),
        "H_mae_raw_meV": round(numbers["mae_raw_meV"], 3),
        "levels_within_3eV_rms_meV": round(levels["rms_shifted"]["over_structures"], 2),
        "levels_within_3eV_rms_worst_structure_meV": round(levels["rms_shifted"]["worst"], 2),
        "fermi_level_relative_to_bands_mean_abs_meV": round(levels["fermi_to_bands"]["over_structures"], 2),
        "fermi_level_relative_to_bands_worst_meV": round(levels["fermi_to_bands"]["worst"], 2),
        "overlap_max_error": float(f"{numbers['own_overlap']['max_error']:.2e}"),
        **({"spin": spin} if spin else {}),
    }


def training_domain(dataset: str | Path, cutoff: float) -> dict[str, Any]:
    """What a training set covers, for a model that was trained before models said so."""
    each = (TrainingDomain.of(data.atoms, cutoff) for _, data in read_dataset([dataset]))
    return reduce(operator.or_, each).to_dict()


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
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("recipes", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("output")
    parser.add_argument("--name", required=True)
    parser.add_argument("--summary", required=True)
    parser.add_argument("-o", "--report", default=None)
    arguments = parser.parse_args()
    model = HamiltonianModel.load(arguments.model)
    report = evaluate(
        model, arguments.data / "test", output=arguments.report, kpts={"density": 5.0, "gamma": True}
    )
    print(report.table())
    training = dict(model.provenance)
    files = {part: (arguments.recipes / f"{part}.toml").resolve() for part in PARTS}
    files = {part: path for part, path in files.items() if part != "validation" or path.exists()}
    recipes = {part: tomllib.loads(path.read_text(encoding="utf-8")) for part, path in files.items()}
    provenance = {
        "name": arguments.name,
        "summary": arguments.summary,
        "recipe": recipes,
        "seeds": {
            **{part: recipe["seed"] for part, recipe in recipes.items()},
            "network": training["config"]["training"]["seed"],
        },
        "engine": recipes["train"]["engine"],
        "domain": training.pop("domain", None) or training_domain(arguments.data / "train", model.cutoff),
        "versions": {**training.pop("versions", {}), **engine_versions()},
        "errors": measured(report, files["test"]),
        "training": {key: value for key, value in training.items() if key not in ("name", "errors")},
        "validation_errors": training.get("errors"),
        "licence": "MIT",
    }
    replace(model, provenance=provenance).save(arguments.output)


if __name__ == "__main__":
    main()
