"""Packed datasets: lossless, verified, appended to safely whatever kills the writer, read by many."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from ase import Atoms

from ase_deeph.basis import OrbitalBasis, SpeciesBasis
from ase_deeph.io import journal
from ase_deeph.io.dataset import read_dataset, split
from ase_deeph.io.duplicates import duplicates
from ase_deeph.io.journal import JournaledFile, recover
from ase_deeph.io.packed import PackedDataset, PackedWriter, is_packed, read_packed
from ase_deeph.matrix import RealSpaceMatrix
from ase_deeph.reference import ReferenceData
from tests.systems import SP_D, random_matrix, random_overlap


def crystal(seed: int, n: int = 2) -> ReferenceData:
    rng = np.random.default_rng(seed)
    cell = np.diag([3.1, 3.3, 3.6]) * n / 2 + 0.1 * rng.normal(size=(3, 3))
    atoms = Atoms(
        "BN" * (n // 2), scaled_positions=rng.uniform(size=(n, 3)), cell=cell, pbc=(True, True, seed % 2)
    )
    h = random_matrix(atoms, SP_D, 3.5, rng)
    s = random_overlap(atoms, SP_D, 3.0, rng)
    return ReferenceData(
        atoms,
        h,
        s,
        n_electrons=8.0,
        fermi_level=-1.5 + seed,
        energy=-12.5,
        forces=rng.normal(size=(n, 3)),
        stress=np.arange(6.0),
        basis=SP_D,
        info={"engine": "none", "seed": seed},
    )


def same(a: ReferenceData, b: ReferenceData, tolerance: float = 0.0) -> bool:
    for first, second in ((a.hamiltonian, b.hamiltonian), (a.overlap, b.overlap)):
        if first is None or second is None:
            assert first is second
            continue
        assert first.spin == second.spin
        pairs = first.pairs.union(second.pairs)
        np.testing.assert_allclose(
            first.on(pairs).entries, second.on(pairs).entries, atol=tolerance, rtol=tolerance
        )
    for name in ("forces", "stress"):
        first, second = getattr(a, name), getattr(b, name)
        assert (first is None and second is None) or np.array_equal(first, second)
    assert np.array_equal(a.atoms.positions, b.atoms.positions)
    assert np.array_equal(a.atoms.pbc, b.atoms.pbc)
    assert np.array_equal(a.atoms.cell.array, b.atoms.cell.array)
    assert a.atoms.get_chemical_symbols() == b.atoms.get_chemical_symbols()
    assert dict(a.info) == dict(b.info)
    return (a.n_electrons, a.fermi_level, a.energy) == (b.n_electrons, b.fermi_level, b.energy)


@pytest.fixture(scope="module")
def examples() -> dict[str, ReferenceData]:
    """Of every spin, with parts absent."""
    found = {f"s{n}": crystal(n, 2 + 2 * (n % 2)) for n in range(6)}
    h = found["s0"].hamiltonian
    found["up-down"] = replace(
        found["s0"],
        hamiltonian=RealSpaceMatrix(
            h.basis, h.pairs, h.atoms, np.stack([h.entries, -h.entries]), "collinear"
        ),
    )
    blocks = [np.block([[b, 1j * b], [-1j * b, 3 * b]]) for b in h.blocks()]
    found["spinor"] = replace(
        found["s0"], hamiltonian=RealSpaceMatrix.from_blocks(h.basis, h.pairs, h.atoms, blocks, "spinor")
    )
    bare = ReferenceData(h.atoms, overlap=found["s0"].overlap)
    found["only S"] = bare
    found["only H"] = replace(bare, overlap=None, hamiltonian=h)
    return found


@pytest.fixture
def file(examples: dict[str, ReferenceData], tmp_path: Path) -> Path:
    with PackedWriter(tmp_path / "set.h5") as writer:
        for name, data in examples.items():
            writer.append(name, data)
    return tmp_path / "set.h5"


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 0.0), ("float32", 1e-6)])
@pytest.mark.parametrize("compression", ["gzip", "lzf", None])
def test_lossless(
    examples: dict[str, ReferenceData], tmp_path: Path, dtype: str, compression: str | None, tolerance: float
) -> None:
    path = tmp_path / "set.h5"
    with PackedWriter(path, dtype=dtype, compression=compression) as writer:
        for name, data in examples.items():
            writer.append(name, data)
    packed = PackedDataset(path)
    assert packed.names == tuple(examples)
    assert packed.basis == SP_D
    assert packed.damaged() == []
    for name, data in packed.items():
        assert same(examples[name], data, tolerance)
        assert same(packed[name], data)
    assert same(packed[-1], examples["only H"], tolerance)
    assert packed[0].hamiltonian.entries.dtype == dtype
    assert [p.name for p in tmp_path.iterdir()] == ["set.h5"]
    with h5py.File(path) as raw:
        assert raw["hamiltonian"].compression == compression
        assert raw["hamiltonian"].chunks is not None


def test_reading_in_small_portions(
    file: Path, examples: dict[str, ReferenceData], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ase_deeph.io.packed._BULK_ENTRIES", 4000)
    assert all(same(examples[name], data) for name, data in read_packed(file))
    assert all(same(data, other) for data, other in zip(PackedDataset(file), examples.values(), strict=True))


def test_appending(file: Path, examples: dict[str, ReferenceData]) -> None:
    with PackedWriter(file) as writer:
        assert len(writer) == len(examples)
        assert "s1" in writer
        with pytest.raises(ValueError, match="'s1' is there already"):
            writer.append("s1", examples["s1"])
        with pytest.raises(ValueError, match="another process is appending"):
            PackedWriter(file)
        writer.append("new", examples["s2"])
        assert PackedDataset(file).names[-1] == "new"
    with pytest.raises(ValueError, match="holds float64"):
        PackedWriter(file, dtype="float32")
    other = OrbitalBasis({"B": SpeciesBasis((0, 1), 5), "N": SP_D["N"]})
    with (
        PackedWriter(file) as writer,
        pytest.raises(ValueError, match="orbitals of B in 'x' differ"),
    ):
        writer.append("x", replace(examples["s1"], basis=other))
    assert PackedDataset(file).damaged() == []
    with pytest.raises(ValueError, match="neither"), PackedWriter(file) as writer:
        writer.append("nothing", ReferenceData(examples["s1"].atoms))
    assert len(PackedDataset(file)) == len(examples) + 1


def test_a_species_more(file: Path) -> None:
    atoms = Atoms("CH", positions=[[0, 0, 0], [0, 0, 1.1]])
    from tests.toys import Huckel

    source = Huckel()
    with PackedWriter(file) as writer:
        writer.append("molecule", ReferenceData(atoms, hamiltonian=source(atoms), basis=source.basis))
    packed = PackedDataset(file)
    assert packed.basis.symbols == ("B", "C", "H", "N")
    assert packed.basis["C"].key() == source.basis["C"].key()
    assert same(packed["s3"], crystal(3, 4))
    assert not packed["molecule"].atoms.pbc.any()


def test_bad_files(file: Path, tmp_path: Path) -> None:
    (tmp_path / "noise.h5").write_bytes(b"noise" * 1000)
    with h5py.File(tmp_path / "other.h5", "w") as other:
        other["x"] = [1.0]
    whole = file.read_bytes()
    (tmp_path / "cut.h5").write_bytes(whole[: len(whole) // 2])
    for name, says in (
        ("noise", "no HDF5"),
        ("other", "no packed"),
        ("cut", "truncated"),
        ("gone", "not exist"),
    ):
        with pytest.raises(ValueError, match=says) as told:
            PackedDataset(tmp_path / f"{name}.h5")
        assert "\n" not in str(told.value)
    with pytest.raises(ValueError, match="no packed"):
        PackedWriter(tmp_path / "other.h5")
    with pytest.raises(ValueError, match="folder that exists"):
        PackedWriter(tmp_path / "none" / "set.h5")
    with h5py.File(file, "r+") as raw:
        raw.attrs["version"] = 9
    with pytest.raises(ValueError, match="update"):
        PackedDataset(file)
    with pytest.raises(KeyError, match="no structure 'x'"):
        raise_missing(tmp_path, whole)
    assert is_packed(file)
    assert not is_packed(tmp_path)


def raise_missing(folder: Path, whole: bytes) -> None:
    (folder / "good.h5").write_bytes(whole)
    PackedDataset(folder / "good.h5")["x"]


def test_a_changed_number_is_found(file: Path) -> None:
    with h5py.File(file, "r+") as raw:
        at = int(raw["structures"]["hamiltonian"][2, 0])
        raw["hamiltonian"][at + 3] += 1e-12
    packed = PackedDataset(file)
    assert packed.damaged() == ["s2"]
    with pytest.raises(ValueError, match="'s2' does not match its checksum"):
        packed["s2"]
    assert same(packed["s1"], crystal(1, 4))
    assert PackedDataset(file, verify=False)["s2"].hamiltonian is not None


@pytest.mark.parametrize("seed", range(12))
def test_damaged_bytes_are_never_silent(file: Path, examples: dict[str, ReferenceData], seed: int) -> None:
    random = np.random.default_rng(seed)
    content = bytearray(file.read_bytes())
    start = int(random.integers(0, len(content) - 256))
    content[start : start + 256] = random.bytes(256)
    file.write_bytes(content)
    told = ""
    try:
        for name, data in read_packed(file):
            assert same(examples[name], data), "the damage lay where the file says nothing"
    except ValueError as error:
        told = str(error)
    assert not told or "set.h5" in told


class Killed(BaseException):
    """What a signal would do, at a chosen step."""


@pytest.mark.parametrize("step", range(9))
def test_a_commit_is_whole_or_absent(tmp_path: Path, step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped before any of its system calls, a commit leaves the old content or the new one."""
    path, old, new = tmp_path / "f", os.urandom(3 * 4096 + 17), os.urandom(5 * 4096 + 99)
    path.write_bytes(old)
    raw = JournaledFile(path)
    raw.write(new)
    left = [step]

    def counted(call):
        def wrapper(*arguments, **options):
            if left[0] == 0:
                raise Killed
            left[0] -= 1
            return call(*arguments, **options)

        return wrapper

    with monkeypatch.context() as patch:
        patch.setattr(journal.os, "pwrite", counted(os.pwrite))
        patch.setattr(journal.os, "ftruncate", counted(os.ftruncate))
        patch.setattr(journal, "_write_journal", counted(journal._write_journal))
        try:
            raw.commit()
            finished = True
        except Killed:
            finished = False
        os.close(raw._fd)
    recover(path)
    content = path.read_bytes()
    assert content == new if finished else content[: len(old)] == old or content == new
    assert JournaledFile(path).path.read_bytes() == content
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


def test_half_a_journal_is_dropped(file: Path, examples: dict[str, ReferenceData]) -> None:
    left = file.with_name(".set.h5.journal")
    left.write_bytes(b"ASEDEEPHJ1 and then the power went")
    assert same(PackedDataset(file)["s0"], examples["s0"])
    assert not left.exists()


WRITER = """
import sys
from ase_deeph.io.packed import PackedWriter
from tests.test_packed import crystal
examples = [crystal(n) for n in range(3)]
with PackedWriter(sys.argv[1]) as writer:
    for n in range(100000):
        writer.append(f"n{len(writer):05d}", examples[n % 3])
        print(len(writer), flush=True)
"""


def test_kill_in_the_middle_loses_nothing_that_was_there(tmp_path: Path) -> None:
    path, random = tmp_path / "set.h5", np.random.default_rng(int(time.time()))
    root = Path(__file__).parents[1]
    known = 0
    for _ in range(3):
        command = [sys.executable, "-c", WRITER, str(path)]
        with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True) as process:
            for _ in range(int(random.integers(2, 12))):
                told = int(process.stdout.readline())
            time.sleep(float(random.uniform(0, 0.02)))
            process.send_signal(signal.SIGKILL)
            told = max([told, *(int(line) for line in process.stdout.read().splitlines() if line)])
        packed = PackedDataset(path)
        assert told <= len(packed) <= told + 1
        assert len(packed) > known
        assert packed.damaged() == []
        assert packed.names == tuple(f"n{n:05d}" for n in range(len(packed)))
        known = len(packed)


def read_all(path: str) -> float:
    return sum(data.hamiltonian.max_abs() for data in PackedDataset(path) if data.hamiltonian is not None)


def test_several_processes_read_while_one_appends(file: Path, examples: dict[str, ReferenceData]) -> None:
    expected = read_all(str(file))
    context = multiprocessing.get_context("spawn")
    with context.Pool(2) as pool:
        assert np.allclose(pool.map(read_all, [str(file)] * 4), expected)
    open_before = PackedDataset(file)
    with PackedWriter(file) as writer:
        for n in range(20):
            writer.append(f"more{n}", examples["s1"])
            assert same(open_before["s4"], examples["s4"])
    assert len(open_before) in (len(examples), len(examples) + 20)
    assert len(pickle.loads(pickle.dumps(open_before))) == len(examples) + 20


def test_datasets_of_folders_and_packed_files(
    file: Path, examples: dict[str, ReferenceData], tmp_path: Path
) -> None:
    from ase_deeph.io import write_deeph

    for name in ("s1", "s2"):
        write_deeph(tmp_path / "root/dft" / name, examples[name])
    together = dict(read_dataset([tmp_path / "root", file]))
    assert len(together) == len(examples) + 2
    assert set(together) > {"s1", "set.h5/s1"}
    with pytest.raises(ValueError, match="appears twice"):
        list(read_dataset([file, file, file]))
    _, held = split(list(together), 0.3)
    names = list(together)
    more = ["a", *names]
    assert {names[n] for n in held} <= {more[n] for n in split(more, 0.3)[1]}


def test_trainers_read_packed_files(tmp_path: Path) -> None:
    pytest.importorskip("pydantic")
    pytest.importorskip("optax")
    from ase_deeph.network import NetworkConfig
    from tests.training_data import TINY, write_dataset
    from trainers.bases import dataset_basis
    from trainers.structures import fingerprint, load_structures

    root = write_dataset(tmp_path / "data", (1, 2))
    with PackedWriter(tmp_path / "set.h5") as writer:
        for name, data in read_dataset([root]):
            writer.append(name, data)
    path = tmp_path / "set.h5"
    basis = dataset_basis(path, (data for _, data in read_dataset([path])))
    assert basis == dataset_basis(root)
    config = NetworkConfig(**TINY)
    assert fingerprint(load_structures([path], basis, config)) == fingerprint(
        load_structures([root], basis, config)
    )


def test_duplicates() -> None:
    from ase.build import bulk, molecule

    water = molecule("H2O")
    turned = water.copy()
    turned.rotate(50, (1, 2, 3))
    turned.translate((1, 2, 3))
    bent = water.copy()
    bent.positions[0, 2] += 0.1
    diamond = bulk("C", "diamond", a=3.57)
    moved = diamond.repeat((2, 1, 1))
    moved.translate((0.3, 0.1, 0.2))
    named = [
        ("water", water),
        ("turned", turned),
        ("bent", bent),
        ("diamond", diamond),
        ("supercell", moved),
        ("silicon", bulk("Si")),
        ("strained", bulk("C", "diamond", a=3.62)),
    ]
    assert duplicates(named) == [("turned", "water"), ("supercell", "diamond")]
