"""Products with weights may be those of an accelerator in a gradient; all that keeps symmetries is exact."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase.build import graphene
from jax.lax import Precision

from ase_deeph.graph import CrystalGraph
from ase_deeph.network import Network, NetworkConfig, build_network
from ase_deeph.network.products import products, weighed
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


def _carbon() -> tuple[Network, CrystalGraph]:
    """A tiny network and the graph of graphene."""
    config = NetworkConfig(**TINY)  # type: ignore[arg-type]
    atoms = graphene(vacuum=4.0)
    pairs = AtomPairs.from_atoms(atoms, config.cutoff)
    graph = CrystalGraph.from_atoms(atoms, pairs, sp_basis(), message_cutoff=config.reach, dtype=np.float32)
    return build_network(config, sp_basis()), graph


def test_only_products_with_weights_are_inexact() -> None:
    network, graph = _carbon()
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


def test_factors_are_rounded_and_sums_are_not() -> None:
    """bfloat16: the product and both products of its gradient are float32 ones of rounded factors."""
    rng = np.random.default_rng(0)
    x, weight, slope = (rng.normal(size=n).astype(np.float32) for n in ((2, 3, 64), (64, 5), (2, 3, 5)))

    def product(x: Any, weight: Any) -> Any:
        with products("bfloat16"):
            return weighed(x, weight)

    found, back = jax.vjp(product, x, weight)
    of_x, of_weight = back(slope)
    a, b, g = (np.asarray(jnp.asarray(n, dtype=jnp.bfloat16), dtype=np.float64) for n in (x, weight, slope))
    for received, expected, exact in (
        (found, a @ b, x @ weight),
        (of_x, g @ b.T, slope @ weight.T),
        (of_weight, np.einsum("xya,xyb->ab", a, g), np.einsum("xya,xyb->ab", x, slope)),
    ):
        assert received.dtype == np.float32
        np.testing.assert_allclose(received, expected, rtol=1e-5, atol=1e-5)
        assert 1e-3 < np.abs(received - exact).max() < 0.2


def test_only_products_with_weights_are_rounded() -> None:
    """Symmetries survive: turns and couplings see factors in float32 alone."""
    network, graph = _carbon()
    statistics = network.empty_statistics()

    def slope(params: Any) -> Any:
        with products("bfloat16"):
            return jax.grad(lambda p: (network.apply(p, statistics, graph) ** 2).sum())(params)

    found = list(dot_products(jax.make_jaxpr(slope)(network.init(0)).jaxpr))
    rounded = [e for e in found if e.invars[0].aval.dtype == jnp.bfloat16]
    assert 0 < len(rounded) < len(found)
    assert {e.params["preferred_element_type"] for e in rounded} == {np.dtype("float32")}
    assert not [e for e in rounded if e.params["dimension_numbers"][1][0]]
    exact = [e for e in found if e.invars[0].aval.dtype == jnp.float32]
    assert {e.params["precision"] for e in exact} == {EXACT}
    assert len(exact) + len(rounded) == len(found)


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


def test_what_cannot_be_rounded_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("pydantic")
    from trainers.config import parse_config

    values = {
        "data": {"train": "data"},
        "network": TINY,
        "training": {"epochs": 1, "products": "bfloat16"},
    }
    derivatives = values | {"loss": {"derivative_weight": 0.1}}
    with pytest.raises(ValueError, match=r"no forward-mode derivative, which \[loss\] derivative_weight"):
        parse_config(derivatives, tmp_path)
    double = values | {"training": values["training"] | {"precision": "float64"}}  # type: ignore[operator]
    with pytest.raises(ValueError, match='sums in float32, precision = "float64" asks for more'):
        parse_config(double, tmp_path)
    adam = values | {"optimizer": {"kind": "adamw", "products": "bfloat16"}}
    with pytest.raises(ValueError, match='acts on kind "muon" alone, received kind "adamw"'):
        parse_config(adam, tmp_path)


def test_other_kinds_of_products_are_refused() -> None:
    with (
        pytest.raises(ValueError, match="expected float32 or tf32 or bfloat16, received 'fp8'"),
        products("fp8"),
    ):  # type: ignore[arg-type]
        pass
