"""force.h5 of a DeepH folder: energy (eV), forces (eV/Å) and stress (eV/Å³) of its structure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
from ase.stress import full_3x3_to_voigt_6_stress

from ase_deeph.io.stored import stored_values
from ase_deeph.reference import ReferenceData


def write_forces(path: Path, data: ReferenceData) -> None:
    """Write the forces, with the cell, and energy and stress where they are known."""
    with h5py.File(path, "w") as file:
        file["cell"] = data.atoms.cell.array
        file["force"] = np.asarray(data.forces)
        if data.energy is not None:
            file["energy"] = data.energy
        if data.stress is not None:
            file["stress"] = np.asarray(data.stress)


def read_forces(path: Path, n_atoms: int) -> dict[str, Any]:
    """What force.h5 holds of energy, force and stress; ValueError when it is damaged or of other atoms."""
    shapes: dict[str, tuple[int, ...]] = {"energy": (), "force": (n_atoms, 3), "stress": (6,)}
    try:
        with h5py.File(path, "r") as file:
            found = {name: stored_values(file[name]) for name in shapes if name in file}
    except (OSError, KeyError, RuntimeError, ValueError, TypeError) as error:
        raise ValueError(f"{path}: damaged ({error}); copy or compute it again") from error
    if "stress" in found and found["stress"].shape == (3, 3):
        found["stress"] = full_3x3_to_voigt_6_stress(found["stress"])
    for name, values in found.items():
        if values.shape != shapes[name] or not np.all(np.isfinite(values)):
            raise ValueError(
                f"{path}: expected finite numbers of shape {shapes[name]} for {name}, received {values.shape}; "
                "it is damaged, or of another structure"
            )
    return {name: values if values.shape else float(values) for name, values in found.items()}
