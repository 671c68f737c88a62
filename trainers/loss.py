"""Losses on Hamiltonian blocks: masked, one mean per structure, indifferent to H -> H + μS when told so."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from trainers.config import LossConfig

Blocks = Float[Array, "pairs M M"]


def per_structure(
    values: Float[Array, " pairs"], structure: Int[Array, " pairs"], n: int
) -> Float[Array, " n"]:
    """Sums over the pairs of each of n structures; pairs with structure = n (padding) are left out."""
    return jax.ops.segment_sum(values, structure, n + 1)[:n]


def gauge_shift(
    residual: Blocks, overlap: Blocks, structure: Int[Array, " pairs"], n: int
) -> Float[Array, " n"]:
    """μ = ⟨residual, S⟩ / ⟨S, S⟩ of each structure (eV), zero where a structure is absent."""
    projection = per_structure(jnp.sum(residual * overlap, axis=(1, 2)), structure, n)
    norm = per_structure(jnp.sum(overlap * overlap, axis=(1, 2)), structure, n)
    return projection / jnp.where(norm > 0, norm, 1.0)


def without_gauge(residual: Blocks, overlap: Blocks, structure: Int[Array, " pairs"], n: int) -> Blocks:
    """The residual less μS, with the μ of each structure that makes its sum of squares smallest."""
    shift = gauge_shift(residual, overlap, structure, n)
    of_pair = jnp.concatenate([shift, jnp.zeros(1, dtype=shift.dtype)])[structure]
    return residual - of_pair[:, None, None] * overlap


def penalty(residual: Array, config: LossConfig) -> Array:
    """|r|, r² or Huber's r²/2δ (|r| - δ/2 beyond δ) of each entry plus the added square; eV, or eV²."""
    square = residual * residual
    if config.kind == "mse":
        return square
    size = jnp.abs(residual)
    if config.kind == "huber":
        delta = config.huber_delta
        size = jnp.where(size < delta, square / (2 * delta), size - delta / 2)
    return size + config.mse_weight * square


def structure_losses(
    predicted: Blocks,
    target: Blocks,
    overlap: Blocks,
    mask: Bool[Array, "pairs M M"],
    structure: Int[Array, " pairs"],
    n: int,
    config: LossConfig,
    on_site: Bool[Array, " pairs"] | None = None,
) -> Float[Array, " n"]:
    """The mean penalty over the physical entries of each structure; zero for an absent one.

    Parameters
    ----------
    predicted, target : blocks of H in eV.
    overlap : blocks of S on the same pairs, zero on padding.
    mask : entries that exist.
    structure : structure of each pair, n for padding.
    n : structures of the batch.
    on_site : pairs whose entries count config.on_site_weight times; None for none.
    """
    weight = 1.0 if on_site is None else jnp.where(on_site, config.on_site_weight, 1.0)
    residual = jnp.where(mask, predicted - target, 0.0)
    if config.gauge == "free":
        residual = without_gauge(residual, overlap, structure, n)
    of_pair = jnp.sum(jnp.where(mask, penalty(residual, config), 0.0), axis=(1, 2))
    total = per_structure(weight * of_pair, structure, n)
    entries = per_structure(jnp.sum(mask, axis=(1, 2)).astype(total.dtype), structure, n)
    return total / jnp.maximum(entries, 1.0)
