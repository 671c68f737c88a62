"""Kwant Builders of a structure, exact for a non-orthogonal basis: one site per atom, positions in Å.

Kwant knows no overlap.  It is given h(E) = H - E·S + E·1 as functions of the parameter E and must be solved at
energy = E: then its own h - E·1 is the pencil H - E·S, and its scattering matrix, modes and transmission are
those of the generalised problem.  Its velocities, bands, densities and local densities of states are *not*:
they use the Euclidean norm.  `smatrix` here binds E to the energy and refuses a mismatch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ase_deeph.electronic_structure import ElectronicStructure
from ase_deeph.exporters.kwant_device import device_builder
from ase_deeph.exporters.kwant_guards import SiteAtom, attach_lead, kwant_package, site_atom, smatrix
from ase_deeph.exporters.kwant_values import Blocks, blocks_of, fill_builder, folded

if TYPE_CHECKING:
    from kwant import Builder

_AXES = {"a": 0, "b": 1, "c": 2}

__all__ = [
    "SiteAtom",
    "attach_lead",
    "device_builder",
    "kwant_lead",
    "lead_axis",
    "site_atom",
    "smatrix",
    "to_kwant",
]


def to_kwant(structure: ElectronicStructure, *, spin: str | None = None) -> Builder:
    """The bulk as a Builder with the translational symmetry of the periodic axes.

    One site family per atom of the cell; the tag of a site is its cell R = (R1, R2, R3), its position that of
    the atom in Å.  Values are h(E) = H - E·S + E·1 with the parameter E, or plain matrices when there is no S.
    `kwant.wraparound.wraparound` turns it into h(k; E), whose momenta k_x, k_y, ... are 2π times the fractional
    k along the periodic axes in their order; det(h(k; E) - E·1) = 0 exactly at the bands.  Finite pieces are
    cut with `Builder.fill`, edited with `del builder[site]`, and drawn with
    `kwant.plot(builder, pos_transform=lambda r: r[:2])`.

    Parameters
    ----------
    structure : H(R) and S(R); without periodic axes the Builder is finite.
    spin : None, or "up" / "down" for a collinear H.  A spinor's sites hold both spins, spin outermost.

    Raises
    ------
    ModuleNotFoundError : Kwant is not installed.
    ValueError : a spin that H does not have, or none where it has two.
    """
    kwant = kwant_package("to_kwant")
    atoms = structure.atoms
    blocks = blocks_of(structure, spin)
    periods = [tuple(vector) for vector in atoms.cell.array[atoms.pbc]]
    builder = kwant.Builder(kwant.TranslationalSymmetry(*periods)) if periods else kwant.Builder()
    fill_builder(builder, _families(structure, blocks), [(0, 0, 0)], blocks)
    return builder


def kwant_lead(
    structure: ElectronicStructure,
    axis: str | int,
    *,
    cells: int | str = "auto",
    first_cell: int = 0,
    k_transverse: Sequence[float] | None = None,
    spin: str | None = None,
) -> Builder:
    """A semi-infinite lead of the bulk, along +axis (its symmetry points away from the device) or -axis.

    Its sites are those of `to_kwant(structure)`, so that it attaches to any piece of that bulk which contains a
    whole layer of cells first_cell ... first_cell + cells - 1 (modulo cells) at its end; use `attach_lead`.

    Parameters
    ----------
    structure : H(R) and S(R), periodic along the axis.
    axis : "a", "+a", "-a", "b", ...: where the lead goes to; 0, 1, 2 mean "+a", "+b", "+c".
    cells : cells per layer; "auto" takes the reach of the longest block of H or S, so that only neighbouring
        layers are coupled.
    first_cell : where a layer begins, counted in cells along the axis.
    k_transverse : fractional k along the other periodic axes, in their order; zero if None.
    spin : as in `to_kwant`.

    Raises
    ------
    ModuleNotFoundError : Kwant is not installed.
    ValueError : an unknown or non-periodic axis, a layer shorter than the reach of H and S, a wrong spin or k.
    """
    kwant_package("kwant_lead")
    import kwant

    from ase_deeph.exporters.kwant_layers import LayeredTranslation

    which, sign = lead_axis(axis)
    atoms = structure.atoms
    if not atoms.pbc[which]:
        raise ValueError(
            f"axis {axis!r}: the structure is not periodic there (pbc = {atoms.pbc.tolist()}); a lead must be"
        )
    blocks = folded(blocks_of(structure, spin), which, _transverse_k(structure, which, k_transverse))
    n_cells = _layer_cells(blocks, which, cells)
    first = [0, 0, 0]
    first[which] = first_cell if sign > 0 else first_cell + n_cells - 1
    lead = kwant.Builder(LayeredTranslation(sign * n_cells * atoms.cell.array[which], first))
    layer = np.zeros((n_cells, 3), dtype=int)
    layer[:, which] = first_cell + np.arange(n_cells)
    fill_builder(lead, _families(structure, blocks), [(a, b, c) for a, b, c in layer.tolist()], blocks)
    return lead


def lead_axis(axis: str | int) -> tuple[int, int]:
    """(0, 1 or 2, +1 or -1) of "a", "+a", "-a", ..., or 0, 1, 2.

    Raises
    ------
    ValueError : anything else.
    """
    if isinstance(axis, (int, np.integer)) and axis in (0, 1, 2):
        return int(axis), 1
    text = str(axis)
    sign = -1 if text.startswith("-") else 1
    letter = text[1:] if text[:1] in "+-" else text
    if letter not in _AXES:
        raise ValueError(
            f"axis: expected 'a', 'b' or 'c' with an optional sign, or 0, 1, 2; received {axis!r}"
        )
    return _AXES[letter], sign


def _families(structure: ElectronicStructure, blocks: Blocks) -> list[Any]:
    """One site family per atom, on the lattice of all three cell vectors."""
    from ase_deeph.exporters.kwant_layers import atom_family

    atoms = structure.atoms
    lattice = atoms.cell.complete().array
    return [
        atom_family(i, symbol, atoms.positions[i], len(blocks[i, i, (0, 0, 0)][0]), lattice)
        for i, symbol in enumerate(atoms.get_chemical_symbols())
    ]


def _transverse_k(structure: ElectronicStructure, axis: int, k: Sequence[float] | None) -> np.ndarray:
    """(3,) fractional k, zero along the lead's axis and the axes that are not periodic."""
    others = [n for n in range(3) if n != axis and structure.atoms.pbc[n]]
    full = np.zeros(3)
    if k is None:
        return full
    given = np.atleast_1d(np.asarray(k, dtype=float))
    if given.shape != (len(others),) or not np.all(np.isfinite(given)):
        raise ValueError(
            f"k_transverse: expected {len(others)} finite fractional coordinates, one for each other periodic "
            f"axis, received {k}"
        )
    full[others] = given
    return full


def _layer_cells(blocks: Blocks, axis: int, cells: int | str) -> int:
    """Cells of a layer whose blocks reach the next layer only."""
    reach = max((abs(R[axis]) for _, _, R in blocks), default=0)
    if cells == "auto":
        return max(reach, 1)
    if not isinstance(cells, (int, np.integer)) or cells < 1:
        raise ValueError(f"cells: expected 'auto' or a positive integer, received {cells!r}")
    if cells < reach:
        raise ValueError(
            f"cells: a layer of {cells} cells is shorter than the longest block of H or S, which reaches {reach} "
            "cells; use cells='auto'"
        )
    return int(cells)
