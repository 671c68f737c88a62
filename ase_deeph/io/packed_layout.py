"""What a packed file holds: its table and arrays, one structure into rows of them and back, checksums.

    /                         attributes format = "ase_deeph.packed", version = 1, dtype
    /basis                    the orbitals, see basis_file
    /structures               a table: where each structure's parts begin (a, n), its numbers, its SHA-256
    /numbers /positions /forces   of all atoms (Å, eV/Å)
    /pairs                    (i, j, R1, R2, R3) of all pairs, in canonical order
    /overlap /hamiltonian     entries of all blocks (eV), in the order of pairs; /hamiltonian_complex for spinors
    /text                     JSON of each structure: name, provenance, initial magnetic moments (μ_B) where set

All arrays are chunked, shuffled, compressed and carry Fletcher checksums.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from ase import Atoms

from ase_deeph.basis import OrbitalBasis
from ase_deeph.io.deeph_info import moments_of, restore_moments
from ase_deeph.matrix import RealSpaceMatrix
from ase_deeph.pairs import AtomPairs
from ase_deeph.reference import ReferenceData

FORMAT, VERSION = "ase_deeph.packed", 1
SPINS = ("none", "collinear", "spinor")
PARTS = ("numbers", "positions", "forces", "pairs", "hamiltonian", "hamiltonian_complex", "overlap", "text")
_CHUNK_ROWS = {"numbers": 4096, "positions": 1024, "forces": 1024, "pairs": 2048, "text": 16384}
_ENTRY_ROWS = 16384

TABLE = np.dtype(
    [(part, "<i8", 2) for part in PARTS]
    + [("spin", "u1"), ("pbc", "?", 3), ("cell", "<f8", (3, 3)), ("stress", "<f8", 6)]  # type: ignore[list-item]
    + [("n_electrons", "<f8"), ("fermi_level", "<f8"), ("energy", "<f8"), ("checksum", "u1", 32)]
)
"""One row per structure: first row and number of rows of each part; NaN for absent numbers."""

_SCALARS = ("spin", "pbc", "cell", "stress", "n_electrons", "fermi_level", "energy")
_NUMBERS = ("n_electrons", "fermi_level", "energy")


def lay_out(file: h5py.File, dtype: str, compression: str | None) -> None:
    """Make the empty table and arrays."""
    file.attrs.update(format=FORMAT, version=VERSION, dtype=dtype)
    kinds: dict[str, tuple[Any, tuple[int, ...]]] = {
        "numbers": ("u1", ()),
        "positions": ("<f8", (3,)),
        "forces": ("<f8", (3,)),
        "pairs": ("<i4", (5,)),
        "hamiltonian": (dtype, ()),
        "hamiltonian_complex": ("complex128" if dtype == "float64" else "complex64", ()),
        "overlap": (dtype, ()),
        "text": ("u1", ()),
    }
    options: dict[str, Any] = {"shuffle": True, "fletcher32": True, "compression": compression}
    if compression == "gzip":
        options["compression_opts"] = 1
    for part, (kind, shape) in kinds.items():
        chunks = (_CHUNK_ROWS.get(part, _ENTRY_ROWS), *shape)
        file.create_dataset(part, (0, *shape), kind, maxshape=(None, *shape), chunks=chunks, **options)
    file.create_dataset("structures", (0,), TABLE, maxshape=(None,), chunks=(64,), **options)


def checked_format(file: h5py.File, path: Path) -> str:
    """The precision of H and S of a packed file; ValueError when it is none, or newer."""
    if file.attrs.get("format") != FORMAT:
        raise ValueError(
            f"{path} is no packed dataset; make one with: deeph dataset pack FOLDER -o {path.name}"
        )
    version = file.attrs.get("version")
    if not isinstance(version, int | np.integer) or version > VERSION:
        raise ValueError(f"{path}: expected version <= {VERSION}, received {version}; update ase-deeph")
    dtype = file.attrs.get("dtype")
    if dtype not in ("float32", "float64"):
        raise ValueError(f"{path}: expected dtype float32 or float64, received {dtype!r}; pack it again")
    return str(dtype)


def basis_of(data: ReferenceData) -> OrbitalBasis:
    """The orbitals of reference data; ValueError when they hold no matrix."""
    matrix = data.hamiltonian if data.hamiltonian is not None else data.overlap
    if matrix is None:
        raise ValueError("expected a Hamiltonian or an overlap, received neither")
    return data.basis if data.basis is not None else matrix.basis


def packed(name: str, data: ReferenceData, dtype: np.dtype) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """(row of the table without starts, arrays) of a structure."""
    h, s = data.hamiltonian, data.overlap
    matrix = h if h is not None else s
    if matrix is None:
        raise ValueError(f"structure {name!r}: expected a Hamiltonian or an overlap, received neither")
    pairs = matrix.pairs
    if h is not None and s is not None:
        pairs = h.pairs if h.pairs == s.pairs else h.pairs.union(s.pairs)
        h, s = h.on(pairs), s.on(pairs)
    complex_type = np.complex128 if dtype == np.float64 else np.complex64
    entries = h.entries if h is not None else np.zeros(0)
    spinor = h is not None and h.spin == "spinor"
    text = json.dumps({"name": name, "info": dict(data.info), **moments_of(data.atoms)}).encode()
    parts = {
        "numbers": data.atoms.numbers.astype(np.uint8),
        "positions": data.atoms.positions.astype(float),
        "forces": np.zeros((0, 3)) if data.forces is None else np.asarray(data.forces, dtype=float),
        "pairs": np.column_stack([pairs.i, pairs.j, pairs.R]).astype(np.int32),
        "hamiltonian": np.zeros(0, dtype) if spinor else entries.astype(dtype).ravel(),
        "hamiltonian_complex": entries.astype(complex_type) if spinor else np.zeros(0, complex_type),
        "overlap": np.zeros(0, dtype) if s is None else s.entries.astype(dtype),
        "text": np.frombuffer(text, dtype=np.uint8),
    }
    row = np.zeros((), dtype=TABLE)
    row["spin"] = SPINS.index(h.spin if h is not None else "none")
    row["pbc"], row["cell"] = data.atoms.pbc, data.atoms.cell.array
    row["stress"] = np.nan if data.stress is None else np.asarray(data.stress)
    for number in _NUMBERS:
        value = getattr(data, number)
        row[number] = np.nan if value is None else value
    row["checksum"] = np.frombuffer(checksum(row, parts), dtype=np.uint8)
    return row, parts


def checksum(row: np.ndarray | np.void, parts: Mapping[str, np.ndarray]) -> bytes:
    """SHA-256 of a structure's numbers and arrays as they are stored."""
    digest = hashlib.sha256()
    for name in _SCALARS:
        digest.update(np.ascontiguousarray(row[name]).tobytes())
    for part in PARTS:
        digest.update(np.ascontiguousarray(parts[part]).data)
    return digest.digest()


def unpacked(row: np.void, parts: Mapping[str, np.ndarray], basis: OrbitalBasis) -> ReferenceData:
    """The structure of a row and its arrays."""
    atoms = Atoms(numbers=parts["numbers"], positions=parts["positions"], cell=row["cell"], pbc=row["pbc"])
    told = json.loads(parts["text"].tobytes())
    restore_moments(atoms, told, Path(str(told.get("name"))))
    keys = parts["pairs"].astype(np.int64)
    pairs = AtomPairs(keys[:, 0], keys[:, 1], keys[:, 2:], len(atoms))
    spin = SPINS[int(row["spin"])]
    entries = parts["hamiltonian_complex" if spin == "spinor" else "hamiltonian"]
    h = s = None
    if len(entries):
        shaped = entries.reshape(2, -1) if spin == "collinear" else entries
        h = RealSpaceMatrix(basis, pairs, atoms, shaped, spin)  # type: ignore[arg-type]
    if len(parts["overlap"]):
        s = RealSpaceMatrix(basis, pairs, atoms, parts["overlap"])
    stress = row["stress"]
    numbers = {n: None if np.isnan(row[n]) else float(row[n]) for n in _NUMBERS}
    return ReferenceData(
        atoms,
        h,
        s,
        **numbers,
        forces=parts["forces"] if len(parts["forces"]) else None,
        stress=None if np.isnan(stress).all() else np.array(stress),
        basis=basis,
        info=told["info"],
    )
