"""Anything that returns H(R) is a model: here a DFT calculation with PySCF stands in for the network."""

from ase import Atoms
from ase.build import molecule

from ase_deeph import DeepHCalculator, RealSpaceMatrix
from ase_deeph.dft import run_pyscf


def source(atoms: Atoms) -> RealSpaceMatrix:
    """H of a self-consistent calculation; its basis carries radial functions, so S needs no DFT."""
    return run_pyscf(atoms, basis="gth-szv").hamiltonian


atoms = molecule("C2H4")
atoms.calc = DeepHCalculator(source)
homo, lumo = atoms.calc.get_homo_lumo()
print(f"ethylene: HOMO {homo:.2f} eV, LUMO {lumo:.2f} eV, {atoms.calc.get_number_of_bands()} levels")
