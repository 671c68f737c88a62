"""Phonon modes as the coupling needs them: energies and displacements, from ASE, phonopy or plain arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from ase import Atoms, units

Phase = Literal["cell", "position"]

HBAR = units._hbar * units.J * units.second
"""ħ in eV·Å·√(amu/eV), ASE's units."""


@dataclass(frozen=True, eq=False)
class Modes:
    """The phonons of one q: in cell R atom a of mode ν moves along e_νa exp(2πi q·R) / √M_a.

    Parameters
    ----------
    q : (3,) fractional.
    energies : (n_modes,) ħω in eV; negative for an unstable mode.
    vectors : (n_modes, n_atoms, 3) e, complex, each of norm 1: eigenvectors of the dynamical matrix with the
        phases of cells.
    masses : (n_atoms,) amu.

    Raises
    ------
    ValueError : shapes that do not fit, or vectors whose norm is not 1.
    """

    q: np.ndarray
    energies: np.ndarray
    vectors: np.ndarray
    masses: np.ndarray

    def __post_init__(self) -> None:
        for name in ("q", "energies", "vectors", "masses"):
            object.__setattr__(self, name, np.asarray(getattr(self, name)))
        n = len(self.masses)
        if self.q.shape != (3,) or self.vectors.shape != (len(self.energies), n, 3):
            raise ValueError(
                f"modes: expected q of shape (3,) and vectors of shape ({len(self.energies)}, {n}, 3), received "
                f"{self.q.shape} and {self.vectors.shape}"
            )
        norms = np.linalg.norm(self.vectors.reshape(len(self.vectors), -1), axis=1)
        if np.any(np.abs(norms - 1) > 1e-4):
            raise ValueError(f"modes: expected eigenvectors of norm 1, received norms {np.round(norms, 4)}")

    def __len__(self) -> int:
        return len(self.energies)

    def amplitudes(self, softest: float = 1e-3) -> np.ndarray:
        """(n_modes, n_atoms, 3) zero-point displacements √(ħ / 2 M_a ω) e in Å.

        Parameters
        ----------
        softest : eV; modes below it (translations, unstable ones) have no finite amplitude and get zero.
        """
        stiff = self.energies > softest
        lengths = np.where(stiff, HBAR / np.sqrt(2 * np.where(stiff, self.energies, 1.0)), 0.0)
        return lengths[:, None, None] * self.vectors / np.sqrt(self.masses)[None, :, None]

    @classmethod
    def from_arrays(
        cls, atoms: Atoms, q: Any, energies: Any, vectors: Any, *, phase: Phase = "cell"
    ) -> Modes:
        """Modes of eigenvectors in either gauge.

        Parameters
        ----------
        vectors : (n_modes, n_atoms, 3) orthonormal eigenvectors of the mass-weighted dynamical matrix.
        phase : "cell": displacements go as exp(2πi q·R) (ASE); "position": as exp(2πi q·(R + s_a)) with the
            fractional positions s_a (phonopy; there `eigenvectors[:, ν].reshape(n_atoms, 3)` and
            frequencies in THz times `ase.units._hplanck * ase.units.J * 1e12` eV).

        Raises
        ------
        ValueError : an unknown phase, or shapes that do not fit.
        """
        if phase not in ("cell", "position"):
            raise ValueError(f"phase: expected 'cell' or 'position', received {phase!r}")
        found = np.asarray(vectors, dtype=complex)
        if phase == "position":
            fractional = atoms.cell.complete().scaled_positions(atoms.positions)
            found = found * np.exp(2j * np.pi * fractional @ np.asarray(q, dtype=float))[None, :, None]
        return cls(np.asarray(q, dtype=float), np.asarray(energies), found, atoms.get_masses())

    @classmethod
    def from_ase(cls, phonons: Any, q: Any) -> Modes:
        """The modes of an `ase.phonons.Phonons` whose force constants have been read (`phonons.read(...)`).

        ASE gives e / √M of the transposed dynamical matrix (rows are the atom that was moved), whose eigenvectors
        move the atoms by exp(-2πi q·R): they are conjugated here.
        """
        energies, moved = phonons.band_structure([np.asarray(q, dtype=float)], modes=True)
        masses = phonons.atoms.get_masses()
        return cls.from_arrays(
            phonons.atoms, q, energies[0], np.conj(moved[0]) * np.sqrt(masses)[None, :, None]
        )
