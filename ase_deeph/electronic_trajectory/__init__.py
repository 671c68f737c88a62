"""The electronic structure along a run of molecular dynamics: recorded step by step, read, averaged, drawn."""

from __future__ import annotations

from ase_deeph.electronic_trajectory.observables import OBSERVABLES, DosGrid
from ase_deeph.electronic_trajectory.observer import ElectronicTrajectory
from ase_deeph.electronic_trajectory.reader import ElectronicTrajectoryReader

__all__ = ["OBSERVABLES", "DosGrid", "ElectronicTrajectory", "ElectronicTrajectoryReader"]
