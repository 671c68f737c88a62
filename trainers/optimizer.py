"""Optimizers as pure functions: AdamW, Muon, schedule-free AdamW; the schedule over the budget, the average."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from ase_deeph.network.products import rounded_einsum
from trainers.config import MuonProducts, OptimizerConfig

_EPSILON = 1e-10
_MUON_RMS = 0.2
_MUON_EPSILON = 1e-8
_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
_NEWTON_SCHULZ_STEPS = 5
_NO_MATRIX_NAMES = ("species", "readout", "factor", "bias")
Params = Mapping[str, Any]


def schedule(fraction: float, config: OptimizerConfig) -> float:
    """Learning rate at a fraction x of the budget: linear warm-up over w, then config.decay_shape.

    lr(x) = lr x / w for x < w, else lr [f + (1 - f) s(p)] with p = (x - w)/(1 - w) and s(p)
    (1 + cos πp)/2 for "cosine", 1 - p for "linear", min(1, (1 - p)/0.2) for "trapezoid", 1 for "constant".
    """
    x = min(max(fraction, 0.0), 1.0)
    if x < config.warm_up:
        return config.learning_rate * max(x / config.warm_up, 1e-3)
    phase = (x - config.warm_up) / (1.0 - config.warm_up)
    shape = {
        "cosine": 0.5 * (1.0 + math.cos(math.pi * phase)),
        "linear": 1.0 - phase,
        "trapezoid": min(1.0, (1.0 - phase) / 0.2),
        "constant": 1.0,
    }[config.decay_shape]
    f = config.final_fraction
    return config.learning_rate * (f + (1.0 - f) * shape)


@dataclass(frozen=True)
class Optimizer:
    """What changes parameters, as pure functions of its state.

    AdamW: I. Loshchilov and F. Hutter (arXiv:1711.05101).  Muon: the momentum of each matrix, orthogonalised
    (K. Jordan et al. 2024), scaled as J. Liu et al. (arXiv:2502.16982) so that AdamW's learning rates hold;
    AdamW for vectors, embeddings and read-outs.  Schedule-free: A. Defazio et al. (arXiv:2405.15682).

    Parameters
    ----------
    config : which optimizer, and its numbers.
    """

    config: OptimizerConfig

    def start(self, params: Params) -> Any:
        """The state before the first step."""
        return self._transformation(0.0).init(params)

    def update(
        self, gradient: Params, state: Any, params: Params, rate: Float[Array, ""] | float
    ) -> tuple[Params, Any]:
        """(parameters, state) after a step with a learning rate."""
        direction, state = self._transformation(rate).update(gradient, state, params)
        if self.config.kind == "schedule_free":
            return jax.tree.map(lambda p, u: p + u, params, direction), state
        return jax.tree.map(lambda p, u: p - rate * u, params, direction), state

    def averaged(self, average: Params, params: Params, state: Any, steps: Float[Array, ""]) -> Params:
        """The parameters to evaluate: the moving average, or schedule-free's own."""
        if self.config.kind == "schedule_free":
            return optax.contrib.schedule_free_eval_params(state, params)
        return averaged(average, params, steps, self.config.ema)

    def _transformation(self, rate: Float[Array, ""] | float) -> optax.GradientTransformation:
        """Gradient -> direction of descent; for schedule-free -> the change of the parameters at this rate."""
        config = self.config
        before = [optax.clip_by_global_norm(config.clip)]
        after = [optax.add_decayed_weights(config.weight_decay, mask=_matrices)]
        adam = optax.scale_by_adam(b1=config.b1, b2=config.b2, eps=_EPSILON)
        if config.kind == "schedule_free":
            squares = optax.scale_by_rms(config.b2, _EPSILON, eps_in_sqrt=False, bias_correction=True)
            base = optax.chain(*before, squares, *after, optax.scale(-1.0 * rate))
            return optax.contrib.schedule_free(base, rate, b1=config.b1)
        if config.kind == "muon":
            return optax.chain(
                *before, optax.partition({"matrix": _muon(config), "other": adam}, _kinds), *after
            )
        return optax.chain(*before, adam, *after)


def _muon(config: OptimizerConfig) -> optax.GradientTransformation:
    """Muon on matrices (the last two axes), those of equal shape as one batch."""
    axes = optax.contrib.MuonDimensionNumbers(reduction_axis=1, output_axis=2)

    def numbers(stacks: Params) -> Params:
        return jax.tree.map(lambda _: axes, stacks)

    # Momentum alone: optax's own Newton-Schulz steps know one precision.
    inner = optax.contrib.scale_by_muon(ns_steps=0, beta=config.momentum, weight_dimension_numbers=numbers)

    def update(gradient: Params, state: Any, params: Params | None = None) -> tuple[Params, Any]:
        stacks, state = inner.update(_stacked(gradient), state)
        turned = {name: orthogonalised(s, config.products) for name, s in stacks.items()}
        factor = {name: _MUON_RMS * math.sqrt(max(s.shape[1:])) for name, s in stacks.items()}
        return _unstacked({name: factor[name] * s for name, s in turned.items()}, gradient), state

    return optax.GradientTransformation(lambda params: inner.init(_stacked(params)), update)


def orthogonalised(
    stack: Float[Array, "n rows columns"], products: MuonProducts
) -> Float[Array, "n rows columns"]:
    """U V^T of each matrix U Σ V^T, roughly: singular values between 0.7 and 1.2, the smallest ones less.

    K. Jordan's five Newton-Schulz steps X <- a X + (b A + c A²) X with A = X X^T, whose factors are rounded to bfloat16
    when `products` says so.
    """
    multiply = rounded_einsum if products == "bfloat16" else partial(jnp.einsum, precision="highest")
    tall = stack.shape[1] > stack.shape[2]
    x = stack.swapaxes(1, 2) if tall else stack
    x = x / (jnp.linalg.norm(x, axis=(1, 2), keepdims=True) + _MUON_EPSILON)
    a, b, c = _NEWTON_SCHULZ
    for _ in range(_NEWTON_SCHULZ_STEPS):
        gram = multiply("nab,ncb->nac", x, x)
        x = a * x + multiply("nab,nbc->nac", b * gram + c * multiply("nab,nbc->nac", gram, gram), x)
    return x.swapaxes(1, 2) if tall else x


def _name(shape: tuple[int, ...]) -> str:
    return "x".join(str(n) for n in shape)


def _stacked(tree: Params) -> dict[str, Array]:
    """Leaves of equal shape joined: (matrices, rows, columns) of each shape."""
    groups: dict[str, list[Array]] = {}
    for leaf in jax.tree.leaves(tree):
        groups.setdefault(_name(leaf.shape), []).append(jnp.asarray(leaf).reshape(-1, *leaf.shape[-2:]))
    return {name: jnp.concatenate(members) for name, members in groups.items()}


def _unstacked(stacks: Mapping[str, Array], like: Params) -> Params:
    """The inverse of _stacked, for a tree of the same leaves."""
    leaves, structure = jax.tree.flatten(like)
    taken = dict.fromkeys(stacks, 0)
    parts = []
    for leaf in leaves:
        name, n = _name(leaf.shape), math.prod(leaf.shape[:-2])
        parts.append(stacks[name][taken[name] : taken[name] + n].reshape(leaf.shape))
        taken[name] += n
    return jax.tree.unflatten(structure, parts)


def _kinds(params: Params) -> Any:
    """ "matrix" for what multiplies features, "other" for vectors, embeddings, factors and read-outs."""

    def kind(path: tuple[Any, ...], leaf: Array) -> str:
        name = jax.tree_util.keystr(path)
        plain = jnp.ndim(leaf) >= 2 and min(leaf.shape) > 1
        return "matrix" if plain and not any(word in name for word in _NO_MATRIX_NAMES) else "other"

    return jax.tree_util.tree_map_with_path(kind, params)


def _matrices(params: Params) -> Any:
    return jax.tree.map(lambda leaf: jnp.ndim(leaf) >= 2, params)


def averaged(average: Params, params: Params, steps: Float[Array, ""], decay: float) -> Params:
    """Exponential moving average of parameters; short memory at first: d = min(decay, (1 + t)/(10 + t))."""
    d = jnp.minimum(decay, (1.0 + steps) / (10.0 + steps))
    return jax.tree.map(lambda a, p: a * d + p * (1.0 - d), average, params)
