"""To pyatb, which keeps the overlap: H, S and positions in the sparse text of ABACUS, and an Input to begin with.

    data-HR-sparse_SPIN0.csr (and SPIN1)   H(R) in eV; data-SR-sparse_SPIN0.csr   S(R)
    data-rR-sparse.csr                     <i,0|x|j,R>, y and z in Å
    each: a line "STEP: 0", "Matrix Dimension of .: n", "Matrix number of .: n_R", then for every R (and for
    every component of r) the CSR arrays of values, columns and row starts

The order is ABACUS's: atoms by species, shells by l, inside a shell m = 0, 1, -1, 2, -2, ... with the
Condon-Shortley sign; for spinors the two spins of an orbital side by side.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import scipy.sparse as sp

from ase_deeph.electronic_structure import ElectronicStructure
from ase_deeph.exporters.cells import OrbitalList, by_cell, closed_cell, identity_overlap, orbital_list
from ase_deeph.exporters.files import replaced_file
from ase_deeph.exporters.positions import Positions, positions_of
from ase_deeph.matrix import RealSpaceMatrix

_N_SPIN = {"none": 1, "collinear": 2, "spinor": 4}


def write_pyatb(
    es: ElectronicStructure, folder: str | Path, *, positions: Positions | Literal["none"] = "auto"
) -> list[Path]:
    """Write H(R), S(R) and r(R), and a file Input with the parameters that name them.

    Parameters
    ----------
    es : of any spin: "none", "collinear", "spinor" are pyatb's nspin 1, 2, 4.
    folder : made where it is absent.
    positions : "integrals" (from the radial functions), "centres" (S times the middle of each pair), "auto"
        (the first where the basis has radial functions), or "none".

    Returns
    -------
    The files written; add to Input the block of what pyatb shall compute.

    Raises
    ------
    ValueError : H is complex without being of spinors, which the text has no form for.
    """
    if np.iscomplexobj(es.hamiltonian.entries) and es.hamiltonian.spin != "spinor":
        raise ValueError("write_pyatb: pyatb reads complex matrices of spinors only; make H a spinor matrix")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    h, s, r = _on_common_pairs(es, positions)
    orbitals = orbital_list(h)
    order = abacus_order(orbitals, h.atoms.get_chemical_symbols())
    signs, spinor = orbitals[order].phases, h.spin == "spinor"
    R, channels = by_cell(h, order)
    written = []
    for number, cells in enumerate(channels):
        path = folder / f"data-HR-sparse_SPIN{number}.csr"
        written.append(_write_matrix(path, "H(R)", R, cells, signs, complex_values=spinor))
    path, cells = folder / "data-SR-sparse_SPIN0.csr", by_cell(s, order)[1][0]
    written.append(_write_matrix(path, "S(R)", R, cells, signs, complex_values=spinor))
    if r:
        components = [by_cell(component, order)[1][0] for component in r]
        written.append(_write_positions(folder / "data-rR-sparse.csr", R, components, signs))
    written.append(_write_input(folder / "Input", es, bool(r)))
    return written


def _on_common_pairs(
    es: ElectronicStructure, positions: Positions | Literal["none"]
) -> tuple[RealSpaceMatrix, RealSpaceMatrix, list[RealSpaceMatrix]]:
    """H, S and the components of r (none where they are not wanted) on one list of pairs, so of cells."""
    h = es.hamiltonian
    s = identity_overlap(h) if es.overlap is None else es.overlap
    r = [] if positions == "none" else positions_of(es, positions)
    pairs = h.pairs.union(s.pairs)
    for component in r:
        pairs = pairs.union(component.pairs)
    return h.on(pairs), s.on(pairs), [component.on(pairs) for component in r]


def abacus_order(orbitals: OrbitalList, symbols: Sequence[str]) -> np.ndarray:
    """(n,) rows by species (as they first appear), atom, l, shell, m = 0, 1, -1, 2, -2, ..., spin."""
    species = {symbol: number for number, symbol in enumerate(dict.fromkeys(symbols))}
    kind = np.array([species[symbol] for symbol in symbols])[orbitals.atom]
    m_rank = 2 * np.abs(orbitals.m) - (orbitals.m > 0)
    return np.lexsort((orbitals.spin, m_rank, orbitals.shell, orbitals.l, orbitals.atom, kind))


def _csr_lines(m: sp.csr_matrix, signs: np.ndarray, complex_values: bool) -> Iterator[str]:
    """Values, columns and row starts of one matrix in ABACUS's signs; nothing when it is empty."""
    if not m.nnz:
        return
    rows = np.repeat(np.arange(m.shape[0]), np.diff(m.indptr))
    values = m.data * signs[rows] * signs[m.indices]
    if complex_values:
        yield " ".join(f"({v.real:.14e},{v.imag:.14e})" for v in values) + "\n"
    else:
        yield " ".join(f"{v:.14e}" for v in values.real) + "\n"
    yield " ".join(map(str, m.indices)) + "\n"
    yield " ".join(map(str, m.indptr)) + "\n"


def _cleaned(m: sp.csr_matrix) -> sp.csr_matrix:
    """Without stored zeros, columns sorted."""
    m = m.copy()
    m.eliminate_zeros()
    m.sort_indices()
    return m


def _write_matrix(
    path: Path,
    name: str,
    R: np.ndarray,
    cells: list[sp.csr_matrix],
    signs: np.ndarray,
    *,
    complex_values: bool,
) -> Path:
    with replaced_file(path) as partial, partial.open("w") as stream:
        stream.write(
            f"STEP: 0\nMatrix Dimension of {name}: {len(signs)}\nMatrix number of {name}: {len(R)}\n"
        )
        for (a, b, c), m in zip(R, map(_cleaned, cells), strict=True):
            stream.write(f"{a} {b} {c} {m.nnz}\n")
            stream.writelines(_csr_lines(m, signs, complex_values))
    return path


def _write_positions(
    path: Path, R: np.ndarray, components: Sequence[list[sp.csr_matrix]], signs: np.ndarray
) -> Path:
    with replaced_file(path) as partial, partial.open("w") as stream:
        stream.write(f"STEP: 0\nMatrix Dimension of r(R): {len(signs)}\nMatrix number of r(R): {len(R)}\n")
        for n, (a, b, c) in enumerate(R):
            stream.write(f"{a} {b} {c}\n")
            for m in (_cleaned(cells[n]) for cells in components):
                stream.write(f"{m.nnz}\n")
                stream.writelines(_csr_lines(m, signs, complex_values=False))
    return path


def _write_input(path: Path, es: ElectronicStructure, with_positions: bool) -> Path:
    n_spin = _N_SPIN[es.hamiltonian.spin]
    routes = " ".join(f"data-HR-sparse_SPIN{number}.csr" for number in range(es.n_spins))
    fermi_level = "Auto" if es.n_electrons is None else f"{es.fermi_level():.12f}"
    lines = [
        *("INPUT_PARAMETERS", "{", f"    nspin {n_spin}", "    package ABACUS"),
        *(f"    fermi_energy {fermi_level}", "    fermi_energy_unit eV"),
        *(f"    HR_route {routes}", "    SR_route data-SR-sparse_SPIN0.csr", "    HR_unit eV"),
        *(["    rR_route data-rR-sparse.csr", "    rR_unit Angstrom"] if with_positions else []),
        *("}", "", "LATTICE", "{", "    lattice_constant 1.0", "    lattice_constant_unit Angstrom"),
        "    lattice_vector",
        *("    " + " ".join(f"{x:.14f}" for x in vector) for vector in closed_cell(es.atoms)),
        "}",
    ]
    with replaced_file(path) as partial:
        partial.write_text("\n".join(lines) + "\n")
    return path
