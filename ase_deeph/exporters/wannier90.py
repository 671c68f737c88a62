"""Wannier90's files: PREFIX_hr.dat, PREFIX_tb.dat with positions, PREFIX.win and PREFIX_centres.xyz.

    _hr.dat   date; n_orbitals; n_R; degeneracies, 15 a line, all 1; then R1 R2 R3 m n Re H Im H, m fastest
    _tb.dat   date; three cell vectors (Å); n_orbitals; n_R; degeneracies; per R a block "R1 R2 R3" with lines
              "m n Re H Im H"; then per R a block with "m n" and Re, Im of <m,0|x|n,R>, y and z (Å)

H_mn(R) = <m,0|H|n,R> in eV with twelve decimals (the usual six cost 3e-6 eV), H(k) = Σ_R exp(+2πi k·R) H(R).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, TextIO

import numpy as np

from ase_deeph.electronic_structure import ElectronicStructure
from ase_deeph.exporters.cells import (
    by_cell,
    closed_cell,
    orbital_list,
    require_orthogonal,
    spins_side_by_side,
)
from ase_deeph.exporters.files import replaced_file
from ase_deeph.exporters.positions import Positions, cell_positions
from ase_deeph.matrix import RealSpaceMatrix

_TITLE = "written by ase_deeph"


def write_wannier90(
    es: ElectronicStructure,
    prefix: str | Path,
    *,
    cutoff: float | None = None,
    max_error: float | None = None,
    positions: Positions | Literal["none"] = "auto",
) -> list[Path]:
    """Write the Hamiltonian of an orthogonal basis as Wannier90 does.

    Parameters
    ----------
    prefix : folder and seed name; collinear spin gives PREFIX_up and PREFIX_dn.
    cutoff : Å; with an overlapping basis, orthogonalise it first (`ElectronicStructure.orthogonalized`).
    max_error : eV, largest error in bands accepted by that; None takes its default.
    positions : what _tb.dat says of <m,0|r|n,R>: "integrals" (from the radial functions), "centres" (the atoms'
        positions on the diagonal and nothing else), "auto" (the first where the basis has radial functions),
        or "none" for no _tb.dat.

    Returns
    -------
    The files written. Spinors have the two spins of each orbital side by side.

    Raises
    ------
    ValueError : S is not 1 and no cutoff is given, or orthogonalising errs by more than `max_error`.
    """
    prefix = Path(prefix)
    original = es
    if cutoff is not None and es.overlap is not None:
        limit = {} if max_error is None else {"max_error": max_error}
        es = es.orthogonalized(cutoff, **limit)
    h = require_orthogonal(es, "Wannier90's format")
    R, channels = by_cell(h, spins_side_by_side(orbital_list(h)))
    r = None if positions == "none" else cell_positions(original, h, positions)
    labels = ["_up", "_dn"] if h.spin == "collinear" else [""]
    written = []
    for label, cells in zip(labels, channels, strict=True):
        seed = prefix.with_name(prefix.name + label)
        dense = [m.toarray() for m in cells]
        written += [_write_hr(seed, R, dense), _write_win(seed, h), _write_centres(seed, h)]
        if r is not None:
            written.append(_write_tb(seed, h, R, dense, r))
    return written


def _named(seed: Path, ending: str) -> Path:
    return seed.with_name(seed.name + ending)


def _header(stream: TextIO, n: int, n_R: int) -> None:
    stream.write(f"{n}\n{n_R}\n")
    for start in range(0, n_R, 15):
        stream.write("    1" * min(15, n_R - start) + "\n")


def _write_hr(seed: Path, R: np.ndarray, cells: Sequence[np.ndarray]) -> Path:
    path = _named(seed, "_hr.dat")
    n = len(cells[0])
    with replaced_file(path) as partial, partial.open("w") as stream:
        stream.write(f" {_TITLE}\n")
        _header(stream, n, len(R))
        for (a, b, c), m in zip(R, cells, strict=True):
            stream.writelines(
                f"{a:5d}{b:5d}{c:5d}{i + 1:6d}{j + 1:6d}{m[i, j].real:20.12f}{m[i, j].imag:20.12f}\n"
                for j, i in np.ndindex(n, n)
            )
    return path


def _write_tb(
    seed: Path, h: RealSpaceMatrix, R: np.ndarray, cells: Sequence[np.ndarray], r: Sequence[np.ndarray]
) -> Path:
    path = _named(seed, "_tb.dat")
    with replaced_file(path) as partial, partial.open("w") as stream:
        stream.write(f" {_TITLE}\n")
        stream.writelines("".join(f"{x:22.14f}" for x in vector) + "\n" for vector in closed_cell(h.atoms))
        _header(stream, len(cells[0]), len(R))
        for cell, m in zip(R, cells, strict=True):
            stream.writelines(_block(cell, m[None]))
        for cell, xyz in zip(R, r, strict=True):
            stream.writelines(_block(cell, xyz))
    return path


def _block(cell: np.ndarray, values: np.ndarray) -> Iterator[str]:
    """The lines of one R: (n_values, n, n) numbers, rows fastest."""
    yield "\n{:5d}{:5d}{:5d}\n".format(*cell)
    n = values.shape[-1]
    for j, i in np.ndindex(n, n):
        numbers = "".join(f" {v.real:.12e} {v.imag:.12e}" for v in values[:, i, j])
        yield f"{i + 1:5d}{j + 1:5d}{numbers}\n"


def _write_win(seed: Path, h: RealSpaceMatrix) -> Path:
    """The part of Wannier90's input that readers of its output look for: number, cell and atoms."""
    path = _named(seed, ".win")
    atoms = h.atoms
    with replaced_file(path) as partial, partial.open("w") as stream:
        stream.write(f"! {_TITLE}\nnum_wann = {h.n_orbitals}\n")
        if h.spin == "spinor":
            stream.write("spinors = true\n")
        stream.write("\nbegin unit_cell_cart\nang\n")
        stream.writelines("".join(f"{x:20.12f}" for x in v) + "\n" for v in closed_cell(atoms))
        stream.write("end unit_cell_cart\n\nbegin atoms_cart\nang\n")
        stream.writelines(_atom_lines(atoms.get_chemical_symbols(), atoms.positions))
        stream.write("end atoms_cart\n")
    return path


def _write_centres(seed: Path, h: RealSpaceMatrix) -> Path:
    """Each orbital at its atom (symbol X), then the atoms, in Wannier90's xyz form."""
    path = _named(seed, "_centres.xyz")
    orbitals = orbital_list(h)
    atom = orbitals[spins_side_by_side(orbitals)].atom
    atoms = h.atoms
    with replaced_file(path) as partial, partial.open("w") as stream:
        stream.write(f"{len(atom) + len(atoms)}\n {_TITLE}\n")
        stream.writelines(_atom_lines(["X"] * len(atom), atoms.positions[atom]))
        stream.writelines(_atom_lines(atoms.get_chemical_symbols(), atoms.positions))
    return path


def _atom_lines(symbols: Sequence[str], positions: np.ndarray) -> Iterator[str]:
    for symbol, place in zip(symbols, positions, strict=True):
        yield f"{symbol:4s}" + "".join(f"{x:20.12f}" for x in place) + "\n"
