"""Errors of an energy head over a set: energy per atom and force components, from sums per structure."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

MILLI = 1000.0


@dataclass(frozen=True)
class EnergyErrors:
    """Mean absolute errors; NaN where the set has no such label.

    Parameters
    ----------
    energy : meV per atom, over structures.
    force : meV/Å, over force components.
    """

    energy: float
    force: float

    @property
    def numbers(self) -> tuple[float, float]:
        """Both, in the order of the log's columns."""
        return self.energy, self.force

    def __str__(self) -> str:
        return f"MAE of the energy {self.energy:.3f} meV/atom, of forces {self.force:.2f} meV/Å"

    @classmethod
    def from_sums(cls, sums: np.ndarray) -> EnergyErrors:
        """From (n, 4) rows: |ΔE| per atom (eV), 1 where there is an energy, Σ|ΔF| (eV/Å), force components."""
        rows = np.asarray(sums, dtype=float)
        if not len(rows):
            raise ValueError("energy errors: expected at least one structure, received none")
        energy, energies, force, components = rows.sum(axis=0)
        return cls(
            MILLI * energy / energies if energies else math.nan,
            MILLI * force / components if components else math.nan,
        )
