"""Frames of a model's own molecular dynamics against DFT of the same frames: gap, Fermi level, H, forces.

python benchmarks/md_frames.py WORK [--model M] [--frames 5] [--every 200] [--temperature 300]

Graphene of 32 atoms, Langevin dynamics on the model's energy head; the DFT is GPAW with the settings of the shipped
carbon model's recipes.  WORK keeps the frames, the DFT and the report; a second call continues what is missing.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from ase import Atoms, units
from ase.build import graphene
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution, Stationary

from ase_deeph import DeepHCalculator, ElectronicStructure
from ase_deeph.dft.generate import generate
from ase_deeph.dft.recipe import Recipe, StructureEntry, read_recipe
from ase_deeph.io.dataset import read_dataset
from ase_deeph.reference import ReferenceData
from trainers.evaluate import evaluate

RECIPE = Path(__file__).parent.parent / "examples" / "carbon" / "forces_test.toml"

MESH = (6, 6, 1)
"""Dense enough for forces: the recipes' own meshes, made for H, leave about 20 meV/Å of them in graphene."""


def frames(model: str | None, count: int, every: int, temperature: float) -> list[Atoms]:
    """Every `every`-th step of 0.5 fs, the first `every` steps left out."""
    atoms = graphene(a=2.46, size=(4, 4, 1), vacuum=8.0)
    atoms.pbc = (True, True, False)
    rng = np.random.default_rng(17)
    atoms.calc = DeepHCalculator(model)
    MaxwellBoltzmannDistribution(atoms, temperature_K=temperature, rng=rng)
    Stationary(atoms)
    dynamics = Langevin(
        atoms, 0.5 * units.fs, temperature_K=temperature, friction=0.02 / units.fs, rng=rng, fixcm=False
    )
    found = []
    for _ in range(count):
        dynamics.run(every)
        found.append(Atoms(atoms.symbols, atoms.positions, cell=atoms.cell, pbc=atoms.pbc))
    return found


def labelled(data: ReferenceData) -> Atoms:
    """A frame with the DFT's energy and forces, and its gap and Fermi level on a 4 x 4 mesh (tests/data has these)."""
    atoms = data.atoms.copy()
    atoms.calc = SinglePointCalculator(atoms, energy=data.energy, forces=data.forces)
    assert data.hamiltonian is not None
    structure = ElectronicStructure(
        data.hamiltonian,
        data.overlap,
        data.n_electrons,
        kpts=(4, 4, 1),
        occupations={"name": "fermi-dirac", "width": 0.05},
    )
    atoms.info["dft_gap"] = float(structure.band_gap())
    atoms.info["dft_fermi_level"] = structure.fermi_level()
    return atoms


def main() -> None:
    """Run what is missing, print the errors."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("work", type=Path)
    parser.add_argument("--model", default=None)
    parser.add_argument("--frames", type=int, default=5)
    parser.add_argument("--every", type=int, default=200)
    parser.add_argument("--temperature", type=float, default=300.0, help="K")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    path = (args.work / "frames.extxyz").resolve()
    if not path.is_file():
        write(path, frames(args.model, args.frames, args.every, args.temperature))
    entries = tuple(
        StructureEntry(f"frame-{n}", "file", options={"path": str(path), "frame": n}, kpts=MESH)
        for n in range(args.frames)
    )
    settings = read_recipe(RECIPE).settings
    generate(Recipe("md-frames", 0, entries, settings=settings), args.work / "dft")
    write(args.work / "labelled.extxyz", [labelled(data) for _, data in read_dataset([args.work / "dft"])])
    report = evaluate(args.model or "carbon-pbe", args.work / "dft", output=args.work / "report")
    sys.stdout.write(f"{report.table()}\n")


if __name__ == "__main__":
    main()
