"""The legacy DeepH layout: text for the structure, one HDF5 dataset per pair, OpenMX's order of orbitals."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
from ase import Atoms
from ase.data import chemical_symbols

from ase_deeph.basis import OrbitalBasis, SpeciesBasis
from ase_deeph.io.deeph_info import number_in, read_object
from ase_deeph.io.stored import stored_values
from ase_deeph.io.structure_checks import check_cells, checked
from ase_deeph.matrix import RealSpaceMatrix
from ase_deeph.pairs import AtomPairs
from ase_deeph.reference import ReferenceData

# position in OpenMX's order (p: x y z; d: z² x²-y² xy xz yz; ...) of each of our orbitals m = -l ... l
_FROM_OPENMX = {0: (0,), 1: (1, 2, 0), 2: (2, 4, 0, 3, 1), 3: (6, 4, 2, 0, 1, 3, 5)}


def read_legacy(folder: Path) -> ReferenceData:
    """Read a legacy folder; hamiltonians.h5 and overlaps.h5 may each be absent.

    Raises
    ------
    ValueError : a file is missing, damaged, or contradicts another.
    """
    atoms, shells = _structure(folder)
    path = folder / "info.json"
    info = read_object(path) if path.exists() else {}
    symbols = atoms.get_chemical_symbols()
    basis = OrbitalBasis({s: SpeciesBasis(shells[n], 0.0) for n, s in enumerate(symbols)})
    if any(basis.shells(s) != shells[n] for n, s in enumerate(symbols)):
        raise ValueError(f"{folder}: atoms of one element have different orbitals, which is not supported")
    hamiltonian = _matrix(
        folder / "hamiltonians.h5", basis, atoms, "spinor" if info.get("isspinful") else "none"
    )
    overlap = _matrix(folder / "overlaps.h5", basis, atoms, "none")
    if hamiltonian is None and overlap is None:
        raise ValueError(f"{folder}: expected hamiltonians.h5 or overlaps.h5, found neither")
    if hamiltonian is not None and overlap is not None and hamiltonian.pairs != overlap.pairs:
        pairs = hamiltonian.pairs.union(overlap.pairs)
        hamiltonian, overlap = hamiltonian.on(pairs), overlap.on(pairs)
    return ReferenceData(
        atoms=atoms,
        hamiltonian=hamiltonian,
        overlap=overlap,
        fermi_level=number_in(info, "fermi_level", path),
        basis=basis,
        info={"format": "DeepH legacy"},
    )


def _structure(folder: Path) -> tuple[Atoms, list[tuple[int, ...]]]:
    """The atoms and the shells of each."""
    try:
        cell = _table(folder / "lat.dat", 3).T
        positions = _table(folder / "site_positions.dat", 3).T
        numbers = _table(folder / "element.dat", None).ravel()
        lines = [line for line in (folder / "orbital_types.dat").read_text().splitlines() if line.strip()]
        shells = [tuple(int(l) for l in line.split()) for line in lines]
    except (OSError, ValueError) as error:
        raise ValueError(f"{folder}: incomplete or damaged legacy DeepH folder ({error})") from error
    if not len(positions) == len(numbers) == len(shells):
        raise ValueError(
            f"{folder}: {len(positions)} positions, {len(numbers)} elements and {len(shells)} orbital types"
        )
    if not np.all((numbers >= 1) & (numbers < len(chemical_symbols)) & (numbers == np.rint(numbers))):
        raise ValueError(f"{folder}/element.dat: expected atomic numbers, received {numbers[:8].tolist()}")
    if any(not 0 <= l <= max(_FROM_OPENMX) for own in shells for l in own):
        raise ValueError(
            f"{folder}/orbital_types.dat: expected l = 0 ... {max(_FROM_OPENMX)}, received {shells[:4]}"
        )
    try:
        atoms = Atoms(numbers=numbers.astype(int), positions=positions, cell=cell, pbc=True)
        return checked(atoms), shells
    except ValueError as error:
        raise ValueError(f"{folder}: damaged structure ({error})") from error


def _table(path: Path, rows: int | None) -> np.ndarray:
    """Numbers of a text file, (rows, n); ValueError when they are no table of finite numbers."""
    lines = [line.split() for line in path.read_text(errors="replace").splitlines() if line.strip()]
    table = np.array(lines, dtype=float)
    if not table.size or not np.all(np.isfinite(table)) or (rows is not None and len(table) != rows):
        raise ValueError(
            f"{path.name}: expected {rows or 'some'} rows of finite numbers, received {table.shape}"
        )
    return table


def _matrix(path: Path, basis: OrbitalBasis, atoms: Atoms, spin: str) -> RealSpaceMatrix | None:
    if not path.exists():
        return None
    try:
        with h5py.File(path, "r") as file:
            found = {name: stored_values(file[name]) for name in file}
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
        raise ValueError(f"{path}: damaged or not HDF5 ({error}); copy or compute it again") from error
    try:
        named = [json.loads(name) for name in found]
        if any(type(n) is not int for key in named for n in key):
            raise ValueError("received numbers that are not whole")
        keys = np.array(named, dtype=np.int64).reshape(len(found), 5)
    except (ValueError, TypeError, OverflowError) as error:
        raise ValueError(f"{path}: expected dataset names '[R1, R2, R3, i, j]', {error}") from error
    R, i, j = keys[:, :3], keys[:, 3] - 1, keys[:, 4] - 1
    try:
        check_cells(R)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    pairs = AtomPairs(i, j, R, len(atoms))
    order = np.lexsort(np.column_stack([i, j, R]).T[::-1])
    orbitals = {s: _permutation(basis.shells(s), 2 if spin == "spinor" else 1) for s in basis}
    symbols, blocks = atoms.get_chemical_symbols(), list(found.values())
    ours = []
    for n in order:
        rows, cols = orbitals[symbols[i[n]]], orbitals[symbols[j[n]]]
        if blocks[n].shape != (len(rows), len(cols)):
            raise ValueError(
                f"{path}: block {keys[n].tolist()} has shape {blocks[n].shape}, not {(len(rows), len(cols))}"
            )
        ours.append(blocks[n][np.ix_(rows, cols)])
    return RealSpaceMatrix.from_blocks(basis, pairs, atoms, ours, spin)  # type: ignore[arg-type]


def _permutation(shells: tuple[int, ...], n_spins: int) -> np.ndarray:
    """Position in the file of each orbital of ours."""
    if max(shells) not in _FROM_OPENMX:
        raise ValueError(
            f"legacy DeepH format: its order of orbitals is known up to l = 3, received shells {shells}"
        )
    starts = np.concatenate([[0], np.cumsum([2 * l + 1 for l in shells])])
    order = np.concatenate(
        [start + np.array(_FROM_OPENMX[l]) for start, l in zip(starts[:-1], shells, strict=True)]
    )
    return np.concatenate([order + spin * starts[-1] for spin in range(n_spins)])
