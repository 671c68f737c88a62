"""T(E) of a (3,3) carbon nanotube with one atom missing, from the model that ships."""

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from ase.build import nanotube

from ase_deeph import DeepHCalculator
from ase_deeph.transport import Device, Lead

N_CELLS = 10

calculator = DeepHCalculator(kpts=(1, 1, 48))
bulk = calculator.get_electronic_structure(nanotube(3, 3, vacuum=6.0))
lead = Lead.from_bulk(bulk, "c")

tube = nanotube(3, 3, length=N_CELLS, vacuum=6.0)
middle = tube.cell.lengths()[2] / 2
del tube[np.argmin(abs(tube.positions[:, 2] - middle))]
device = Device(calculator.get_electronic_structure(tube), [lead, lead])

energies = np.linspace(-1.5, 1.5, 30)
report = device.transmission_report(device.fermi_level() + energies)

figure, axis = plt.subplots(figsize=(4.2, 3.2), layout="constrained")
axis.fill_between(energies, report.n_modes[0, 0, :, 0], step="mid", color="0.85", label="modes of the tube")
axis.plot(energies, report.total, color="#0072B2", label="with a vacancy")
axis.set(xlabel="E − E$_F$ (eV)", ylabel="transmission", xlim=energies[[0, -1]], ylim=(0, None))
axis.legend(frameon=False)
figure.savefig("nanotube_defect.png", dpi=300)
at_fermi = np.interp(0.0, energies, report.total)
print(f"nanotube_defect.png: T = {at_fermi:.3f} at the Fermi level, 2 in the perfect tube")
