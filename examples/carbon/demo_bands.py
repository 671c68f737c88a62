"""GPAW's own bands of the demo's structure, for `deeph demo` to compare with.

python examples/carbon/demo_bands.py demo_bands.h5
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

import h5py
import numpy as np
from ase.io import write

from ase_deeph.dft.gpaw import boxed, converged_calculator
from ase_deeph.dft.recipe import read_recipe


def main(path: str, n_points: int = 61) -> None:
    """Compute the bands along Γ-Z with GPAW's fixed density and write them with the structure."""
    sample = next(read_recipe(Path(__file__).with_name("demo.toml")).samples())
    atoms, settings = sample.atoms(), sample.settings
    calc = converged_calculator(
        boxed(atoms, settings["vacuum"], settings["h"]),
        basis=settings["basis"],
        xc=settings["xc"],
        kpts=settings["kpts"],
        h=settings["h"],
        spin=None,
        width=0.1,
        density=settings["density_convergence"],
        txt=None,
        options={},
    )
    kpts = np.linspace([0.0, 0.0, 0.0], [0.0, 0.0, 0.5], n_points)
    bands = calc.fixed_density(kpts=kpts, symmetry="off", txt=None)
    energies = np.array([bands.get_eigenvalues(kpt=n) for n in range(n_points)])
    text = io.StringIO()
    write(text, atoms, format="extxyz")
    with h5py.File(path, "w") as file:
        file["kpts"], file["energies"] = kpts, energies
        file.attrs["fermi_level"] = calc.get_fermi_level()
        file.attrs["extxyz"] = text.getvalue()
        file.attrs["path"] = "GZ"
        file.attrs["mesh"], file.attrs["width"] = settings["kpts"], 0.1
        file.attrs["name"] = "(7,0) nanotube, strained and rattled"
        file.attrs["engine"] = "GPAW LCAO, PBE, szp(dzp); eV from the vacuum level"


if __name__ == "__main__":
    main(sys.argv[1])
