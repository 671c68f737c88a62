"""H and S of many structures, one DeepH folder for each; what is there and complete is not made again."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from ase_deeph.calculator import DeepHCalculator
from ase_deeph.io.deeph import HAMILTONIAN, INFO, REFERENCE, write_deeph
from ase_deeph.pretrained import find
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
    dtype, device, kpts, occupations : as `DeepHCalculator` takes them; the last two for the Fermi level.
    """

    model: str | None = None
    dtype: str = "float32"
    device: str | None = None
    kpts: Any = None
    occupations: Mapping[str, Any] | None = None

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

    A folder of the same structure, model and settings is left alone ("there"); one of others is a failure.

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
    folder.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    return run_all(partial(_predict, folder, settings, digest), structures, workers=workers, retries=retries)


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
    if found == request:
        return "there"
    if found is not None:
        raise ValueError(
            f"{folder / name} holds the prediction of another structure, model or setting; give another -o, or "
            "delete it"
        )
    data = prediction(_calculator(settings), atoms, {_REQUEST: request})
    write_deeph(folder / name, data)
    return "done"


def _calculator(settings: Settings) -> DeepHCalculator:
    """The calculator of this thread, made anew when the settings change."""
    if getattr(_kept, "settings", None) != settings:
        _kept.calculator, _kept.settings = settings.calculator(), settings
    return _kept.calculator


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
    """The request that a complete folder answers; "" where it does not say; None where there is none."""
    if not folder.exists() or not any(folder.iterdir()):
        return None
    if not all((folder / name).is_file() for name in (INFO, HAMILTONIAN)):
        return None
    try:
        return str(json.loads((folder / REFERENCE).read_text())["info"][_REQUEST])
    except (OSError, ValueError, KeyError, TypeError):
        return ""
