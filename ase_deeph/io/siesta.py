"""Read SIESTA's Hamiltonian and overlap: HSX of every layout, TSHS, radial functions, spin, Fermi level.

SIESTA's harmonics are ours times (-1)^m, m = -l ... l in order.  What it stores for row p of the home cell and
column q of cell R is ⟨q, R|H|p, 0⟩, which differs from ⟨p, 0|H|q, R⟩ for spinors alone.  Its components are H0, H1
(collinear), and for spinors uu = H0 + i H4, dd = H1 + i H5, ud = H2 - i H3, du = H6 + i H7 (non-collinear:
H4 = H5 = 0 and du = H2 + i H3).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers
from ase.units import Bohr, Rydberg

from ase_deeph.basis import OrbitalBasis, SpeciesBasis
from ase_deeph.io.elements import Elements, matrices_from_elements, orbital_atoms
from ase_deeph.io.proof import checked_hermitian, prove
from ase_deeph.io.siesta_hsx import SiestaMatrices, SiestaSpecies, read_hsx, read_tshs
from ase_deeph.io.siesta_ion import IonSpecies, ion_files, read_ion
from ase_deeph.io.siesta_structure import read_fermi_level, read_structure
from ase_deeph.io.structure_checks import checked
from ase_deeph.matrix import Spin
from ase_deeph.reference import ReferenceData

_SPINS: Mapping[int, Spin] = {1: "none", 2: "collinear", 4: "spinor", 8: "spinor"}
_HERMITIAN_EV, _HERMITIAN_S = 1e-3, 1e-5
_LATTICE_TOLERANCE = 0.02
_CELL_AGREEMENT = 1e-2
_SUFFIXES = (".HSX", ".TSHS")


def read_siesta(source: str | Path) -> ReferenceData:
    """Read a SIESTA calculation: H(R) in eV, S(R), basis, electrons, Fermi level.

    Proved against SIESTA's own EIG on HSX version 1 (SIESTA 5.1: unpolarised, collinear, non-collinear,
    spin-orbit), HSX version 2 (SIESTA 5) and TSHS version 1 (SIESTA 5.1); HSX version 0 (SIESTA up to 4, single
    precision) against sisl and against version 1 of the same crystal.

    Parameters
    ----------
    source : a folder with one .HSX (or one .TSHS), or that file.  Beside it may lie <label>.ion.nc or .ion.xml
        (radial functions, so that S(R) of new structures needs no SIESTA), <label>.EIG (Fermi level) and, needed
        for HSX version 0 and for TSHS, <label>.XV or .STRUCT_OUT (structure); TSHS needs the ion files too.

    Returns
    -------
    ReferenceData : S and H on one pair list, the union of both; info tells the layout and the reader's proof.

    Raises
    ------
    FileNotFoundError : no such file or folder.
    ValueError : nothing to read, a damaged file, a matrix folded at Γ (ForceAuxCell T is needed), or files that
        do not belong together.
    """
    path = _matrix_file(Path(source))
    raw = read_hsx(path) if path.suffix == ".HSX" else read_tshs(path)
    if len(raw.hamiltonian) not in _SPINS:
        raise ValueError(f"{path}: {len(raw.hamiltonian)} spin components are unknown; expected 1, 2, 4 or 8")
    try:
        return _assembled(path, raw)
    except ValueError as error:
        raise error if str(path.parent) in str(error) else ValueError(f"{path}: {error}") from error


def _matrix_file(source: Path) -> Path:
    if source.is_dir():
        for suffix in _SUFFIXES:
            found = sorted(source.glob(f"*{suffix}"))
            if len(found) > 1:
                names = ", ".join(p.name for p in found[:4])
                raise ValueError(f"{source}: expected one {suffix} file, found {names}; name the one to read")
            if found:
                return found[0]
        raise ValueError(f"{source}: expected a .HSX or .TSHS file, found neither (SaveHS T writes HSX)")
    if not source.is_file():
        raise FileNotFoundError(f"no SIESTA file or folder {source}")
    if source.suffix not in _SUFFIXES:
        raise ValueError(f"{source}: expected a .HSX or .TSHS file, or their folder")
    return source


def _assembled(path: Path, raw: SiestaMatrices) -> ReferenceData:
    folder, label = path.parent, path.stem
    ions = [read_ion(p) for p in ion_files(folder)]
    beside = read_structure(folder, label)
    symbols = _symbols(path, raw, ions, beside)
    atoms = _structure(path, raw, symbols, beside)
    basis = _basis(raw, symbols, ions)
    expected = basis.orbital_counts(symbols)
    if not np.array_equal(expected, raw.orbitals_of_atom):
        raise ValueError(
            f"atoms carry {raw.orbitals_of_atom.tolist()[:8]} orbitals in {path.name}, {expected.tolist()[:8]} in "
            "the basis; the ion files belong to another calculation"
        )
    spin = _SPINS[len(raw.hamiltonian)]
    sign = _signs(basis, symbols)
    R = _cells(raw, atoms, basis)
    sign_of_element = sign[raw.rows] * sign[raw.columns]
    S = Elements(raw.columns, raw.rows, -R, (raw.overlap * sign_of_element)[None])
    H = Elements(raw.columns, raw.rows, -R, _components(raw.hamiltonian) * sign_of_element * Rydberg)
    overlap, hamiltonian = matrices_from_elements(atoms, basis, S, H, spin)
    assert hamiltonian is not None
    where = str(path)
    overlap = checked_hermitian(overlap, "S", where, _HERMITIAN_S)
    hamiltonian = checked_hermitian(hamiltonian, "H", where, _HERMITIAN_EV)
    return ReferenceData(
        atoms=atoms,
        hamiltonian=hamiltonian,
        overlap=overlap,
        n_electrons=_electrons(path, raw),
        fermi_level=_fermi_level(path, raw),
        basis=basis,
        info={"engine": "siesta", "layout": raw.layout, **prove(overlap, where, hamiltonian)},
    )


def _electrons(path: Path, raw: SiestaMatrices) -> float:
    count, orbitals = raw.n_electrons, int(raw.orbitals_of_atom.sum())
    if not 0 <= count <= 2 * orbitals + 1e-6:
        raise ValueError(f"{path}: {count:g} electrons in {orbitals} orbitals; the file is damaged")
    return round(count, 9)


def _fermi_level(path: Path, raw: SiestaMatrices) -> float | None:
    """Of the matrix file; for HSX version 0 of <label>.EIG."""
    if raw.fermi_level is not None:
        if not abs(raw.fermi_level) < 1e4:
            raise ValueError(f"{path}: a Fermi level of {raw.fermi_level:g} Ry; the file is damaged")
        return raw.fermi_level * Rydberg
    eig = path.with_suffix(".EIG")
    return read_fermi_level(eig) if eig.is_file() else None


def _symbols(path: Path, raw: SiestaMatrices, ions: Sequence[IonSpecies], beside: Atoms | None) -> list[str]:
    """The element of each atom: from the ion files by label, else the structure file, else the label itself."""
    if raw.species_of_atom is None:
        if beside is None:
            raise ValueError(
                f"TSHS names no elements; put {path.stem}.XV or {path.stem}.STRUCT_OUT beside it"
            )
        return beside.get_chemical_symbols()
    by_label = {ion.label: ion.symbol for ion in ions}
    named = [by_label.get(s.label) for s in raw.species]
    if beside is not None and len(beside) == len(raw.species_of_atom):
        for n, symbol in zip(raw.species_of_atom, beside.get_chemical_symbols(), strict=True):
            named[n] = named[n] or symbol
    complete = [name or _element_in(s) for name, s in zip(named, raw.species, strict=True)]
    return [complete[n] for n in raw.species_of_atom]


def _element_in(species: SiestaSpecies) -> str:
    match = re.match(r"[A-Z][a-z]?", species.label)
    for length in (2, 1):
        if match and match.group()[:length] in atomic_numbers:
            return match.group()[:length]
    raise ValueError(
        f"species {species.label!r} names no element; put its .ion.nc, .ion.xml or the .XV beside"
    )


def _structure(path: Path, raw: SiestaMatrices, symbols: list[str], beside: Atoms | None) -> Atoms:
    """Cell and positions of the matrix file; those of XV or STRUCT_OUT where it has none."""
    n_atoms = len(raw.orbitals_of_atom)
    if raw.cell is not None and raw.positions is not None:
        atoms = checked(Atoms(symbols, cell=raw.cell * Bohr, positions=raw.positions * Bohr, pbc=True))
        if beside is not None and not _same_cell(atoms, beside):
            raise ValueError(f"{path.stem}.XV or .STRUCT_OUT holds another structure; remove or replace it")
        return atoms
    if beside is None:
        raise ValueError(f"{raw.layout} holds no structure; put {path.stem}.XV or .STRUCT_OUT beside it")
    if len(beside) != n_atoms:
        raise ValueError(f"{n_atoms} atoms in {path.name}, {len(beside)} in the structure beside it")
    return Atoms(symbols, cell=beside.cell, positions=beside.positions, pbc=True)


def _same_cell(first: Atoms, second: Atoms) -> bool:
    return len(first) == len(second) and bool(
        np.allclose(first.cell.array, second.cell.array, atol=_CELL_AGREEMENT)
    )


def _basis(raw: SiestaMatrices, symbols: list[str], ions: Sequence[IonSpecies]) -> OrbitalBasis:
    """Shells and charges of the matrix file, with radial functions where every element has its ion file."""
    if raw.species_of_atom is None:
        return OrbitalBasis(_one_per_element(ions, set(symbols)))
    bare: dict[str, SpeciesBasis] = {}
    for n, symbol in zip(raw.species_of_atom, symbols, strict=True):
        species = SpeciesBasis(raw.species[n].shells(), raw.species[n].charge)
        if bare.setdefault(symbol, species).key() != species.key():
            raise ValueError(f"{symbol} appears with two different bases, which an OrbitalBasis cannot hold")
    labels = {raw.species[n].label for n in raw.species_of_atom}
    ours = [ion for ion in ions if ion.label in labels and ion.symbol in bare]
    if {ion.symbol for ion in ours} != set(bare):
        return OrbitalBasis(bare)
    full = _one_per_element(ours, set(bare))
    for symbol, species in full.items():
        if species.shells != bare[symbol].shells:
            raise ValueError(
                f"{symbol} has shells l = {bare[symbol].shells} in the matrix file, {species.shells} in the ion "
                "file; they belong to different calculations"
            )
    return OrbitalBasis(full)


def _one_per_element(ions: Sequence[IonSpecies], needed: set[str]) -> dict[str, SpeciesBasis]:
    found: dict[str, SpeciesBasis] = {}
    for ion in ions:
        if ion.symbol in needed and found.setdefault(ion.symbol, ion.basis).key() != ion.basis.key():
            raise ValueError(
                f"{ion.symbol} has two ion files with different orbitals, which cannot be told apart"
            )
    if set(found) != needed:
        raise ValueError(
            f"no .ion.nc or .ion.xml of {', '.join(sorted(needed - set(found)))} beside the file"
        )
    return found


def _signs(basis: OrbitalBasis, symbols: Sequence[str]) -> np.ndarray:
    """(n_orbitals,) (-1)^m."""
    m = [np.arange(-l, l + 1) for s in symbols for l in basis.shells(s)]
    return np.where(np.concatenate(m) % 2 == 0, 1.0, -1.0)


def _cells(raw: SiestaMatrices, atoms: Atoms, basis: OrbitalBasis) -> np.ndarray:
    """R of each element; from x_column - x_row where the file tells that alone."""
    if raw.R is not None:
        return raw.R
    assert raw.vectors is not None
    atom_of = orbital_atoms(atoms, basis)
    d = raw.vectors * Bohr - atoms.positions[atom_of[raw.columns]] + atoms.positions[atom_of[raw.rows]]
    fractional = d @ np.linalg.inv(atoms.cell.array)
    if not np.all(np.abs(fractional) < 1e6):
        raise ValueError("distances of orbitals are absurd; the file is damaged")
    R = np.rint(fractional).astype(np.int64)
    if np.abs(fractional - R).max(initial=0.0) > _LATTICE_TOLERANCE:
        raise ValueError(
            "distances of orbitals do not fit the cell and positions of the structure beside the file"
        )
    return R


def _components(hamiltonian: np.ndarray) -> np.ndarray:
    """One, two (collinear), or four (uu, ud, du, dd) components from SIESTA's 1, 2, 4 or 8."""
    if len(hamiltonian) < 4:
        return hamiltonian
    uu, dd, ud = hamiltonian[0], hamiltonian[1], hamiltonian[2] - 1j * hamiltonian[3]
    if len(hamiltonian) == 4:
        return np.stack([uu + 0j, ud, np.conj(ud), dd + 0j])
    return np.stack(
        [uu + 1j * hamiltonian[4], ud, hamiltonian[6] + 1j * hamiltonian[7], dd + 1j * hamiltonian[5]]
    )
