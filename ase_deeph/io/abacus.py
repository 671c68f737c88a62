"""Read ABACUS's H(R) and S(R) (out_mat_hs2), structure, orbitals, electrons and Fermi level.

ABACUS orders orbitals by atom, l, zeta and m = 0, +1, -1, +2, -2 ...; its harmonics are ours times (-1)^m.
With nspin 4 the two spins of an orbital stand next to each other.  R refers to atoms wrapped into the cell.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.units import Rydberg

from ase_deeph.basis import OrbitalBasis, SpeciesBasis
from ase_deeph.io.abacus_csr import SparseText, read_sparse
from ase_deeph.io.abacus_orb import read_orb, shells_in_name
from ase_deeph.io.abacus_stru import AbacusLog, AbacusStructure, read_input, read_log, read_stru
from ase_deeph.io.elements import Elements, house_order, matrices_from_elements, orbital_atoms
from ase_deeph.io.proof import cell_shifts, checked_hermitian, prove
from ase_deeph.matrix import Spin
from ase_deeph.reference import ReferenceData

logger = logging.getLogger(__name__)

_HAMILTONIANS = (
    ("data-HR-sparse_SPIN0.csr", "data-HR-sparse_SPIN1.csr"),
    ("hrs1_nao.csr", "hrs2_nao.csr"),
)
_OVERLAPS = ("data-SR-sparse_SPIN0.csr", "srs1_nao.csr", "sr_nao.csr", "SR.csr")
_HERMITIAN_EV, _HERMITIAN_S = 1e-3, 1e-5
_LOGGED_CELL = 1e-3


def read_abacus(folder: str | Path) -> ReferenceData:
    """Read an ABACUS calculation in orbitals with out_mat_hs2 1: H(R) in eV, S(R), basis, electrons, Fermi level.

    Proved on ABACUS 3.10 (layout data-HR-sparse_SPIN0.csr, nspin 1) against its own istate.info, and S against the
    .orb files.  nspin 2 and 4 and the later layout (hrs1_nao.csr) follow ABACUS's own examples and were proved on
    written files alone; with spin-orbit coupling the reader checks that its strength comes out positive.

    Parameters
    ----------
    folder : the folder of INPUT and STRU (with one OUT.<suffix> in it), or OUT.<suffix> itself.  The .orb files
        named in STRU are read when they are found (beside STRU, or in INPUT's orbital_dir), so that S(R) of new
        structures needs no ABACUS; running_*.log tells electrons and Fermi level.

    Returns
    -------
    ReferenceData : S and H on one pair list, the union of both; positions as in STRU.

    Raises
    ------
    FileNotFoundError : no such folder.
    ValueError : files are missing, damaged, or do not belong together.
    """
    files = _files(Path(folder))
    settings = read_input(files.stru.parent / "INPUT")
    structure = read_stru(files.stru, settings.get("latname", "none").lower())
    log = read_log(files.output)
    _check_cell(structure.atoms, log, files.stru)
    basis = _basis(structure, log, files.stru.parent, settings)
    try:
        return _assembled(files, structure.atoms, basis, log)
    except ValueError as error:
        raise error if str(files.output) in str(error) else ValueError(f"{files.output}: {error}") from error


@dataclass(frozen=True)
class _Files:
    """Where the parts of a calculation lie."""

    output: Path
    stru: Path
    hamiltonians: tuple[Path, ...]
    overlap: Path


def _files(folder: Path) -> _Files:
    if not folder.is_dir():
        raise FileNotFoundError(f"no ABACUS folder {folder}")
    folder = folder.absolute()
    places = [folder, *sorted(p for p in folder.glob("OUT.*") if p.is_dir())]
    outputs = [p for p in places if any((p / pair[0]).is_file() for pair in _HAMILTONIANS)]
    if len(outputs) != 1:
        raise ValueError(
            f"{folder}: expected one place with {_HAMILTONIANS[0][0]} or {_HAMILTONIANS[1][0]} (out_mat_hs2 1), "
            f"found {len(outputs)}"
        )
    output = outputs[0]
    names = next(pair for pair in _HAMILTONIANS if (output / pair[0]).is_file())
    overlap = next((output / name for name in _OVERLAPS if (output / name).is_file()), None)
    if overlap is None:
        raise ValueError(f"{output}: expected one of {', '.join(_OVERLAPS)}, found none")
    stru = next((p / "STRU" for p in (folder, output.parent, output) if (p / "STRU").is_file()), None)
    if stru is None:
        raise ValueError(f"{folder}: expected STRU there or above {output.name}")
    return _Files(output, stru, tuple(output / n for n in names if (output / n).is_file()), overlap)


def _check_cell(atoms: Atoms, log: AbacusLog, stru: Path) -> None:
    if log.cell is not None and not np.allclose(
        log.cell, atoms.cell.array, atol=_LOGGED_CELL * max(1, len(atoms))
    ):
        raise ValueError(
            f"{stru}: its cell {np.round(atoms.cell.array, 4).tolist()} is not that of the log, "
            f"{np.round(log.cell, 4).tolist()}; they belong to different calculations"
        )


def _basis(
    structure: AbacusStructure, log: AbacusLog, folder: Path, settings: Mapping[str, str]
) -> OrbitalBasis:
    """Shells from the .orb files, else the log, else the names of the .orb files; radial functions if all are there."""
    species = {}
    for symbol in dict.fromkeys(structure.atoms.get_chemical_symbols()):
        name = structure.orbital_files.get(symbol, "")
        radial = None
        path = _orbital_file(name, folder, settings)
        if path is not None:
            radial = read_orb(path)
        logged = tuple(l for l, count in enumerate(log.zetas.get(symbol, ())) for _ in range(min(count, 50)))
        named = tuple(f.l for f in radial) if radial is not None else shells_in_name(Path(name).name)
        if logged and named and sorted(named) != sorted(logged):
            raise ValueError(
                f"{symbol} has shells l = {named} in {name}, {logged} in the log; they belong to different runs"
            )
        shells = named or logged
        if not shells:
            raise ValueError(
                f"{folder}: the orbitals of {symbol} are unknown; put its .orb file or the log there"
            )
        species[symbol] = SpeciesBasis(tuple(sorted(shells)), log.valence.get(symbol, 0.0), radial)
    return OrbitalBasis(species)


def _orbital_file(name: str, folder: Path, settings: Mapping[str, str]) -> Path | None:
    if not name:
        return None
    places = [folder / name, folder / Path(name).name]
    if "orbital_dir" in settings:
        places.append(folder / settings["orbital_dir"] / name)
    return next((p for p in places if p.is_file()), None)


def _assembled(files: _Files, atoms: Atoms, basis: OrbitalBasis, log: AbacusLog) -> ReferenceData:
    symbols = atoms.get_chemical_symbols()
    n = basis.n_orbitals(symbols)
    texts = [read_sparse(path) for path in files.hamiltonians]
    s_text = read_sparse(files.overlap)
    spin = _spin(texts, s_text, n, basis)
    place, sign = _order(basis, symbols)
    if spin == "collinear" and not _same_pattern(*texts):
        texts = _on_common_pattern(texts)
    H = _elements(texts, place, sign, spin, Rydberg)
    S = _elements([s_text], place, sign, "spinor" if s_text.dimension == 2 * n else "none", 1.0)
    S = Elements(S.rows, S.columns, S.R, np.real(S.values[:1]))
    wraps = np.floor(np.round(atoms.get_scaled_positions(wrap=False), 9)).astype(np.int64)
    owner = orbital_atoms(atoms, basis)
    S, H = S.relabelled(wraps, owner), H.relabelled(wraps, owner)
    overlap, hamiltonian = matrices_from_elements(atoms, basis, S, H, spin)
    shifts = cell_shifts(overlap)
    if shifts.any():
        logger.info("%s: atoms were moved by %s cells by ABACUS; undone", files.output, shifts.tolist())
        overlap, hamiltonian = matrices_from_elements(
            atoms, basis, S.relabelled(shifts, owner), H.relabelled(shifts, owner), spin
        )
    assert hamiltonian is not None
    where = str(files.output)
    overlap = checked_hermitian(overlap, "S", where, _HERMITIAN_S)
    hamiltonian = checked_hermitian(hamiltonian, "H", where, _HERMITIAN_EV)
    return ReferenceData(
        atoms=atoms,
        hamiltonian=hamiltonian,
        overlap=overlap,
        n_electrons=log.n_electrons or basis.n_electrons(symbols) or None,
        fermi_level=log.fermi_level,
        basis=basis,
        info={
            "engine": "abacus",
            "version": log.version,
            "layout": files.overlap.name,
            **prove(overlap, where, hamiltonian),
        },
    )


def _spin(texts: list[SparseText], s_text: SparseText, n: int, basis: OrbitalBasis) -> Spin:
    dimensions = {text.dimension for text in texts}
    if len(texts) == 1 and dimensions == {2 * n} and s_text.dimension in (n, 2 * n):
        return "spinor"
    if dimensions != {n} or s_text.dimension != n or any(np.iscomplexobj(t.values) for t in (*texts, s_text)):
        raise ValueError(
            f"H and S have dimensions {sorted(dimensions)} and {s_text.dimension}; {basis} has {n} orbitals "
            f"(twice that with nspin 4)"
        )
    return "collinear" if len(texts) == 2 else "none"


def _order(basis: OrbitalBasis, symbols: list[str]) -> tuple[np.ndarray, np.ndarray]:
    atom, shell, m = [], [], []
    for a, symbol in enumerate(symbols):
        for number, l in enumerate(basis.shells(symbol)):
            order = [0, *(k * side for k in range(1, l + 1) for side in (1, -1))]
            atom += [a] * len(order)
            shell += [number] * len(order)
            m += order
    m_of = np.array(m)
    return house_order(np.array(atom), np.array(shell), m_of, m_of % 2 != 0)


def _same_pattern(first: SparseText, second: SparseText) -> bool:
    return all(
        np.array_equal(a, b)
        for a, b in ((first.rows, second.rows), (first.columns, second.columns), (first.R, second.R))
    )


def _keys(text: SparseText) -> np.ndarray:
    return np.column_stack([text.R, text.rows, text.columns])


def _on_common_pattern(texts: list[SparseText]) -> list[SparseText]:
    """The same matrices on the union of their elements, absent ones zero."""
    keys, where = np.unique(np.concatenate([_keys(t) for t in texts]), axis=0, return_inverse=True)
    aligned, start = [], 0
    for text in texts:
        slot = where.ravel()[start : start + len(text.rows)]
        start += len(text.rows)
        if len(np.unique(slot)) != len(slot):
            raise ValueError("an element appears twice; the file is damaged")
        values = np.zeros(len(keys), dtype=text.values.dtype)
        values[slot] = text.values
        aligned.append(SparseText(text.dimension, keys[:, 3], keys[:, 4], keys[:, :3], values))
    return aligned


def _elements(
    texts: list[SparseText], place: np.ndarray, sign: np.ndarray, spin: Spin, unit: float
) -> Elements:
    """House order and signs, values times `unit`; for spinors the four components of each spatial element."""
    text = texts[0]
    if spin != "spinor":
        values = np.stack([t.values for t in texts]) * (sign[text.rows] * sign[text.columns] * unit)
        return Elements(place[text.rows], place[text.columns], text.R, values)
    component = 2 * (text.rows % 2) + text.columns % 2
    key = np.column_stack([text.R, text.rows // 2, text.columns // 2])
    keys, where = np.unique(key, axis=0, return_inverse=True)
    slot = component * len(keys) + where.ravel()
    if len(np.unique(slot)) != len(slot):
        raise ValueError("an element appears twice; the file is damaged")
    values = np.zeros(4 * len(keys), dtype=complex)
    values[slot] = text.values * (sign[key[:, 3]] * sign[key[:, 4]] * unit)
    return Elements(place[keys[:, 3]], place[keys[:, 4]], keys[:, :3], values.reshape(4, len(keys)))
