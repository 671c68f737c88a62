"""Makes cp2k_boron_hydride.tar.xz: CP2K's own output of a crystal of BH, for the tests of read_cp2k.

Run: python tests/data/make_cp2k.py (needs CP2K on the path).
"""

from __future__ import annotations

import tarfile
import tempfile
from pathlib import Path
from unittest import mock

from ase import Atoms

from ase_deeph.dft import cp2k, run_cp2k

KEPT = ("cp2k.inp", "cp2k.out", "BASIS", "*.csr")


def crystal() -> Atoms:
    """H beyond the cell, B on its border: CP2K moves both."""
    cell = [[5.4, 0.0, 0.0], [0.3, 5.6, 0.0], [-0.2, 0.4, 5.8]]
    atoms = Atoms("BH", cell=cell, pbc=True)
    atoms.set_scaled_positions([(0.5, 0.1, 0.2), (1.55, 0.2, 0.4)])
    return atoms


def anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Without owner and time."""
    member.uid = member.gid = member.mtime = 0
    member.uname = member.gname = ""
    return member


def main() -> None:
    """Run CP2K with shorter matrices and pack its files."""
    text = cp2k.input_text
    target = Path(__file__).with_name("cp2k_boron_hydride.tar.xz")
    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch.object(
            cp2k, "input_text", lambda *a: text(*a).replace("THRESHOLD 1.0E-13", "THRESHOLD 1.0E-8")
        ),
    ):
        run_cp2k(crystal(), "gth-szv-molopt-sr", kpts=(1, 1, 1), cutoff=200, folder=folder)
        with tarfile.open(target, "w:xz", preset=9) as archive:
            for path in sorted(p for pattern in KEPT for p in Path(folder).glob(pattern)):
                archive.add(path, arcname=path.name, filter=anonymous)


if __name__ == "__main__":
    main()
