"""To sisl: H and S of any spin as a sisl.Hamiltonian, and the files sisl writes for SIESTA and TBtrans.

sisl's real harmonics keep the Condon-Shortley sign, so rows and columns with odd m change theirs on the way
out: the orbitals in sisl's geometry are then what sisl draws and what SIESTA would have.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

from ase_deeph.basis import GridRadial, OrbitalBasis, RadialFunction
from ase_deeph.electronic_structure import ElectronicStructure
from ase_deeph.exporters.cells import (
    OrbitalList,
    by_cell,
    closed_cell,
    on_common_pairs,
    orbital_list,
    spins_side_by_side,
)
from ase_deeph.exporters.files import replaced_file
from ase_deeph.exporters.optional import optional_package

_SPIN = {"none": "unpolarized", "collinear": "polarized", "spinor": "spin-orbit"}
_SHORTEST = 1.0


def to_sisl(es: ElectronicStructure) -> Any:
    """A sisl.Hamiltonian with H (eV) and, unless the basis is orthogonal, S.

    Parameters
    ----------
    es : of any spin: "none", "collinear" and "spinor" become unpolarized, polarized and spin-orbit.

    Returns
    -------
    sisl.Hamiltonian whose geometry carries the orbitals (their radial functions too, where the basis has
    them); `eigh(k)` takes fractional k and gives the levels of `es`.

    Raises
    ------
    ModuleNotFoundError : sisl is not installed.
    """
    sisl = optional_package("sisl", "to_sisl")
    h, s = on_common_pairs(es)
    orbitals = orbital_list(h)
    spatial = orbitals[np.nonzero(orbitals.spin == 0)[0]]
    geometry = _geometry(sisl, es, spatial)
    R, channels = by_cell(h, spins_side_by_side(orbitals))
    columns = [geometry.lattice.sc_index(tuple(int(x) for x in cell)) for cell in R]
    n_cells = int(np.prod(geometry.nsc))
    if h.spin == "spinor":
        channels = [[m[a::2, b::2] for m in channels[0]] for a, b in ((0, 0), (1, 1), (0, 1), (1, 0))]
    parts = [_supercell_row(cells, columns, n_cells, spatial) for cells in channels]
    overlap = None
    if s is not None:
        cells = by_cell(s, spins_side_by_side(orbitals))[1][0]
        cells = [m[::2, ::2].real for m in cells] if s.spin == "spinor" else cells
        overlap = _supercell_row(cells, columns, n_cells, spatial)
    return sisl.Hamiltonian.fromsp(geometry, parts, S=overlap, spin=_SPIN[h.spin])


def write_sisl(es: ElectronicStructure, path: str | Path) -> None:
    """Write H and S through sisl, the form told by the suffix: .HSX, .TSHS, .nc (SIESTA's), ...; energies as
    they are.

    Raises
    ------
    ValueError : sisl does not write this form, or not for this spin.
    ModuleNotFoundError : sisl (or netCDF4, for .nc) is not installed.
    """
    _write(to_sisl(es), Path(path))


def write_tshs(es: ElectronicStructure, path: str | Path, *, fermi_level: float | None = None) -> None:
    """Write a .TSHS for TBtrans, which wants the Fermi level at zero: H - E_F·S and S.

    Parameters
    ----------
    path : must end in .TSHS.
    fermi_level : E_F in eV; None takes that of the k-mesh of `es`.

    Raises
    ------
    ValueError : another suffix, or sisl does not write this spin.
    """
    path = Path(path)
    if path.suffix != ".TSHS":
        raise ValueError(f"write_tshs: expected a name that ends in .TSHS, received {path.name}")
    hamiltonian = to_sisl(es)
    hamiltonian.shift(-(es.fermi_level() if fermi_level is None else fermi_level))
    _write(hamiltonian, path)


def _write(hamiltonian: Any, path: Path) -> None:
    sisl = optional_package("sisl", "write_sisl")
    with replaced_file(path) as partial:
        try:
            hamiltonian.write(str(partial))
        except (NotImplementedError, sisl.SileError, AttributeError) as error:
            raise ValueError(
                f"{path.name}: sisl does not write {hamiltonian.spin} there ({error})"
            ) from error


def _geometry(sisl: Any, es: ElectronicStructure, orbitals: OrbitalList) -> Any:
    atoms, basis = es.atoms, es.hamiltonian.basis
    pairs = es.hamiltonian.pairs if es.overlap is None else es.hamiltonian.pairs.union(es.overlap.pairs)
    symbols = atoms.get_chemical_symbols()
    longest = float(np.linalg.norm(pairs.displacements(atoms), axis=1).max(initial=2 * _SHORTEST))
    species = {symbol: _sisl_atom(sisl, basis, symbol, 0.5 * longest) for symbol in sorted(set(symbols))}
    nsc = 2 * np.abs(pairs.R).max(axis=0, initial=0) + 1
    lattice = sisl.Lattice(closed_cell(atoms), nsc=nsc)
    return sisl.Geometry(atoms.positions, [species[symbol] for symbol in symbols], lattice=lattice)


def _sisl_atom(sisl: Any, basis: OrbitalBasis, symbol: str, reach: float) -> Any:
    """One species with its orbitals, which share its electrons; without radial functions they only know l, m and
    a range (Å)."""
    shells, radial = basis.shells(symbol), basis[symbol].radial
    electrons = basis.n_electrons([symbol]) / sum(2 * l + 1 for l in shells)
    seen: dict[int, int] = {}
    orbitals = []
    for number, l in enumerate(shells):
        seen[l] = seen.get(l, 0) + 1
        for m in range(-l, l + 1):
            quantum = {"n": l + 1, "l": l, "m": m, "zeta": seen[l], "q0": electrons}
            if radial is None:
                orbitals.append(sisl.AtomicOrbital(**quantum, R=reach))
            else:
                values = _samples(radial[number])
                orbitals.append(sisl.AtomicOrbital(values, **quantum, R=float(values[0][-1])))
    return sisl.Atom(symbol, orbitals=orbitals)


def _samples(function: RadialFunction) -> tuple[np.ndarray, np.ndarray]:
    """(r, R(r)) in Å and Å^(-3/2), from which sisl interpolates."""
    r = function.r if isinstance(function, GridRadial) else np.linspace(0.0, function.cutoff, 800)
    return r, function(r)


def _supercell_row(
    cells: list[sp.csr_matrix], columns: list[int], n_cells: int, orbitals: OrbitalList
) -> sp.csr_matrix:
    """(n, n·n_cells): the matrices M(R) side by side in sisl's order of cells, in sisl's signs."""
    n = len(orbitals)
    sign = sp.diags(orbitals.phases)
    signed = {column: sign @ cell @ sign for column, cell in zip(columns, cells, strict=True)}
    empty = sp.csr_matrix((n, n))
    return sp.csr_matrix(sp.hstack([signed.get(column, empty) for column in range(n_cells)]))
