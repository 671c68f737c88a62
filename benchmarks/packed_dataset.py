"""Reading 1,000 small structures: one packed file against one folder for each, in one run on one machine.

    python benchmarks/packed_dataset.py [N]

Both sides give the same ReferenceData (atoms, H, S, electrons, provenance, basis); the packed side also verifies
every checksum.  Processor time is compared, for wall time on a busy machine says little; both are printed.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from ase.build import graphene

from ase_deeph.basis import GaussianRadial, OrbitalBasis, SpeciesBasis
from ase_deeph.io.dataset import read_dataset
from ase_deeph.io.deeph import write_basis_file, write_deeph
from ase_deeph.io.packed import PackedDataset, PackedWriter
from ase_deeph.matrix import RealSpaceMatrix
from ase_deeph.pairs import AtomPairs
from ase_deeph.reference import ReferenceData


def small_structure(seed: int, basis: OrbitalBasis) -> ReferenceData:
    """A rattled graphene cell with random blocks."""
    random = np.random.default_rng(seed)
    atoms = graphene(a=2.46, vacuum=5.0)
    atoms.pbc = (True, True, False)
    atoms.positions += 0.05 * random.standard_normal(atoms.positions.shape)
    pairs = AtomPairs.from_atoms(atoms, 4.2)
    total = len(pairs) * basis.n_orbitals("C") ** 2
    h, s = (
        RealSpaceMatrix(basis, pairs, atoms, random.standard_normal(total)).hermitian_part() for _ in range(2)
    )
    return ReferenceData(
        atoms, h, s, n_electrons=8.0, fermi_level=-6.8, basis=basis, info={"engine": "none", "seed": seed}
    )


def timed(read: Callable[[], Iterable]) -> tuple[int, float, float]:
    """Structures read, processor seconds and wall seconds."""
    cpu, wall = time.process_time(), time.perf_counter()
    n = sum(1 for _ in read())
    return n, time.process_time() - cpu, time.perf_counter() - wall


def main() -> None:
    n = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    radial = tuple(GaussianRadial(l, np.array([1.0]), np.array([1.0])) for l in (0, 1))
    basis = OrbitalBasis({"C": SpeciesBasis((0, 1), 4.0, radial)})
    with tempfile.TemporaryDirectory() as place:
        root, file = Path(place) / "set", Path(place) / "set.h5"
        (root / "dft").mkdir(parents=True)
        write_basis_file(root / "basis.h5", basis)
        started = time.process_time()
        for seed in range(n):
            write_deeph(root / f"dft/s{seed:05d}", small_structure(seed, basis), own_basis=False)
        written = time.process_time()
        with PackedWriter(file) as writer:
            for seed in range(n):
                writer.append(f"s{seed:05d}", small_structure(seed, basis))
        packed = time.process_time()
        print(f"{n} structures of 2 atoms, {len(small_structure(0, basis).hamiltonian.pairs)} pairs")
        print(f"  written as folders in {written - started:.1f} s, packed in {packed - written:.1f} s (CPU)")
        _, folder_cpu, folder_wall = timed(lambda: read_dataset([root]))
        _, packed_cpu, packed_wall = timed(lambda: PackedDataset(file))
        size = sum(p.stat().st_size for p in root.rglob("*") if p.is_file())
        print(
            f"  folders {1e3 * folder_cpu / n:8.3f} ms each, {folder_wall:8.2f} s wall, {size / 2**20:6.1f} MiB"
        )
        print(
            f"  packed  {1e3 * packed_cpu / n:8.3f} ms each, {packed_wall:8.2f} s wall, "
            f"{file.stat().st_size / 2**20:6.1f} MiB"
        )
        print(
            f"  packed is read {folder_cpu / packed_cpu:.1f} times as fast (wall: {folder_wall / packed_wall:.1f})"
        )


if __name__ == "__main__":
    main()
