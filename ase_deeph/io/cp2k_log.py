"""CP2K's log: atoms, shells, electrons, periodic images, Fermi level, k-points, energy, forces and stress."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from ase.data import atomic_numbers
from ase.units import Bohr, GPa, Hartree

_LARGEST_LOG = 500_000_000
_BANNER = "CP2K| version string:"
_NUMBER = r"([-+]?\d+\.\d*(?:[EeDd][-+]?\d+)?)"
_MOST_IMAGES = 200_000
_LETTERS = "spdfghi"


@dataclass(frozen=True, eq=False)
class CP2KLog:
    """What a log tells of its last step.

    Parameters
    ----------
    project, input_name : of &GLOBAL and the file CP2K was given.
    version : "2023.1".
    data_folder : where CP2K found its basis sets.
    symbols, kinds : (n_atoms,) element and number of the kind (from 1) of each atom.
    positions : (n_atoms, 3) Å, six decimals.
    valence : (n_atoms,) charge of the core.
    kind_names : number of the kind -> name.
    shells : number of the kind -> l of each shell, in CP2K's order; empty where the log does not list them.
    images : "KS" and "S" -> (n, 3) cells in the order of the files.
    n_electrons : of both spins.
    fermi_level, energy : eV or None.
    kpoints : (n, 4) fractional k and weight, or None at Γ without k-points.
    forces : (n_atoms, 3) eV/Å or None.
    stress : (6,) eV/Å³, ASE's order and sign, or None.
    converged : whether the last self-consistency was.
    """

    project: str
    input_name: str
    version: str
    data_folder: str
    symbols: list[str]
    kinds: list[int]
    positions: np.ndarray
    valence: np.ndarray
    kind_names: Mapping[int, str]
    shells: Mapping[int, tuple[int, ...]]
    images: Mapping[str, np.ndarray]
    n_electrons: float
    fermi_level: float | None
    energy: float | None
    kpoints: np.ndarray | None
    forces: np.ndarray | None
    stress: np.ndarray | None
    converged: bool
    warnings: Sequence[str] = field(default_factory=tuple)


def find_log(folder: Path) -> Path:
    """The one log in a folder; ValueError when there is none, or several."""
    candidates = [p for p in sorted(folder.iterdir()) if p.is_file() and p.suffix in (".out", ".log", ".txt")]
    found = [p for p in candidates if _is_log(p)]
    if len(found) != 1:
        what = ", ".join(p.name for p in found[:4]) or "none"
        raise ValueError(
            f"{folder}: expected one log of CP2K (.out, .log), found {what}; name the one to read"
        )
    return found[0]


def _is_log(path: Path) -> bool:
    with path.open("rb") as file:
        return _BANNER.encode() in file.read(20_000)


def read_log(path: Path) -> CP2KLog:
    """Parse a log.

    Raises
    ------
    ValueError : no log of CP2K, an aborted run, or one printed with less than PRINT_LEVEL MEDIUM.
    """
    if path.stat().st_size > _LARGEST_LOG:
        raise ValueError(f"{path}: {path.stat().st_size} bytes are too many for a log of one calculation")
    text = path.read_text(errors="replace")
    if _BANNER not in text:
        raise ValueError(f"{path}: not a log of CP2K, which has a line {_BANNER!r}")
    if "PROGRAM ENDED AT" not in text:
        raise ValueError(f"{path}: {abort_reason(text)}")
    kinds, symbols, positions, valence = _atoms(path, text)
    names = {int(n): name for n, name in re.findall(r"^\s*(\d+)\. Atomic kind: (\S+)", text, re.MULTILINE)}
    energy = _last(rf"ENERGY\| Total FORCE_EVAL .*?:\s+{_NUMBER}", text)
    fermi = _last(rf"Fermi energy:\s+{_NUMBER}", text)
    electrons = re.findall(r"^ Number of electrons:\s+(\d+)\s*$", text, re.MULTILINE)
    spins = 2 if re.search(r"DFT\| Number of spin states\s+2", text) else 1
    if len(electrons) < spins:
        raise ValueError(
            f"{path}: expected a line 'Number of electrons' of each spin; print at PRINT_LEVEL MEDIUM"
        )
    return CP2KLog(
        project=_word(path, text, r"GLOBAL\| Project name\s+(\S+)"),
        input_name=_word(path, text, r"CP2K\| Input file name\s+(\S+)"),
        version=_word(path, text, r"version string:\s+CP2K version (\S+)"),
        data_folder=_word(path, text, r"CP2K\| Data directory path\s+(\S+)"),
        symbols=symbols,
        kinds=kinds,
        positions=positions,
        valence=valence,
        kind_names=names,
        shells={n: _shells(text, name) for n, name in names.items()},
        images={kind: _images(path, text, kind) for kind in ("KS", "S")},
        n_electrons=float(sum(int(n) for n in electrons[-spins:])),
        fermi_level=None if fermi is None else fermi * Hartree,
        energy=None if energy is None else energy * Hartree,
        kpoints=_kpoints(path, text),
        forces=_forces(path, text, len(symbols)),
        stress=_stress(path, text),
        converged="SCF run NOT converged" not in text,
    )


def abort_reason(text: str) -> str:
    """One line on why a log has no end."""
    if "SCF run NOT converged" in text:
        return "the self-consistency did not converge"
    after = text.partition("[ABORT]")[2]
    inside = [re.sub(r"^[\s*|/\\_O]+", "", line).strip(" *") for line in after.splitlines()[:12]]
    told = " ".join(line for line in inside if re.search(r"[A-Za-z]{3}", line) and ".F:" not in line)
    return f"CP2K stopped: {told}" if told else "the log is truncated, or the run was stopped"


def _word(path: Path, text: str, pattern: str) -> str:
    match = re.search(pattern, text)
    if match is None:
        raise ValueError(f"{path}: no line like {pattern.replace(chr(92), '')!r}; the log is damaged")
    return match[1]


def _last(pattern: str, text: str) -> float | None:
    found = re.findall(pattern, text)
    return float(found[-1].replace("D", "E")) if found else None


def _table(path: Path, rows: Sequence[Sequence[str]], what: str) -> np.ndarray:
    """Numbers of a table, all finite."""
    try:
        table = np.array(rows, dtype=float)
    except ValueError as error:
        raise ValueError(f"{path}: {what}: expected numbers, {error}") from error
    if not np.all(np.isfinite(table)):
        raise ValueError(f"{path}: {what}: expected finite numbers")
    return table


def _atoms(path: Path, text: str) -> tuple[list[int], list[str], np.ndarray, np.ndarray]:
    """Kind, element, position and core charge of each atom, from the table of coordinates."""
    head = re.search(r"MODULE QUICKSTEP:\s+ATOMIC COORDINATES IN (ANGSTROM|BOHR)", text, re.IGNORECASE)
    if head is None:
        raise ValueError(
            f"{path}: no table of atomic coordinates; print at PRINT_LEVEL MEDIUM (CP2K's default)"
        )
    rows: list[list[str]] = []
    for line in text[head.end() :].split("\n")[1:]:
        words = line.split()
        if words[:1] == ["Atom"] or (not words and not rows):
            continue
        if len(words) not in (9, 10) or words[0] != str(len(rows) + 1):
            break
        rows.append(words)
    if not rows or any(not w[1].isdigit() or w[2] not in atomic_numbers for w in rows):
        raise ValueError(f"{path}: the table of atomic coordinates is damaged")
    numbers = _table(path, [w[4:8] for w in rows], "atomic coordinates")
    unit = Bohr if head[1].upper() == "BOHR" else 1.0
    return [int(w[1]) for w in rows], [w[2] for w in rows], numbers[:, :3] * unit, numbers[:, 3]


def _shells(text: str, kind: str) -> tuple[int, ...]:
    """l of each shell of a kind, from the table of its normalised Cartesian orbitals."""
    start = re.search(rf"^\s*\d+\. Atomic kind: {re.escape(kind)}\s", text, re.MULTILINE)
    block = text[start.end() :] if start else ""
    block = re.split(r"Atomic kind:|MOLECULE KIND", block, maxsplit=1)[0]
    block = re.split(r"Normalised Cartesian orbitals:", block, maxsplit=1)[-1].partition(
        "Potential information"
    )[0]
    labels = re.findall(r"^\s+(\d+)\s+(\d+)\s+\d+([spdfghi])\S*\s", block, re.MULTILINE)
    first = {(int(s), int(n)): _LETTERS.index(letter) for s, n, letter in reversed(labels)}
    return tuple(first[key] for key in sorted(first))


def _images(path: Path, text: str, kind: str) -> np.ndarray:
    """(n, 3) cells of the images, from the last table of this kind."""
    heads = list(re.finditer(rf"^ +{kind} CSR write\|\s+(\d+) periodic images", text, re.MULTILINE))
    if not heads:
        return np.zeros((0, 3), dtype=np.int64)
    n = int(heads[-1][1])
    if n > _MOST_IMAGES:
        raise ValueError(f"{path}: {n} periodic images; the log is damaged")
    rows = [line.split() for line in text[heads[-1].end() :].split("\n", n + 3)[2 : n + 2]]
    numbered = [len(w) == 4 and w[0] == str(i + 1) for i, w in enumerate(rows)]
    if len(rows) != n or not all(numbered):
        raise ValueError(f"{path}: the table of {n} periodic images of {kind} is damaged")
    table = _table(path, [w[1:] for w in rows], f"periodic images of {kind}")
    if np.any(table != np.rint(table)) or np.abs(table).max(initial=0) > 10_000:
        raise ValueError(f"{path}: the table of {n} periodic images of {kind} is damaged")
    cells = table.astype(np.int64)
    if len(np.unique(cells, axis=0)) != n:
        raise ValueError(f"{path}: a periodic image of {kind} is listed twice; the log is damaged")
    return cells


def _kpoints(path: Path, text: str) -> np.ndarray | None:
    """(n, 4) k and weight, from the list under BRILLOUIN|."""
    rows = re.findall(r"^ BRILLOUIN\|\s+\d+" + r"\s+(-?\d+\.\d+)" * 4 + r"\s*$", text, re.MULTILINE)
    if not rows:
        return None
    table = _table(path, rows, "k-points")
    if not table[:, 0].sum() > 0 or np.any(table[:, 0] < 0):
        raise ValueError(f"{path}: the weights of the k-points are damaged")
    return np.column_stack([table[:, 1:], table[:, 0] / table[:, 0].sum()])


def _forces(path: Path, text: str, n_atoms: int) -> np.ndarray | None:
    head = text.rpartition("ATOMIC FORCES in [a.u.]")[2] if "ATOMIC FORCES in [a.u.]" in text else ""
    if not head:
        return None
    rows = [
        w[3:6]
        for w in (line.split() for line in head.splitlines()[1 : n_atoms + 4])
        if w[:1] and w[0].isdigit()
    ]
    if len(rows) != n_atoms or any(len(row) != 3 for row in rows):
        raise ValueError(f"{path}: expected forces on {n_atoms} atoms, found {len(rows)}")
    return _table(path, rows, "forces") * (Hartree / Bohr)


def _stress(path: Path, text: str) -> np.ndarray | None:
    """ASE's stress is minus CP2K's tensor, which is positive when the cell wants to grow."""
    if "STRESS| Analytical stress tensor [GPa]" not in text:
        return None
    block = text.rpartition("STRESS| Analytical stress tensor [GPa]")[2]
    rows = re.findall(r"^\s*STRESS\|\s+[xyz]\s+(\S+)\s+(\S+)\s+(\S+)\s*$", block, re.MULTILINE)[:3]
    if len(rows) != 3:
        raise ValueError(f"{path}: the stress tensor is damaged")
    tensor = -_table(path, rows, "stress") * GPa
    return np.array([tensor[a, b] for a, b in ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))])
