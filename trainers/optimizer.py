"""AdamW with clipping as a pure function, the schedule over the budget, and the parameter average."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from trainers.config import OptimizerConfig


def schedule(fraction: float, config: OptimizerConfig) -> float:
    """Learning rate at a fraction of the budget: linear warm-up, then half a cosine.

    lr(x) = lr x / w for x < w, else lr [f + (1 - f) (1 + cos π (x - w)/(1 - w)) / 2]
    """
    x = min(max(fraction, 0.0), 1.0)
    if x < config.warm_up:
        return config.learning_rate * max(x / config.warm_up, 1e-3)
    phase = (x - config.warm_up) / (1.0 - config.warm_up)
    f = config.final_fraction
    return config.learning_rate * (f + (1.0 - f) * 0.5 * (1.0 + math.cos(math.pi * phase)))


def transformation(config: OptimizerConfig) -> optax.GradientTransformation:
    """Clip, Adam's direction, decoupled weight decay on matrices; the learning rate is applied by the step.

    I. Loshchilov and F. Hutter, Decoupled weight decay regularization (arXiv:1711.05101).
    """
    return optax.chain(
        optax.clip_by_global_norm(config.clip),
        optax.scale_by_adam(b1=0.9, b2=0.999, eps=1e-10),
        optax.add_decayed_weights(config.weight_decay, mask=_matrices),
    )


def _matrices(params: Any) -> Any:
    return jax.tree.map(lambda leaf: jnp.ndim(leaf) >= 2, params)


def averaged(average: Any, params: Any, steps: Float[Array, ""], decay: float) -> Any:
    """Exponential moving average of parameters; short memory at first: d = min(decay, (1 + t)/(10 + t))."""
    d = jnp.minimum(decay, (1.0 + steps) / (10.0 + steps))
    return jax.tree.map(lambda a, p: a * d + p * (1.0 - d), average, params)
