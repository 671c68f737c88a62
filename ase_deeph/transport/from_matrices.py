"""A device given as matrices: spin channels, a positive overlap, and which atoms each lead continues."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import scipy.sparse as sp

from ase_deeph.transport.contact import Contact
from ase_deeph.transport.lead import Lead
from ase_deeph.transport.open_matrices import FixedMatrices

Matrix: TypeAlias = np.ndarray | sp.spmatrix
_DENSE = 3000
_HERMITICITY = 1e-5


def fixed_matrices(
    H: Matrix | Sequence[Matrix], S: Matrix | None, norbs: np.ndarray, leads: Sequence[Lead]
) -> FixedMatrices:
    """H of each spin channel and S, checked.

    Raises
    ------
    ValueError : shapes that do not fit, or an overlap that is not positive definite.
    """
    channels = _channels(H, leads)
    n = channels[0].shape[0]
    s = sp.identity(n, format="csr") if S is None else sp.csr_matrix(S)
    if any(m.shape != (n, n) for m in (*channels, s)) or norbs.sum() != n:
        raise ValueError(
            f"device: expected H and S of one shape and norbs adding up to it, received "
            f"{[m.shape for m in channels]}, {s.shape} and {norbs.sum()}"
        )
    _check_positive(s)
    return FixedMatrices([_hermitian_part(m, "H") for m in channels], _hermitian_part(s, "S"))


def _channels(H: Matrix | Sequence[Matrix], leads: Sequence[Lead]) -> list[sp.csr_matrix]:
    """One sparse H for each spin channel."""
    n_spins = max((lead.n_spins for lead in leads), default=1)
    several = H if isinstance(H, (list, tuple)) or np.ndim(H) == 3 else [H]
    channels = [sp.csr_matrix(m) for m in several]  # type: ignore[union-attr]
    if len(channels) != n_spins or any(lead.n_spins != n_spins for lead in leads):
        raise ValueError(
            f"device: expected {n_spins} Hamiltonians, one for each spin channel of the leads, received {len(channels)}"
        )
    return channels


def _hermitian_part(matrix: sp.csr_matrix, name: str) -> sp.csr_matrix:
    """(M + M†) / 2; ValueError when M is far from it."""
    adjoint = sp.csr_matrix(matrix.conj().T)
    error = abs(matrix - adjoint).max() if matrix.nnz else 0.0
    if error > _HERMITICITY * max(1.0, abs(matrix).max()):
        raise ValueError(f"device: expected a Hermitian {name}, received |{name} - {name}†| = {error:.1e}")
    return sp.csr_matrix(0.5 * (matrix + adjoint))


def _check_positive(s: sp.csr_matrix) -> None:
    """ValueError when a device's overlap has an eigenvalue that is not positive (small devices only)."""
    if s.shape[0] > _DENSE:
        return
    smallest = float(np.linalg.eigvalsh(s.toarray())[0])
    if smallest <= 0:
        raise ValueError(
            f"device overlap: expected a positive definite matrix, received smallest eigenvalue {smallest:.2e}; "
            "check that H and S share one basis and one order of orbitals"
        )


def contacts_of_matrices(
    norbs: np.ndarray, leads: Sequence[Lead], interfaces: Sequence[Sequence[int]] | None
) -> list[Contact]:
    """The first lead at the first atoms and towards its -axis, the last at the last atoms, or as named."""
    if not leads or (interfaces is None and len(leads) > 2):
        raise ValueError(
            f"device: expected one or two leads, or interfaces= naming the atoms of each, received {len(leads)} leads"
        )
    contacts = []
    for number, lead in enumerate(leads):
        size = lead.n_atoms * lead.n_cells
        if interfaces is not None:
            atoms = np.asarray(interfaces[number], dtype=int)
        else:
            atoms = np.arange(size) if number == 0 else np.arange(len(norbs) - size, len(norbs))
        if atoms.shape != (size,) or atoms.min() < 0 or atoms.max() >= len(norbs):
            raise ValueError(
                f"device: expected an interface of {size} atoms (one principal layer) for lead {number}, received "
                f"{atoms.shape} within a device of {len(norbs)}; the device must hold a layer of each lead"
            )
        sign = -1 if number == 0 else 1
        if sign < 0:
            atoms = atoms.reshape(lead.n_cells, -1)[::-1].ravel()
        still = np.zeros((size, 3), dtype=int)
        home = np.zeros(lead.n_atoms, dtype=int)
        contacts.append(Contact(lead, lead.axis, sign, sign, atoms, lead.n_cells, home, still))
    return contacts
