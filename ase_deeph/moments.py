"""Magnetic moments of atoms as a model's input: (n_atoms, 3) μ_B from ASE's initial magnetic moments."""

from __future__ import annotations

from typing import Literal

import numpy as np
from ase import Atoms

MomentKind = Literal["collinear", "spinor"]


def has_moments(atoms: Atoms) -> bool:
    """Whether initial magnetic moments were set, be they zero."""
    return atoms.has("initial_magmoms")


def magnetic_moments(atoms: Atoms, kind: MomentKind) -> np.ndarray:
    """(n_atoms, 3) initial magnetic moments, μ_B; numbers stand for moments along z.

    Parameters
    ----------
    kind : "collinear" wants one number per atom, "spinor" takes numbers or vectors.

    Raises
    ------
    ValueError : none were set (zero moments must be said), vectors for a collinear model, another shape, or NaN.
    """
    if not has_moments(atoms):
        raise ValueError(
            f"{atoms.get_chemical_formula()} has no initial magnetic moments, which this model needs; call "
            "atoms.set_initial_magnetic_moments(...), or give a file that holds them (an extended XYZ file's column "
            "initial_magmoms, ASE's .traj); sizes as in training"
        )
    found = np.asarray(atoms.get_initial_magnetic_moments(), dtype=float)
    if not np.all(np.isfinite(found)):
        raise ValueError("initial magnetic moments: expected finite numbers, received NaN or infinity")
    if found.shape not in ((len(atoms),), (len(atoms), 3)):
        raise ValueError(
            f"initial magnetic moments: expected shape ({len(atoms)},) or ({len(atoms)}, 3), received {found.shape}"
        )
    if found.ndim == 2 and kind == "collinear":
        raise ValueError(
            "initial magnetic moments: the model is collinear and takes one number per atom, received vectors; "
            "give their components along the axis of magnetisation"
        )
    moments = np.zeros((len(atoms), 3))
    if found.ndim == 2:
        moments[:] = found
    else:
        moments[:, 2] = found
    return moments
