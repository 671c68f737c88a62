"""What a user can get wrong in transport: each one clear line, most of them without Kwant."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms

from ase_deeph.electronic_structure import ElectronicStructure
from ase_deeph.transport import Device, Lead
from tests.systems import chain, hopping, square
from tests.transport_systems import bn_chain, device_of, pieces, repeated, without


def lead_of(h, s=None, axis="a", **options) -> Lead:
    return Lead.from_bulk(ElectronicStructure(h, s), axis, **options)


def line_of(error: pytest.ExceptionInfo) -> str:
    text = str(error.value)
    assert "\n" not in text
    assert len(text) < 320
    return text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"axis": "b"}, "expected a structure periodic along b"),
        ({"axis": "x"}, "expected 'a', 'b', 'c'"),
        ({"cells": 1}, "blocks beyond the principal layer.*give cells >= 2"),
        ({"cells": 0}, "a count >= 1"),
    ],
)
def test_leads_that_cannot_be(options: dict, message: str) -> None:
    h, s = bn_chain()
    with pytest.raises(ValueError, match=message) as error:
        lead_of(h, s, **options)
    line_of(error)


def test_direction_of_vacuum() -> None:
    h = square()
    atoms = h.atoms.copy()
    atoms.pbc = True
    with pytest.raises(ValueError, match="the direction is vacuum") as error:
        lead_of(hopping(atoms, 2.5, 0.0, -1.0), axis="c")
    line_of(error)


def test_overlap_that_is_not_positive() -> None:
    h, s = chain(-1.0, 0.6)
    with pytest.raises(
        ValueError, match=r"positive definite S\(k\), received smallest eigenvalue -1.09e-01"
    ) as error:
        lead_of(h, s)
    line_of(error)
    good = lead_of(*chain(-1.0, 0.1))
    matrix = np.eye(4) + 0.9 * (np.eye(4, k=1) + np.eye(4, k=-1))
    with pytest.raises(ValueError, match="device overlap: expected a positive definite") as error:
        Device.from_matrices(matrix, matrix, np.ones(4, int), [good, good])
    line_of(error)


def test_ends_that_do_not_match() -> None:
    h, s = bn_chain()
    lead = lead_of(h, s)
    big_h, big_s = repeated(h, 6), repeated(s, 6)
    for matrix in (big_h, big_s):
        matrix.atoms.positions[1] += [0, 0.83, 0]
    with pytest.raises(ValueError, match=r"side -a: .* is 0.83 Å from its place") as error:
        device_of(big_h, big_s, [lead, lead])
    line_of(error)
    assert device_of(big_h, big_s, [lead, lead], tolerance=0.9)


def test_wrong_species_and_missing_atoms() -> None:
    h, s = bn_chain()
    lead = lead_of(h, s)
    hydrogen, _ = chain()
    with pytest.raises(ValueError, match="outermost atom 0 is H, the lead has only B, N") as error:
        Device(ElectronicStructure(repeated(hydrogen, 6)), [lead, lead])
    line_of(error)
    with pytest.raises(ValueError, match=r"side -a: lead does not match") as error:
        device_of(without(repeated(h, 6), [2]), without(repeated(s, 6), [2]), [lead, lead])
    line_of(error)


def test_devices_that_are_too_short() -> None:
    h, s = bn_chain()
    lead = lead_of(h, s)
    with pytest.raises(ValueError, match="sides -a and \\+a share atom") as error:
        device_of(repeated(h, 3), repeated(s, 3), [lead, lead])
    line_of(error)
    with pytest.raises(
        ValueError, match=r"across the cell's a boundary.*attach a lead at both ends"
    ) as error:
        device_of(repeated(h, 6), repeated(s, 6), [lead])
    line_of(error)


def test_transverse_cells_must_agree() -> None:
    lead = lead_of(square())
    with pytest.raises(ValueError, match=r"transverse vector b .4.000 Å. is none of the lead's") as error:
        Device(ElectronicStructure(repeated(square(n=2), 3)), [lead, lead])
    line_of(error)


def test_a_lead_across_the_side() -> None:
    h, _ = chain()
    across = Atoms("H", cell=[12, 2, 11], pbc=(False, True, False))
    along_b = lead_of(hopping(across, 2.5, 0, -1), axis="b")
    with pytest.raises(ValueError, match="runs along b of its own cell, across side -a") as error:
        Device(ElectronicStructure(repeated(h, 5)), [along_b], boundary=["-a"])
    line_of(error)


@pytest.mark.parametrize(
    ("boundary", "message"),
    [("ends", "expected 'auto'"), (["-a", "-a"], "different sides"), (["a", "b"], "sides such as '-a'")],
)
def test_boundaries(boundary, message: str) -> None:
    h, s = chain(-1.0, 0.1)
    lead = lead_of(h, s)
    with pytest.raises(ValueError, match=message):
        device_of(repeated(h, 4), repeated(s, 4), [lead, lead], boundary=boundary)


def test_foreign_orbitals_and_spins() -> None:
    h, s = chain(-1.0, 0.1)
    lead = lead_of(h, s)
    two_h, two_s = chain(-1.0, 0.1, n=2)
    foreign = repeated(chain(-1.0, 0.2, n=2)[1], 3)
    with pytest.raises(ValueError, match=r"overlap differ by 1.0e-01") as error:
        device_of(repeated(two_h, 3), foreign, [lead_of(two_h, two_s)] * 2)
    line_of(error)
    with pytest.raises(ValueError, match="align: expected one of"):
        device_of(repeated(h, 4), repeated(s, 4), [lead, lead], align="vacuum")
    matrices = np.zeros((3, 2, 2)), np.zeros((3, 2, 2))
    with pytest.raises(ValueError, match="norbs add up to 3"):
        Lead.from_matrices([-1, 0, 1], *matrices, norbs=[1, 2])
    with pytest.raises(ValueError, match="has no reverse"):
        Lead.from_matrices([0, 1], np.ones((2, 1, 1)), None, norbs=[1])


def test_energies_k_and_backends() -> None:
    pytest.importorskip("kwant")
    h, s = chain(-1.0, 0.1)
    lead = lead_of(h, s)
    device = device_of(repeated(h, 4), repeated(s, 4), [lead, lead])
    cases: list[tuple[dict, str]] = [
        ({"energies": [50.0]}, "50.0000 eV lies outside the bands of the leads, -1.6667 ... 2.5000 eV"),
        ({"energies": [np.nan]}, "finite numbers"),
        ({"energies": [0.0], "kperp": (0.1,)}, "kperp: expected fractional k"),
        ({"energies": [0.0], "backend": "nanotools"}, "backend: expected 'kwant' or 'ase'"),
        ({"energies": [0.0], "n_workers": 0}, "n_workers"),
        ({"energies": [0.0], "terminals": (0, 2)}, "terminals"),
    ]
    for options, message in cases:
        with pytest.raises(ValueError, match=message) as error:
            device.transmission(**options)
        line_of(error)
    orbitals, overlap, norbs = pieces(lead, 4)
    plain = Device.from_matrices(orbitals, overlap, norbs, [lead, lead])
    with pytest.raises(ValueError, match="knows k = 0 alone"):
        plain.transmission([0.0], kperp=(0.1, 0.0))
    with pytest.raises(ValueError, match="has no positions"):
        plain.to_kwant().pos(0)
    with pytest.raises(ValueError, match="lowdin: expected"):
        plain.to_kwant(method="lowdin", cutoff=5.0)
