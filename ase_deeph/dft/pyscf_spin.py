"""Collinear spin in PySCF: an initial density with the moments asked for, counts of electrons, moments at the end."""

from __future__ import annotations

from typing import Any

import numpy as np

from ase_deeph.dft.moments import mulliken_moments


def polarised_density(method: Any, moments: np.ndarray) -> np.ndarray | None:
    """The method's initial density matrices with the share of spin up of each atom set by its moment.

    P↑_μν = P_μν (1 + (p_μ + p_ν)/2) / 2 with p = moment / valence electrons of the orbital's atom, within -1 ... 1;
    for molecules and for crystals on the irreducible k.

    Parameters
    ----------
    moments : (n_atoms,) μB; None is returned when all are zero, which leaves the start to PySCF.
    """
    target = method.cell if hasattr(method, "cell") else method.mol
    if not np.any(moments):
        return None
    charges = np.maximum(target.atom_charges(), 1)
    share = np.clip(np.asarray(moments, dtype=float) / charges, -1.0, 1.0)
    p = np.repeat(share, np.diff(_atom_offsets(target)))
    total = np.asarray(method.get_init_guess(key="minao")).sum(axis=0)
    polarisation = 0.5 * (p[:, None] + p[None, :])
    return np.stack([0.5 * (1 + polarisation) * total, 0.5 * (1 - polarisation) * total])


def unpaired_electrons(n_electrons: int, moment: int, n_k: int, width: float) -> int:
    """PySCF's `spin` of a cell on n_k points, which counts those of the whole supercell of the mesh.

    With smearing both channels share one Fermi level and only the parity matters.
    """
    return (n_electrons * n_k) % 2 if width else moment * n_k


def final_moments(method: Any) -> list[float]:
    """Mulliken moment of each atom in μB, of a converged UKS or KUKS method."""
    crystal = hasattr(method, "cell")
    target = method.cell if crystal else method.mol
    density, overlap = np.asarray(method.make_rdm1()), np.asarray(method.get_ovlp())
    if not crystal:
        density, overlap, weights = density[:, None], overlap[None], np.ones(1)
    else:
        weights = np.asarray(method.kpts.weights_ibz)
    moments = mulliken_moments(density, overlap, weights, _atom_offsets(target))
    return [round(float(m), 6) for m in moments]


def _atom_offsets(target: Any) -> np.ndarray:
    """(n_atoms + 1,) first orbital of each atom, and the total."""
    slices = target.aoslice_by_atom()
    return np.concatenate([slices[:, 2], slices[-1:, 3]]).astype(int)
