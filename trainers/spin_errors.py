"""Errors of a Hamiltonian with spin: of each channel, of its exchange or spin-orbit part; entries over all channels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ase_deeph.eigen import spinor_overlap
from ase_deeph.matrix import RealSpaceMatrix, Spin
from ase_deeph.pauli import pauli_parts

MILLI = 1000.0


def overlap_of_spin(overlap: RealSpaceMatrix, spin: Spin) -> RealSpaceMatrix:
    """S as a matrix of a kind of spin: for each channel, or for both components of a spinor."""
    if spin == "spinor":
        return spinor_overlap(overlap)
    if spin == "collinear":
        return replace(overlap, entries=np.stack([overlap.entries] * 2), spin=spin)
    return overlap


def n_channels(spin: Spin) -> int:
    """Entries of H for each pair of spatial orbitals."""
    return {"none": 1, "collinear": 2, "spinor": 4}[spin]


def entry_sizes(matrix: RealSpaceMatrix) -> np.ndarray:
    """(n_pairs, M, M) Σ |entry| over the channels of each pair of spatial orbitals."""
    if matrix.spin == "none":
        return np.abs(matrix.padded_blocks())
    parts = pauli_parts(matrix)
    if matrix.spin == "collinear":
        return np.abs(parts[0] + parts[1]) + np.abs(parts[0] - parts[1])
    zero, x, y, z = parts
    return np.abs(zero + z) + np.abs(zero - z) + np.abs(x - 1j * y) + np.abs(x + 1j * y)


def pair_sums(values: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """(n_pairs,) sums over the entries of each block, and over channels where there is an axis of them."""
    sums = np.add.reduceat(values, offsets[:-1], axis=-1)
    return sums.sum(axis=0) if sums.ndim == 2 else sums


def real_entries(matrix: RealSpaceMatrix) -> np.ndarray:
    """The entries as a list of real numbers: of a spinor matrix first the real, then the imaginary parts."""
    entries = matrix.entries.ravel()
    return np.concatenate([entries.real, entries.imag]) if matrix.spin == "spinor" else entries


def spin_errors(fixed: RealSpaceMatrix, reference: RealSpaceMatrix) -> dict[str, float] | None:
    """MAE in meV, after the gauge is fixed, of what spin adds; None for a matrix without spin.

    Collinear: of spin up and of spin down, of half their difference (exchange).  Spinor: of A_0 and of A_s in
    H = A_0 ⊗ 1 + Σ_s A_s ⊗ σ_s.  The mean sizes of what is learnt come with them.
    """
    if fixed.spin == "none":
        return None
    counts = fixed.basis.orbital_counts(fixed.atoms.get_chemical_symbols())
    n = float((counts[fixed.pairs.i] * counts[fixed.pairs.j]).sum())
    error, size = pauli_parts(fixed), pauli_parts(reference)

    def mean(values: np.ndarray) -> float:
        return MILLI * float(np.abs(values).sum()) / n

    if fixed.spin == "collinear":
        return {
            "mae_up_meV": mean(error[0] + error[1]),
            "mae_down_meV": mean(error[0] - error[1]),
            "mae_exchange_meV": mean(error[1]),
            "mean_abs_exchange_meV": mean(size[1]),
        }
    return {
        "mae_spinless_meV": mean(error[0]),
        "mae_spin_meV": mean(error[1:]) / 3,
        "mean_abs_spin_meV": mean(size[1:]) / 3,
    }


def pooled_spin(tables: Sequence[dict[str, float] | None]) -> dict[str, dict[str, float]] | None:
    """Mean over the structures and worst of each number; None where there is no spin."""
    known = [t for t in tables if t is not None]
    if not known:
        return None
    return {
        key: {"mean": float(np.mean([t[key] for t in known])), "worst": float(max(t[key] for t in known))}
        for key in known[0]
    }


def spin_lines(pooled: dict[str, dict[str, float]]) -> list[str]:
    """Lines of a table for people."""
    words = {
        "mae_up_meV": "MAE of H, spin up",
        "mae_down_meV": "MAE of H, spin down",
        "mae_exchange_meV": "MAE of (up - down) / 2",
        "mae_spinless_meV": "MAE of the spinless part",
        "mae_spin_meV": "MAE of the part with spin",
    }
    return [
        f"  {word:<31}  {pooled[key]['mean']:8.3f} {pooled[key]['worst']:8.3f}"
        for key, word in words.items()
        if key in pooled
    ]
