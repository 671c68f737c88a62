"""Running T(E): energies over spins, transverse k and processes, with a progress bar on a terminal."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import as_completed
from dataclasses import dataclass
from typing import Literal

import numpy as np
from tqdm import tqdm

from ase_deeph.transport.ase_backend import ase_transmission
from ase_deeph.transport.mode_count import ModeCounter
from ase_deeph.transport.problem import ScatteringProblem
from ase_deeph.transport.transmission import Outcome, TransmissionReport, solve_energies
from ase_deeph.workers import workers

logger = logging.getLogger(__name__)

Backend = Literal["kwant", "ase"]
_CHUNK = 8


@dataclass(frozen=True, eq=False)
class Job:
    """What is to be computed.

    Parameters
    ----------
    energies : (n_energies,) eV.
    kpts, weights : (n_kpts, 3) and (n_kpts,).
    n_spins : spin channels.
    window : lowest and highest energy of the leads' bands, eV.
    source, drain : numbers of the leads.
    """

    energies: np.ndarray
    kpts: np.ndarray
    weights: np.ndarray
    n_spins: int
    window: tuple[float, float]
    source: int
    drain: int


Assemble = Callable[[np.ndarray, int], tuple[ScatteringProblem, list[ModeCounter]]]


def run(job: Job, assemble: Assemble, backend: Backend, n_workers: int) -> TransmissionReport:
    """T(E) at every spin and k.

    Raises
    ------
    ValueError : an energy beyond the bands of all leads, an unknown backend or number of workers.
    """
    if backend not in ("kwant", "ase"):
        raise ValueError(f"backend: expected 'kwant' or 'ase', received {backend!r}")
    if n_workers < 1:
        raise ValueError(f"n_workers: expected a count >= 1, received {n_workers}")
    check_window(job.energies, job.window)
    shape = (job.n_spins, len(job.kpts), len(job.energies))
    report = TransmissionReport(
        job.energies,
        np.zeros(shape),
        None,  # type: ignore[arg-type]
        np.full(shape, np.nan),
        np.zeros(shape),
        {},
        job.kpts,
        job.weights,
        _name_of(backend),
    )
    logger.info("transmission at %d energies, %d k, backend %s", shape[2], shape[1], report.backend)
    counts: list[np.ndarray] = []
    with tqdm(total=int(np.prod(shape)), desc="T(E)", disable=not sys.stderr.isatty(), leave=False) as bar:
        for spin in range(job.n_spins):
            for n, k in enumerate(job.kpts):
                problem, counters = assemble(k, spin)
                if backend == "ase":
                    of_ase = ase_transmission(problem, job.energies, job.source, job.drain)
                    report.transmission[spin, n] = of_ase
                    counts.append(np.array([[c.refined(e) for c in counters] for e in job.energies]))
                    bar.update(len(job.energies))
                    continue
                counts.append(np.zeros((len(job.energies), len(counters)), dtype=int))
                for place, outcome in _outcomes(problem, counters, job.energies, n_workers):
                    _record(report, (spin, n, place), outcome, job)
                    counts[-1][place] = outcome.n_modes
                    bar.update()
    object.__setattr__(report, "n_modes", np.array(counts).reshape(*shape, -1))
    return report


def _name_of(backend: Backend) -> str:
    if backend == "ase":
        return "ase"
    from ase_deeph.transport.kwant_system import solver_name

    return f"kwant ({solver_name()})"


def check_window(energies: np.ndarray, window: tuple[float, float]) -> None:
    """ValueError when an energy lies beyond every band of every lead."""
    low, high = window
    outside = energies[(energies < low) | (energies > high)]
    if len(outside):
        raise ValueError(
            f"energies: {outside[0]:.4f} eV lies outside the bands of the leads, {low:.4f} ... {high:.4f} eV; "
            "energies are absolute, on the scale of H: add the Fermi level"
        )


def _record(report: TransmissionReport, place: tuple[int, int, int], outcome: Outcome, job: Job) -> None:
    report.transmission[place] = outcome.transmission[job.drain, job.source]
    report.unitarity_error[place] = outcome.unitarity_error
    report.step[place] = outcome.step
    if outcome.reason:
        report.reasons[place] = outcome.reason


def _outcomes(
    problem: ScatteringProblem, counters: Sequence[ModeCounter], energies: np.ndarray, n_workers: int
) -> Iterator[tuple[int, Outcome]]:
    """(position, Outcome) of each energy, in whatever order they are done."""
    if n_workers == 1:
        for n, energy in enumerate(energies):
            yield n, solve_energies(problem, counters, np.array([energy]))[0]
        return
    chunks = [np.arange(n, min(n + _CHUNK, len(energies))) for n in range(0, len(energies), _CHUNK)]
    with workers(min(n_workers, len(chunks))) as pool:
        waiting = {pool.submit(solve_energies, problem, list(counters), energies[c]): c for c in chunks}
        for done in as_completed(waiting):
            yield from zip(waiting[done].tolist(), done.result(), strict=True)
