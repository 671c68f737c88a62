"""Damaged files of every format: one clear line, or sound data; never a hang, a crash or absurd memory.

Each format's small folder is mutated 500 times (and the real example output, where it is at hand, some more):
truncated, bytes flipped, blocks zeroed or doubled, numbers made absurd, files swapped, missing or empty.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np
import pytest

from ase_deeph.io import (
    PackedWriter,
    read_abacus,
    read_aims,
    read_deeph,
    read_packed,
    read_siesta,
    write_deeph,
)
from ase_deeph.reference import ReferenceData
from ase_deeph.validation import validate
from tests.reader_files import (
    crystal,
    write_abacus,
    write_aims,
    write_hsx,
    write_ion_nc,
    write_ion_xml,
    write_tshs,
    write_xv,
)

N_MUTATIONS = 500
SECONDS = 20.0
MEMORY = 3 * 2**30
ABSURD = ("-1", "0", "999999999999", "2147483647", "1e308", "nan", "inf", "x", "1.5", "-7")
SHARED = next(
    (p / "shared/data" for p in Path(__file__).parents if (p / "shared/data/siesta").is_dir()), None
)


@dataclass
class Tally:
    """How the mutations ended."""

    refused: int = 0
    same: int = 0
    other: int = 0
    complaints: list[str] = field(default_factory=list)


@contextmanager
def bounded_memory() -> Iterator[None]:
    """At most MEMORY more address space, where the system can enforce it: a larger request fails at once."""
    resource = pytest.importorskip("resource")
    status = Path("/proc/self/status")
    if not status.exists():
        yield
        return
    used = int(next(line for line in status.read_text().splitlines() if line.startswith("VmSize")).split()[1])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used * 1024 + MEMORY, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def truncated(content: bytes, rng: np.random.Generator) -> bytes:
    return content[: rng.integers(0, len(content))]


def flipped(content: bytes, rng: np.random.Generator) -> bytes:
    damaged = bytearray(content)
    for at in rng.integers(0, len(content), size=rng.integers(1, 5)):
        damaged[at] ^= 1 << rng.integers(0, 8)
    return bytes(damaged)


def early_flip(content: bytes, rng: np.random.Generator) -> bytes:
    """In the first 2 kB, where headers are."""
    return flipped(content[:2048], rng) + content[2048:]


def zeroed(content: bytes, rng: np.random.Generator) -> bytes:
    start, length = rng.integers(0, len(content)), int(rng.integers(1, 200))
    return content[:start] + bytes(min(length, len(content) - start)) + content[start + length :]


def doubled(content: bytes, rng: np.random.Generator) -> bytes:
    start, length = rng.integers(0, len(content)), int(rng.integers(1, 200))
    return content[: start + length] + content[start : start + length] + content[start + length :]


def huge_integer(content: bytes, rng: np.random.Generator) -> bytes:
    at = 4 * int(rng.integers(0, max(1, min(len(content), 4096) // 4)))
    value = rng.choice(np.array([2**31 - 1, -1, 2**30, 0, -(2**31)], dtype="<i4"))
    return content[:at] + value.tobytes() + content[at + 4 :]


def absurd_word(content: bytes, rng: np.random.Generator) -> bytes:
    """One word of a text becomes an absurd number; binary files get a huge integer."""
    if b"\0" in content:
        return huge_integer(content, rng)
    lines = content.split(b"\n")
    few = min(len(lines), 12) if rng.random() < 0.5 else len(lines)
    at = int(rng.integers(0, few))
    words = lines[at].split(b" ")
    words[int(rng.integers(0, len(words)))] = str(rng.choice(ABSURD)).encode()
    lines[at] = b" ".join(words)
    return b"\n".join(lines)


def lost_line(content: bytes, rng: np.random.Generator) -> bytes:
    lines = content.split(b"\n")
    del lines[int(rng.integers(0, len(lines)))]
    return b"\n".join(lines)


DAMAGE: tuple[Callable[[bytes, np.random.Generator], bytes], ...] = (
    truncated,
    flipped,
    early_flip,
    zeroed,
    doubled,
    huge_integer,
    absurd_word,
    lost_line,
)


def mutate(folder: Path, sound: dict[Path, bytes], rng: np.random.Generator) -> str:
    """Damage one file of the folder (or swap two, or lose one) and say how."""
    names = sorted(sound)
    path = names[int(rng.integers(0, len(names)))]
    kind = rng.random()
    if kind < 0.06:
        (folder / path).unlink()
        return f"{path} lost"
    if kind < 0.14 and len(names) > 1:
        other = names[int(rng.integers(0, len(names)))]
        (folder / path).write_bytes(sound[other])
        (folder / other).write_bytes(sound[path])
        return f"{path} and {other} swapped"
    if kind < 0.2:
        (folder / path).write_bytes(rng.choice([b"", b"\0" * 64, b"\x89HDF\r\n\x1a\n", b"nonsense\n"]))
        return f"{path} replaced"
    damage = DAMAGE[int(rng.integers(0, len(DAMAGE)))]
    (folder / path).write_bytes(damage(sound[path], rng) if sound[path] else b"\0")
    return f"{path} {damage.__name__}"


def restored(folder: Path, sound: dict[Path, bytes]) -> None:
    for path, content in sound.items():
        if not (folder / path).is_file() or (folder / path).read_bytes() != content:
            (folder / path).write_bytes(content)


def judged(data: ReferenceData, reference: ReferenceData) -> bool:
    """Whether valid data equal the sound ones; AssertionError when they are not valid."""
    for matrix, same in ((data.hamiltonian, reference.hamiltonian), (data.overlap, reference.overlap)):
        if matrix is None:
            continue
        assert np.all(np.isfinite(matrix.entries))
        assert matrix.entries.size < 50 * same.entries.size
        assert len(matrix.pairs.reverse) == len(matrix.pairs)
    assert np.all(np.isfinite(data.atoms.positions))
    for number in (data.n_electrons, data.fermi_level):
        assert number is None or np.isfinite(number)
    return all(
        a is not None and a.pairs == b.pairs and a.spin == b.spin and np.array_equal(a.entries, b.entries)
        for a, b in ((data.hamiltonian, reference.hamiltonian), (data.overlap, reference.overlap))
    ) and np.array_equal(data.atoms.positions, reference.atoms.positions)


def told_by_validation(data: ReferenceData) -> bool:
    """Whether `deeph doctor` names what a lenient reader let through (NaN, a missing reverse pair)."""
    try:
        return any(finding.severity == "error" for finding in validate(data))
    except ValueError:
        return True


def attempt(
    read: Callable[[Path], ReferenceData], folder: Path, sound: ReferenceData, tally: Tally
) -> str | None:
    """One reading; what is wrong with how it ended, or None."""
    began = time.monotonic()
    try:
        data = read(folder)
    except (ValueError, FileNotFoundError) as error:
        tally.refused += 1
        text = str(error)
        if "\n" in text or not text or len(text) > 1200:
            return f"unclear message {text[:300]!r}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    else:
        try:
            same = judged(data, sound)
        except (AssertionError, ValueError) as error:
            if read is not read_deeph or not told_by_validation(data):
                return f"unsound data accepted: {error}"
            tally.refused, same = tally.refused + 1, False
            tally.other -= 1
        tally.same, tally.other = tally.same + same, tally.other + (not same)
    spent = time.monotonic() - began
    return f"took {spent:.1f} s" if spent > SECONDS else None


def fuzz(read: Callable[[Path], ReferenceData], folder: Path, count: int, seed: int) -> Tally:
    """Mutate, read, judge, restore; the complaints name the mutation."""
    sound = {p.relative_to(folder): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
    reference, rng, tally = read(folder), np.random.default_rng(seed), Tally()
    with bounded_memory():
        for n in range(count):
            how = mutate(folder, sound, rng)
            wrong = attempt(read, folder, reference, tally)
            if wrong:
                tally.complaints.append(f"mutation {n}, {how}: {wrong}")
            restored(folder, sound)
    return tally


def _deeph(folder: Path) -> None:
    write_deeph(folder, crystal(), own_basis=False)


def _legacy(folder: Path) -> None:
    data = crystal()
    folder.mkdir()
    np.savetxt(folder / "lat.dat", data.atoms.cell.array.T)
    np.savetxt(folder / "site_positions.dat", data.atoms.positions.T)
    np.savetxt(folder / "element.dat", data.atoms.numbers, fmt="%d")
    symbols = data.atoms.get_chemical_symbols()
    (folder / "orbital_types.dat").write_text(
        "\n".join(" ".join(map(str, data.basis.shells(s))) for s in symbols)
    )
    (folder / "info.json").write_text('{"nsites": 2, "isspinful": false, "fermi_level": -4.25}')
    for name, matrix in (("hamiltonians.h5", data.hamiltonian), ("overlaps.h5", data.overlap)):
        near = matrix.cut(3.3)
        with h5py.File(folder / name, "w") as file:
            for i, j, R, block in zip(
                near.pairs.i, near.pairs.j, near.pairs.R.tolist(), near.blocks(), strict=True
            ):
                file[str([*R, int(i) + 1, int(j) + 1])] = block


def _siesta(folder: Path) -> None:
    folder.mkdir()
    write_hsx(folder / "a.HSX", crystal(), version=1)
    write_ion_nc(folder, crystal())


def _old_siesta(folder: Path) -> None:
    folder.mkdir()
    write_hsx(folder / "a.HSX", crystal("collinear"), version=0)
    write_xv(folder / "a.XV", crystal())
    write_ion_xml(folder, crystal())
    (folder / "a.EIG").write_text("  -4.25\n 13 1 1\n")


def _tshs(folder: Path) -> None:
    folder.mkdir()
    write_tshs(folder / "a.TSHS", crystal("spinor"))
    write_xv(folder / "a.XV", crystal())
    write_ion_nc(folder, crystal())


def _packed(folder: Path) -> None:
    folder.mkdir()
    with PackedWriter(folder / "a.h5") as writer:
        writer.append("BN", crystal())


def _read_packed(folder: Path) -> ReferenceData:
    ((_, data),) = read_packed(folder / "a.h5")
    return data


SOURCES: dict[str, tuple[Callable[[Path], None], Callable[[Path], ReferenceData], int]] = {
    "deeph": (_deeph, read_deeph, N_MUTATIONS),
    "legacy": (_legacy, read_deeph, N_MUTATIONS),
    "siesta": (_siesta, read_siesta, N_MUTATIONS),
    "siesta 4": (_old_siesta, read_siesta, 100),
    "siesta tshs": (_tshs, read_siesta, 100),
    "packed": (_packed, _read_packed, N_MUTATIONS),
    "abacus": (lambda f: write_abacus(f, crystal()), read_abacus, N_MUTATIONS),
    "abacus later": (lambda f: write_abacus(f, crystal("collinear"), layout="later"), read_abacus, 100),
    "aims": (lambda f: write_aims(f, crystal()), read_aims, N_MUTATIONS),
}


@pytest.mark.parametrize("name", SOURCES)
def test_damaged_files_are_refused_or_harmless(name: str, tmp_path: Path) -> None:
    write, read, count = SOURCES[name]
    write(tmp_path / "s")
    tally = fuzz(read, tmp_path / "s", count, seed=11)
    assert not tally.complaints, f"{len(tally.complaints)} of {count}: " + "\n".join(tally.complaints[:12])
    assert tally.refused + tally.same + tally.other == count
    assert tally.refused > 0.4 * count, tally


def _replaced(file: h5py.File, name: str, kind: str) -> None:
    """Another thing under the name of a dataset."""
    values = file[name][()]
    del file[name]
    if kind == "absurd":
        file.create_dataset(name, shape=(10**9, *([10**3] * (values.ndim - 1))), dtype="f8", chunks=True)
    elif kind == "group":
        file.create_group(name)
    elif kind == "words":
        file[name] = ["a", "b"]
    elif kind == "scalar":
        file[name] = 3.0
    elif kind == "empty":
        file[name] = values[:0]
    elif kind == "negative":
        file[name] = -1 - np.abs(values)
    elif kind == "floats":
        file[name] = np.full(values.shape, 1e300)
    elif kind == "flat":
        file[name] = values.ravel()[:-1]


REPLACEMENTS = ("missing", "absurd", "group", "words", "scalar", "empty", "negative", "floats", "flat")


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        (name, kind)
        for name in ("atom_pairs", "chunk_shapes", "chunk_boundaries", "entries")
        for kind in REPLACEMENTS
        if name != "entries" or kind not in ("negative", "floats")
    ],
)
def test_replaced_datasets_are_told(name: str, kind: str, tmp_path: Path) -> None:
    _deeph(tmp_path / "s")
    with h5py.File(tmp_path / "s/hamiltonian.h5", "r+") as file:
        _replaced(file, name, kind)
    with bounded_memory(), pytest.raises(ValueError, match=r"hamiltonian\.h5") as told:
        read_deeph(tmp_path / "s")
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("kind", ["absurd", "group", "words", "scalar", "empty", "flat"])
def test_replaced_legacy_datasets_are_told(kind: str, tmp_path: Path) -> None:
    _legacy(tmp_path / "s")
    with h5py.File(tmp_path / "s/hamiltonians.h5", "r+") as file:
        _replaced(file, "[0, 0, 0, 1, 1]", kind)
    with bounded_memory(), pytest.raises(ValueError, match=r"hamiltonians\.h5") as told:
        read_deeph(tmp_path / "s")
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    "key", ["[0, 0, 0, 1]", "[0.5, 0, 0, 1, 1]", "{}", "[9e99, 0, 0, 1, 1]", "[0, 0, 0, 9, 1]", "x"]
)
def test_damaged_legacy_keys_are_told(key: str, tmp_path: Path) -> None:
    _legacy(tmp_path / "s")
    with h5py.File(tmp_path / "s/overlaps.h5", "r+") as file:
        file.move("[0, 0, 0, 1, 1]", key)
    with pytest.raises(ValueError, match=r"overlaps\.h5|atom pairs"):
        read_deeph(tmp_path / "s")


@pytest.mark.skipif(SHARED is None, reason="the codes' example output (shared/data) is absent")
@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("siesta/Pt2_spin_orbit", read_siesta),
        ("siesta/Si_f_shell", read_siesta),
        ("deeph/legacy/MoTe2", read_deeph),
    ],
)
def test_damaged_real_output(name: str, read: Callable[[Path], ReferenceData], tmp_path: Path) -> None:
    shutil.copytree(SHARED / name, tmp_path / "s")
    for path in (tmp_path / "s").iterdir():
        path.chmod(0o644)
    tally = fuzz(read, tmp_path / "s", 30, seed=5)
    assert not tally.complaints, "\n".join(tally.complaints)
