"""CP2K's output damaged 600 times: one clear line, or sound data; never a hang, a crash or absurd memory."""

from __future__ import annotations

import tarfile
from pathlib import Path

import numpy as np
import pytest

from ase_deeph.io import read_cp2k
from tests.test_io_fuzz import Tally, attempt, bounded_memory, mutate, restored

STORED = Path(__file__).parent / "data/cp2k_boron_hydride.tar.xz"
TEXTS = ("cp2k.inp", "cp2k.out", "BASIS", "cp2k-KS_SPIN_1_R_1-1_0.csr", "cp2k-S_SPIN_1_R_5-1_0.csr")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with tarfile.open(STORED) as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path


@pytest.mark.parametrize(
    ("names", "count", "least"), [(None, 250, 0.6), (TEXTS, 350, 0.3)], ids=["all", "texts"]
)
def test_damaged_output_is_refused_or_harmless(
    folder: Path, names: tuple[str, ...] | None, count: int, least: float
) -> None:
    sound = {
        Path(p.name): p.read_bytes() for p in sorted(folder.iterdir()) if names is None or p.name in names
    }
    assert names is None or len(sound) == len(names)
    reference, rng, tally = read_cp2k(folder), np.random.default_rng(5), Tally()
    with bounded_memory():
        for n in range(count):
            how = mutate(folder, sound, rng)
            wrong = attempt(read_cp2k, folder, reference, tally)
            if wrong:
                tally.complaints.append(f"mutation {n}, {how}: {wrong}")
            restored(folder, sound)
    assert not tally.complaints, f"{len(tally.complaints)} of {count}: " + "\n".join(tally.complaints[:12])
    assert tally.refused + tally.same + tally.other == count
    assert tally.refused > least * count, tally
