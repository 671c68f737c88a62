"""Kwant Builders: bands through wraparound, T(E) against Green functions, tags, spins, and guards that refuse."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg as sl
import scipy.sparse as sp
from ase import Atoms

from ase_deeph import ElectronicStructure, RealSpaceMatrix
from ase_deeph.exporters import kwant_guards, kwant_lead, to_kwant
from ase_deeph.exporters.kwant import attach_lead, device_builder, site_atom, smatrix
from tests.systems import MATERIALS, SP_D, chain, graphene_pz, random_crystal, random_matrix, random_overlap

kwant = pytest.importorskip("kwant")

K = np.array([0.13, 0.27, -0.41])
MOMENTA = ("k_x", "k_y", "k_z")


def structure(name: str) -> ElectronicStructure:
    return ElectronicStructure(*MATERIALS[name]())


def collinear_chain() -> ElectronicStructure:
    h, s = chain(s=0.1)
    split = np.stack([h.entries, h.entries + 0.4 * h.pairs.on_site])
    return ElectronicStructure(replace(h, entries=split, spin="collinear"), s)


def spinor_crystal() -> ElectronicStructure:
    h, s = random_crystal()
    rng = np.random.default_rng(5)
    blocks = []
    for block in h.blocks():
        parts = rng.normal(size=(2, 2, 2, *block.shape)) * np.abs(block)
        blocks.append(np.block([list(row) for row in parts[0] + 1j * parts[1]]))
    spinor = RealSpaceMatrix.from_blocks(h.basis, h.pairs, h.atoms, blocks, "spinor").hermitian_part()
    return ElectronicStructure(spinor, s)


def wire(seed: int = 3) -> ElectronicStructure:
    """A BN wire in s, p and d shells whose blocks reach two cells."""
    rng = np.random.default_rng(seed)
    atoms = Atoms("BN", [(0, 0, 0), (1.1, 0.4, 0.2)], cell=[2.4, 0, 0], pbc=(True, False, False))
    return ElectronicStructure(
        random_matrix(atoms, SP_D, 4.9, rng, 3.0), random_overlap(atoms, SP_D, 4.9, rng)
    )


@pytest.fixture(scope="module")
def carbon_chain() -> ElectronicStructure:
    pytest.importorskip("pyscf")
    from ase_deeph.dft import run_pyscf

    atoms = Atoms("C", cell=[1.3, 0, 0], pbc=(True, False, False))
    data = run_pyscf(atoms, kpts=(12, 1, 1), forces=False, convergence=1e-6)
    assert data.hamiltonian is not None
    return ElectronicStructure(data.hamiltonian, data.overlap, data.n_electrons, kpts=(24, 1, 1))


# ---------------------------------------------------------------- the same physics without Kwant


def cells_apart(matrix: RealSpaceMatrix, axis: int, k: np.ndarray) -> dict[int, np.ndarray]:
    """M between cell 0 and cell n along the axis, Bloch-summed over the others."""
    starts = np.concatenate(
        [[0], np.cumsum(matrix.basis.orbital_counts(matrix.atoms.get_chemical_symbols()))]
    )
    starts = starts * (2 if matrix.spin == "spinor" else 1)
    result: dict[int, np.ndarray] = {}
    for i, j, R, block in zip(matrix.pairs.i, matrix.pairs.j, matrix.pairs.R, matrix.blocks(), strict=True):
        into = result.setdefault(int(R[axis]), np.zeros((starts[-1], starts[-1]), complex))
        into[starts[i] : starts[i + 1], starts[j] : starts[j + 1]] += np.exp(2j * np.pi * k @ R) * block
    return result


def stacked(apart: dict[int, np.ndarray], n_cells: int, offset: int = 0) -> np.ndarray:
    """The matrix between n cells and the n cells that begin `offset` cells further."""
    zero = np.zeros_like(apart[0])
    return np.block([[apart.get(b + offset - a, zero) for b in range(n_cells)] for a in range(n_cells)])


def surface_green(z: complex, h0, h1, s0, s1) -> np.ndarray:
    """Surface Green function of a stack that grows along h1, by decimation."""
    bulk = z * s0 - h0
    surface = bulk.copy()
    a, b = h1 - z * s1, h1.conj().T - z * s1.conj().T
    for _ in range(200):
        g = np.linalg.inv(bulk)
        surface = surface - a @ g @ b
        bulk = bulk - a @ g @ b - b @ g @ a
        a, b = a @ g @ a, b @ g @ b
        if max(np.abs(a).max(), np.abs(b).max()) < 1e-14:
            break
    return np.linalg.inv(surface)


def green_transmission(
    energy: float, layers: tuple, h: np.ndarray, s: np.ndarray, eta: float = 1e-9
) -> float:
    """Caroli's T(E) of a device that begins and ends with a layer of one lead, layers = (h0, h1, s0, s1)."""
    z = energy + 1j * eta
    h0, h1, s0, s1 = layers
    back = (h0, h1.conj().T, s0, s1.conj().T)
    forth, hither = h1 - z * s1, h1.conj().T - z * s1.conj().T
    left = hither @ surface_green(z, *back) @ forth
    right = forth @ surface_green(z, *layers) @ hither
    n = len(h0)
    pencil = z * s - h
    pencil[:n, :n] -= left
    pencil[-n:, -n:] -= right
    across = np.linalg.inv(pencil)[:n, -n:]
    broad = [1j * (sigma - sigma.conj().T) for sigma in (left, right)]
    return float(np.trace(broad[0] @ across @ broad[1] @ across.conj().T).real)


def our_matrices(es: ElectronicStructure, n_cells: int, axis: int = 0, k: np.ndarray | None = None):
    """(H, S) of n cells and (h0, h1, s0, s1) of the lead's layer, with its number of cells."""
    k = np.zeros(3) if k is None else k
    assert es.overlap is not None
    h, s = cells_apart(es.hamiltonian, axis, k), cells_apart(es.overlap, axis, k)
    reach = max(max(h), max(s))
    layers = (stacked(h, reach), stacked(h, reach, reach), stacked(s, reach), stacked(s, reach, reach))
    return (stacked(h, n_cells), stacked(s, n_cells)), layers, reach


# ---------------------------------------------------------------- pieces of bulk with leads


def piece(es: ElectronicStructure, n_cells: int):
    """A finite Builder of n cells along a."""
    bulk = to_kwant(es)
    builder = kwant.Builder()
    builder.fill(bulk, lambda site: 0 <= site.tag[0] < n_cells, list(bulk.sites()))
    return builder


def with_leads(es: ElectronicStructure, n_cells: int, reach: int):
    """n cells along a between two leads of the same bulk."""
    builder = piece(es, n_cells)
    attach_lead(builder, kwant_lead(es, "-a"))
    attach_lead(builder, kwant_lead(es, "+a", first_cell=n_cells - reach))
    return builder


def order_of(sites, n_atoms: int) -> np.ndarray:
    """Where each orbital of Kwant's order stands in ours (cell by cell along a, atom by atom)."""
    ours = {}
    start = 0
    listed = [(site_atom(site), site.family.norbs) for site in sites]
    for (atom, _, cell), n in sorted(listed, key=lambda item: (item[0].cell[0], item[0].atom)):
        ours[atom, cell] = np.arange(start, start + n)
        start += n
    return np.concatenate([ours[atom, cell] for (atom, _, cell), _ in listed])


# ---------------------------------------------------------------- bulk


def test_sites_are_atoms() -> None:
    es = structure("random crystal")
    sites = list(to_kwant(es).sites())
    assert sorted((site_atom(s).atom, site_atom(s).symbol, site_atom(s).cell) for s in sites) == [
        (0, "B", (0, 0, 0)),
        (1, "N", (0, 0, 0)),
    ]
    for site in sites:
        atom = site_atom(site).atom
        assert site.family.norbs == es.hamiltonian.basis.n_orbitals([es.atoms[atom].symbol])
        assert np.allclose(site.pos, es.atoms.positions[atom])
        there = site.family(1, -2, 3)
        assert site_atom(there).cell == (1, -2, 3)
        assert np.allclose(there.pos, es.atoms.positions[atom] + np.array([1, -2, 3]) @ es.atoms.cell.array)
    with pytest.raises(ValueError, match="index:symbol"):
        site_atom(kwant.lattice.chain(name="mine", norbs=1)(0))


def check_wraparound(builder, energies: np.ndarray, pbc: np.ndarray) -> None:
    """h(k; E) - E is singular at every eigenvalue, and nowhere between them."""
    wrapped = kwant.wraparound.wraparound(builder).finalized()
    momenta = dict(zip(MOMENTA, 2 * np.pi * K[pbc], strict=False))
    for energy in (*energies, energies[0] - 0.05):
        h = wrapped.hamiltonian_submatrix(params={"E": energy, **momenta})
        smallest = sl.svdvals(h - energy * np.eye(len(h)))[-1]
        assert (smallest < 1e-10) == (energy in energies)


@pytest.mark.parametrize("name", MATERIALS)
def test_wraparound_has_our_bands(name: str) -> None:
    es = structure(name)
    check_wraparound(to_kwant(es), es.eigenvalues(K * es.atoms.pbc)[0, 0], es.atoms.pbc)


@pytest.mark.parametrize("channel", [0, 1])
def test_collinear_channels(channel: int) -> None:
    es = collinear_chain()
    bulk = to_kwant(es, spin=("up", "down")[channel])
    check_wraparound(bulk, es.eigenvalues(K * es.atoms.pbc)[channel, 0], es.atoms.pbc)


def test_spinors() -> None:
    es = spinor_crystal()
    bulk = to_kwant(es)
    assert sorted(site.family.norbs for site in bulk.sites()) == sorted(
        2 * es.hamiltonian.basis.orbital_counts(["B", "N"])
    )
    check_wraparound(bulk, es.eigenvalues(K)[0, 0], es.atoms.pbc)


def test_molecule_is_finite() -> None:
    rng = np.random.default_rng(1)
    atoms = Atoms("BN", [(0, 0, 0), (0, 0, 1.4)])
    es = ElectronicStructure(random_matrix(atoms, SP_D, 3.0, rng), random_overlap(atoms, SP_D, 3.0, rng))
    system = to_kwant(es).finalized()
    energy = es.eigenvalues([0, 0, 0])[0, 0, 2]
    h = system.hamiltonian_submatrix(params={"E": energy})
    assert sl.svdvals(h - energy * np.eye(len(h)))[-1] < 1e-12


def test_no_overlap_means_no_parameter() -> None:
    h, _ = chain()
    es = ElectronicStructure(h)
    builder = with_leads(es, 5, 1)
    system = builder.finalized()
    assert not system.parameters
    assert smatrix(system, 0.3).transmission(1, 0) == pytest.approx(1.0, abs=1e-10)


# ---------------------------------------------------------------- devices


def test_matrix_of_a_piece_is_ours() -> None:
    es = wire()
    (h, s), _, _ = our_matrices(es, 4)
    system = piece(es, 4).finalized()
    order = order_of(system.sites, 2)
    energy = 0.37
    ours = h - energy * s + energy * np.eye(len(h))
    theirs = system.hamiltonian_submatrix(params={"E": energy})
    assert np.abs(theirs - ours[np.ix_(order, order)]).max() < 1e-14


def test_transverse_k_of_a_lead() -> None:
    """A three-dimensional bulk at one transverse k: cell and hopping of its lead, complex."""
    es = structure("random crystal")
    k = np.array([0.21, 0.0, -0.33])
    _, (h0, h1, s0, s1), reach = our_matrices(es, 1, axis=1, k=k)
    lead = kwant_lead(es, "+b", k_transverse=(0.21, -0.33)).finalized()
    assert lead.cell_size == 2 * reach
    sites = sorted(lead.sites[: lead.cell_size], key=lambda s: (site_atom(s).cell[1], site_atom(s).atom))
    at = {site: n for n, site in enumerate(sites)}
    starts = np.concatenate([[0], np.cumsum([site.family.norbs for site in sites])])
    order = np.concatenate(
        [np.arange(starts[at[s]], starts[at[s] + 1]) for s in lead.sites[: lead.cell_size]]
    )
    energy = -0.2
    cell = h0 - energy * s0 + energy * np.eye(len(h0))
    assert np.abs(lead.cell_hamiltonian(params={"E": energy}) - cell[np.ix_(order, order)]).max() < 1e-13
    hopping = lead.inter_cell_hopping(params={"E": energy})
    across = (h1 - energy * s1).conj().T[np.ix_(order, order)][:, : hopping.shape[1]]
    assert np.abs(hopping - across).max() < 1e-13


def test_pristine_wire_is_quantised() -> None:
    es = wire()
    _, _, reach = our_matrices(es, 1)
    assert reach == 2
    system = with_leads(es, 5, reach).finalized()
    bands = es.eigenvalues(np.outer(np.linspace(0.0123, 1.0123, 400), [1, 0, 0]))[0]
    for energy in np.linspace(bands.min() + 0.1, bands.max() - 0.1, 12):
        upward = int(np.sum((bands[:-1] < energy) & (bands[1:] >= energy)))
        s = smatrix(system, energy)
        assert s.transmission(1, 0) == pytest.approx(upward, abs=1e-7)
        assert np.abs(s.data.conj().T @ s.data - np.eye(len(s.data))).max(initial=0) < 1e-8


def remove(sites, gone) -> list:
    return [site for site in sites if (site_atom(site).atom, site_atom(site).cell[0]) in gone]


def test_vacancy_in_a_wire_against_green_functions() -> None:
    es = wire()
    n_cells, gone = 5, (1, 2)
    (h, s), layers, reach = our_matrices(es, n_cells)
    builder = with_leads(es, n_cells, reach)
    del builder[remove(list(builder.sites()), {gone})]
    system = builder.finalized()
    n_b, n_n = es.hamiltonian.basis.orbital_counts(["B", "N"])
    first = 2 * (n_b + n_n) + n_b
    kept = np.delete(np.arange(len(h)), np.arange(first, first + n_n))
    partial = False
    for energy in np.linspace(-2.1, 2.3, 8):
        expected = green_transmission(energy, layers, h[np.ix_(kept, kept)], s[np.ix_(kept, kept)])
        assert smatrix(system, energy).transmission(1, 0) == pytest.approx(expected, abs=1e-6)
        partial |= 0.01 < expected % 1 < 0.99
    assert partial


def test_vacancy_in_a_dft_carbon_chain(carbon_chain: ElectronicStructure) -> None:
    es = carbon_chain
    (_, _), _, reach = our_matrices(es, 1)
    n_cells = 2 * reach + 1
    (h, s), layers, _ = our_matrices(es, n_cells)
    builder = with_leads(es, n_cells, reach)
    level = es.fermi_level()
    pristine = builder.finalized()
    assert smatrix(pristine, level).transmission(1, 0) == pytest.approx(2.0, abs=1e-6)
    del builder[remove(list(builder.sites()), {(0, reach)})]
    system = builder.finalized()
    kept = np.delete(np.arange(len(h)), 4 * reach + np.arange(4))
    for energy in level + np.array([-6.1, -3.3, -1.2, 0.05, 1.7, 3.9]):
        expected = green_transmission(energy, layers, h[np.ix_(kept, kept)], s[np.ix_(kept, kept)])
        assert smatrix(system, energy).transmission(1, 0) == pytest.approx(expected, abs=1e-6)


@dataclass(frozen=True)
class Lead:
    atoms: np.ndarray
    norbs: np.ndarray
    h0: np.ndarray
    h1: np.ndarray
    s0: np.ndarray
    s1: np.ndarray
    step: np.ndarray | None


@dataclass(frozen=True)
class Problem:
    h: sp.csr_matrix
    s: sp.csr_matrix
    norbs: np.ndarray
    positions: np.ndarray | None
    symbols: list[str] | None
    attachments: list[Lead]


def wire_problem(
    es: ElectronicStructure, n_cells: int, gone: int, *, places: bool = True
) -> tuple[Problem, tuple]:
    """The wire without one atom, in the form that a Device hands over; and the same for Green functions."""
    (h, s), layers, reach = our_matrices(es, n_cells)
    atoms = es.atoms * (n_cells, 1, 1)
    counts = np.tile(es.hamiltonian.basis.orbital_counts(["B", "N"]), n_cells)
    rows = np.repeat(np.arange(len(counts)), counts) != gone
    h, s = h[np.ix_(rows, rows)], s[np.ix_(rows, rows)]
    del atoms[gone]
    norbs = np.delete(counts, gone)
    per_cell, n_layer = counts[:2], 2 * reach
    h0, h1, s0, s1 = layers
    # The left layer is listed outwards: its cells in falling order.
    flip = np.arange(h0.shape[0]).reshape(reach, -1)[::-1].ravel()
    turned = [m[np.ix_(flip, flip)] for m in (h0, h1.conj().T, s0, s1.conj().T)]
    first = np.arange(n_layer).reshape(reach, 2)[::-1].ravel()
    last = len(norbs) - n_layer + np.arange(n_layer)
    step = reach * es.atoms.cell.array[0] if places else None
    leads = [
        Lead(first, np.tile(per_cell, reach), *turned, None if step is None else -step),
        Lead(last, np.tile(per_cell, reach), h0, h1, s0, s1, step),
    ]
    positions = atoms.positions if places else None
    symbols = atoms.get_chemical_symbols() if places else None
    return Problem(sp.csr_matrix(h), sp.csr_matrix(s), norbs, positions, symbols, leads), (layers, h, s)


@pytest.mark.parametrize("places", [True, False])
def test_device_builder(places: bool) -> None:
    problem, (layers, h, s) = wire_problem(wire(), 5, 5, places=places)
    builder = device_builder(problem)
    assert len(list(builder.sites())) == 9
    assert sorted(site_atom(site).atom for site in builder.sites()) == list(range(9))
    if places:
        for site in builder.sites():
            assert np.allclose(site.pos, problem.positions[site_atom(site).atom])
    system = builder.finalized()
    for energy in (-1.3, 0.2, 1.4):
        expected = green_transmission(energy, layers, h, s)
        assert smatrix(system, energy).transmission(1, 0) == pytest.approx(expected, abs=1e-6)


def test_device_builder_needs_a_layer_for_each_lead() -> None:
    problem, _ = wire_problem(wire(), 5, 5)
    twice = replace(problem, attachments=[problem.attachments[0], problem.attachments[0]])
    with pytest.raises(ValueError, match="lies in the layer of lead 1 and in another one"):
        device_builder(twice)


def test_edit_and_plot(tmp_path: Path) -> None:
    """A flake cut from graphene, an atom removed, drawn in the plane."""
    es = ElectronicStructure(*graphene_pz())
    bulk = to_kwant(es)
    flake = kwant.Builder()
    flake.fill(bulk, lambda site: np.hypot(site.pos[0], site.pos[1]) < 6.0, list(bulk.sites()))
    before = len(list(flake.sites()))
    del flake[next(iter(flake.sites()))]
    assert len(list(flake.sites())) == before - 1 > 20
    picture = tmp_path / "flake.png"
    kwant.plot(flake, pos_transform=lambda r: r[:2], file=str(picture))
    assert picture.stat().st_size > 5000


# ---------------------------------------------------------------- guards


def test_energy_and_parameter_must_agree() -> None:
    system = with_leads(structure("chain"), 4, 1).finalized()
    assert smatrix(system, 0.3, {"E": 0.3}).transmission(1, 0) == pytest.approx(1.0, abs=1e-9)
    with pytest.raises(ValueError, match=r"energy is 0.3 eV but params\['E'\] is 0.4 eV"):
        smatrix(system, 0.3, {"E": 0.4})


def test_lost_modes_are_refused(carbon_chain: ElectronicStructure) -> None:
    """Six cells per layer fold the π bands of k and -k on one phase: four modes at once, which Kwant may lose."""
    es = carbon_chain
    _, _, reach = our_matrices(es, 1)
    system = with_leads(es, 2 * reach, reach).finalized()
    messages = []
    for n in range(1, reach):
        for energy in es.eigenvalues([n / (2 * reach), 0, 0])[0, 0]:
            try:
                transmission = smatrix(system, energy).transmission(1, 0)
            except ValueError as error:
                messages.append(str(error))
            else:
                assert transmission in (pytest.approx(1, abs=1e-5), pytest.approx(2, abs=1e-5))
    assert messages
    assert all("bands fold on one phase here" in message for message in messages)
    beside = smatrix(system, energy + 2e-4).transmission(1, 0)
    assert beside == pytest.approx(round(beside), abs=1e-5)


def test_a_smaller_count_than_on_both_sides_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    system = with_leads(structure("chain"), 4, 1).finalized()
    find = kwant_guards.lead_modes

    def forgetful(lead, energy, params):
        return find(lead, 9.0, {"E": 9.0}) if energy == 0.3 else find(lead, energy, params)

    monkeypatch.setattr(kwant_guards, "lead_modes", forgetful)
    with pytest.raises(ValueError, match=r"lead: Kwant finds 0 modes at 0.3 eV and 1 at ±0.0001 eV"):
        smatrix(system, 0.3)
    assert smatrix(system, 0.3, check_modes=False).transmission(1, 0) == 0.0
    assert smatrix(system, 0.31).transmission(1, 0) == pytest.approx(1.0, abs=1e-9)


def test_band_edges_are_not_taken_for_lost_modes() -> None:
    es = structure("chain")
    system = with_leads(es, 4, 1).finalized()
    edge = float(es.eigenvalues([0, 0, 0])[0, 0, 0])
    assert smatrix(system, edge - 5e-5).transmission(1, 0) == 0.0


def test_attaching_adds_no_atoms() -> None:
    es = structure("chain")
    builder = piece(es, 7)
    with pytest.raises(ValueError, match="would add 2 atoms to the device: 0:H in cell"):
        attach_lead(builder, kwant_lead(es, "+a", cells=3))
    assert len(list(builder.sites())) == 7
    assert not builder.leads
    attach_lead(builder, kwant_lead(es, "+a", cells=3, first_cell=4))
    attach_lead(builder, kwant_lead(es, "-a", cells=2))
    assert smatrix(builder.finalized(), 0.3).transmission(1, 0) == pytest.approx(1.0, abs=1e-8)


def test_a_vacancy_at_the_lead_is_not_filled() -> None:
    es = wire()
    builder = piece(es, 5)
    del builder[remove(list(builder.sites()), {(0, 4)})]
    with pytest.raises(ValueError, match="would add 1 atoms to the device: 0:B in cell"):
        attach_lead(builder, kwant_lead(es, "+a", first_cell=3))
    assert len(list(builder.sites())) == 9


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"axis": "d"}, "expected 'a', 'b' or 'c'"),
        ({"axis": 3}, "expected 'a', 'b' or 'c'"),
        ({"axis": "c"}, "not periodic there"),
        ({"axis": "a", "cells": 0}, "positive integer"),
        ({"axis": "a", "cells": 1.5}, "positive integer"),
        ({"axis": "a", "spin": "up"}, "expected None for an H of spin 'none'"),
        ({"axis": "a", "k_transverse": (0.1, 0.2)}, "expected 1 finite fractional"),
        ({"axis": "a", "k_transverse": (np.nan,)}, "expected 1 finite fractional"),
    ],
)
def test_bad_leads(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kwant_lead(structure("graphene"), **options)


def test_short_layers_are_refused() -> None:
    with pytest.raises(ValueError, match="reaches 2 cells"):
        kwant_lead(wire(), "a", cells=1)


@pytest.mark.parametrize("spin", [None, "sideways"])
def test_a_collinear_channel_must_be_named(spin: str | None) -> None:
    with pytest.raises(ValueError, match="expected 'up' or 'down'"):
        to_kwant(collinear_chain(), spin=spin)


def test_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kwant", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install '\.\[transport\]' \./tools/kwant"):
        to_kwant(structure("chain"))
