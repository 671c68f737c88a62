"""Writes graphene_model.npz: graphene's H and S from the carbon model that ships, for tests of exporters."""

from __future__ import annotations

from pathlib import Path

from ase.build import graphene

from ase_deeph import DeepHCalculator
from ase_deeph.exporters import write_neutral

if __name__ == "__main__":
    atoms = graphene(a=2.46, vacuum=6.0)
    atoms.pbc = (True, True, False)
    structure = DeepHCalculator(kpts=(6, 6, 1)).get_electronic_structure(atoms)
    write_neutral(Path(__file__).with_name("graphene_model.npz"), structure)
