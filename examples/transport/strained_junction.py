"""T(E) of graphene through a stretched strip, averaged over the k along it, from the model that ships."""

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from ase import Atoms
from ase.build import graphene, make_supercell

from ase_deeph import DeepHCalculator
from ase_deeph.transport import Device, Lead

N_CELLS, STRAINED = 9, slice(3, 6)


def junction(cell: Atoms, strain: float) -> Atoms:
    """Rectangular cells in a row along a, those in the middle stretched."""
    lengths = np.ones(N_CELLS)
    lengths[STRAINED] += strain
    starts = np.concatenate([[0.0], np.cumsum(lengths)])
    row = cell * (N_CELLS, 1, 1)
    scaled = cell.get_scaled_positions()[:, 0]
    row.positions[:, 0] = cell.cell[0, 0] * (starts[:-1, None] + lengths[:, None] * scaled).ravel()
    row.set_cell([starts[-1] * cell.cell[0, 0], *cell.cell.lengths()[1:]])
    return row


cell = make_supercell(graphene(vacuum=6.0), [[2, 1, 0], [0, 1, 0], [0, 0, 1]])
cell.rotate(cell.cell[0], "x", rotate_cell=True)
cell.wrap()
calculator = DeepHCalculator(kpts=(24, 40, 1))
bulk = calculator.get_electronic_structure(cell)
lead = Lead.from_bulk(bulk, "a")
energies = np.linspace(-1.0, 1.0, 24)
# Below 1 eV graphene has modes near its Dirac points only, at k = ±1/3; T(-k) = T(k).
width, n_k = 0.18, 16
kperp = 1 / 3 + width * ((np.arange(n_k) + 0.5) / n_k - 0.5)
points = np.column_stack([kperp, 0 * kperp])

figure, axis = plt.subplots(figsize=(4.2, 3.2), layout="constrained")
curves = []
for strain, color in ((0.0, "0.5"), (0.08, "#0072B2")):
    device = Device(calculator.get_electronic_structure(junction(cell, strain)), [lead, lead])
    T = device.transmission(device.fermi_level() + energies, kperp=points)
    curves.append(2 * width * T / cell.cell.lengths()[1])
    axis.plot(energies, curves[-1], color=color, label=f"{strain:.0%} strain")
axis.set(xlabel="E − E$_F$ (eV)", ylabel="transmission per width (Å$^{-1}$)", xlim=energies[[0, -1]])
axis.set_ylim(0, None)
axis.legend(frameon=False)
figure.savefig("strained_junction.png", dpi=300)
left = curves[1].sum() / curves[0].sum()
print(f"strained_junction.png: the stretched strip lets {left:.0%} of the current through")
