"""Errors of H in a batch: raw and gauge-fixed absolute errors, summed per structure for any mean."""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from trainers.loss import Blocks, per_structure, without_gauge

MILLI = 1000.0


def error_sums(
    predicted: Blocks,
    target: Blocks,
    overlap: Blocks,
    mask: Bool[Array, "pairs M M"],
    structure: Int[Array, " pairs"],
    n: int,
) -> Float[Array, "n 3"]:
    """(Σ|r|, Σ|r - μS|, number of entries) of each structure, eV; arguments as in loss.structure_losses."""
    residual = jnp.where(mask, predicted - target, 0.0)
    fixed = jnp.where(mask, without_gauge(residual, overlap, structure, n), 0.0)
    sums = [jnp.sum(a, axis=(1, 2)) for a in (jnp.abs(residual), jnp.abs(fixed), mask.astype(residual.dtype))]
    return jnp.stack([per_structure(s, structure, n) for s in sums], axis=1)


@dataclass(frozen=True)
class MatrixErrors:
    """Mean absolute errors of H over all entries of a set, meV."""

    raw: float
    gauge_fixed: float

    @property
    def numbers(self) -> tuple[float, float]:
        """Both, in the order of the log's columns."""
        return self.raw, self.gauge_fixed

    def __str__(self) -> str:
        return f"MAE of H: {self.gauge_fixed:.3f} meV gauge-fixed, {self.raw:.3f} meV raw"

    @classmethod
    def from_sums(cls, sums: np.ndarray) -> MatrixErrors:
        """From (n, 3) rows of error_sums."""
        raw, fixed, entries = np.asarray(sums, dtype=float).sum(axis=0)
        if entries == 0:
            raise ValueError("matrix errors: expected at least one structure, received none")
        return cls(MILLI * raw / entries, MILLI * fixed / entries)
