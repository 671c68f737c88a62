"""T(E) with a guard: modes counted twice, and a step aside where folded bands confuse the mode solver.

With principal layers of several cells, k and -k or two bands may fold on one phase; there Kwant's mode solver may
lose modes while the scattering matrix stays unitary.  At each energy the right-moving modes are therefore counted
from the bands of the primitive cell too, and S†S = 1 is required.  Where both hold but two phases are closer than
1e-4, T(E) is kept if it agrees with the mean of T(E ± 1e-6 eV).  Else T is that mean at the smallest step d at which
the means for d and for a larger step agree (a mean is off by d² T''/2, small against what T varies across the step),
or else at which no doubt is left.  Where no step will do, T is NaN, and a warning says so.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ase_deeph.transport.mode_count import ModeCounter
from ase_deeph.transport.problem import ScatteringProblem

logger = logging.getLogger(__name__)

STEPS = (1e-6, 4e-6, 2e-5, 1e-4, 2.3e-4, 5.1e-4)
_AGREE, _BEND = 3e-6, 0.05
_PHASE_GAP = 1e-4
_SAME_VELOCITY = 0.01
_UNITARITY = 1e-6


@dataclass(frozen=True, eq=False)
class Outcome:
    """What was found at one energy.

    Parameters
    ----------
    transmission : (n_leads, n_leads) T from lead (column) to lead (row); the diagonal holds the reflection.
    n_modes : (n_leads,) right-moving modes counted from the bands.
    unitarity_error : max |S†S - 1|.
    step : how far the energy was stepped aside, eV (0: not at all).
    reason : why it was, empty if it was not.
    """

    transmission: np.ndarray
    n_modes: np.ndarray
    unitarity_error: float
    step: float = 0.0
    reason: str = ""


@dataclass(frozen=True, eq=False)
class _Attempt:
    outcome: Outcome | None
    reason: str


@dataclass(frozen=True, eq=False)
class TransmissionReport:
    """T(E) and how it came about.

    Parameters
    ----------
    energies : (n_energies,) eV, on the scale of the device after alignment.
    transmission : (n_spins, n_kpts, n_energies) from `source` to `drain`; NaN where no energy nearby could be trusted.
    n_modes : (n_spins, n_kpts, n_energies, n_leads) right-moving modes counted from the bands.
    unitarity_error : (n_spins, n_kpts, n_energies) max |S†S - 1|; NaN for the ASE backend, which has no S.
    step : (n_spins, n_kpts, n_energies) eV that the energy was stepped aside; 0 where it was not.
    reasons : why, by (spin, k, energy) index.
    kpts, weights : (n_kpts, 3) transverse k, and their weights, which add up to 1.
    backend : "kwant (MUMPS)", "kwant (SuperLU)" or "ase".
    """

    energies: np.ndarray
    transmission: np.ndarray
    n_modes: np.ndarray
    unitarity_error: np.ndarray
    step: np.ndarray
    reasons: dict[tuple[int, int, int], str]
    kpts: np.ndarray
    weights: np.ndarray
    backend: str

    @property
    def total(self) -> np.ndarray:
        """(n_energies,) the mean over k, for collinear spin (2, n_energies)."""
        mean = np.tensordot(self.weights, self.transmission, axes=(0, 1))
        return mean[0] if len(mean) == 1 else mean

    @property
    def stepped_aside(self) -> np.ndarray:
        """(n_energies,) True where any spin or k had to be solved beside the energy asked for."""
        return np.any(self.step != 0, axis=(0, 1))


def solve_energies(
    problem: ScatteringProblem, counters: Sequence[ModeCounter], energies: np.ndarray
) -> list[Outcome]:
    """One Outcome per energy (eV)."""
    from ase_deeph.transport.kwant_system import OverlapSystem

    syst = OverlapSystem(problem)
    return [_guarded(syst, counters, float(energy)) for energy in energies]


def _guarded(syst: Any, counters: Sequence[ModeCounter], energy: float) -> Outcome:
    """The result at an energy, or the mean of two beside it where the energy itself cannot be trusted."""
    there = _attempt(syst, counters, energy)
    if there.outcome is not None and not there.reason:
        return there.outcome
    means: list[Outcome] = []
    for step in STEPS:
        pair = [_attempt(syst, counters, energy + sign * step) for sign in (1, -1)]
        if any(side.outcome is None for side in pair):
            continue
        mean, spread = _mean_of(pair, counters, energy, step, there.reason), _spread(pair)
        if there.outcome is not None and not means and _agree(there.outcome, mean, spread):
            logger.info("E = %.6f eV: %s; T is kept, its neighbours agree", energy, there.reason)
            return replace(there.outcome, reason=there.reason)
        if means and _agree(means[-1], mean, spread):
            return _told(means[-1], energy)
        means.append(mean)
        if not any(side.reason for side in pair):
            return _told(mean, energy)
    if means:
        return _told(means[0], energy)
    logger.warning(
        "E = %.6f eV: %s, also within %.1e eV of it; T is NaN there", energy, there.reason, max(STEPS)
    )
    n = len(counters)
    return Outcome(np.full((n, n), np.nan), _counted(counters, energy), np.nan, max(STEPS), there.reason)


def _agree(first: Outcome, second: Outcome, spread: float) -> bool:
    """Whether two transmission matrices are equal to 3e-6, or to a twentieth of how T varies across the step."""
    difference = float(np.abs(first.transmission - second.transmission).max(initial=0.0))
    return difference < _AGREE + _BEND * spread


def _spread(pair: Sequence[_Attempt]) -> float:
    """|T(E + d) - T(E - d)|."""
    up, down = (side.outcome.transmission for side in pair if side.outcome is not None)
    return float(np.abs(up - down).max(initial=0.0))


def _told(outcome: Outcome, energy: float) -> Outcome:
    """The outcome, after a line in the log that says how far the energy was stepped aside."""
    logger.info("E = %.6f eV: %s; T is the mean of T(E ± %.1e eV)", energy, outcome.reason, outcome.step)
    return outcome


def _mean_of(
    pair: Sequence[_Attempt], counters: Sequence[ModeCounter], energy: float, step: float, reason: str
) -> Outcome:
    found = [side.outcome for side in pair if side.outcome is not None]
    return Outcome(
        np.mean([o.transmission for o in found], axis=0),
        _counted(counters, energy),
        max(o.unitarity_error for o in found),
        step,
        reason,
    )


def _counted(counters: Sequence[ModeCounter], energy: float) -> np.ndarray:
    return np.array([counter(energy) for counter in counters])


def _attempt(syst: Any, counters: Sequence[ModeCounter], energy: float) -> _Attempt:
    """The result at exactly this energy, None where modes were lost, with a reason for any doubt."""
    from ase_deeph.transport.kwant_system import modes_of_leads, scattering_matrix, with_modes

    try:
        modes = modes_of_leads(syst, energy)
    except (RuntimeError, ValueError, np.linalg.LinAlgError) as error:
        return _Attempt(None, f"the mode solver failed ({str(error).splitlines()[0]})")
    found = np.array([len(m[0].momenta) // 2 for m in modes])
    expected = _expected(counters, found, energy)
    if not np.array_equal(found, expected):
        return _Attempt(
            None, f"the mode solver found {found.tolist()} modes, the bands have {expected.tolist()}"
        )
    n = len(counters)
    if not found.any():
        return _Attempt(Outcome(np.zeros((n, n)), found, 0.0), "")
    s = scattering_matrix(with_modes(syst, modes), energy)
    unitarity = float(np.abs(s.data.conj().T @ s.data - np.eye(len(s.data))).max(initial=0.0))
    if not unitarity < _UNITARITY:
        return _Attempt(None, f"the scattering matrix is not unitary (|S†S - 1| = {unitarity:.1e})")
    matrix = np.array([[s.transmission(row, column) for column in range(n)] for row in range(n)])
    close = [_crossing_gap(np.asarray(m[0].momenta), np.asarray(m[0].velocities)) for m in modes]
    doubt = (
        f"two bands cross in the folded zone, {min(close):.1e} rad apart" if min(close) < _PHASE_GAP else ""
    )
    return _Attempt(Outcome(matrix, found, unitarity), doubt)


def _expected(counters: Sequence[ModeCounter], found: np.ndarray, energy: float) -> np.ndarray:
    """Modes counted from the bands; the mesh is refined where the first count disagrees with what was found."""
    counts = _counted(counters, energy)
    for lead in np.nonzero(counts != found)[0].tolist():
        counts[lead] = counters[lead].refined(energy)
    return counts


def _crossing_gap(phases: np.ndarray, velocities: np.ndarray) -> float:
    """Smallest distance in radians between two phases on the circle, of modes with different velocities.

    Bands that symmetry makes degenerate run side by side with one velocity and are no cause for doubt.
    """
    apart = np.abs(np.angle(np.exp(1j * (phases[:, None] - phases[None, :]))))
    scale = np.abs(velocities[:, None]) + np.abs(velocities[None, :])
    differ = np.abs(velocities[:, None] - velocities[None, :]) > _SAME_VELOCITY * scale
    return float(np.min(apart[differ], initial=np.inf))
