"""H and S of many structures, one DeepH folder for each; what is there and complete is not made again."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from ase_deeph.calculator import DeepHCalculator
from ase_deeph.io.deeph import HAMILTONIAN, INFO, OVERLAP, REFERENCE, STRUCTURE, write_deeph
from ase_deeph.pretrained import find, named_models
from ase_deeph.reference import ReferenceData
from ase_deeph.workflow.tasks import Outcome, Status, Workers, run_all

MOST_ORBITALS_DENSE = 8000
"""Beyond so many the Fermi level is not computed on the way: each k-point would take minutes."""

_REQUEST = "request"
_kept = threading.local()


@dataclass(frozen=True)
class Settings:
    """How each structure is predicted.

    Parameters
    ----------
    model : a model's name or file; None: the one that ships.  Workers read it themselves.
    dtype, device, kpts, occupations : as `DeepHCalculator` takes them; the last two for the Fermi level.  Arrays
        and lists become tuples, so that equal settings compare and hash as equal.
    """

    model: str | None = None
    dtype: str = "float32"
    device: str | None = None
    kpts: Any = None
    occupations: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "kpts", _plain(self.kpts))
        object.__setattr__(self, "occupations", _plain(self.occupations))

    def __hash__(self) -> int:
        rest = _hashable(self.kpts), _hashable(self.occupations)
        return hash((self.model, self.dtype, self.device, *rest))

    def calculator(self) -> DeepHCalculator:
        """A calculator with these settings."""
        return DeepHCalculator(
            self.model,
            kpts=self.kpts,
            occupations=self.occupations,
            device=self.device,
            dtype=self.dtype,  # type: ignore[arg-type]
        )


def predict_all(
    structures: Iterable[tuple[str, Atoms | Exception]],
    folder: str | Path,
    settings: Settings | None = None,
    *,
    workers: Workers | None = None,
    retries: int = 2,
) -> Iterator[Outcome]:
    """Predict structures and write FOLDER/NAME for each; yields their outcomes as they end.

    A folder of the same structure, model and settings is left alone ("there"); one of others, or with files that
    are not of such a prediction, is kept and reported as a failure.

    Parameters
    ----------
    structures : (name, atoms); an exception in place of atoms is the reason why that one fails.
    folder : made when absent; all workers see it.
    settings : model and precision.
    workers : a Dask cluster, or this process.
    retries : how often one that failed for no reason of its own is tried again.

    Raises
    ------
    ValueError : no such model, or a file in place of the folder; see also `run_all`.
    ModuleNotFoundError : workers are wanted and Dask is not installed.
    """
    settings, folder = settings or Settings(), Path(folder).absolute()
    file = find(settings.model)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"-o {folder}: expected a folder, found a file of that name")
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    if not any(known.ships and known.path == file for known in named_models().values()):
        settings = replace(settings, model=str(file.absolute()))
    work = partial(_predict, folder, settings, digest)
    outcomes = run_all(work, structures, workers=workers, retries=retries)
    folder.mkdir(parents=True, exist_ok=True)
    return outcomes


def prediction(
    calculator: DeepHCalculator, atoms: Atoms, info: Mapping[str, Any] | None = None
) -> ReferenceData:
    """H, S and, where there are not too many orbitals, the Fermi level of a structure."""
    structure = calculator.get_electronic_structure(atoms)
    small = structure.hamiltonian.n_orbitals <= MOST_ORBITALS_DENSE
    return ReferenceData(
        atoms=atoms,
        hamiltonian=structure.hamiltonian,
        overlap=structure.overlap,
        n_electrons=structure.n_electrons,
        fermi_level=calculator.get_fermi_level() if small else None,
        basis=structure.hamiltonian.basis,
        info=info or {},
    )


def _predict(
    folder: Path, settings: Settings, model_digest: str, name: str, atoms: Atoms | Exception
) -> Status:
    """One structure, in whatever process."""
    if isinstance(atoms, Exception):
        raise atoms
    request = _request_key(atoms, settings, model_digest)
    found = _request_in(folder / name)
    if found not in (None, request) and (folder / name / HAMILTONIAN).is_file():
        raise ValueError(
            f"{folder / name} holds the prediction of another structure, model or setting; give another -o, or "
            "delete it"
        )
    if found == request and _is_complete(folder / name):
        return "there"
    data = prediction(_calculator(settings, model_digest), atoms, {_REQUEST: request})
    write_deeph(folder / name, data)
    return "done"


def _calculator(settings: Settings, model_digest: str) -> DeepHCalculator:
    """The calculator of this thread, made anew when the settings or the content of the model's file change."""
    wanted = settings, model_digest
    if getattr(_kept, "made_for", None) != wanted:
        file = find(settings.model)
        _check_digest(file, model_digest)
        calculator = settings.calculator()
        _check_digest(file, model_digest)
        _kept.calculator, _kept.made_for = calculator, wanted
    return _kept.calculator


def _check_digest(file: Path, expected: str) -> None:
    """ValueError unless the file of a model, as this process sees it, is the one that was asked for."""
    told = file.stat()
    found = _digest(file, told.st_mtime_ns, told.st_size)
    if found != expected:
        raise ValueError(
            f"model {file}: expected the file with SHA-256 {expected[:12]}..., which the run began with, found "
            f"{found[:12]}...; do not replace a model during a run, and let all workers see the same file"
        )


@lru_cache(maxsize=8)
def _digest(file: Path, mtime_ns: int, size: int) -> str:
    """SHA-256 of a file, read once for each state of it."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _plain(value: Any) -> Any:
    """Arrays and lists as nested tuples, NumPy's scalars as Python's; anything else as it is."""
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, Mapping):
        return {key: _plain(v) for key, v in value.items()}
    return tuple(_plain(v) for v in value) if isinstance(value, list | tuple) else value


def _hashable(value: Any) -> Any:
    """A plain value with frozen sets of pairs in place of mappings."""
    if isinstance(value, Mapping):
        return frozenset((key, _hashable(v)) for key, v in value.items())
    return tuple(_hashable(v) for v in value) if isinstance(value, tuple) else value


def _request_key(atoms: Atoms, settings: Settings, model_digest: str) -> str:
    """A name of all that a prediction depends on: SHA-256 of structure, model and settings."""
    content = hashlib.sha256()
    for array in (atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc):
        content.update(np.ascontiguousarray(array).tobytes())
    if atoms.has("initial_magmoms"):
        content.update(np.ascontiguousarray(atoms.get_initial_magnetic_moments(), dtype=float).tobytes())
    rest = [model_digest, settings.dtype, settings.kpts, settings.occupations]
    content.update(json.dumps(rest, sort_keys=True, default=str).encode())
    return content.hexdigest()


def _request_in(folder: Path) -> str | None:
    """The request that a folder answers; None where there is no folder or an empty one.

    Raises
    ------
    ValueError : files that are no prediction of this kind, or a file in place of the folder.
    """
    if not folder.exists():
        return None
    if folder.is_dir() and not any(folder.iterdir()):
        return None
    try:
        return str(json.loads((folder / REFERENCE).read_text())["info"][_REQUEST])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{folder}: expected nothing or an earlier prediction, found files of another origin; give another -o, "
            "or move them"
        ) from error


def _is_complete(folder: Path) -> bool:
    return all((folder / name).is_file() for name in (STRUCTURE, INFO, HAMILTONIAN, OVERLAP))
