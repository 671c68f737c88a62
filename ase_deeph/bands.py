"""Band structures along paths and band gaps, from plain arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from ase import Atoms

if TYPE_CHECKING:
    from ase.dft.kpoints import BandPath
    from ase.spectrum.band_structure import BandStructure

_FLAT = 1e-7


class BandGap(float):
    """The band gap in eV (0 for a metal): a number that also knows where the band edges are.

    Attributes
    ----------
    direct : smallest gap at one k-point, in one spin channel, eV.
    vbm, cbm : highest occupied and lowest empty level in eV; both the Fermi level for a metal.
    k_vbm, k_cbm : their fractional k-points, None for a metal.
    spin_vbm, spin_cbm : their spin channels, None for a metal.
    """

    direct: float
    vbm: float
    cbm: float
    k_vbm: np.ndarray | None
    k_cbm: np.ndarray | None
    spin_vbm: int | None
    spin_cbm: int | None

    def __repr__(self) -> str:
        if self.k_vbm is None:
            return f"BandGap(metal, fermi_level={self.vbm:.4f})"
        return f"BandGap({float(self):.4f}, direct={self.direct:.4f}, vbm={self.vbm:.4f}, cbm={self.cbm:.4f})"


def band_gap(energies: np.ndarray, kpts: np.ndarray, fermi_level: float) -> BandGap:
    """The gap around a Fermi level.

    A channel whose number of levels below the Fermi level depends on k is metallic: the gap is zero.

    Parameters
    ----------
    energies : (n_spins, n_kpts, n_bands) eV.
    kpts : (n_kpts, 3) fractional.
    fermi_level : eV.
    """
    n_below = np.sum(energies <= fermi_level, axis=2)
    metallic = bool(np.any(n_below != n_below[:, :1]))
    highest = np.where(energies <= fermi_level, energies, -np.inf).max(axis=2)
    lowest = np.where(energies > fermi_level, energies, np.inf).min(axis=2)
    spin_v, at_v = np.unravel_index(np.argmax(highest), highest.shape)
    spin_c, at_c = np.unravel_index(np.argmin(lowest), lowest.shape)
    vbm, cbm = float(highest[spin_v, at_v]), float(lowest[spin_c, at_c])
    if metallic or cbm - vbm <= _FLAT:
        return _gap(0.0, direct=0.0, vbm=fermi_level, cbm=fermi_level)
    return _gap(
        cbm - vbm,
        direct=float((lowest - highest).min()),
        vbm=vbm,
        cbm=cbm,
        k_vbm=kpts[at_v],
        k_cbm=kpts[at_c],
        spin_vbm=int(spin_v),
        spin_cbm=int(spin_c),
    )


def _gap(value: float, **where: Any) -> BandGap:
    gap = BandGap(value)
    nowhere = dict.fromkeys(("k_vbm", "k_cbm", "spin_vbm", "spin_cbm"))
    gap.__dict__.update(nowhere | where)
    return gap


def band_path(atoms: Atoms, path: str | BandPath | None = None, npoints: int = 100) -> BandPath:
    """ASE's band path of the structure, along its periodic axes alone (2D: ΓMKΓ and the like).

    Parameters
    ----------
    path : special points such as "GMKG", a BandPath (returned as it is), or None for ASE's default.
    npoints : total number of k-points.

    Raises
    ------
    ValueError : a molecule, no k-points, or a special point that the lattice does not have.
    """
    if path is not None and not isinstance(path, str):
        if len(path.kpts) == 0:
            raise ValueError("band path: expected at least one k-point, received none")
        return path
    if npoints < 1:
        raise ValueError(f"band path: expected at least one k-point, received npoints={npoints}")
    if not np.any(atoms.pbc):
        raise ValueError(
            "band path: expected a periodic structure, received pbc=(False, False, False); set atoms.pbc"
        )
    try:
        return atoms.cell.bandpath(path, npoints=npoints, pbc=atoms.pbc)
    except KeyError as error:
        raise ValueError(f"band path {path!r}: the lattice has no special point {error}") from None


def as_band_structure(path: BandPath, energies: np.ndarray, fermi_level: float) -> BandStructure:
    """ASE's BandStructure of (n_spins, n_kpts, n_bands) energies in eV, its reference the Fermi level."""
    from ase.spectrum.band_structure import BandStructure

    return BandStructure(path, energies, reference=fermi_level)
