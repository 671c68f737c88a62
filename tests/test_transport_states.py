"""Densities of states, bond currents and Landauer's observables against closed forms and bulk bands."""

from __future__ import annotations

import numpy as np
import pytest
from ase.units import _e, _hplanck, kB

from ase_deeph.electronic_structure import ElectronicStructure
from ase_deeph.transport import Device, Lead
from ase_deeph.transport.observables import (
    conductance,
    current,
    electronic_thermal_conductance,
    fermi_weight,
    moments,
    seebeck,
)
from tests.systems import chain, dimer_chain
from tests.transport_systems import bn_chain, device_of, dft_chain, opened, pieces, repeated, with_defect

QUANTUM = 2 * _e**2 / _hplanck


def bulk_dos(lead: Lead, energy: float) -> float:
    """States/eV per primitive cell from the group velocities: Σ 1 / (2π |dE/dk|), k in radians per cell."""
    _, velocities = lead.velocities(energy)
    return float(np.sum(lead.period / np.abs(velocities)) / (2 * np.pi))


def test_density_summed_with_s_is_that_of_the_bulk() -> None:
    """Of real DFT matrices, also against a histogram of the bands."""
    pytest.importorskip("kwant")
    lead, fermi_level = dft_chain()
    device = Device.from_matrices(*pieces(lead, 6), [lead, lead])
    energy = fermi_level + 1.3
    by_atom = device.local_density_of_states(energy, by_atom=True)
    cells = by_atom.reshape(6, 2).sum(axis=1)
    np.testing.assert_allclose(cells, bulk_dos(lead, energy), atol=1e-5)
    assert device.density_of_states([energy])[0] == pytest.approx(6 * cells[0], rel=1e-9)
    levels = lead.bands((np.arange(2000) + 0.5) / 2000)[0]
    width = 0.15
    histogram = np.mean(np.sum(np.abs(levels - energy) < width / 2, axis=1)) / width
    assert histogram == pytest.approx(cells[0], rel=0.05)


def test_density_of_a_chain_in_closed_form() -> None:
    """With overlap: 1 / (π |dE/dk|) for E(k) = 2 t cos k / (1 + 2 s cos k)."""
    pytest.importorskip("kwant")
    t, s = -1.0, 0.15
    h1, s1 = chain(t, s)
    lead = Lead.from_bulk(ElectronicStructure(h1, s1), "a")
    device = device_of(repeated(h1, 5), repeated(s1, 5), [lead, lead])
    energy = 0.4
    cosine = energy / (2 * (t - energy * s))
    slope = 2 * np.sqrt(1 - cosine**2) * abs(t) / (1 + 2 * s * cosine) ** 2
    np.testing.assert_allclose(device.local_density_of_states(energy), 1 / (np.pi * slope), rtol=1e-8)


def test_in_a_gap_nothing_is_there() -> None:
    pytest.importorskip("kwant")
    h = dimer_chain()
    lead = Lead.from_bulk(ElectronicStructure(h), "a")
    device = Device(ElectronicStructure(repeated(h, 5)), [lead, lead])
    report = device.transmission_report([0.0])
    assert report.total[0] == 0
    assert report.n_modes.sum() == 0
    assert device.smatrix(0.0).data.shape == (0, 0)
    assert device.local_density_of_states(0.0).sum() == 0
    assert abs(device.bond_currents(0.0)).sum() == 0
    reflecting = Device(ElectronicStructure(opened(repeated(h, 5))), [lead])
    reflected = reflecting.smatrix(1.5).data
    assert abs(reflected[0, 0]) == pytest.approx(1.0)


def test_bond_currents_are_conserved_and_carry_the_transmission() -> None:
    pytest.importorskip("kwant")
    h, s = bn_chain()
    lead = Lead.from_bulk(ElectronicStructure(h, s), "a")
    device = device_of(with_defect(repeated(h, 8), 7, 1.5), repeated(s, 8), [lead, lead])
    low, high = lead.counter().window
    for energy in np.linspace(low, high, 9)[2:-2] + 0.0123:
        flow = device.bond_currents(float(energy)).toarray()
        np.testing.assert_allclose(flow, -flow.T, atol=1e-10)
        np.testing.assert_allclose(flow[4:12].sum(axis=1), 0.0, atol=1e-9)
        through = device.transmission(energy)[0]
        for cut in (6, 8, 9):
            assert flow[:cut, cut:].sum() == pytest.approx(through, abs=1e-8)
        backwards = device.bond_currents(float(energy), lead=1).toarray()
        assert backwards[:8, 8:].sum() == pytest.approx(-through, abs=1e-8)


def test_densities_of_two_leads_add_up_to_the_green_function() -> None:
    """With a defect, against -Im(G S)/π of ASE's Green function deep inside."""
    pytest.importorskip("kwant")
    from ase_deeph.transport.ase_backend import ase_calculator

    h, s = bn_chain()
    lead = Lead.from_bulk(ElectronicStructure(h, s), "a")
    device = device_of(with_defect(repeated(h, 8), 7, 1.5), repeated(s, 8), [lead, lead])
    low, high = lead.counter().window
    energy = float(0.45 * low + 0.55 * high)
    calculator = ase_calculator(device.problem())
    calculator.initialize()
    green = calculator.greenfunction.retarded(energy)
    spectral = np.diag(1j * (green - green.conj().T) @ device.problem().s.toarray()).real / (2 * np.pi)
    ours = device.local_density_of_states(energy)
    inner = slice(int(device.norbs[:4].sum()), int(device.norbs[:12].sum()))
    np.testing.assert_allclose(ours[inner], spectral[inner], atol=1e-5)


def test_a_perfect_channel_carries_the_quantum() -> None:
    energies = np.linspace(-0.6, 0.6, 2001)
    one = np.ones_like(energies)
    assert conductance(energies, one, 0.0, 300.0) == pytest.approx(QUANTUM, rel=1e-6)
    assert conductance(energies, one, 0.1, 0.0, degeneracy=1) == pytest.approx(QUANTUM / 2)
    assert seebeck(energies, one, 0.0, 300.0) == pytest.approx(0.0, abs=1e-12)
    wiedemann_franz = np.pi**2 / 3 * (kB * _e) ** 2 / _e**2 * 300.0 * QUANTUM
    assert electronic_thermal_conductance(energies, one, 0.0, 300.0) == pytest.approx(
        wiedemann_franz, rel=1e-5
    )
    assert current(energies, one, (0.05, -0.05), 300.0) == pytest.approx(QUANTUM * 0.1, rel=1e-6)
    assert current(energies, one, (0.05, -0.05), 0.0) == pytest.approx(QUANTUM * 0.1, rel=1e-2)


def test_thermopower_of_a_slope_follows_mott() -> None:
    """S = -π²/3 kB² T / e · T'/T to lowest order; rising T(E): electrons, negative."""
    energies = np.linspace(-0.3, 0.3, 3001)
    value = seebeck(energies, 1 + 0.5 * energies, 0.0, 50.0)
    assert value == pytest.approx(-(np.pi**2) / 3 * kB**2 * 50.0 * 0.5, rel=1e-3)


def test_moments_of_a_step_in_closed_form() -> None:
    """T = θ(E - E0): L0 = f(E0), the conductance of a thermally activated band."""
    energies = np.linspace(-1, 1, 200001)
    step = (energies > 0.1).astype(float)
    weight = 1 / (1 + np.exp(0.1 / (kB * 300)))
    assert moments(energies, step, 0.0, 300.0)[0] == pytest.approx(weight, rel=1e-3)
    assert np.trapezoid(fermi_weight(energies, 0.0, 300.0), energies) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("energies", "transmission", "temperature", "message"),
    [
        ([0.0, 0.1], [1.0, 1.0], 300.0, "thermal window"),
        ([0.0, 0.1], [1.0, 1.0], -1.0, "positive number of kelvin"),
        ([0.1, 0.0], [1.0, 1.0], 300.0, "ascending"),
        ([0.0, 0.1], [1.0, np.nan], 300.0, "NaN at 0.1"),
        ([-1.0, 1.0], [0.0, 0.0], 300.0, "thermal window"),
    ],
)
def test_grids_that_cannot_be_integrated(energies, transmission, temperature, message) -> None:
    with pytest.raises(ValueError, match=message):
        seebeck(np.array(energies), np.array(transmission), 0.0, temperature)


def test_no_transmission_no_thermopower() -> None:
    energies = np.linspace(-1, 1, 2001)
    with pytest.raises(ValueError, match="undefined"):
        seebeck(energies, np.zeros_like(energies), 0.0, 300.0)
