"""Bands near an energy at many k-points: a few states at each, with their band index, resumable."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from ase_deeph.matrix import RealSpaceMatrix
from ase_deeph.sparse.checkpoint import Checkpoint, fingerprint
from ase_deeph.sparse.factorisation import ENGINES, Engine, chosen_engine
from ase_deeph.sparse.states import Pencil, States, states_near, states_within

logger = logging.getLogger(__name__)

BandEngine = Literal["auto", "dense", "superlu", "mumps", "pardiso", "slepc"]
BAND_ENGINES = (*ENGINES, "slepc")
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Request:
    """Which states: the n nearest an energy, or all of a window, in eV on the scale of H.

    Parameters
    ----------
    energy, n_states : the n_states nearest this energy.
    window : (low, high) instead.
    engine : of factorisations, or "slepc".
    n_ranks : processes of the engine slepc.

    Raises
    ------
    ValueError : neither or both of energy and window, no states or processes, or an unknown engine.
    """

    energy: float | None = None
    n_states: int = 10
    window: tuple[float, float] | None = None
    engine: BandEngine = "auto"
    n_ranks: int = 2

    def __post_init__(self) -> None:
        if (self.energy is None) == (self.window is None):
            raise ValueError("states: expected an energy or a window (low, high), and not both")
        if self.engine not in BAND_ENGINES:
            raise ValueError(f"engine: expected one of {', '.join(BAND_ENGINES)}, received {self.engine!r}")
        if self.n_states < 1:
            raise ValueError(f"states: expected at least 1 at each k-point, received {self.n_states}")
        if self.n_ranks < 1:
            raise ValueError(f"ranks: expected at least 1 process, received {self.n_ranks}")
        if self.engine == "slepc" and self.window is not None:
            raise ValueError("engine slepc: expected an energy and a number of states, received a window")


@dataclass(frozen=True, eq=False)
class NearBands:
    """States near an energy at each k-point.

    Parameters
    ----------
    kpts : (n_kpts, 3) fractional.
    energies : energies[spin][k], (n_states,) eV ascending; the number differs from k to k in a window.
    residuals : likewise |H c - e S c|, eV.
    first_band : (n_spins, n_kpts) band index of the first state, from 0; -1 where it was not counted.
    """

    kpts: np.ndarray
    energies: list[list[np.ndarray]]
    residuals: list[list[np.ndarray]]
    first_band: np.ndarray

    @property
    def band_range(self) -> tuple[int, int]:
        """First band and one past the last that is counted at any k-point; (0, 0) where none is."""
        rows = zip(self.first_band, self.energies, strict=True)
        counted = [(int(n), len(e)) for row, es in rows for n, e in zip(row, es, strict=True) if n >= 0]
        if not counted:
            return 0, 0
        return min(n for n, _ in counted), max(n + size for n, size in counted)

    @property
    def counted(self) -> bool:
        """Whether the states of every k-point have their band index."""
        return bool(np.all(self.first_band >= 0))

    def uncounted(self, spin: int = 0) -> list[np.ndarray]:
        """Energies of each k-point whose states have no band index, empty elsewhere: no line joins them."""
        rows = zip(self.first_band[spin], self.energies[spin], strict=True)
        return [energies if first < 0 else energies[:0] for first, energies in rows]

    def of_band(self, band: int, spin: int = 0) -> np.ndarray:
        """(n_kpts,) eV of one band, NaN (a gap of the line) where it is not among the states found and counted."""
        line = np.full(len(self.kpts), np.nan)
        for k, (first, energies) in enumerate(zip(self.first_band[spin], self.energies[spin], strict=True)):
            if 0 <= first <= band < first + len(energies):
                line[k] = energies[band - first]
        return line


def bands_near(
    hamiltonian: RealSpaceMatrix,
    overlap: RealSpaceMatrix | None,
    kpts: np.ndarray,
    request: Request,
    *,
    checkpoint: str | Path | None = None,
    progress: Progress | None = None,
) -> NearBands:
    """The states asked for at every spin and k-point; each search begins with the states of the k before.

    Parameters
    ----------
    overlap : S(R) of the same spin convention as H (spinors: doubled), None for the identity.
    checkpoint : a file of finished k-points; an interrupted run of the same problem goes on from it.
    progress : called with k-points done and their number.

    Raises
    ------
    ValueError : as `states_near`, `states_within`, with the k-point named; a checkpoint of another problem.
    """
    s_entries = None if overlap is None else overlap.entries
    request_key = (request.energy, request.n_states, request.window)
    kept = Checkpoint(checkpoint, fingerprint(hamiltonian.entries, s_entries, kpts, request_key))
    if len(kept):
        logger.warning("%d k-points taken from %s", len(kept), checkpoint)
    n_spins = 2 if hamiltonian.spin == "collinear" else 1
    if request.engine != "slepc":
        chosen = chosen_engine(hamiltonian.n_orbitals, request.engine)
        logger.info("factorisations of %d orbitals by %s", hamiltonian.n_orbitals, chosen)
    for spin in range(n_spins):
        start: np.ndarray | None = None
        for k, point in enumerate(kpts):
            if kept.get(spin, k) is None:
                try:
                    states = _solve(
                        _pencil(hamiltonian, overlap, point.tolist(), spin, request), request, start
                    )
                except ValueError as error:
                    raise ValueError(f"at k = {np.round(point, 4).tolist()}: {error}") from None
                kept.put(spin, k, states.energies, states.residuals, states.first_band)
                start = states.coefficients if states.coefficients.shape[1] else None
            if progress is not None:
                progress(spin * len(kpts) + k + 1, n_spins * len(kpts))
    return _gathered(kept, kpts, n_spins)


def _pencil(
    hamiltonian: RealSpaceMatrix,
    overlap: RealSpaceMatrix | None,
    point: Sequence[float],
    spin: int,
    request: Request,
) -> Pencil:
    h = hamiltonian.at_k(point, format="csr")
    s = None if overlap is None else overlap.at_k(point, format="csr")
    engine: Engine = "auto" if request.engine == "slepc" else request.engine
    return Pencil.of(h[spin] if isinstance(h, list) else h, s, engine)


def _solve(pencil: Pencil, request: Request, start: np.ndarray | None) -> States:
    if request.window is not None:
        return states_within(pencil, *request.window, start=start)
    assert request.energy is not None
    if request.engine == "slepc":
        from ase_deeph.sparse.slepc import states_by_slepc

        return states_by_slepc(pencil, request.energy, request.n_states, n_ranks=request.n_ranks)
    return states_near(pencil, request.energy, request.n_states, start=start)


def _gathered(kept: Checkpoint, kpts: np.ndarray, n_spins: int) -> NearBands:
    rows = [[kept.get(spin, k) for k in range(len(kpts))] for spin in range(n_spins)]
    assert all(row is not None for channel in rows for row in channel)
    energies = [[row[0] for row in channel if row is not None] for channel in rows]
    residuals = [[row[1] for row in channel if row is not None] for channel in rows]
    first = np.array([[row[2] for row in channel if row is not None] for channel in rows])
    return NearBands(kpts, energies, residuals, first)
