"""To PythTB: a tb_model of an orthogonal basis, for Wannier centres, Berry phases and cut pieces.

PythTB keeps one of <i,0|H|j,R> and its conjugate <j,0|H|i,-R>, and its Bloch sums carry the phases of the
orbitals' positions; neither changes a level.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ase_deeph.electronic_structure import ElectronicStructure
from ase_deeph.exporters.cells import (
    by_cell,
    closed_cell,
    orbital_list,
    require_orthogonal,
    spins_side_by_side,
)
from ase_deeph.exporters.optional import optional_package


def to_pythtb(es: ElectronicStructure) -> Any:
    """A pythtb.tb_model with the levels of `es`.

    Parameters
    ----------
    es : of an orthogonal basis (see `ElectronicStructure.orthogonalized`). Collinear spin and spinors become a
        model of nspin=2, whose levels are those of both channels together.

    Returns
    -------
    pythtb.tb_model, periodic along the structure's periodic axes; k has as many components.

    Raises
    ------
    ValueError : S is not 1, or the cell vectors are left-handed (PythTB refuses them).
    ModuleNotFoundError : PythTB is not installed.
    """
    pythtb = optional_package("pythtb", "to_pythtb")
    h = require_orthogonal(es, "PythTB")
    cell = closed_cell(es.atoms)
    if np.linalg.det(cell) <= 0:
        raise ValueError("to_pythtb: PythTB wants right-handed cell vectors; exchange two of atoms.cell")
    orbitals = orbital_list(h)
    R, channels = by_cell(h, spins_side_by_side(orbitals))
    places = np.linalg.solve(cell.T, es.atoms.positions.T).T[orbitals.atom[orbitals.spin == 0]]
    periodic = [int(axis) for axis in np.nonzero(es.atoms.pbc)[0]]
    n_spins = 1 if h.spin == "none" else 2
    model = pythtb.tb_model(len(periodic), 3, cell, places, per=periodic, nspin=n_spins)
    if h.spin == "spinor":
        parts = [[_spin_blocks(m.toarray()) for m in channels[0]]]
    else:
        parts = [[m.toarray() for m in cells] for cells in channels]
    hoppings = [parts[0][n] if len(parts) == 1 else _diagonal_blocks(parts, n) for n in range(len(R))]
    _fill(model, R, hoppings, n_spins)
    return model


def _spin_blocks(m: np.ndarray) -> np.ndarray:
    """(n, n, 2, 2) from (2n, 2n) whose spins stand side by side."""
    n = len(m) // 2
    return m.reshape(n, 2, n, 2).swapaxes(1, 2)


def _diagonal_blocks(channels: list[list[np.ndarray]], cell: int) -> np.ndarray:
    """(n, n, 2, 2) from the two channels of collinear spin."""
    up, down = channels[0][cell], channels[1][cell]
    blocks = np.zeros((*up.shape, 2, 2), dtype=complex)
    blocks[..., 0, 0], blocks[..., 1, 1] = up, down
    return blocks


def _fill(model: Any, R: np.ndarray, hoppings: list[np.ndarray], n_spins: int) -> None:
    """On-site terms, and one of each pair of conjugate hoppings.

    `set_hop` compares every hopping with all before it, hours for a DFT basis; the list it appends to is
    filled directly where this PythTB has it.
    """
    fast = isinstance(getattr(model, "_hoppings", None), list)
    home = int(np.nonzero(~R.any(axis=1))[0][0])
    diagonal = np.einsum("ii...->i...", hoppings[home])
    model.set_onsite(list(diagonal.real if n_spins == 1 else diagonal))
    for n, cell in enumerate(R):
        if tuple(cell) < (0, 0, 0):
            continue
        values = hoppings[n]
        present = np.any(values != 0, axis=(2, 3)) if n_spins == 2 else values != 0
        for i, j in zip(*np.nonzero(np.triu(present, 1) if n == home else present), strict=True):
            value = values[i, j]
            if not fast:
                model.set_hop(value, int(i), int(j), list(cell), allow_conjugate_pair=True)
            elif model._dim_k == 0:
                model._hoppings.append([value, int(i), int(j)])
            else:
                model._hoppings.append([value, int(i), int(j), np.array(cell)])
