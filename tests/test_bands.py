"""Band paths, gaps and group velocities."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, graphene
from ase.spectrum.band_structure import BandStructure

from ase_deeph.band_derivatives import group_velocities
from ase_deeph.bands import as_band_structure, band_gap, band_path
from ase_deeph.eigen import solve
from ase_deeph.matrix import RealSpaceMatrix
from tests.invariants import GENERIC
from tests.systems import chain, dimer_chain, random_crystal, square


def test_default_paths_follow_the_periodic_axes() -> None:
    sheet = graphene(vacuum=6.0)
    sheet.pbc = (True, True, False)
    path = band_path(sheet, npoints=40)
    assert set(path.path.replace(",", "")) == set("GMK")
    assert len(path.kpts) == 40
    assert np.all(path.kpts[:, 2] == 0)
    assert set(band_path(bulk("Si")).path) > set("GXL")
    line = band_path(chain()[0].atoms, npoints=5)
    np.testing.assert_allclose(np.abs(line.kpts[:, 0]), np.linspace(0, 0.5, 5), atol=1e-12)


def test_paths_given_are_kept() -> None:
    si = bulk("Si")
    assert band_path(si, "LGX", 12).path == "LGX"
    given = si.cell.bandpath("GX", npoints=3)
    assert band_path(si, given) is given


def test_bad_paths() -> None:
    with pytest.raises(ValueError, match="periodic"):
        band_path(Atoms("H"))
    with pytest.raises(ValueError, match="npoints=0"):
        band_path(bulk("Si"), npoints=0)
    with pytest.raises(ValueError, match="special point"):
        band_path(bulk("Si"), "GQ")


def test_ase_object_is_written_and_read(tmp_path) -> None:
    h = square()
    path = band_path(h.atoms, npoints=20)
    bands = as_band_structure(path, solve(h, None, path.kpts).eigenvalues, 0.25)
    bands.write(tmp_path / "bands.json")
    again = BandStructure.read(tmp_path / "bands.json")
    assert again.reference == 0.25
    np.testing.assert_allclose(again.energies, bands.energies)


def test_gap_of_the_dimer_chain() -> None:
    kpts = np.column_stack([np.linspace(0, 0.5, 21), np.zeros(21), np.zeros(21)])
    gap = band_gap(solve(dimer_chain(-1.5, -0.5), None, kpts).eigenvalues, kpts, 0.0)
    assert gap == pytest.approx(2.0)
    assert gap.direct == pytest.approx(2.0)
    assert (gap.vbm, gap.cbm) == pytest.approx((-1.0, 1.0))
    np.testing.assert_allclose(gap.k_vbm, [0.5, 0, 0])
    np.testing.assert_allclose(gap.k_cbm, [0.5, 0, 0])


def test_indirect_gap_and_spin() -> None:
    energies = np.array([[[-1.0, 2.0], [-0.5, 3.0]], [[-3.0, 2.5], [-3.0, 1.0]]])
    kpts = np.array([[0, 0, 0], [0.5, 0, 0]])
    gap = band_gap(energies, kpts, 0.2)
    assert float(gap) == 1.5
    assert gap.direct == 3.0
    assert (gap.spin_vbm, gap.spin_cbm) == (0, 1)
    indirect = band_gap(energies[:1], kpts, 0.2)
    assert (float(indirect), indirect.direct) == (2.5, 3.0)
    assert indirect.k_vbm[0] == 0.5
    assert indirect.k_cbm[0] == 0.0


def test_metal_has_no_gap() -> None:
    gap = band_gap(np.array([[[-1.0, 3.0], [1.0, 4.0]]]), np.zeros((2, 3)), 0.0)
    assert gap == 0
    assert gap.direct == 0
    assert gap.k_vbm is None
    assert "metal" in repr(gap)


@pytest.mark.parametrize("collinear", [False, True])
def test_group_velocity_is_the_finite_difference(collinear) -> None:
    h, s = random_crystal(4)
    if collinear:
        h = RealSpaceMatrix(h.basis, h.pairs, h.atoms, np.stack([h.entries, 1.3 * h.entries]), "collinear")
    step = 1e-4
    velocities = group_velocities(h, s, GENERIC)
    cell = h.atoms.cell.array
    for axis in range(3):
        dk = cell @ np.eye(3)[axis] * step / (2 * np.pi)
        difference = (solve(h, s, GENERIC + dk).eigenvalues - solve(h, s, GENERIC - dk).eigenvalues) / (
            2 * step
        )
        np.testing.assert_allclose(velocities[..., axis], difference, atol=2e-5)
