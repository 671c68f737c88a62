"""ASE's own density of states and gap, from a predicted Hamiltonian of strained graphene."""

import numpy as np
from ase.build import graphene
from ase.dft.bandgap import bandgap
from ase.dft.dos import DOS

from ase_deeph import DeepHCalculator

atoms = graphene(vacuum=8.0)
atoms.set_cell(atoms.cell * [[1.03], [1.03], [1.0]], scale_atoms=True)
atoms.calc = DeepHCalculator(kpts={"size": (12, 12, 1), "gamma": True})

dos = DOS(atoms.calc, width=0.2, window=(-15.0, 5.0))
gap, *_ = bandgap(atoms.calc)
np.savetxt("dos.csv", np.column_stack([dos.get_energies(), dos.get_dos()]), header="E-E_F (eV), states/eV")
print(f"Fermi level {atoms.calc.get_fermi_level():.3f} eV, gap {gap:.3f} eV")
