"""The built-in cross-check: ASE's TransportCalculator, dense Green functions with overlap.

Its T(E) has an error linear in the infinitesimal eta; 1e-9 eV keeps it below 1e-6 away from band edges.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ase_deeph.transport.problem import LeadAttachment, ScatteringProblem

ETA = 1e-9


def _pair(x0: np.ndarray, x1: np.ndarray, *, outward_last: bool) -> np.ndarray:
    """Two coupled layers of a lead as ASE reads them: lead 1 inward coupling above, lead 2 below the diagonal."""
    inward = x1.conj().T
    upper, lower = (x1, inward) if outward_last else (inward, x1)
    return np.block([[x0, upper], [lower, x0]])


def _coupling(x1: np.ndarray, orbitals: np.ndarray, n: int) -> np.ndarray:
    """(n_layer, n) ⟨first layer of the lead|X|device⟩."""
    matrix = np.zeros((len(x1), n), dtype=complex)
    matrix[:, orbitals] = x1.conj().T
    return matrix


def _lead_input(
    problem: ScatteringProblem, attachment: LeadAttachment, number: int
) -> dict[str, np.ndarray | float]:
    x, last = attachment.layer, number == 2
    orbitals = problem.orbitals(attachment.atoms)
    return {
        f"h{number}": _pair(x.h0, x.h1, outward_last=last),
        f"s{number}": _pair(x.s0, x.s1, outward_last=last),
        f"hc{number}": _coupling(x.h1, orbitals, problem.n),
        f"sc{number}": _coupling(x.s1, orbitals, problem.n),
        f"eta{number}": ETA,
    }


def ase_calculator(problem: ScatteringProblem, source: int = 0, drain: int = 1) -> Any:
    """ASE's TransportCalculator of a two-terminal device.

    Raises
    ------
    ValueError : other than two leads.
    """
    from ase.transport.calculators import TransportCalculator

    if len(problem.attachments) != 2:
        raise ValueError(
            f"backend 'ase': expected two leads, received {len(problem.attachments)}; use backend='kwant'"
        )
    return TransportCalculator(
        h=problem.h.toarray(),
        s=problem.s.toarray(),
        eta=ETA,
        **_lead_input(problem, problem.attachments[source], 1),
        **_lead_input(problem, problem.attachments[drain], 2),
    )


def ase_transmission(
    problem: ScatteringProblem, energies: np.ndarray, source: int = 0, drain: int = 1
) -> np.ndarray:
    """(n_energies,) T(E) at energies in eV."""
    calculator = ase_calculator(problem, source, drain)
    calculator.set(energies=np.asarray(energies, dtype=float))
    return np.array(calculator.get_transmission(), dtype=float)
