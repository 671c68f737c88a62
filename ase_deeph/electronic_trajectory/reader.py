"""ElectronicTrajectoryReader: what a run recorded, also while it goes on; averages and a picture."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import h5py
import numpy as np
from ase import Atoms

from ase_deeph.electronic_trajectory.frame_file import DAMAGE, check_format, opened
from ase_deeph.io.journal import recover

T = TypeVar("T")
_ATTEMPTS = 20


class ElectronicTrajectoryReader:
    """The frames of a file that ElectronicTrajectory wrote; one that a killed process left is put in order.

    Parameters
    ----------
    path : the HDF5 file.

    Attributes
    ----------
    names : what is recorded of each frame; `reader[name]` is an array (n_frames, ...).
    fixed : what holds for all of them: "numbers", "pbc", "masses", "kpts", "kpt_weights", "dos_energies".
    description : names and settings of the observables.

    Raises
    ------
    ValueError : no such file, no file of this kind, a newer version, or damage.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise ValueError(
                f"electronic trajectory {self.path} does not exist; ElectronicTrajectory writes one"
            )
        self.names, self.fixed, self.description, self._n = self._read(_contents)

    def __len__(self) -> int:
        return self._n

    def __repr__(self) -> str:
        return f"ElectronicTrajectoryReader({str(self.path)!r}, {len(self)} frames)"

    def __contains__(self, name: object) -> bool:
        return name in self.names

    def __getitem__(self, name: str) -> np.ndarray:
        """(n_frames, ...) one recorded quantity.

        Raises
        ------
        KeyError : it was not recorded.
        """
        if name not in self.names:
            raise KeyError(f"{self.path} holds no {name!r}; recorded are {', '.join(self.names)}")
        return self._read(lambda file: file[f"frames/{name}"][: self._n])

    def atoms(self, n: int = -1) -> Atoms:
        """The structure of one frame, with its momenta."""
        at = range(len(self))[n]

        def row(name: str) -> np.ndarray:
            return self._read(lambda file: file[f"frames/{name}"][at])

        return Atoms(
            self.fixed["numbers"],
            positions=row("positions"),
            cell=row("cell"),
            pbc=self.fixed["pbc"],
            masses=self.fixed["masses"],
            momenta=row("momenta"),
        )

    def average_dos(self, start: int = 0, stop: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Energies relative to the Fermi level of each frame (eV), and the mean DOS of frames [start, stop).

        Returns
        -------
        (n_energies,) and (n_energies,), for collinear spin (2, n_energies), states/eV.

        Raises
        ------
        KeyError : no DOS was recorded.
        ValueError : no frames in that range.
        """
        curves = self["dos"][start:stop]
        if not len(curves):
            raise ValueError(f"average_dos: no frames from {start} to {stop} among {len(self)}")
        return self.fixed["dos_energies"], curves.mean(axis=0)

    def plot(self, path: str | Path) -> None:
        """Draw gap and Fermi level over time, and the mean DOS where it was recorded: png, pdf or svg.

        Raises
        ------
        KeyError : neither gap nor Fermi level was recorded.
        """
        from ase_deeph.electronic_trajectory.picture import draw

        draw(self, Path(path))

    def _read(self, look: Callable[[h5py.File], T]) -> T:
        """What a function sees in the file, again if a writer appended meanwhile."""
        for _ in range(_ATTEMPTS):
            recover(self.path)
            before = self.path.stat()
            try:
                with self.path.open("rb") as stream, opened(stream, "r", self.path) as file:
                    found: Any = look(file)
                error: Exception | None = None
            except (*DAMAGE, ValueError) as problem:
                error = problem
            after = self.path.stat()
            if (before.st_mtime_ns, before.st_size) == (after.st_mtime_ns, after.st_size):
                if error is None:
                    return found
                raise ValueError(f"{self.path}: {error}") from error
            time.sleep(0.01)
        raise ValueError(f"{self.path}: it is written to all the time; try again")


def _contents(file: h5py.File) -> tuple[tuple[str, ...], dict[str, np.ndarray], dict[str, Any], int]:
    """Names of the columns, what is fixed, the description, and the number of frames."""
    check_format(file, Path(""))
    fixed = {name: values[()] for name, values in file["fixed"].items()}
    frames = file["frames"]
    return tuple(frames), fixed, json.loads(str(file.attrs["description"])), len(frames["step"])
