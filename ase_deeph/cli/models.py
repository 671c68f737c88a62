"""`deeph models`: the named models with their measured errors; of one model, where it comes from."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ase_deeph.model import HamiltonianModel

_ALWAYS = ("errors", "licence")
_FIRST = ("name", "summary", "recipe", "seeds", "engine", "versions", "training", "errors")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which model, and the form of the output."""
    parser.add_argument(
        "model",
        nargs="?",
        metavar="MODEL",
        help="one model's name or file: its whole provenance (default: all models in short)",
    )
    parser.add_argument("--json", action="store_true", help="print the provenance as JSON")


def run(arguments: argparse.Namespace) -> None:
    """Load each model and print what it says about itself.

    Raises
    ------
    ValueError : an unknown or unreadable model.
    """
    from ase_deeph.pretrained import default_name, find, load, named_models

    models = named_models()
    wanted = [arguments.model] if arguments.model else list(models)
    described: dict[str, Any] = {}
    for name in wanted:
        model = load(find(name))
        if arguments.json:
            described[name] = dict(model.provenance)
            continue
        mark = " (default)" if name == default_name() else ""
        print(f"{name}{mark}")
        if name in models:
            print(f"  {models[name].summary}")
        print(f"  {model.basis}, cutoff {model.cutoff:g} Å, {model.n_parameters:,} parameters, {find(name)}")
        if model.spin_head is not None:
            print(f"  {_spin(model)}")
        told = _ordered(model.provenance)
        if not arguments.model:
            told = {**{key: told[key] for key in _ALWAYS if key in told}, **_of_head(told)}
        for line in _lines(told, "  "):
            print(line)
    if arguments.json:
        print(json.dumps(described, indent=2, default=str))


def _spin(model: HamiltonianModel) -> str:
    """The kind of spin, and what the model must be told about moments."""
    assert model.spin_head is not None
    reach = model.spin_head.config.magnetic_cutoff
    if reach is None:
        return f"spin {model.spin!r}: spin-orbit coupling, reads no magnetic moments"
    known = {} if model.domain is None else model.domain.moments
    sizes = ", ".join(
        f"{s} {high:g} μB" if low == high else f"{s} {low:g} to {high:g} μB"
        for s, (low, high) in known.items()
    )
    trained = f" (in training {sizes})" if sizes else ""
    return f"spin {model.spin!r}: reads initial magnetic moments within {reach:g} Å{trained}"


def _ordered(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """The provenance with the keys that a reader looks for first in front."""
    return {key: provenance[key] for key in (*_FIRST, *provenance) if key in provenance}


def _of_head(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """The measured errors of the energy head, where there is one."""
    errors = provenance.get("potential", {}).get("errors")
    return {} if errors is None else {"energies and forces": errors}


def _lines(values: Mapping[str, Any], indent: str) -> Iterator[str]:
    """Nested values as indented lines."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield f"{indent}{key}:"
            yield from _lines(value, indent + "  ")
        elif isinstance(value, (list, tuple)) and value and all(isinstance(v, Mapping) for v in value):
            yield f"{indent}{key}:"
            for item in value:
                yield f"{indent}  - {json.dumps(item, default=str)}"
        else:
            text = f"{value:.6g}" if isinstance(value, float) else str(value)
            yield f"{indent}{key}: {text}"
