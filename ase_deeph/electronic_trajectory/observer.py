"""ElectronicTrajectory: an observer of ASE's dynamics that records the electronic structure of each frame."""

from __future__ import annotations

import atexit
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import PropertyNotImplementedError

from ase_deeph.electronic_structure import ElectronicStructure
from ase_deeph.electronic_trajectory.clock import Clock
from ase_deeph.electronic_trajectory.frame_file import FrameFile
from ase_deeph.electronic_trajectory.observables import (
    OBSERVABLES,
    DosGrid,
    Frame,
    Function,
    as_array,
    check_names,
)
from ase_deeph.kpoints import k_points, respects_time_reversal

DEFAULT_RECORD = ("fermi_level", "gap")


class ElectronicTrajectory:
    """Records Fermi level, gap and more at every call; `dynamics.attach(trajectory, interval=n)`.

    A frame is in the file, whole, when the call returns; no kill can lose it.  An existing file is continued:
    the frame that a resumed run starts from is not recorded twice.

    Parameters
    ----------
    path : HDF5 file, made when absent.
    atoms : the structure that moves.
    record : names among `OBSERVABLES`.
    functions : more observables, name -> function(ElectronicStructure) -> numbers of constant shape.
    kpts : where eigenvalues are recorded, any form that the calculator takes; None: the calculator's mesh.
    dos : energies and width of densities of states.
    calculator : what gives the electronic structure, a DeepHCalculator; None: that of `atoms`.
    dynamics : whose steps and times are written down; without it calls are counted, and times are NaN.
    trajectory : ASE's trajectory of the same run, attached before this one: which of its frames this is.
    durable : whether each frame waits for the disk (a power cut then loses no more than a kill).

    Raises
    ------
    ValueError : an unknown observable, a file of another run, or one that another process writes.

    Examples
    --------
    >>> dynamics = Langevin(atoms, 0.5 * units.fs, temperature_K=300, friction=0.01)  # doctest: +SKIP
    >>> electrons = ElectronicTrajectory("run.h5", atoms, dynamics=dynamics)  # doctest: +SKIP
    >>> dynamics.attach(electrons, interval=10)  # doctest: +SKIP
    """

    def __init__(
        self,
        path: str | Path,
        atoms: Atoms,
        *,
        record: Sequence[str] = DEFAULT_RECORD,
        functions: Mapping[str, Function] | None = None,
        kpts: Any = None,
        dos: DosGrid | None = None,
        calculator: Any = None,
        dynamics: Any = None,
        trajectory: Any = None,
        durable: bool = False,
    ) -> None:
        self.atoms, self.path = atoms, Path(path)
        self._functions = dict(functions or {})
        check_names(record, self._functions)
        self._record = tuple(dict.fromkeys(record))
        self._kpts, self._dos = kpts, dos or DosGrid()
        self._calculator, self._trajectory = calculator, trajectory
        self._source()
        self._file = FrameFile(path, durable=durable)
        try:
            self._points = None if self._file.is_new else self._continued()
        except BaseException:
            self._file.close()
            raise
        self._clock = Clock(dynamics, self._file)
        # Also when a script ends without close(): HDF5 must not outlive the Python file that it writes through.
        atexit.register(self._file.close)

    def __len__(self) -> int:
        return len(self._file)

    def __enter__(self) -> ElectronicTrajectory:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __call__(self) -> None:
        """Record the structure as it is now.

        Raises
        ------
        ValueError : a number of atoms, or an observable's shape, that is not that of the frames before; a run
            that starts again where this file has been already.
        """
        if self._clock.is_repeated(self.atoms):
            return
        structure = self._source().get_electronic_structure(self.atoms)
        if self._points is None:
            self._points = self._first_points(structure)
        frame = Frame(structure, self._points, self._dos)
        observed = {name: OBSERVABLES[name](frame) for name in self._record}
        observed |= {name: function(structure) for name, function in self._functions.items()}
        values = {**self._bookkeeping(), **observed}
        self._file.append({name: as_array(name, value) for name, value in values.items()})
        self._clock.recorded()

    write = __call__

    def close(self) -> None:
        """Give the file back; done by itself when the script ends."""
        atexit.unregister(self._file.close)
        self._file.close()

    def _source(self) -> Any:
        """What gives the electronic structure."""
        source = self.atoms.calc if self._calculator is None else self._calculator
        if not hasattr(source, "get_electronic_structure"):
            raise ValueError(
                f"calculator: expected a DeepHCalculator, received {type(source).__name__}; attach one to the "
                "atoms, or give ElectronicTrajectory(..., calculator=DeepHCalculator(...))"
            )
        return source

    def _bookkeeping(self) -> dict[str, Any]:
        """Step, time, energies, and what the structure can be rebuilt from."""
        atoms = self.atoms
        try:
            energy = float(atoms.get_potential_energy())
        except (PropertyNotImplementedError, RuntimeError):
            energy = np.nan
        return {
            "step": np.int64(self._clock.step),
            "time": self._clock.time,
            "frame": np.int64(-1 if self._trajectory is None else len(self._trajectory) - 1),
            "energy": energy,
            "kinetic_energy": atoms.get_kinetic_energy(),
            "temperature": atoms.get_temperature(),
            "positions": atoms.positions,
            "momenta": atoms.get_momenta(),
            "cell": atoms.cell.array,
        }

    def _description(self) -> dict[str, Any]:
        return {
            "record": list(self._record),
            "functions": list(self._functions),
            "dos_width": self._dos.width,
        }

    def _fixed(self) -> dict[str, np.ndarray]:
        return {
            "numbers": self.atoms.numbers,
            "pbc": self.atoms.pbc,
            "masses": self.atoms.get_masses(),
            "dos_energies": self._dos.energies,
        }

    def _first_points(self, structure: ElectronicStructure) -> np.ndarray:
        """The k-points of the eigenvalues, fixed from now on, and the head of a new file."""
        kpts = structure.kpts if self._kpts is None else self._kpts
        by_time = respects_time_reversal(structure.hamiltonian)
        points = k_points(structure.atoms, kpts, "time-reversal", time_reversal=by_time)
        fixed = {**self._fixed(), "kpts": points.irreducible, "kpt_weights": points.weights}
        self._file.describe(self._description(), fixed)
        return points.irreducible

    def _continued(self) -> np.ndarray:
        """The k-points of a file that is continued, after a look whether it belongs to this run."""
        file, described = self._file, self._description()
        for name, value in file.description.items():
            if described[name] != value:
                raise ValueError(
                    f"{self.path}: its {name} is {value}, received {described[name]}; give the same, or another file"
                )
        for name, value in self._fixed().items():
            old = file.fixed(name)
            if old.shape != value.shape or not np.allclose(old, value):
                raise ValueError(
                    f"{self.path}: its {name} differ from those of {self.atoms.get_chemical_formula()}; "
                    "it belongs to another run, give another file"
                )
        return file.fixed("kpts")
