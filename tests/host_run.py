"""One of two processes that predict together: `python -m tests.host_run FOLDER COORDINATOR I N`."""

from __future__ import annotations

import sys
from functools import partialmethod
from pathlib import Path

import jax
import numpy as np
from ase import Atoms
from ase.io import read

from ase_deeph.cli import main as deeph
from ase_deeph.compilation_cache import compilation_cache
from ase_deeph.hosts import gathered_rows, predict_rows
from ase_deeph.model import HamiltonianModel
from tests.test_hosts import PAIRS_PER_CHUNK


def main() -> None:
    """The command on the folder's structure, then the same from Python, in small chunks; "done" on stdout."""
    folder, address, number, n = sys.argv[1:]
    place = Path(folder)
    in_chunks = partialmethod(HamiltonianModel.large_prediction, pairs_per_chunk=PAIRS_PER_CHUNK)
    HamiltonianModel.large_prediction = in_chunks  # type: ignore[method-assign, assignment]
    words = [str(place / "cell.extxyz"), "--model", str(place / "m.h5"), "-o", str(place / "out")]
    several = ["--coordinator", address, "--process-id", number, "--num-processes", n]
    assert deeph(["predict", *words, "--dtype", "float64", *several]) == 0
    assert jax.process_count() == 2
    model, atoms = HamiltonianModel.load(place / "m.h5"), read(place / "cell.extxyz")
    assert isinstance(atoms, Atoms)
    with compilation_cache():
        rows = predict_rows(model, atoms, dtype="float64").hamiltonian
    assert rows is not None
    joined = gathered_rows(rows, model.basis)
    assert joined.hermiticity_error() == 0.0
    assert 0 < len(rows.pairs) < 0.7 * len(joined.pairs), "each process holds its part"
    np.save(place / f"entries{number}.npy", joined.entries)
    sys.stdout.write("done\n")


if __name__ == "__main__":
    main()
