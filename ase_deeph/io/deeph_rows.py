"""One DeepH folder written by several processes, each the rows of its own atoms; none holds a whole matrix.

Process 0 lays out matrix files of the final size, whose arrays lie contiguously; every process then writes its
part at its place, without HDF5.  They must see one file system.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path

import h5py
import jax
import numpy as np

from ase_deeph.io.deeph import HAMILTONIAN, OVERLAP, on_common_pairs, replaced_folder, write_beside_matrices
from ase_deeph.matrix import RealSpaceMatrix
from ase_deeph.processes import is_first_process, of_each_process, together
from ase_deeph.reference import ReferenceData

_LONGEST_PATH = 4096
_AT_ONCE = 1 << 26


def write_deeph_rows(folder: str | Path, rows: ReferenceData) -> int:
    """Write a folder in the DeepH layout, atomically; called by every process, and ends for all at once.

    Parameters
    ----------
    folder : written anew, on a file system that all processes see.
    rows : with H and S (without spin) on pairs whose row atom is this process' own.

    Returns
    -------
    How many pairs there are over all processes.

    Raises
    ------
    ValueError : the folder holds other files.
    OSError : it cannot be written, here or by another process.
    """
    matrices = on_common_pairs(rows.hamiltonian, rows.overlap)
    named = {name: m for name, m in zip((HAMILTONIAN, OVERLAP), matrices, strict=True) if m is not None}
    counts = of_each_process(np.array([[len(m.pairs), len(m.entries)] for m in named.values()]))
    before = counts[: jax.process_index()].sum(axis=0)
    with together(f"{folder}"), ExitStack() as stack:
        partial = Path()
        with together(f"{folder}"):
            if is_first_process():
                partial = stack.enter_context(replaced_folder(Path(folder)))
                write_beside_matrices(partial, rows)
                for name, total in zip(named, counts.sum(axis=0), strict=True):
                    lay_out_matrix(partial / name, int(total[0]), int(total[1]))
        partial = _of_first_process(partial)
        with together(f"{folder}"):
            for (name, matrix), place in zip(named.items(), before, strict=True):
                write_rows(partial / name, matrix, int(place[0]), int(place[1]))
    return int(counts[:, 0, 0].sum())


def _of_first_process(path: Path) -> Path:
    """Process 0's path, everywhere."""
    text = str(path.absolute()).encode().ljust(_LONGEST_PATH)
    return Path(of_each_process(np.frombuffer(text, dtype=np.uint8))[0].tobytes().decode().rstrip())


def lay_out_matrix(path: Path, n_pairs: int, n_entries: int) -> None:
    """A matrix file of its final size, without its values."""
    shapes = {
        "atom_pairs": ((n_pairs, 5), "<i8"),
        "chunk_boundaries": ((n_pairs + 1,), "<i8"),
        "chunk_shapes": ((n_pairs, 2), "<i8"),
        "entries": ((n_entries,), "<f8"),
    }
    with h5py.File(path, "w") as file:
        for name, (shape, kind) in shapes.items():
            settings = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
            settings.set_layout(h5py.h5d.CONTIGUOUS)
            settings.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
            settings.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
            space, of_type = h5py.h5s.create_simple(shape), h5py.h5t.py_create(np.dtype(kind))
            h5py.h5d.create(file.id, name.encode(), of_type, space, dcpl=settings)


def write_rows(path: Path, matrix: RealSpaceMatrix, first_pair: int, first_entry: int) -> None:
    """Some pairs and their entries at their place in a file that `lay_out_matrix` made."""
    pairs = matrix.pairs
    parts = {
        "atom_pairs": (np.column_stack([pairs.R, pairs.i, pairs.j]).astype("<i8"), 5 * first_pair),
        "chunk_boundaries": ((first_entry + matrix.offsets).astype("<i8"), first_pair),
        "chunk_shapes": (matrix.block_shapes.astype("<i8"), 2 * first_pair),
        "entries": (matrix.entries.astype("<f8", copy=False), first_entry),
    }
    with h5py.File(path, "r") as file:
        start = {name: int(file[name].id.get_offset()) for name in parts}
    with path.open("r+b") as stream:
        for name, (values, place) in parts.items():
            data = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
            stream.seek(start[name] + 8 * place)
            for first in range(0, len(data), _AT_ONCE):
                stream.write(data[first : first + _AT_ONCE].data)
        stream.flush()
        os.fsync(stream.fileno())
