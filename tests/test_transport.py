"""Leads and devices: T(E) against mode counts, ASE's TransportCalculator and closed forms; matching; errors."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from ase import Atoms

from ase_deeph.electronic_structure import ElectronicStructure
from ase_deeph.transport import Device, Lead
from tests.systems import chain, hopping, random_crystal, square
from tests.transport_systems import (
    bn_chain,
    device_of,
    dft_chain,
    in_channels,
    moved,
    opened,
    pieces,
    repeated,
    with_defect,
    without,
)

kwant = pytest.importorskip("kwant")


def bulk_lead(h, s, axis="a", **options) -> Lead:
    return Lead.from_bulk(ElectronicStructure(h, s), axis, **options)


def grid(lead: Lead, n: int, kperp=None) -> np.ndarray:
    """n energies inside the lead's bands."""
    low, high = lead.counter(kperp).window
    return np.linspace(low + 0.01, high - 0.01, n) + 1.234e-3


def test_pristine_dft_chain_transmits_every_mode() -> None:
    lead, fermi_level = dft_chain()
    device = Device.from_matrices(*pieces(lead, 7), [lead, lead])
    energies = np.linspace(fermi_level - 12, fermi_level + 12, 60) + 0.0013
    report = device.transmission_report(energies)
    assert set(np.unique(report.n_modes)) >= {0, 1, 2, 3}
    np.testing.assert_allclose(report.total, report.n_modes[0, 0, :, 0], atol=1e-6)
    assert report.unitarity_error.max() < 1e-8
    np.testing.assert_array_equal(lead.n_modes(energies), report.n_modes[0, 0, :, 1])


def test_vacancy_in_the_dft_chain_as_in_ase() -> None:
    """13 orbitals per atom, the smallest eigenvalue of S below 1e-3."""
    lead, fermi_level = dft_chain()
    device = Device.from_matrices(*pieces(lead, 7, removed=(7,)), [lead, lead])
    energies = np.linspace(fermi_level - 4, fermi_level + 4, 12) + 0.0011
    ours = device.transmission(energies)
    assert np.ptp(ours) > 0.3
    np.testing.assert_allclose(ours, device.transmission(energies, backend="ase"), atol=1e-6)


def test_folded_degeneracies_are_stepped_aside(caplog) -> None:
    """A layer of three cells folds k and -k at k = 1/6 and 1/3: there the mode solver loses modes or mixes them."""
    lead, _ = dft_chain()
    device = Device.from_matrices(*pieces(lead, 6), [lead, lead])
    blocks = lead.blocks()
    energies = np.array([*blocks.eigenvalues(1 / 6)[3:6:2], *blocks.eigenvalues(1 / 3)[3:8]])
    with caplog.at_level(logging.INFO):
        report = device.transmission_report(energies)
    np.testing.assert_allclose(report.total, np.round(report.total), atol=1e-5)
    np.testing.assert_allclose(report.total, report.n_modes[0, 0, :, 0], atol=1e-5)
    assert report.stepped_aside.any()
    assert len(report.reasons) == len(energies)
    told = [caplog.text.count(text) for text in ("T is the mean of T(E ±", "T is kept, its neighbours agree")]
    assert told == [report.stepped_aside.sum(), (~report.stepped_aside).sum()]
    assert any("the bands have" in reason for reason in report.reasons.values())
    with pytest.raises(ValueError, match="move the energy by 1e-4 eV"):
        device.smatrix(energies[2])
    assert any("folded zone" in reason for reason in report.reasons.values())


def test_a_resonance_at_a_folded_degeneracy_keeps_its_transmission() -> None:
    """A side atom, weakly coupled, whose level lies where k = ±1/4 fold: T changes by half within 0.1 meV."""
    hops, overlaps = {0: 0.0, 1: -1.0, 2: -0.2}, {0: 1.0, 1: 0.15, 2: 0.03}
    R = np.arange(-2, 3)
    h, s = (np.array([[[x[abs(r)]]] for r in R]) for x in (hops, overlaps))
    lead = Lead.from_matrices(R, h, s, [1])
    energy, n = float(lead.bands(np.array([0.25]))[0, 0, 0]), 10
    distance = np.abs(np.subtract.outer(np.arange(n), np.arange(n)))
    big_h, big_s = np.zeros((n + 1, n + 1)), np.eye(n + 1)
    chain_sites = np.array([0, 1, 2, 3, 4, 6, 7, 8, 9, 10])
    for big, x in ((big_h, hops), (big_s, overlaps)):
        big[np.ix_(chain_sites, chain_sites)] = np.vectorize(lambda d, x=x: x.get(d, 0.0))(distance)
    big_h[5, 5], big_h[4, 5], big_h[5, 4] = energy, 0.02, 0.02
    device = Device.from_matrices(big_h, big_s, [1] * (n + 1), [lead, lead])
    report = device.transmission_report([energy])
    assert "folded zone" in report.reasons[0, 0, 0]
    np.testing.assert_allclose(report.total, device.transmission([energy], backend="ase"), atol=1e-5)
    beside = device.transmission([energy - 1e-4, energy + 1e-4])
    assert abs(beside.mean() - report.total[0]) > 0.05


@pytest.mark.parametrize("solve", ["smatrix", "greens_function", "ldos"])
def test_the_builder_view_refuses_another_energy(solve: str) -> None:
    kwant = pytest.importorskip("kwant")
    h, s = bn_chain()
    lead = bulk_lead(h, s)
    device = device_of(with_defect(repeated(h, 7), 7, 1.5), repeated(s, 7), [lead, lead])
    energy = float(grid(lead, 5)[2])
    system = device.to_kwant(view="builder").finalized()
    found = kwant.smatrix(system, energy, params={"E": energy}).transmission(1, 0)
    np.testing.assert_allclose(found, device.transmission(energy)[0], atol=1e-8)
    with pytest.raises(ValueError, match=r"params\['E'\] is"):
        getattr(kwant, solve)(system, energy, params={"E": energy + 0.5})


def test_lost_modes_are_never_silent(monkeypatch, caplog) -> None:
    lead, fermi_level = dft_chain()
    device = Device.from_matrices(*pieces(lead, 6), [lead, lead])
    from ase_deeph.transport import kwant_system

    true_modes = kwant_system.layer_modes

    def lossy(layer, energy):
        shifted = type(layer)(layer.h0 + 300 * layer.s0, layer.h1 + 300 * layer.s1, layer.s0, layer.s1)
        return true_modes(shifted, energy)

    monkeypatch.setattr(kwant_system, "layer_modes", lossy)
    with caplog.at_level(logging.WARNING):
        report = device.transmission_report([fermi_level + 2.0])
    assert np.isnan(report.total).all()
    assert "NaN" in caplog.text


def test_defect_as_in_ase_and_closed_ends() -> None:
    h, s = bn_chain()
    lead = bulk_lead(h, s)
    assert lead.n_cells == 2
    device = device_of(with_defect(repeated(h, 7), 7, 1.5), repeated(s, 7), [lead, lead])
    energies = grid(lead, 50)
    ours = device.transmission(energies)
    np.testing.assert_allclose(ours, device.transmission(energies, backend="ase"), atol=2e-6)
    assert np.any(np.abs(ours - np.round(ours)) > 0.1)


def test_chain_with_an_impurity_in_closed_form() -> None:
    """T = 1 / (1 + u² / (4 t(E)² sin² k)), t(E) = t - E s, E = e0 + 2 t(E) cos k."""
    t, s, u = -1.0, 0.15, 0.8
    h1, s1 = chain(t, s)
    lead = bulk_lead(h1, s1)
    h, overlap = repeated(h1, 7), repeated(s1, 7)
    blocks = [b + u * (i == 3 and i == j) for i, j, b in zip(h.pairs.i, h.pairs.j, h.blocks(), strict=True)]
    device = device_of(type(h).from_blocks(h.basis, h.pairs, h.atoms, blocks), overlap, [lead, lead])
    energies = grid(lead, 11)
    hop = t - energies * s
    sine2 = 1 - (energies / (2 * hop)) ** 2
    np.testing.assert_allclose(
        device.transmission(energies), 1 / (1 + u**2 / (4 * hop**2 * sine2)), rtol=1e-9
    )


@pytest.mark.parametrize("given", ["matrices", "positions"])
def test_star_of_three_chains_in_closed_form(given: str) -> None:
    """T = 4 sin²k / (5 - 4 cos 2k) between any two of three chains."""
    t, s = -1.0, 0.1
    h1, s1 = chain(t, s)
    lead = bulk_lead(h1, s1)
    if given == "matrices":
        bonds = np.zeros((7, 7))
        for i, j in [(0, 1), (2, 3), (4, 5), (1, 6), (3, 6), (5, 6)]:
            bonds[i, j] = bonds[j, i] = 1
        device = Device.from_matrices(
            t * bonds, np.eye(7) + s * bonds, np.ones(7), [lead] * 3, interfaces=[[0], [2], [4]]
        )
    else:
        x = [(-4, 0), (-2, 0), (0, 0), (2, 0), (4, 0), (0, -2), (0, -4)]
        atoms = Atoms("H7", positions=[(a, b, 0) for a, b in x], cell=[30, 30, 30])
        up = Atoms("H", cell=[12, 2, 11], pbc=(False, True, False))
        along_b = bulk_lead(hopping(up, 2.5, 0, t), hopping(up, 2.5, 1, s), "b")
        device = device_of(
            hopping(atoms, 2.5, 0, t),
            hopping(atoms, 2.5, 1, s),
            [lead, lead, along_b],
            boundary=["-a", "+a", "-b"],
        )
    energies = grid(lead, 9)
    k = np.arccos(energies / (2 * (t - energies * s)))
    expected = 4 * np.sin(k) ** 2 / (5 - 4 * np.cos(2 * k))
    for terminals in [(0, 1), (0, 2), (2, 1)]:
        np.testing.assert_allclose(device.transmission(energies, terminals=terminals), expected, rtol=1e-8)


def test_transverse_k_and_atoms_given_in_other_cells() -> None:
    h, s = random_crystal()
    lead = bulk_lead(h, s, "a")
    big_h, big_s = with_defect(repeated(h, 5), 4, 1.0), repeated(s, 5)
    k = (0.13, -0.31)
    energies = grid(lead, 8, [0, *k])
    reference = device_of(big_h, big_s, [lead, lead])
    ours = reference.transmission(energies, kperp=k)
    np.testing.assert_allclose(ours, reference.transmission(energies, kperp=k, backend="ase"), atol=2e-6)
    assert not np.allclose(ours, reference.transmission(energies), atol=1e-2)
    cells = np.zeros((len(big_h.atoms), 3), dtype=int)
    cells[[0, 3, 9], 1], cells[[1, 8], 2] = [1, -2, 1], [-1, 3]
    other = device_of(moved(big_h, cells), moved(big_s, cells), [lead, lead])
    np.testing.assert_allclose(other.transmission(energies, kperp=k), ours, atol=1e-8)
    np.testing.assert_allclose(other.transmission(energies, kperp=(0.0, *k)), ours, atol=1e-8)
    with pytest.raises(ValueError, match="expected 0 along a"):
        other.transmission(energies, kperp=(0.7, *k))
    both = reference.transmission(energies, kperp=[k, (0, 0)], weights=[3, 1])
    np.testing.assert_allclose(both, 0.75 * ours + 0.25 * reference.transmission(energies), atol=1e-10)


def test_pristine_slab_at_transverse_k_is_integer() -> None:
    h = square()
    lead = bulk_lead(h, None)
    device = Device(ElectronicStructure(repeated(h, 4)), [lead, lead])
    energies = np.array([-2.5, -0.3, 1.7])
    for k in (0.0, 0.2):
        inside = np.abs(energies + 2 * np.cos(2 * np.pi * k)) < 2
        np.testing.assert_allclose(device.transmission(energies, kperp=(k, 0)), inside, atol=1e-9)


def test_device_may_begin_anywhere_in_the_cell() -> None:
    h, s = bn_chain()
    lead = bulk_lead(h, s)
    big_h, big_s = with_defect(repeated(h, 8), 7, 1.5), repeated(s, 8)
    energies = grid(lead, 7)
    whole = device_of(big_h, big_s, [lead, lead]).transmission(energies)
    shorter = device_of(without(big_h, [0]), without(big_s, [0]), [lead, lead])
    np.testing.assert_allclose(shorter.transmission(energies), whole, atol=1e-8)
    far = device_of(opened(big_h), opened(big_s), [lead, lead])
    np.testing.assert_allclose(far.transmission(energies), whole, atol=1e-8)
    assert far.transmission_report(energies).n_modes.shape == (1, 1, 7, 2)


@pytest.mark.parametrize("cells", [3, 4])
def test_longer_principal_layers_change_nothing(cells: int) -> None:
    h, s = bn_chain()
    lead, longer = bulk_lead(h, s), bulk_lead(h, s, cells=cells)
    big_h, big_s = with_defect(repeated(h, 10), 9, 1.5), repeated(s, 10)
    energies = grid(lead, 6)
    np.testing.assert_allclose(
        device_of(big_h, big_s, [longer, lead]).transmission(energies),
        device_of(big_h, big_s, [lead, lead]).transmission(energies),
        atol=1e-8,
    )


@pytest.mark.parametrize("spin", ["collinear", "spinor"])
def test_spin_channels(spin: str) -> None:
    h, s = bn_chain()
    lead = bulk_lead(h, s)
    big_h, big_s = with_defect(repeated(h, 6), 5, 1.0), repeated(s, 6)
    energies = grid(lead, 9)[2:-2]
    plain = device_of(big_h, big_s, [lead, lead])
    up, down = plain.transmission(energies), plain.transmission(energies - 0.3)
    spin_lead = bulk_lead(in_channels(h, s, 0.3, spin), s)
    device = device_of(in_channels(big_h, big_s, 0.3, spin), big_s, [spin_lead, spin_lead])
    expected = np.stack([up, down]) if spin == "collinear" else up + down
    ours = device.transmission(energies)
    assert ours.shape == expected.shape
    np.testing.assert_allclose(ours, expected, atol=1e-6)


def test_alignment_undoes_a_shift_of_the_zero(caplog) -> None:
    h, s = bn_chain()
    lead, shifted = bulk_lead(h, s), bulk_lead(h + 0.7 * s, s)
    big_h, big_s = with_defect(repeated(h, 7), 7, 1.5), repeated(s, 7)
    energies = grid(lead, 7)
    reference = device_of(big_h, big_s, [lead, lead]).transmission(energies)
    second = device_of(big_h, big_s, [lead, shifted])
    np.testing.assert_allclose(second.transmission(energies), reference, atol=1e-5)
    np.testing.assert_allclose(second.alignment.lead_shifts, [0.0, -0.7], atol=1e-9)
    first = device_of(big_h, big_s, [shifted, lead])
    np.testing.assert_allclose(first.transmission(energies), reference, atol=1e-5)
    both = device_of(big_h, big_s, [shifted, shifted])
    assert both.shift == pytest.approx(0.7)
    assert both.residual < 1e-9
    np.testing.assert_allclose(both.transmission(energies), reference, atol=1e-5)
    with caplog.at_level(logging.INFO):
        moved = device_of(big_h, big_s, [shifted, shifted], align="lead")
    assert "device moved by +0.700000 eV" in caplog.text
    np.testing.assert_allclose(moved.transmission(energies + 0.7), reference, atol=1e-5)
    unaligned = device_of(big_h, big_s, [shifted, shifted], align="none")
    assert not np.allclose(unaligned.transmission(energies[1:]), reference[1:], atol=1e-2)


def test_velocities_are_those_of_the_generalised_bands() -> None:
    lead, fermi_level = dft_chain()
    for energy in (fermi_level - 7.37, fermi_level + 2.11):
        phases, velocities = lead.velocities(energy)
        assert len(phases) == 2 * int(lead.n_modes(energy)[0])
        k = lead.counter().mesh.k
        slopes = []
        for sign in (1, -1):
            for band in lead.counter().mesh.e.T:
                for n in np.nonzero((band[:-1] < energy) != (band[1:] < energy))[0]:
                    slopes.append(sign * _slope(lead, k[n], k[n + 1], energy))
        np.testing.assert_allclose(np.sort(velocities), np.sort(slopes), atol=1e-5)


def _slope(lead: Lead, low: float, high: float, energy: float) -> float:
    """dE/dk (k in radians per cell) where a band crosses the energy, by bisection and a central difference."""
    blocks = lead.blocks()
    number = int((blocks.eigenvalues(low) < energy).sum() > (blocks.eigenvalues(high) < energy).sum())
    band = int((blocks.eigenvalues(low) < energy).sum()) - number
    rising = blocks.eigenvalues(low)[band] < energy
    for _ in range(45):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if (blocks.eigenvalues(middle)[band] < energy) == rising else (low, middle)
    step = 1e-4
    ends = [blocks.eigenvalues(low + d)[band] for d in (-step, step)]
    return float(ends[1] - ends[0]) / (2 * step * 2 * np.pi)


def test_random_rotations_of_orbitals_leave_t_unchanged() -> None:
    """Complex H and S: every phase convention between lead and device is exercised."""
    lead, fermi_level = dft_chain()
    h, s, norbs = pieces(lead, 7, removed=(7,))
    rng = np.random.default_rng(5)
    turn = [np.linalg.qr(rng.normal(size=(13, 13)) + 1j * rng.normal(size=(13, 13)))[0] for _ in range(2)]
    of_cell = np.kron(np.diag([1, 0]), turn[0]) + np.kron(np.diag([0, 1]), turn[1])
    turned = Lead.from_matrices(
        lead.R[:, 0],
        of_cell.conj().T @ lead.hamiltonian[0] @ of_cell,
        of_cell.conj().T @ lead.overlap @ of_cell,
        lead.norbs,
    )
    atoms = np.delete(np.arange(14), 7) % 2
    whole = np.zeros(h.shape, dtype=complex)
    for n, kind in enumerate(atoms):
        whole[13 * n : 13 * n + 13, 13 * n : 13 * n + 13] = turn[kind]
    device = Device.from_matrices(
        whole.conj().T @ h @ whole, whole.conj().T @ s @ whole, norbs, [turned, turned]
    )
    energies = fermi_level + np.array([-3.1, 1.7])
    expected = Device.from_matrices(h, s, norbs, [lead, lead]).transmission(energies)
    np.testing.assert_allclose(device.transmission(energies), expected, atol=1e-6)


def test_workers_give_the_same() -> None:
    h, s = chain(-1.0, 0.1)
    lead = bulk_lead(h, s)
    device = device_of(repeated(h, 4), repeated(s, 4), [lead, lead])
    energies = grid(lead, 10)
    np.testing.assert_array_equal(device.transmission(energies, n_workers=2), device.transmission(energies))


def test_kwant_views_and_their_guard() -> None:
    h, s = bn_chain()
    lead = bulk_lead(h, s)
    device = device_of(with_defect(repeated(h, 6), 5, 1.0), repeated(s, 6), [lead, lead])
    fast = device.to_kwant()
    energy = float(grid(lead, 5)[2])
    expected = device.transmission(energy)[0]
    of_kwant = kwant.smatrix(fast, energy=energy, params={"E": energy})
    assert of_kwant.transmission(1, 0) == pytest.approx(expected, abs=1e-9)
    assert device.smatrix(energy).transmission(1, 0) == pytest.approx(expected, abs=1e-9)
    green = kwant.greens_function(fast, energy=energy, params={"E": energy})
    assert green.transmission(1, 0) == pytest.approx(expected, abs=1e-6)
    assert fast.graph.num_nodes == 12
    np.testing.assert_allclose(fast.pos(3), device.es.atoms.positions[3])
    np.testing.assert_allclose(
        fast.hamiltonian(2, 5, params={"E": energy}),
        fast.hamiltonian_submatrix(params={"E": energy})[
            device.problem().orbitals(np.array([2]))[:, None], device.problem().orbitals(np.array([5]))
        ],
    )
    with pytest.raises(ValueError, match="must be equal"):
        kwant.smatrix(fast, energy=energy, params={"E": energy + 0.1})
    with pytest.raises(ValueError, match="expected method"):
        device.to_kwant(method="cut")


def test_builder_view_gives_the_same() -> None:
    h, s = bn_chain()
    lead = bulk_lead(h, s)
    device = device_of(with_defect(repeated(h, 6), 5, 1.0), repeated(s, 6), [lead, lead])
    energy = float(grid(lead, 5)[2])
    builder = device.to_kwant(view="builder").finalized()
    of_builder = kwant.smatrix(builder, energy=energy, params={"E": energy}).transmission(1, 0)
    assert of_builder == pytest.approx(device.transmission(energy)[0], abs=1e-8)


def test_orthogonal_route_is_near_the_exact_one() -> None:
    """Löwdin orbitals, H' cut at six cells of a chain with a small overlap."""
    h, s = chain(-1.0, 0.05)
    lead = bulk_lead(h, s)
    device = device_of(repeated(h, 16), repeated(s, 16), [lead, lead])
    system = device.to_kwant(method="lowdin", cutoff=13.0)
    assert abs(system.problem.s - np.eye(16)).max() < 1e-12
    energy = 0.3
    of_lowdin = kwant.smatrix(system, energy=energy, params={"E": energy}).transmission(1, 0)
    assert of_lowdin == pytest.approx(device.transmission(energy)[0], abs=1e-3)


def test_solver_is_named(caplog) -> None:
    h, s = chain(-1.0, 0.1)
    lead = bulk_lead(h, s)
    with caplog.at_level(logging.INFO):
        report = device_of(repeated(h, 3), repeated(s, 3), [lead, lead]).transmission_report([0.1])
    assert report.backend in ("kwant (MUMPS)", "kwant (SuperLU)")
    assert report.backend in caplog.text
