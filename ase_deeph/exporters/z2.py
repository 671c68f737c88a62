"""The Z2 invariant of a layer from PythTB's Wilson loops: how hybrid Wannier centres wind over half the zone.

For each k2 the Wilson loop along k1 of the occupied states has eigenvalues exp(iθ_n(k2)), θ_n / 2π the centres.
Between k2 = 0 and 1/2, where they pair up, the middle z(k2) of the largest gap between centres is followed; the number
of centres that it jumps over is even in an ordinary insulator and odd in a quantum spin Hall insulator
[A. A. Soluyanov and D. Vanderbilt, Phys. Rev. B 83, 235401 (2011)].
"""

from __future__ import annotations

import logging
from contextlib import redirect_stdout
from io import StringIO

import numpy as np

from ase_deeph.electronic_structure import ElectronicStructure
from ase_deeph.exporters.optional import optional_package
from ase_deeph.exporters.pythtb import to_pythtb
from ase_deeph.kpoints import respects_time_reversal

logger = logging.getLogger(__name__)

_PAIRED = 0.05
"""Of 2π, by which partners at k2 = 0 and 1/2 may differ on the finite mesh."""


def z2_invariant(
    es: ElectronicStructure, n_occupied: int | None = None, mesh: tuple[int, int] = (31, 31)
) -> int:
    """1 for a quantum spin Hall insulator, 0 for an ordinary one.

    Parameters
    ----------
    es : spinors of a layer (two periodic axes) with time reversal, in an orthogonal basis (`es.orthogonalized`).
    n_occupied : bands below the gap; None takes the electrons of the cell.
    mesh : points along the two periodic axes, both ends of the zone counted; the second is odd.

    Raises
    ------
    ValueError : another kind of spin, not a layer, magnetism, an odd number of bands, no gap on the mesh, or centres
        that do not pair up on this mesh.
    ModuleNotFoundError : PythTB is not installed.
    """
    n = _checked_bands(es, n_occupied, mesh)
    centres = wilson_loops(es, n, mesh)
    half = centres[: (mesh[1] + 1) // 2]
    for end in (half[0], half[-1]):
        _check_pairs(end)
    return _crossings(half) % 2


def wilson_loops(es: ElectronicStructure, n_occupied: int, mesh: tuple[int, int] = (31, 31)) -> np.ndarray:
    """(n_k2, n_occupied) hybrid Wannier centres along the first periodic axis, in its length, 0 to 1, ascending."""
    pythtb = optional_package("pythtb", "wilson_loops")
    with redirect_stdout(StringIO()):
        states = pythtb.wf_array(to_pythtb(es), list(mesh))
        gaps = states.solve_on_grid([0.0, 0.0])
        if gaps is not None and np.min(gaps[n_occupied - 1]) < 1e-3:
            raise ValueError(f"z2_invariant: no gap above band {n_occupied} on the mesh {mesh}")
        phases = states.berry_phase(list(range(n_occupied)), dir=0, contin=False, berry_evals=True)
    return np.sort(np.mod(np.asarray(phases) / (2 * np.pi), 1.0), axis=1)


def _checked_bands(es: ElectronicStructure, n_occupied: int | None, mesh: tuple[int, int]) -> int:
    """The number of occupied bands, after what can be wrong was looked at."""
    if es.hamiltonian.spin != "spinor":
        raise ValueError(f"z2_invariant: expected spinors, received spin {es.hamiltonian.spin!r}")
    if int(np.sum(es.atoms.pbc)) != 2:
        raise ValueError(f"z2_invariant: expected two periodic axes, received pbc {es.atoms.pbc.tolist()}")
    if not respects_time_reversal(es.hamiltonian):
        raise ValueError("z2_invariant: H has no time-reversal symmetry, so there is no Z2 invariant")
    if len(mesh) != 2 or min(mesh) < 5 or mesh[1] % 2 == 0:
        raise ValueError(
            f"z2_invariant: expected a mesh of two numbers >= 5, the second odd, received {mesh}"
        )
    n = round(es.n_electrons or 0) if n_occupied is None else int(n_occupied)
    if n < 2 or n % 2 or n >= es.hamiltonian.n_orbitals:
        raise ValueError(
            f"z2_invariant: expected an even number of occupied bands below {es.hamiltonian.n_orbitals}, received {n}"
        )
    return n


def _check_pairs(centres: np.ndarray) -> None:
    """ValueError unless the centres of one row pair up: neighbours, or neighbours after a shift by one."""
    turned = np.append(centres[1:], centres[0] + 1.0)
    worst = min(float((c[1::2] - c[::2]).max()) for c in (centres, turned))
    if worst > _PAIRED:
        raise ValueError(
            f"z2_invariant: the centres at k2 = 0 and 1/2 are {worst:.2f} apart and should pair up; use a denser mesh"
        )


def _crossings(centres: np.ndarray) -> int:
    """How many centres the middle of the largest gap jumps over from row to row."""
    middles = [_middle_of_gap(row) for row in centres]
    total = 0
    for row, before, after in zip(centres[1:], middles[:-1], middles[1:], strict=True):
        low, high = sorted((before, after))
        total += int(np.sum((row > low) & (row < high)))
    return total


def _middle_of_gap(centres: np.ndarray) -> float:
    """Middle, 0 to 1, of the largest gap between centres on a circle of length 1."""
    gaps = np.diff(np.append(centres, centres[0] + 1.0))
    at = int(np.argmax(gaps))
    return float(np.mod(centres[at] + 0.5 * gaps[at], 1.0))
