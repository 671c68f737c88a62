"""SIESTA's binary matrices: HSX of versions 0 (SIESTA up to 4), 1 and 2 (SIESTA 5), and TSHS of version 1.

Lengths in Bohr, energies in Ry, orbitals in SIESTA's own order, as in the file.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ase_deeph.io.siesta_records import FortranRecords


@dataclass(frozen=True, eq=False)
class SiestaSpecies:
    """Label, valence charge and (n, l, zeta) of every orbital of a species."""

    label: str
    charge: float
    quantum: np.ndarray

    def shells(self) -> tuple[int, ...]:
        """The l of each shell; ValueError when the orbitals are not whole shells m = -l ... l."""
        l, found, at = self.quantum[:, 1], [], 0
        while at < len(l):
            width = 2 * int(l[at]) + 1
            if l[at] < 0 or l[at] > 8 or not np.all(self.quantum[at : at + width] == self.quantum[at]):
                raise ValueError(
                    f"species {self.label!r}: its orbitals are not whole shells; the file is damaged"
                )
            if at + width > len(l):
                raise ValueError(f"species {self.label!r}: its last shell is incomplete; the file is damaged")
            found.append(int(l[at]))
            at += width
        return tuple(found)


@dataclass(frozen=True, eq=False)
class SiestaMatrices:
    """What an HSX or TSHS file holds; absent parts are None.

    Parameters
    ----------
    layout : name and version of the format.
    species_of_atom : (n_atoms,) index into `species`; None in TSHS.
    orbitals_of_atom : (n_atoms,) counts.
    cell, positions : Bohr; None in HSX version 0.
    rows, columns : (n,) orbitals in the home cell.
    R : (n, 3), or None where only `vectors` (n, 3), x_column - x_row in Bohr, is known.
    hamiltonian : (n_components, n) Ry.
    overlap : (n,).
    """

    layout: str
    species: tuple[SiestaSpecies, ...]
    species_of_atom: np.ndarray | None
    orbitals_of_atom: np.ndarray
    cell: np.ndarray | None
    positions: np.ndarray | None
    rows: np.ndarray
    columns: np.ndarray
    R: np.ndarray | None
    vectors: np.ndarray | None
    hamiltonian: np.ndarray
    overlap: np.ndarray
    n_electrons: float
    fermi_level: float | None


def read_hsx(path: Path) -> SiestaMatrices:
    """Read an HSX file of version 0, 1 or 2.

    The logical that tells double from single precision is judged by the lengths of the records, as compilers
    write .true. as 1 or as -1.

    Raises
    ------
    ValueError : the file is damaged or of another version.
    """
    records = FortranRecords(path)
    if records.next_length() == 16:
        return _hsx_0(records)
    (version,) = records.take(("i4", 1))
    if version[0] not in (1, 2):
        raise ValueError(f"{path}: HSX version {version[0]} is unknown; this reader knows 0, 1 and 2")
    return _hsx_1(records, int(version[0]))


def _sizes(path: Path, **counts: int) -> None:
    """ValueError unless every count is positive."""
    wrong = {name: value for name, value in counts.items() if value < 1}
    if wrong:
        raise ValueError(f"{path}: expected positive sizes, received {wrong}; the file is damaged")


def _hsx_1(records: FortranRecords, version: int) -> SiestaMatrices:
    path = records.path
    records.take(("i4", 1))
    (sizes,) = records.take(("i4", 7))
    na, no, n_spin, n_species = (int(n) for n in sizes[:4])
    n_cells = int(np.prod(sizes[4:].astype(float)))
    _sizes(path, atoms=na, orbitals=no, spins=n_spin, species=n_species, cells=n_cells)
    cell, totals = records.take(("f8", 9), ("f8", 3))
    offsets, positions, isa, last = records.take(("i4", 3 * n_cells), ("f8", 3 * na), ("i4", na), ("i4", na))
    species = _species_headers(records, n_species, together=True)
    if version == 2:
        records.take(("i4", 9), ("f8", 3))
    (numh,) = records.take(("i4", no))
    rows, columns, image = _pattern(records, numh, no, n_cells)
    kind = "f8" if len(numh) and records.next_length() == 8 * numh[0] else "f4"
    hamiltonian = np.stack([records.take_rows(kind, numh) for _ in range(n_spin)])
    overlap = records.take_rows(kind, numh)
    counts = np.diff(np.concatenate([[0], last]))
    if isa.min() < 1 or isa.max() > n_species or last[-1] != no:
        raise ValueError(f"{path}: species or orbitals of the atoms are out of range; the file is damaged")
    return SiestaMatrices(
        layout=f"HSX {version}",
        species=species,
        species_of_atom=isa - 1,
        orbitals_of_atom=counts,
        cell=cell.reshape(3, 3),
        positions=positions.reshape(na, 3),
        rows=rows,
        columns=columns,
        R=offsets.reshape(n_cells, 3)[image].astype(np.int64),
        vectors=None,
        hamiltonian=hamiltonian.astype(float),
        overlap=overlap.astype(float),
        n_electrons=float(totals[1]),
        fermi_level=float(totals[0]),
    )


def _species_headers(records: FortranRecords, n_species: int, *, together: bool) -> tuple[SiestaSpecies, ...]:
    """Labels, charges and orbitals: one record of (n, l, zeta) per species, or (version 0) per orbital."""
    if records.next_length() != 32 * n_species:
        raise ValueError(f"{records.path}: the list of {n_species} species is damaged")
    (raw,) = records.take(("u1", 32 * n_species))
    headers = np.frombuffer(raw.tobytes(), dtype=[("label", "S20"), ("charge", "u1", 8), ("n", "u1", 4)])
    species = []
    for header in headers:
        charge = float(header["charge"].view(f"{records.order}f8")[0])
        count = int(header["n"].view(f"{records.order}i4")[0])
        label = bytes(header["label"]).decode("ascii", errors="replace").strip()
        _sizes(records.path, orbitals_of_a_species=count)
        if not np.isfinite(charge):
            raise ValueError(
                f"{records.path}: species {label!r} has the charge {charge}; the file is damaged"
            )
        if 3 * count * 4 > records.size:
            raise ValueError(f"{records.path}: species {label!r} has {count} orbitals; the file is damaged")
        if together:
            (quantum,) = records.take(("i4", 3 * count))
        else:
            quantum = records.take_rows("i4", np.full(count, 3))
        species.append(SiestaSpecies(label, charge, quantum.reshape(count, 3)))
    return tuple(species)


def _pattern(
    records: FortranRecords, numh: np.ndarray, no: int, n_cells: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Row, column in the home cell, and number of the cell, of each element."""
    columns = records.take_rows("i4", numh) - 1
    if len(columns) and (columns.min() < 0 or columns.max() >= no * n_cells):
        raise ValueError(f"{records.path}: an orbital is outside the supercell; the file is damaged")
    rows = np.repeat(np.arange(no), numh)
    return rows, columns % no, columns // no


def _hsx_0(records: FortranRecords) -> SiestaMatrices:
    path = records.path
    (sizes,) = records.take(("i4", 4))
    no, no_s, n_spin, n_elements = (int(n) for n in sizes)
    _sizes(path, orbitals=no, supercell_orbitals=no_s, spins=n_spin, elements=n_elements)
    (gamma,) = records.take(("i4", 1))
    home = np.arange(no_s) % no if gamma[0] else records.take(("i4", no_s))[0] - 1
    (numh,) = records.take(("i4", no))
    if numh.astype(np.int64).sum() != n_elements:
        raise ValueError(f"{path}: rows hold {numh.sum()} elements, the header says {n_elements}; damaged")
    columns = records.take_rows("i4", numh) - 1
    if columns.min() < 0 or columns.max() >= no_s or home.min() < 0 or home.max() >= no:
        raise ValueError(f"{path}: an orbital is outside the supercell; the file is damaged")
    hamiltonian = np.stack([records.take_rows("f4", numh) for _ in range(n_spin)])
    overlap = records.take_rows("f4", numh)
    (totals,) = records.take(("f8", 2))
    vectors = records.take_rows("f4", 3 * numh.astype(np.int64)).reshape(-1, 3)
    (n_species,) = records.take(("i4", 1))
    _sizes(path, species=int(n_species[0]))
    species = _species_headers(records, int(n_species[0]), together=False)
    (na,) = records.take(("i4", 1))
    _sizes(path, atoms=int(na[0]))
    (isa,) = records.take(("i4", int(na[0])))
    if isa.min() < 1 or isa.max() > len(species):
        raise ValueError(f"{path}: the species of the atoms are out of range; the file is damaged")
    counts = np.array([len(species[s - 1].quantum) for s in isa])
    if counts.sum() != no:
        raise ValueError(f"{path}: atoms carry {counts.sum()} orbitals, the matrix {no}; the file is damaged")
    return SiestaMatrices(
        layout="HSX 0",
        species=species,
        species_of_atom=isa - 1,
        orbitals_of_atom=counts,
        cell=None,
        positions=None,
        rows=np.repeat(np.arange(no), numh),
        columns=home[columns].astype(np.int64),
        R=None,
        vectors=vectors.astype(float),
        hamiltonian=hamiltonian.astype(float),
        overlap=overlap.astype(float),
        n_electrons=float(totals[0]),
        fermi_level=None,
    )


def read_tshs(path: Path) -> SiestaMatrices:
    """Read a TSHS file of version 1, which names no species and no shells.

    Raises
    ------
    ValueError : the file is damaged, of another version, or holds S alone.
    """
    records = FortranRecords(path)
    (version,) = records.take(("i4", 1))
    if version[0] != 1:
        raise ValueError(f"{path}: TSHS version {version[0]} is unknown; this reader knows 1")
    (sizes,) = records.take(("i4", 5))
    na, no, no_s, n_spin, n_elements = (int(n) for n in sizes)
    _sizes(path, atoms=na, orbitals=no, supercell_orbitals=no_s, spins=n_spin, elements=n_elements)
    records.take(("i4", 3))
    cell, positions = records.take(("f8", 9), ("f8", 3 * na))
    (flags,) = records.take(("i4", 3))
    if flags[2]:
        raise ValueError(f"{path}: it holds S alone; give the TSHS or HSX of a calculation with H")
    records.take(("i4", 9), ("f8", 3))
    (totals,) = records.take(("f8", 3))
    records.take(("i4", 2))
    (last,) = records.take(("i4", na + 1))
    (numh,) = records.take(("i4", no))
    n_cells = no_s // no
    rows, columns, image = _pattern(records, numh, no, n_cells)
    overlap = records.take_rows("f8", numh)
    hamiltonian = np.stack([records.take_rows("f8", numh) for _ in range(n_spin)])
    offsets = np.zeros((1, 3), dtype=np.int64)
    if records.next_length() >= 0:
        offsets = records.take(("i4", 3 * n_cells))[0].reshape(n_cells, 3).astype(np.int64)
    counts = np.diff(last)
    if len(offsets) != n_cells or last[-1] != no or counts.min() < 1 or len(rows) != n_elements:
        raise ValueError(f"{path}: cells, atoms or elements contradict the header; the file is damaged")
    return SiestaMatrices(
        layout="TSHS 1",
        species=(),
        species_of_atom=None,
        orbitals_of_atom=counts,
        cell=cell.reshape(3, 3),
        positions=positions.reshape(na, 3),
        rows=rows,
        columns=columns,
        R=offsets[image],
        vectors=None,
        hamiltonian=hamiltonian,
        overlap=overlap,
        n_electrons=float(totals[1]),
        fermi_level=float(totals[0]),
    )
