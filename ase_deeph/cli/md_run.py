"""A run of `deeph md` in its folder: started, or taken up at its last recorded frame with the same random numbers."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms, units
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixCom
from ase.io.trajectory import Trajectory
from ase.md.langevin import Langevin
from ase.md.verlet import VelocityVerlet

from ase_deeph.calculator import DeepHCalculator
from ase_deeph.cli.errors import read_structure
from ase_deeph.cli.md import folder_of
from ase_deeph.cli.options import parse_kpts
from ase_deeph.electronic_trajectory import ElectronicTrajectory, ElectronicTrajectoryReader

_SETTINGS = (
    "model",
    "kpts",
    "smearing",
    "width",
    "dtype",
    "forcefield",
    "ensemble",
    "temperature",
    "friction",
    "timestep",
    "seed",
    "interval",
    "record",
)
_RNG_STATE = "random_state"
_WORD = 2**64


@dataclass(frozen=True)
class Run:
    """The moving structure, what moves it, and where it is written."""

    atoms: Atoms
    dynamics: Any
    folder: Path

    @property
    def trajectory_file(self) -> Path:
        """ASE's trajectory: positions, momenta, energies, forces."""
        return self.folder / "run.traj"

    @property
    def electrons_file(self) -> Path:
        """The electronic structure of the same frames."""
        return self.folder / "electrons.h5"

    @property
    def picture(self) -> Path:
        """Gap and Fermi level over time."""
        return self.folder / "electrons.png"

    @property
    def files(self) -> tuple[Path, ...]:
        """All of them."""
        return self.trajectory_file, self.electrons_file, self.picture


@contextmanager
def open_run(arguments: argparse.Namespace) -> Iterator[Run]:
    """The run of the command line, its observers attached; closed when the block ends.

    Raises
    ------
    ValueError, KeyError : see `ase_deeph.cli.md.run`.
    """
    folder = folder_of(arguments)
    atoms = read_structure(arguments.structure)
    calculator = _calculator(arguments)
    random = np.random.default_rng(arguments.seed)
    recorded = _recorded(folder, arguments)
    if recorded is None:
        _heat(atoms, arguments.temperature, random)
    else:
        _take_up(atoms, recorded, random)
    atoms.calc = calculator
    dynamics = _dynamics(atoms, arguments, random)
    run = Run(atoms, dynamics, folder)
    folder.mkdir(exist_ok=True)
    if recorded is None:
        _write_settings(folder, arguments)
    else:
        dynamics.nsteps = int(recorded["step"][-1])
        _align(run.trajectory_file, recorded)
    names = [name.strip() for name in arguments.record.split(",") if name.strip()]
    with Trajectory(run.trajectory_file, "w" if recorded is None else "a", atoms) as frames:
        electrons = ElectronicTrajectory(
            run.electrons_file,
            atoms,
            record=names,
            functions={_RNG_STATE: lambda structure: _state_of(random)},
            dynamics=dynamics,
            trajectory=frames,
        )
        with electrons:
            dynamics.attach(frames, interval=arguments.interval)
            dynamics.attach(electrons, interval=arguments.interval)
            yield run


def _calculator(arguments: argparse.Namespace) -> DeepHCalculator:
    """The model with its forces; ValueError where nobody gives any."""
    from ase_deeph.cli.md_forcefields import force_field

    calculator = DeepHCalculator(
        arguments.model,
        kpts=None if arguments.kpts is None else parse_kpts(arguments.kpts),
        occupations={"name": arguments.smearing, "width": arguments.width},
        forcefield=None if arguments.forcefield is None else force_field(arguments.forcefield),
        device=arguments.device,
        dtype=arguments.dtype,
    )
    if "forces" not in calculator.implemented_properties:
        name = getattr(calculator.model, "provenance", {}).get("name", arguments.model)
        raise ValueError(
            f"the model {name!r} gives H but no forces; add --forcefield (emt, lj:sigma=...,epsilon=..., "
            "tblite:method=...), or give a model that was trained with energies and forces"
        )
    return calculator


def _recorded(folder: Path, arguments: argparse.Namespace) -> ElectronicTrajectoryReader | None:
    """The frames to go on from, None for a new run; ValueError where the folder and --resume disagree."""
    file = folder / "electrons.h5"
    has_frames = file.exists() and file.stat().st_size > 0
    if not arguments.resume:
        if has_frames:
            raise ValueError(
                f"-o {folder}: holds a run already; add --resume to continue it, or name another folder"
            )
        return None
    if not has_frames:
        return None
    reader = ElectronicTrajectoryReader(file)
    settings = _read_settings(folder)
    for name in _SETTINGS:
        if settings.get(name) != getattr(arguments, name):
            raise ValueError(
                f"--resume: the run in {folder} has --{name} {settings.get(name)}, received "
                f"{getattr(arguments, name)}; give the same, or another folder"
            )
    return reader


def _write_settings(folder: Path, arguments: argparse.Namespace) -> None:
    content = {name: getattr(arguments, name) for name in ("structure", *_SETTINGS)}
    partial = folder / "md.json.partial"
    partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    partial.replace(folder / "md.json")


def _read_settings(folder: Path) -> dict[str, Any]:
    try:
        content = json.loads((folder / "md.json").read_text(encoding="utf-8"))
        assert isinstance(content, dict)
        return content
    except (OSError, ValueError, AssertionError):
        raise ValueError(
            f"--resume: {folder / 'md.json'} is missing or damaged, so the settings of the run are unknown; "
            "start anew in another folder"
        ) from None


def _heat(atoms: Atoms, temperature: float, random: np.random.Generator) -> None:
    """Momenta of a Maxwell-Boltzmann distribution, the centre of mass at rest."""
    masses = atoms.get_masses()[:, None]
    momenta = random.standard_normal((len(atoms), 3)) * np.sqrt(masses * units.kB * temperature)
    if not atoms.constraints and len(atoms) > 1:
        momenta -= masses * momenta.sum(axis=0) / masses.sum()
    atoms.set_momenta(momenta)


def _take_up(atoms: Atoms, recorded: ElectronicTrajectoryReader, random: np.random.Generator) -> None:
    """Put structure and random numbers where the last frame left them."""
    last = recorded.atoms()
    if not np.array_equal(last.numbers, atoms.numbers) or not np.array_equal(last.pbc, atoms.pbc):
        raise ValueError(
            f"--resume: the run is of {last.get_chemical_formula()}, the structure given is "
            f"{atoms.get_chemical_formula()}; give the one it was started with"
        )
    atoms.set_cell(last.cell)
    atoms.positions = last.positions
    atoms.arrays["momenta"] = last.arrays["momenta"]
    _set_state(random, recorded[_RNG_STATE][-1])


def _dynamics(atoms: Atoms, arguments: argparse.Namespace, random: np.random.Generator) -> Any:
    """Langevin's or Verlet's; without other constraints the centre of mass stays where it is."""
    dt = arguments.timestep * units.fs
    if arguments.ensemble == "nve":
        return VelocityVerlet(atoms, dt)
    if not atoms.constraints and len(atoms) > 1:
        atoms.set_constraint(FixCom())
    return Langevin(
        atoms,
        dt,
        temperature_K=arguments.temperature,
        friction=arguments.friction / units.fs,
        fixcm=False,
        rng=random,
    )


def _state_of(random: np.random.Generator) -> np.ndarray:
    """(6,) the state of NumPy's default generator (PCG64) as 64-bit words."""
    state: Any = random.bit_generator.state
    words = [n for name in ("state", "inc") for n in divmod(state["state"][name], _WORD)]
    return np.array([*words, state["has_uint32"], state["uinteger"]], dtype=np.uint64)


def _set_state(random: np.random.Generator, words: np.ndarray) -> None:
    """The inverse of `_state_of`."""
    high, low, inc_high, inc_low, has_more, more = (int(w) for w in words)
    random.bit_generator.state = {
        "bit_generator": "PCG64",
        "state": {"state": high * _WORD + low, "inc": inc_high * _WORD + inc_low},
        "has_uint32": has_more,
        "uinteger": more,
    }


def _align(file: Path, recorded: ElectronicTrajectoryReader) -> None:
    """Give ASE's trajectory the frames of the electronic one, no more and no fewer."""
    wanted, kept = len(recorded), []
    try:
        with Trajectory(file) as frames:
            if len(frames) == wanted:
                return
            kept = [frames[n] for n in range(min(wanted, len(frames)))]
    except Exception:
        kept = []
    partial = file.with_suffix(".partial")
    with Trajectory(partial, "w") as frames:
        for n in range(wanted):
            atoms = kept[n] if n < len(kept) else recorded.atoms(n)
            if n >= len(kept):
                atoms.calc = SinglePointCalculator(atoms, energy=recorded["energy"][n])
            frames.write(atoms)
    partial.replace(file)
