"""Löwdin's H': exact levels with a long cutoff, errors that are stated truly, refusals that say what to do."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import pytest
from scipy.linalg import sqrtm

from ase_deeph import ElectronicStructure
from ase_deeph.orthogonalization import (
    from_mesh,
    inverse_square_root,
    lowdin,
    mesh_for,
    mesh_points,
)
from tests.invariants import GENERIC, assert_hermitian
from tests.systems import chain
from tests.systems_exporters import carbon_layer, dichalcogenide, generic_points, random_structure


def largest_difference(first: ElectronicStructure, second: ElectronicStructure) -> float:
    k = generic_points(first)
    return float(np.abs(first.eigenvalues(k) - second.eigenvalues(k)).max())


def test_inverse_square_root() -> None:
    s = random_structure().overlap
    assert s is not None
    s_k = s.at_k(GENERIC[0])
    assert np.abs(inverse_square_root(s_k) - np.linalg.inv(sqrtm(s_k))).max() < 1e-12
    with pytest.raises(ValueError, match="expected a positive overlap"):
        inverse_square_root(np.ones((2, 2)))


def test_mesh_and_back() -> None:
    """M(R) -> M(k) on a mesh wide enough -> M(R): the same blocks."""
    for spin in ("none", "collinear", "spinor"):
        h = random_structure(spin).hamiltonian
        mesh = mesh_for(h.atoms, 3 * 4.5)
        values = np.stack([h.at_k(k) for k in mesh_points(mesh)], axis=-3).reshape(
            -1, np.prod(mesh), h.n_orbitals, h.n_orbitals
        )
        back = from_mesh(values, mesh, h, h.pairs)
        assert np.abs(back.entries - h.entries).max() < 1e-12
        assert back.entries.dtype == h.entries.dtype
    flat = h.atoms.copy()
    flat.pbc = (True, False, True)
    assert mesh_for(flat, 20.0)[1] == 1


@pytest.mark.parametrize("spin", ["none", "collinear", "spinor"])
def test_levels_converge_with_the_cutoff(spin: str) -> None:
    es = random_structure(spin)
    errors = [
        largest_difference(es, es.orthogonalized(cutoff, max_error=np.inf)) for cutoff in (3.5, 5.5, 8.0)
    ]
    assert errors[0] > 5 * errors[1] > 25 * errors[2]
    assert errors[2] < 5e-3
    result = es.orthogonalized(8.0)
    assert result.overlap is None
    assert result.hamiltonian.spin == es.hamiltonian.spin
    assert result.n_electrons == es.n_electrons
    assert abs(result.fermi_level() - es.fermi_level()) < 0.01
    assert_hermitian(result.hamiltonian)


def test_closed_form() -> None:
    """One orbital: H'(k) = (e0 + 2 t cos) / (1 + 2 s cos), whose Fourier coefficients are H'(R)."""
    h, s = chain(t=-1.0, s=0.2, e0=0.3)
    result = lowdin(h, s, 21.0)
    phase = 2 * np.pi * np.arange(4096) / 4096
    levels = (0.3 - 2 * np.cos(phase)) / (1 + 0.4 * np.cos(phase))
    for R in range(11):
        expected = np.mean(levels * np.cos(R * phase))
        assert abs(result.hamiltonian.block(0, 0, (R, 0, 0))[0, 0] - expected) < 1e-6
    assert len(result.hamiltonian.pairs) == 21


@pytest.mark.parametrize("build", [carbon_layer, dichalcogenide], ids=["graphene", "MoTe2"])
def test_stated_error_is_that_of_other_k_points(build) -> None:
    """The error told, from a dozen probes, against the error on a mesh that has nothing to do with them."""
    es = build()
    result = lowdin(es.hamiltonian, es.overlap, 9.0, fermi_level=es.fermi_level(), max_error=np.inf)
    k = np.stack(np.meshgrid(*[(np.arange(7) + 0.31) / 7] * 2, [0.0]), axis=-1).reshape(-1, 3)
    exact = es.eigenvalues(k)
    difference = np.abs(ElectronicStructure(result.hamiltonian).eigenvalues(k) - exact)
    near = difference[np.abs(exact - es.fermi_level()) < 5.0]
    assert 0.3 < result.error.max / near.max() < 1.5
    assert 0.5 < result.error.rms / np.sqrt(np.mean(near**2)) < 2
    assert 0.3 < result.error.max_all / difference.max() < 1.5


def test_error_is_logged_and_a_large_one_refused(caplog: pytest.LogCaptureFixture) -> None:
    es = random_structure()
    with caplog.at_level(logging.INFO, logger="ase_deeph.orthogonalization"):
        es.orthogonalized(8.0)
    assert "bands err by 0.00" in caplog.text
    with pytest.raises(
        ValueError, match=r"orthogonalized\(4 Å\): bands err by 0\.25.* a cutoff of ([\d.]+) Å"
    ) as e:
        es.orthogonalized(4.0)
    advised = float(str(e.value).split("a cutoff of ")[1].split()[0])
    es.orthogonalized(advised)
    with pytest.raises(ValueError, match=r"no cutoff up to .* keep S"):
        es.orthogonalized(2.0, max_error=1e-12)


def test_bad_input() -> None:
    es = random_structure()
    for cutoff in (0.0, -1.0, np.nan):
        with pytest.raises(ValueError, match="positive length"):
            es.orthogonalized(cutoff)
    assert es.overlap is not None
    bad = ElectronicStructure(es.hamiltonian, replace(es.overlap, entries=-es.overlap.entries), 8)
    with pytest.raises(ValueError, match="positive"):
        lowdin(bad.hamiltonian, bad.overlap, 5.0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="too large"):
        lowdin(es.hamiltonian, es.overlap, 300.0)
    orthogonal = random_structure("none", orthogonal=True)
    assert orthogonal.orthogonalized(3.0) is orthogonal
