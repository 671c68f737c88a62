"""Products with weights may be those of an accelerator in a gradient; all that keeps symmetries is exact."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from ase.build import graphene
from jax.lax import Precision

from ase_deeph.graph import CrystalGraph
from ase_deeph.network import NetworkConfig, build_network
from ase_deeph.network.products import products
from ase_deeph.pairs import AtomPairs
from tests.training_data import TINY, sp_basis, write_dataset

EXACT, FASTER = (Precision.HIGHEST,) * 2, (Precision.HIGH,) * 2


def dot_products(jaxpr: Any) -> Iterator[Any]:
    """All dot products of a traced function, those in calls included."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            yield equation
        for value in equation.params.values():
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from dot_products(inner)


def precisions(function: Any, *arguments: Any) -> set[Any]:
    """What a function's dot products ask for."""
    return {e.params["precision"] for e in dot_products(jax.make_jaxpr(function)(*arguments).jaxpr)}


def test_only_products_with_weights_are_inexact() -> None:
    config = NetworkConfig(**TINY)  # type: ignore[arg-type]
    network, atoms = build_network(config, sp_basis()), graphene(vacuum=4.0)
    pairs = AtomPairs.from_atoms(atoms, config.cutoff)
    graph = CrystalGraph.from_atoms(atoms, pairs, sp_basis(), message_cutoff=config.reach, dtype=np.float32)
    params, statistics = network.init(0), network.empty_statistics()

    def slope(kind: Any) -> Any:
        def traced(params: Any) -> Any:
            with products(kind):
                return jax.grad(lambda p: (network.apply(p, statistics, graph) ** 2).sum())(params)

        return traced

    assert precisions(slope("float32"), params) == {EXACT}
    found = list(dot_products(jax.make_jaxpr(slope("tf32"))(params).jaxpr))
    assert {e.params["precision"] for e in found} == {EXACT, FASTER}
    of_pairs = [e for e in found if e.params["dimension_numbers"][1][0]]
    assert {e.params["precision"] for e in of_pairs} == {EXACT}
    assert precisions(lambda p: network.apply(p, statistics, graph), params) == {EXACT}


def test_a_gradient_is_as_asked_and_errors_are_exact(tmp_path: Path) -> None:
    pytest.importorskip("pydantic")
    pytest.importorskip("optax")
    from trainers.config import parse_config
    from trainers.experiment import prepare

    values = {
        "data": {"train": [str(write_dataset(tmp_path / "data", (1, 2)))]},
        "network": TINY,
        "training": {"epochs": 1, "products": "tf32"},
    }
    experiment = prepare(parse_config(values, tmp_path))
    steps, (members, _) = experiment.steps, next(iter(experiment.train.kinds()))
    batch = experiment.train.example(members, 0)
    arguments = (experiment.initial_params(), dict(experiment.statistics()), batch)
    assert FASTER in precisions(steps._gradient, *arguments)
    assert precisions(steps.measure, *arguments) == {EXACT}


def test_the_baseline_has_no_such_products(tmp_path: Path) -> None:
    pytest.importorskip("pydantic")
    from trainers.config import parse_config

    values = {
        "data": {"train": "data"},
        "network": {**TINY, "kind": "e3"},
        "training": {"epochs": 1, "products": "tf32"},
    }
    with pytest.raises(ValueError, match='kind "elct" alone, received kind "e3"; set it to "float32"'):
        parse_config(values, tmp_path)


def test_other_kinds_of_products_are_refused() -> None:
    with pytest.raises(ValueError, match="expected float32 or tf32, received 'fp8'"), products("fp8"):  # type: ignore[arg-type]
        pass
