"""Clock: which step of a run is being recorded, over any number of restarts."""

from __future__ import annotations

from typing import Any

import numpy as np
from ase import Atoms, units

from ase_deeph.electronic_trajectory.frame_file import FrameFile


class Clock:
    """Steps and times of one file.

    A dynamics counts its steps from zero each time it is made; the file goes on where it ended.

    Parameters
    ----------
    dynamics : with `nsteps` and, for molecular dynamics, `dt`; None counts the calls.
    file : the frames so far.
    """

    def __init__(self, dynamics: Any, file: FrameFile) -> None:
        self._dynamics, self._file = dynamics, file
        self._resumed = len(file) > 0
        self._offset = 0
        self._origin = (0, 0.0)
        if self._resumed:
            self._origin = int(file.column("step", -1)[0]), float(file.column("time", -1)[0])
        self._next = self._origin[0] + 1 if self._resumed else 0

    @property
    def step(self) -> int:
        """Number of the step since the run began."""
        return self._next if self._dynamics is None else int(self._dynamics.nsteps) + self._offset

    @property
    def time(self) -> float:
        """fs since the run began; NaN where nothing tells it."""
        dt = getattr(self._dynamics, "dt", None)
        return np.nan if dt is None else self._origin[1] + (self.step - self._origin[0]) * dt / units.fs

    def recorded(self) -> None:
        """The frame of this step is in the file."""
        self._next = self.step + 1

    def is_repeated(self, atoms: Atoms) -> bool:
        """Whether this is the frame that the file ended with; asked before the first frame after a restart.

        Raises
        ------
        ValueError : the run starts again where an earlier frame was.
        """
        if not self._resumed:
            return False
        self._resumed = False
        positions = self._file.column("positions")
        same = np.nonzero(np.all(positions == atoms.positions, axis=(1, 2)))[0]
        last = len(positions) - 1
        if len(same) and same[-1] < last:
            steps = self._file.column("step")
            raise ValueError(
                f"{self._file.path}: the run starts at its step {steps[same[-1]]}, but the file goes on to step "
                f"{steps[last]}; continue from there, or give another file"
            )
        repeated = bool(len(same))
        self._align(repeated)
        return repeated

    def _align(self, repeated: bool) -> None:
        """Let the steps of a new dynamics follow those of the file."""
        if self._dynamics is None:
            return
        now, last = int(self._dynamics.nsteps), self._origin[0]
        if repeated:
            self._offset = last - now
        elif now <= last:
            steps = self._file.column("step", -2)
            self._offset = last + int(steps[-1] - steps[0] or 1) - now
