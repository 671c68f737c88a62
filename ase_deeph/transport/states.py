"""Scattering states: local density of states and bond currents of a non-orthogonal basis.

The states come in through modes of unit current, so that their Mulliken populations are densities of states:
n_a(E) = Σ_states Re(ψ_a* (Sψ)_a) / 2π.  They are solved with one more layer of each lead inside, so that Sψ is
complete on every orbital of the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp

from ase_deeph.transport.mode_count import ModeCounter
from ase_deeph.transport.problem import ScatteringProblem


@dataclass(frozen=True, eq=False)
class ScatteringStates:
    """The states at one energy.

    Parameters
    ----------
    energy : eV.
    problem : device and leads.
    psi : for each lead (n_modes, n) states on the device and then on one more layer of each lead.
    pencil : H - E S on the same orbitals.
    overlap : S on the same orbitals.
    """

    energy: float
    problem: ScatteringProblem
    psi: list[np.ndarray]
    pencil: sp.csr_matrix
    overlap: sp.csr_matrix

    @property
    def density(self) -> np.ndarray:
        """(n_orbitals,) states/eV on each orbital of the device, from all leads; per spin channel."""
        return np.sum([self.density_from(lead) for lead in range(len(self.psi))], axis=0)

    def density_from(self, lead: int) -> np.ndarray:
        """(n_orbitals,) the part of the density that one lead fills."""
        psi = self.psi[lead]
        populations = np.real(psi.conj() * (self.overlap @ psi.T).T).sum(axis=0) / (2 * np.pi)
        return populations[: self.problem.n]

    def bond_currents(self, lead: int = 0) -> sp.csr_matrix:
        """(n_atoms, n_atoms) current from row atom to column atom of the states that a lead sends.

        J_ab = Σ 2 Im[ψ_b† (H - E S)_ba ψ_a] changes the Mulliken populations, adds up to zero at every atom
        that no lead touches, and to T(E) through a cut.  In units of transmission (times e/h dE: amperes).
        """
        n = self.problem.n
        psi = self.psi[lead][:, :n]
        pencil = self.pencil[:n, :n].tocoo()
        flow = 2 * np.imag(np.einsum("mi,mi->i", psi[:, pencil.row].conj(), psi[:, pencil.col]) * pencil.data)
        atom = np.repeat(np.arange(len(self.problem.norbs)), self.problem.norbs)
        shape = (len(self.problem.norbs),) * 2
        return sp.csr_matrix((flow, (atom[pencil.col], atom[pencil.row])), shape=shape)


def solved_system(problem: ScatteringProblem, counters: Sequence[ModeCounter], energy: float) -> Any:
    """The system for Kwant with its leads solved at an energy (eV), after their modes have been counted.

    Raises
    ------
    ValueError : the modes found do not agree with the leads' bands (at a folded degeneracy): move the energy.
    """
    from ase_deeph.transport.kwant_system import OverlapSystem, modes_of_leads, with_modes

    syst = OverlapSystem(problem)
    modes = modes_of_leads(syst, energy)
    found = [len(m[0].momenta) // 2 for m in modes]
    expected = [counter(energy) for counter in counters]
    if found != expected:
        expected = [counter.refined(energy) for counter in counters]
    if found != expected:
        raise ValueError(
            f"at {energy:.6f} eV the mode solver found {found} modes, the bands of the leads have {expected}; "
            "move the energy by 1e-4 eV"
        )
    return with_modes(syst, modes)


def scattering_states_of(
    problem: ScatteringProblem, counters: Sequence[ModeCounter], energy: float
) -> ScatteringStates:
    """The scattering states of every lead; raises as `solved_system`."""
    from ase_deeph.transport.kwant_system import scattering_states

    wide = problem.extended()
    psi = scattering_states(solved_system(wide, counters, energy), energy)
    return ScatteringStates(energy, problem, psi, sp.csr_matrix(wide.h - energy * wide.s), wide.s)
