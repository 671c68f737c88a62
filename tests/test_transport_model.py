"""The whole way on the model that ships: a carbon nanotube, pristine and with a vacancy."""

from __future__ import annotations

import numpy as np
import pytest
from ase.build import nanotube

from ase_deeph import DeepHCalculator
from ase_deeph.electronic_structure import ElectronicStructure
from ase_deeph.transport import Lead
from tests.transport_systems import device_of, repeated, without


@pytest.fixture(scope="module")
def tube() -> ElectronicStructure:
    atoms = nanotube(4, 0, bond=1.42, vacuum=6.0)
    atoms.pbc = (False, False, True)
    return DeepHCalculator(kpts=(1, 1, 12)).get_electronic_structure(atoms)


def test_nanotube_of_the_shipped_model(tube: ElectronicStructure) -> None:
    pytest.importorskip("kwant")
    assert tube.overlap is not None
    lead = Lead.from_bulk(tube, "c")
    h, s = repeated(tube.hamiltonian, 5, 2), repeated(tube.overlap, 5, 2)
    energies = tube.fermi_level() + np.array([-1.49, -0.29, 0.32, 1.52])
    pristine = device_of(h, s, [lead, lead]).transmission_report(energies)
    assert pristine.n_modes.max() > 1
    np.testing.assert_allclose(pristine.total, pristine.n_modes[0, 0, :, 0], atol=1e-6)
    assert pristine.unitarity_error.max() < 1e-8
    broken = device_of(without(h, [39]), without(s, [39]), [lead, lead])
    ours = broken.transmission(energies[1:3])
    assert np.all(ours < pristine.total[1:3] - 0.001)
    np.testing.assert_allclose(ours, broken.transmission(energies[1:3], backend="ase"), atol=1e-6)
