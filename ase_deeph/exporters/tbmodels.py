"""To TBmodels: a Model of an orthogonal basis, for symmetrising, slicing and k·p models."""

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

_INSTALL = "pip install tbmodels"


def to_tbmodels(es: ElectronicStructure, *, channel: int = 0) -> Any:
    """A tbmodels.Model with the levels of `es`.

    Parameters
    ----------
    es : of an orthogonal basis (see `ElectronicStructure.orthogonalized`).
    channel : for collinear spin, 0 for up and 1 for down; TBmodels has no spin.

    Returns
    -------
    tbmodels.Model of three dimensions; `eigenval(k)` takes fractional k. Spinors have the two spins of each
    orbital side by side. Orbitals are moved into the home cell, as TBmodels does.

    Raises
    ------
    ValueError : S is not 1, or no such channel.
    ModuleNotFoundError : TBmodels is not installed.
    """
    tbmodels = optional_package("tbmodels", "to_tbmodels", _INSTALL)
    h = require_orthogonal(es, "TBmodels").hermitian_part()
    n_channels = es.n_spins
    if not 0 <= channel < n_channels:
        raise ValueError(f"to_tbmodels: expected a spin channel in [0, {n_channels}), received {channel}")
    orbitals = orbital_list(h)
    order = spins_side_by_side(orbitals)
    R, channels = by_cell(h, order)
    cell = closed_cell(es.atoms)
    places = np.linalg.solve(cell.T, es.atoms.positions.T).T
    hoppings = {tuple(int(x) for x in r): m.toarray() for r, m in zip(R, channels[channel], strict=True)}
    occupied = None if es.n_electrons is None else es.n_electrons / es.degeneracy / n_channels
    whole = occupied is not None and abs(occupied - round(occupied)) < 1e-9
    return tbmodels.Model(
        hop=hoppings,
        size=len(order),
        dim=3,
        pos=places[orbitals[order].atom],
        uc=cell,
        occ=round(occupied) if whole and occupied is not None else None,
        contains_cc=True,
        cc_check_tolerance=1e-10 * max(1.0, h.max_abs()) * len(order),
    )
