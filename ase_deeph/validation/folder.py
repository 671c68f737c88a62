"""A folder of DFT output, part by part, so that one damaged file is named and the others are still examined."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ase_deeph.io.deeph import HAMILTONIAN, INFO, OVERLAP, STRUCTURE, read_deeph, read_matrix
from ase_deeph.matrix import RealSpaceMatrix
from ase_deeph.reference import ReferenceData
from ase_deeph.validation.entries import count_findings
from ase_deeph.validation.finding import Finding

DENSITY = "density_matrix.h5"
_LEGACY = ("hamiltonians.h5", "overlaps.h5")
_NAMES = {HAMILTONIAN: "hamiltonian", OVERLAP: "overlap"}


def read_parts(folder: Path) -> tuple[ReferenceData | None, RealSpaceMatrix | None, list[Finding]]:
    """(data, density matrix, findings) of a folder; data None when nothing of it can be examined.

    Raises
    ------
    FileNotFoundError, ValueError : the folder does not exist or holds no structure at all.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"folder {folder} does not exist")
    if not any((folder / name).exists() for name in (STRUCTURE, INFO, "lat.dat", *_NAMES, *_LEGACY)):
        raise ValueError(f"{folder}: no file of the DeepH format in it; give the folder of one structure")
    try:
        data = read_deeph(folder)
    except (OSError, KeyError, ValueError) as error:
        return _what_is_left(folder, str(error))
    density, findings = _density(folder, data)
    return data, density, findings + _info(folder, data)


def _unreadable(where: str, reason: str) -> Finding:
    remedy = "copy or compute it again"
    reason = reason.removesuffix(f"; {remedy}")
    return Finding("error", "unreadable", where, reason, remedy)


def _what_is_left(
    folder: Path, reason: str
) -> tuple[ReferenceData | None, RealSpaceMatrix | None, list[Finding]]:
    """Findings about a folder that cannot be read as a whole, and the matrix that can."""
    findings: list[Finding] = []
    data: ReferenceData | None = None
    for name in _NAMES:
        path = folder / name
        if not path.exists():
            continue
        damage = _damage(path)
        if damage is not None:
            findings.append(damage)
            continue
        findings += _wrong_counts(folder, path)
    broken = {f.where for f in findings}
    if findings and not all(n in broken for n in _NAMES) and all(f.code == "unreadable" for f in findings):
        data = _without(folder, broken)
    if not findings:
        findings.append(_unreadable(str(folder), reason.removeprefix(f"{folder}: ")))
    return data, None, findings


def _damage(path: Path) -> Finding | None:
    """A finding when an HDF5 file cannot be read to its end."""
    try:
        with h5py.File(path, "r") as file:
            for name in ("atom_pairs", "chunk_shapes", "chunk_boundaries", "entries"):
                file[name][()]
    except (OSError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        return _unreadable(path.name, f"truncated or damaged ({reason})")
    except KeyError as error:
        return _unreadable(path.name, f"a part of it is missing ({error.args[0] if error.args else error})")
    return None


def _wrong_counts(folder: Path, path: Path) -> list[Finding]:
    """Findings when the on-site blocks of a file have other sizes than info.json and POSCAR say."""
    from ase.io import read

    try:
        info = json.loads((folder / INFO).read_text())
        symbols = read(folder / STRUCTURE, index=-1, format="vasp").get_chemical_symbols()  # type: ignore[union-attr]
        shells = info["elements_orbital_map"]
        expected = np.array([sum(2 * int(l) + 1 for l in shells[s]) for s in symbols])
        with h5py.File(path, "r") as file:
            keys, shapes = file["atom_pairs"][()], file["chunk_shapes"][()]
    except Exception:  # what is wrong there is told by the reader's own message
        return []
    if any(array.dtype.kind not in "iu" or array.ndim != 2 for array in (keys, shapes)):
        return []
    if keys.shape != (len(shapes), 5) or shapes.shape[1] != 2 or np.any(keys[:, 3:] < 0):
        return []
    own = np.nonzero((keys[:, :3] == 0).all(axis=1) & (keys[:, 3] == keys[:, 4]))[0]
    found = np.zeros(len(symbols), dtype=int)
    inside = own[keys[own, 3] < len(symbols)]
    found[keys[inside, 3]] = shapes[inside, 0]
    factor = 2 if info.get("spinful") and path.name == HAMILTONIAN else 1
    return count_findings(_NAMES[path.name], symbols, factor * expected, found)


def _without(folder: Path, broken: set[str]) -> ReferenceData | None:
    """The data of a folder but for its damaged matrices."""
    import tempfile

    with tempfile.TemporaryDirectory() as place:
        for path in folder.iterdir():
            if path.name not in broken and path.is_file():
                (Path(place) / path.name).symlink_to(path.absolute())
        try:
            return read_deeph(place)
        except (OSError, KeyError, ValueError):
            return None


def _density(folder: Path, data: ReferenceData) -> tuple[RealSpaceMatrix | None, list[Finding]]:
    path, basis = folder / DENSITY, data.basis
    if not path.exists() or basis is None:
        return None, []
    spin = data.hamiltonian.spin if data.hamiltonian is not None else "none"
    try:
        return read_matrix(path, basis, data.atoms, spin), []
    except ValueError as error:
        return None, [_unreadable(path.name, str(error).removeprefix(f"{path}: "))]


def _info(folder: Path, data: ReferenceData) -> list[Finding]:
    """Findings when the counts of info.json are not those of structure and basis."""
    path = folder / INFO
    if not path.exists() or data.basis is None:
        return []
    info: dict[str, Any] = json.loads(path.read_text())
    symbols = data.atoms.get_chemical_symbols()
    findings = []
    actual = {"atoms_quantity": len(symbols), "orbits_quantity": data.basis.n_orbitals(symbols)}
    for key, count in actual.items():
        if key in info and info[key] != count:
            what = f"{key} is {info[key]}, structure and shells have {count}"
            remedy = "correct it, or bring the structure of this calculation"
            findings.append(Finding("error", "orbital-count", INFO, what, remedy))
    return findings
