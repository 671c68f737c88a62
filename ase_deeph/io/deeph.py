"""The DeepH folder format: write the new layout, read the new and (through deeph_legacy) the legacy one.

A folder holds POSCAR, info.json, overlap.h5 and hamiltonian.h5. Beside them this package writes
reference.json (energy, engine, provenance, pbc, moments), force.h5 and, per folder or once per data set in a
folder above it, basis.h5 with the radial functions. Energies in eV, lengths in Å.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from ase import Atoms
from ase.io import read as ase_read
from ase.io import write as ase_write

from ase_deeph.basis import OrbitalBasis
from ase_deeph.io.basis_file import read_basis, write_basis
from ase_deeph.io.deeph_force import read_forces, write_forces
from ase_deeph.io.deeph_info import (
    moments_of,
    number_in,
    read_object,
    restore_structure,
    shells_in,
    spin_in,
    table_in,
    write_object,
)
from ase_deeph.io.stored import stored_values
from ase_deeph.io.structure_checks import ASE_COMPLAINTS, check_cells, check_poscar
from ase_deeph.matrix import RealSpaceMatrix
from ase_deeph.pairs import AtomPairs
from ase_deeph.reference import ReferenceData

HAMILTONIAN, OVERLAP, BASIS, FORCE = "hamiltonian.h5", "overlap.h5", "basis.h5", "force.h5"
INFO, REFERENCE, STRUCTURE = "info.json", "reference.json", "POSCAR"
_OWN_FILES = {HAMILTONIAN, OVERLAP, BASIS, FORCE, INFO, REFERENCE, STRUCTURE}
_BASIS_LEVELS, _VACUUM, _UNIT = 4, 6.0, 0.05


def write_deeph(folder: str | Path, data: ReferenceData, *, own_basis: bool = True) -> None:
    """Write a folder in the new DeepH layout, atomically: it appears complete or not at all.

    Parameters
    ----------
    folder : written anew; a folder already there is replaced.
    data : hamiltonian and overlap may each be None; both are written on the union of their pairs.
    own_basis : whether to put basis.h5 into the folder (needs radial functions); False where a data set keeps
        one above its folders.

    Raises
    ------
    ValueError : neither matrix is given, or they belong to different atoms.
    """
    folder = Path(folder)
    if data.hamiltonian is None and data.overlap is None:
        raise ValueError(f"write_deeph({folder}): expected a Hamiltonian or an overlap, received neither")
    hamiltonian, overlap = on_common_pairs(data.hamiltonian, data.overlap)
    with replaced_folder(folder) as partial:
        write_beside_matrices(partial, data, own_basis=own_basis)
        if hamiltonian is not None:
            _write_matrix(partial / HAMILTONIAN, hamiltonian)
        if overlap is not None:
            _write_matrix(partial / OVERLAP, overlap)


def write_beside_matrices(folder: Path, data: ReferenceData, *, own_basis: bool = True) -> None:
    """Every file of a folder but the matrices."""
    _write_structure(folder / STRUCTURE, data.atoms)
    write_object(folder / INFO, _info(data))
    write_object(folder / REFERENCE, _reference(data))
    if data.forces is not None:
        write_forces(folder / FORCE, data)
    basis = _basis_of(data)
    if own_basis and basis.has_radial_functions:
        write_basis_file(folder / BASIS, basis)


@contextmanager
def replaced_folder(folder: Path) -> Iterator[Path]:
    """A hidden folder beside `folder` that takes its place when the block ends without an exception.

    Raises
    ------
    ValueError : `folder` holds files that are not of this format; nothing of a stranger is ever deleted.
    """
    folder = folder.resolve()
    check_replaceable(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.parent / f".{folder.name}.partial-{uuid.uuid4().hex[:8]}"
    partial.mkdir()
    try:
        yield partial
        for path in partial.iterdir():
            with path.open("rb") as stream:
                os.fsync(stream.fileno())
        if folder.exists():
            retired = folder.parent / f".{folder.name}.retired-{uuid.uuid4().hex[:8]}"
            folder.rename(retired)
            partial.rename(folder)
            shutil.rmtree(retired)
        else:
            partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def check_replaceable(folder: Path) -> None:
    """ValueError unless the folder is absent, empty, or holds files of this format alone."""
    folder = folder.resolve()
    if not folder.exists():
        return
    if not folder.is_dir():
        raise ValueError(f"{folder} is a file; give a new folder, or one of the DeepH format to replace")
    if folder == Path.cwd():
        raise ValueError(f"{folder} is the working folder and cannot be replaced; give another folder")
    foreign = sorted({path.name for path in folder.iterdir()} - _OWN_FILES)
    if foreign:
        raise ValueError(
            f"{folder} holds files that are not of this format ({', '.join(foreign[:3])}); give a new or empty folder"
        )


def write_basis_file(path: Path, basis: OrbitalBasis) -> None:
    """Write basis.h5, atomically."""
    partial = path.with_name(f".{path.name}.partial-{uuid.uuid4().hex[:8]}")
    with h5py.File(partial, "w") as file:
        write_basis(file.create_group("basis"), basis)
    partial.replace(path)


def on_common_pairs(
    hamiltonian: RealSpaceMatrix | None, overlap: RealSpaceMatrix | None
) -> tuple[RealSpaceMatrix | None, RealSpaceMatrix | None]:
    """H and S on the union of their pairs."""
    if hamiltonian is None or overlap is None or hamiltonian.pairs == overlap.pairs:
        return hamiltonian, overlap
    if len(hamiltonian.atoms) != len(overlap.atoms):
        raise ValueError(
            f"write_deeph: the Hamiltonian has {len(hamiltonian.atoms)} atoms, S {len(overlap.atoms)}"
        )
    pairs = hamiltonian.pairs.union(overlap.pairs)
    return hamiltonian.on(pairs), overlap.on(pairs)


def _basis_of(data: ReferenceData) -> OrbitalBasis:
    matrix = data.hamiltonian if data.hamiltonian is not None else data.overlap
    return data.basis if data.basis is not None else matrix.basis  # type: ignore[union-attr]


def _write_structure(path: Path, atoms: Atoms) -> None:
    """POSCAR with all digits; open axes without a cell vector get the extent of the atoms and vacuum."""
    boxed = Atoms(atoms.get_chemical_symbols(), positions=atoms.positions, cell=atoms.cell, pbc=True)
    empty = np.linalg.norm(atoms.cell.array, axis=1) < 1e-8
    cell = atoms.cell.complete().array
    for axis in np.nonzero(empty)[0]:
        cell[axis] *= np.ptp(atoms.positions @ cell[axis]) + 2 * _VACUUM
    boxed.set_cell(cell)
    ase_write(path, boxed, format="vasp", direct=False)


def _info(data: ReferenceData) -> dict[str, Any]:
    basis, symbols = _basis_of(data), data.atoms.get_chemical_symbols()
    spin = data.hamiltonian.spin if data.hamiltonian is not None else "none"
    present = [s for s in basis.symbols if s in set(symbols)]
    info: dict[str, Any] = {
        "atoms_quantity": len(symbols),
        "orbits_quantity": basis.n_orbitals(symbols),
        "orthogonal_basis": False,
        "spinful": spin != "none",
        "fermi_energy_eV": data.fermi_level,
        "elements_orbital_map": {s: list(basis.shells(s)) for s in present},
    }
    if data.n_electrons is not None:
        info["occupation"] = data.n_electrons
    return info


def _reference(data: ReferenceData) -> dict[str, Any]:
    atoms, reference = data.atoms, moments_of(data.atoms)
    if not np.all(np.any(atoms.cell.array, axis=1)):
        reference["cell"] = atoms.cell.array.tolist()
    if data.stress is not None and data.forces is None:
        reference["stress_eV_A3"] = np.asarray(data.stress, dtype=float).tolist()
    return {
        "pbc": [bool(p) for p in atoms.pbc],
        "spin": data.hamiltonian.spin if data.hamiltonian is not None else "none",
        "energy_eV": data.energy,
        **reference,
        "info": dict(data.info),
    }


def _write_matrix(path: Path, matrix: RealSpaceMatrix) -> None:
    """One matrix file; collinear spin is stored as spinor blocks with zero ud and du."""
    pairs = matrix.pairs
    shapes, entries = matrix.block_shapes, matrix.entries
    if matrix.spin == "collinear":
        shapes = 2 * shapes
        entries = np.concatenate([_spinor_block(block).ravel() for block in matrix.blocks()])
    with h5py.File(path, "w") as file:
        file["atom_pairs"] = np.column_stack([pairs.R, pairs.i, pairs.j]).astype(np.int64)
        file["chunk_boundaries"] = np.concatenate([[0], np.cumsum(shapes.prod(axis=1))]).astype(np.int64)
        file["chunk_shapes"] = shapes.astype(np.int64)
        file["entries"] = entries


def _spinor_block(block: np.ndarray) -> np.ndarray:
    zero = np.zeros_like(block[0])
    return np.block([[block[0], zero], [zero, block[1]]])


def read_deeph(folder: str | Path) -> ReferenceData:
    """Read a DeepH folder, new or legacy (proved on DeepH-dock 0.9's examples); absent parts are None.

    The basis has radial functions where a basis.h5 lies in the folder or up to four levels above it;
    otherwise it knows the shells alone, with valence_electrons 0.

    Raises
    ------
    FileNotFoundError : no such folder.
    ValueError : it is no DeepH folder, a file is damaged, or files contradict one another.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"no DeepH folder {folder}")
    if (folder / "site_positions.dat").exists():
        from ase_deeph.io.deeph_legacy import read_legacy

        return read_legacy(folder)
    atoms, info, told = _read_structure(folder), read_object(folder / INFO), folder / REFERENCE
    extra = read_object(told) if told.exists() else {}
    restore_structure(atoms, extra, told)
    basis = _read_basis_for(folder, atoms, info)
    spin = spin_in(extra, told) or ("spinor" if info.get("spinful") else "none")
    hamiltonian = read_matrix(folder / HAMILTONIAN, basis, atoms, spin)
    overlap = read_matrix(folder / OVERLAP, basis, atoms, "none")
    if hamiltonian is None and overlap is None:
        raise ValueError(f"{folder}: expected {HAMILTONIAN} or {OVERLAP}, found neither")
    _check_not_exchanged(folder, hamiltonian, overlap)
    forces = read_forces(folder / FORCE, len(atoms)) if (folder / FORCE).exists() else {}
    energy = number_in(extra, "energy_eV", told)
    return ReferenceData(
        atoms=atoms,
        hamiltonian=hamiltonian,
        overlap=overlap,
        n_electrons=number_in(info, "occupation", folder / INFO),
        fermi_level=number_in(info, "fermi_energy_eV", folder / INFO),
        energy=forces.get("energy") if energy is None else energy,
        forces=forces.get("force"),
        stress=forces.get("stress", table_in(extra, "stress_eV_A3", (6,), told)),
        basis=basis,
        info=_provenance(extra, told),
    )


def _provenance(extra: dict[str, Any], path: Path) -> dict[str, Any]:
    info = extra.get("info", {})
    if not isinstance(info, dict):
        raise ValueError(f"{path}: expected an object for info, received {info!r}; correct it")
    return info


def _check_not_exchanged(
    folder: Path, hamiltonian: RealSpaceMatrix | None, overlap: RealSpaceMatrix | None
) -> None:
    """ValueError when orbitals have negative norms, and unit energies: the two files are exchanged."""
    if hamiltonian is None or overlap is None or hamiltonian.spin != "none":
        return
    if not hamiltonian.pairs.on_site.any() or not overlap.pairs.on_site.any():
        return
    energies, norms = (
        np.concatenate([np.diag(m.block_at(int(n))).real for n in np.nonzero(m.pairs.on_site)[0]])
        for m in (hamiltonian, overlap)
    )
    if np.all(np.abs(energies - 1) < _UNIT) and np.any(norms < 0):
        raise ValueError(f"{folder}: {HAMILTONIAN} holds the overlap and {OVERLAP} H; exchange their names")


def _read_structure(folder: Path) -> Atoms:
    path = folder / STRUCTURE
    if not path.exists():
        raise ValueError(
            f"{folder}: expected {STRUCTURE} (new layout) or site_positions.dat (legacy), found neither"
        )
    try:
        check_poscar(path)
        return ase_read(path, format="vasp")  # type: ignore[return-value]
    except ASE_COMPLAINTS as error:
        raise ValueError(f"{path}: cannot be read as a POSCAR ({error})") from error


def _read_basis_for(folder: Path, atoms: Atoms, info: dict[str, Any]) -> OrbitalBasis:
    bare = shells_in(info, atoms, folder / INFO)
    basis = find_basis(folder)
    if basis is None:
        return bare
    if any(s not in basis or basis.shells(s) != bare.shells(s) for s in bare):
        raise ValueError(f"{folder}: basis.h5 describes {basis}, but {INFO} says {bare}; they must agree")
    return basis


def find_basis(folder: Path) -> OrbitalBasis | None:
    """The basis.h5 of a folder, or the nearest one above it; None when there is none."""
    folder = folder.absolute()
    for place in (folder, *folder.parents[:_BASIS_LEVELS]):
        path = place / BASIS
        if path.is_file():
            return read_basis_file(path)
    return None


def read_basis_file(path: Path) -> OrbitalBasis:
    """Read basis.h5; ValueError when it is damaged."""
    try:
        with h5py.File(path, "r") as file:
            return read_basis(file["basis"])
    except (OSError, KeyError, RuntimeError) as error:
        raise ValueError(f"{path}: not a readable basis file ({error}); write it again") from error


def read_matrix(path: Path, basis: OrbitalBasis, atoms: Atoms, spin: str) -> RealSpaceMatrix | None:
    """One matrix file of the new layout, None when absent; ValueError when damaged or of other atoms or spin."""
    if not path.exists():
        return None
    try:
        with h5py.File(path, "r") as file:
            keys, shapes, bounds, entries = (
                stored_values(file[name])
                for name in ("atom_pairs", "chunk_shapes", "chunk_boundaries", "entries")
            )
    except (OSError, KeyError, RuntimeError, ValueError, TypeError) as error:
        raise ValueError(
            f"{path}: damaged or not a DeepH matrix file ({error}); copy or compute it again"
        ) from error
    try:
        return _matrix(keys, shapes, bounds, entries, basis, atoms, spin)
    except (ValueError, IndexError, OverflowError) as error:
        raise ValueError(f"{path}: {error}") from error


def _matrix(
    keys: np.ndarray,
    shapes: np.ndarray,
    bounds: np.ndarray,
    entries: np.ndarray,
    basis: OrbitalBasis,
    atoms: Atoms,
    spin: str,
) -> RealSpaceMatrix:
    """A RealSpaceMatrix from the arrays of a file, whatever the order of its pairs."""
    if (
        any(array.dtype.kind not in "iu" for array in (keys, shapes, bounds))
        or keys.ndim != 2
        or keys.shape[1] != 5
        or shapes.shape != (len(keys), 2)
        or bounds.shape != (len(keys) + 1,)
        or entries.ndim != 1
        or entries.dtype.kind not in "fc"
    ):
        raise ValueError(
            f"expected integer (n, 5) atom_pairs with matching chunks and a list of entries, received {keys.shape}, "
            f"{shapes.shape}, {bounds.shape} and {entries.shape} of {entries.dtype}"
        )
    keys = keys.astype(np.int64)
    if bounds[-1] != len(entries) or np.any(np.diff(bounds) != shapes.prod(axis=1)):
        raise ValueError(f"chunk boundaries end at {bounds[-1]}, the file has {len(entries)} entries")
    R, i, j = keys[:, :3], keys[:, 3], keys[:, 4]
    check_cells(R)
    pairs = AtomPairs(i, j, R, len(atoms))
    counts = basis.orbital_counts(atoms.get_chemical_symbols())
    factors = {f for f in (1, 2) if np.array_equal(shapes, f * np.column_stack([counts[i], counts[j]]))}
    if not factors:
        raise ValueError(f"block shapes do not fit the orbitals of {basis}")
    doubled = factors == {2}
    if spin == "none" and np.iscomplexobj(entries) and not np.any(entries.imag):
        entries = entries.real
    order = np.lexsort(np.column_stack([i, j, R]).T[::-1])
    blocks = [entries[bounds[n] : bounds[n + 1]].reshape(shapes[n]) for n in order]
    if spin == "collinear" and doubled:
        blocks = [
            np.stack([b[: len(b) // 2, : b.shape[1] // 2], b[len(b) // 2 :, b.shape[1] // 2 :]])
            for b in blocks
        ]
        blocks = [b.real for b in blocks]
    elif spin == "none" and doubled:
        blocks = [b[: len(b) // 2, : b.shape[1] // 2].real for b in blocks]
    elif spin != "none" and not doubled:
        raise ValueError(f"spin {spin!r} needs spinor blocks, the file holds spinless ones")
    return RealSpaceMatrix.from_blocks(basis, pairs, atoms, blocks, spin)  # type: ignore[arg-type]
