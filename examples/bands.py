"""Bands of rippled graphene with the model that ships; `ase band-structure bands.json` draws them."""

import numpy as np
from ase.build import graphene

from ase_deeph import DeepHCalculator

atoms = graphene(size=(2, 2, 1), vacuum=8.0)
atoms.positions[:, 2] += 0.1 * np.cos(2 * np.pi * atoms.get_scaled_positions()[:, 0])
atoms.calc = DeepHCalculator()

bands = atoms.calc.band_structure("GMKG", npoints=40)
bands.write("bands.json")
print(f"Fermi level {bands.reference:.3f} eV below vacuum, {bands.energies.shape[2]} bands")
