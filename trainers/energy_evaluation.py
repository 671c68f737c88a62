"""Errors of a model's energy head, or of a committee's mean, on structures with energies and forces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ase_deeph.model import HamiltonianModel
from ase_deeph.reference import ReferenceData


@dataclass(frozen=True)
class EnergyComparison:
    """Errors of one structure; None for what its reference lacks.

    Parameters
    ----------
    energy : predicted less reference energy, meV per atom.
    force_mae, force_rms : over the components of the forces, meV/Å.
    force_size : mean absolute component of the reference forces, meV/Å.
    """

    energy: float | None
    force_mae: float | None
    force_rms: float | None
    force_size: float | None

    def to_dict(self) -> dict[str, float]:
        """For metrics.json and structures.csv: what there is."""
        names = {
            "energy_error_meV_per_atom": self.energy,
            "force_mae_meV_per_A": self.force_mae,
            "force_rms_meV_per_A": self.force_rms,
            "mean_abs_force_meV_per_A": self.force_size,
        }
        return {name: value for name, value in names.items() if value is not None}


def compare_energy(data: ReferenceData, members: Sequence[Any]) -> EnergyComparison | None:
    """Energy and forces, the mean of the members', against a reference; None where either has none."""
    heads = [m for m in members if isinstance(m, HamiltonianModel) and m.potential_properties]
    if len(heads) < len(members) or (data.energy is None and data.forces is None):
        return None
    found = [m.potential(data.atoms, stress=False) for m in heads]
    energy = force = None
    if data.energy is not None:
        mean = float(np.mean([p.energy for p in found]))
        energy = 1e3 * (mean - data.energy) / len(data.atoms)
    if data.forces is not None:
        force = 1e3 * (np.mean([p.forces for p in found], axis=0) - data.forces)
    return EnergyComparison(
        energy,
        None if force is None else float(np.abs(force).mean()),
        None if force is None else float(np.sqrt((force**2).mean())),
        None if data.forces is None else 1e3 * float(np.abs(data.forces).mean()),
    )


def pooled_energies(comparisons: Sequence[tuple[int, EnergyComparison | None]]) -> dict[str, float] | None:
    """Errors over the structures of a set; None where no structure has any.

    Parameters
    ----------
    comparisons : (number of atoms, errors) of each structure.
    """
    known = [(n, c) for n, c in comparisons if c is not None]
    energies = np.array([c.energy for _, c in known if c.energy is not None])
    forced = [(n, c) for n, c in known if c.force_mae is not None]
    if not known:
        return None
    result: dict[str, float] = {}
    if len(energies):
        result["energy_mae_meV_per_atom"] = float(np.abs(energies).mean())
        result["energy_mae_without_mean_meV_per_atom"] = float(np.abs(energies - np.median(energies)).mean())
        result["energy_worst_meV_per_atom"] = float(np.abs(energies).max())
    if forced:
        share = np.array([n for n, _ in forced], dtype=float)
        share /= share.sum()
        mae, rms, size = (
            np.array([getattr(c, name) for _, c in forced])
            for name in ("force_mae", "force_rms", "force_size")
        )
        result["force_mae_meV_per_A"] = float(share @ mae)
        result["force_rms_meV_per_A"] = float(np.sqrt(share @ rms**2))
        result["mean_abs_force_meV_per_A"] = float(share @ size)
        result["force_worst_structure_meV_per_A"] = float(mae.max())
    return result
