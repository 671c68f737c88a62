"""Read FHI-aims's real-space matrices (output_rs_matrices plain), with R's sign and wrapped atoms put right.

FHI-aims stores one triangle, labels cells with the opposite sign of ours and refers them to atoms mapped to
fractional coordinates in (-1/2, 1/2]; its harmonics have the opposite sign of ours for odd m > 0.
"""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.units import Hartree

from ase_deeph.basis import OrbitalBasis, SpeciesBasis
from ase_deeph.io.aims_files import (
    AimsOrbitals,
    AimsPattern,
    read_charge,
    read_fermi_level,
    read_geometry,
    read_orbitals,
    read_pattern,
    read_values,
)
from ase_deeph.io.elements import Elements, house_order, matrices_from_elements, orbital_atoms
from ase_deeph.io.proof import cell_shifts, prove
from ase_deeph.matrix import RealSpaceMatrix, Spin
from ase_deeph.reference import ReferenceData

logger = logging.getLogger(__name__)

_INDICES, _OVERLAP, _BASIS, _GEOMETRY = "rs_indices.out", "rs_overlap.out", "basis-indices.out", "geometry.in"
_SPINLESS, _COLLINEAR = ("rs_hamiltonian.out",), ("rs_hamiltonian_up.out", "rs_hamiltonian_dn.out")

_ON_SITE = 0.05
"""FHI-aims integrates on grids: 3e-3 with its light settings."""


def read_aims(folder: str | Path) -> ReferenceData:
    """Read an FHI-aims calculation with output_rs_matrices plain: H(R) in eV, S(R), basis, electrons.

    Proved on output of 2023 or later (Si, all electrons, s to f): the overlap falls with distance, is
    orthonormal on site and couples equal m only in the frame of each bond.  FHI-aims prints no eigenvalues beside
    it, so H is proved through the same pattern and order alone.  Spin-orbit matrices are not read.

    Parameters
    ----------
    folder : with rs_indices.out, rs_overlap.out, rs_hamiltonian.out (or _up and _dn for collinear spin),
        basis-indices.out and geometry.in; aims.out tells the Fermi level, control.in the charge.

    Returns
    -------
    ReferenceData : positions as in geometry.in; all electrons are counted (Z per atom minus the charge); the basis
        knows the shells, not the radial functions.

    Raises
    ------
    FileNotFoundError : no such folder.
    ValueError : files are missing, damaged, or do not belong together.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"no FHI-aims folder {folder}")
    atoms = read_geometry(folder / _GEOMETRY)
    orbitals = read_orbitals(folder / _BASIS)
    pattern = read_pattern(folder / _INDICES)
    names = _COLLINEAR if (folder / _COLLINEAR[0]).is_file() else _SPINLESS
    spin: Spin = "collinear" if names is _COLLINEAR else "none"
    overlap_values = read_values(folder / _OVERLAP, pattern)
    hamiltonian_values = np.stack([read_values(folder / name, pattern) for name in names])
    try:
        basis = _basis(atoms, orbitals)
        overlap, hamiltonian = _matrices(
            atoms, basis, pattern, orbitals, np.stack([overlap_values, *hamiltonian_values * Hartree]), spin
        )
        proof = prove(overlap, str(folder), on_site=_ON_SITE)
        n_electrons = float(atoms.numbers.sum()) - read_charge(folder)
    except ValueError as error:
        raise error if str(folder) in str(error) else ValueError(f"{folder}: {error}") from error
    return ReferenceData(
        atoms=atoms,
        hamiltonian=hamiltonian,
        overlap=overlap,
        n_electrons=n_electrons,
        fermi_level=read_fermi_level(folder),
        basis=basis,
        info={"engine": "fhi-aims", "layout": "output_rs_matrices plain", **proof},
    )


def _basis(atoms: Atoms, orbitals: AimsOrbitals) -> OrbitalBasis:
    """The shells of each element, all electrons as valence."""
    if orbitals.atom.max() + 1 != len(atoms):
        raise ValueError(
            f"{_BASIS} has {orbitals.atom.max() + 1} atoms, {_GEOMETRY} {len(atoms)}; they are of different runs"
        )
    found: dict[str, SpeciesBasis] = {}
    for a, symbol in enumerate(atoms.get_chemical_symbols()):
        own = orbitals.atom == a
        shell, first = np.unique(orbitals.shell[own], return_index=True)
        species = SpeciesBasis(tuple(orbitals.l[own][first].tolist()), float(atoms.numbers[a]))
        if found.setdefault(symbol, species).key() != species.key():
            raise ValueError(f"atoms of {symbol} carry different orbitals ({len(shell)} shells on atom {a})")
    return OrbitalBasis(found)


def _matrices(
    atoms: Atoms,
    basis: OrbitalBasis,
    pattern: AimsPattern,
    orbitals: AimsOrbitals,
    values: np.ndarray,
    spin: Spin,
) -> tuple[RealSpaceMatrix, RealSpaceMatrix]:
    """S and H from the triangle that the files hold; values (1 + n_spins, n)."""
    if len(orbitals.l) != pattern.n_basis:
        raise ValueError(f"{_BASIS} has {len(orbitals.l)} orbitals, {_INDICES} {pattern.n_basis}")
    place, sign = house_order(
        orbitals.atom, orbitals.shell, orbitals.m, (orbitals.m % 2 != 0) & (orbitals.m > 0)
    )
    values = values * (sign[pattern.rows] * sign[pattern.columns])
    R, keep = -pattern.R, np.any(values != 0, axis=0)
    owner = orbital_atoms(atoms, basis)
    triangle = Elements(place[pattern.rows][keep], place[pattern.columns][keep], R[keep], values[:, keep])
    elements = triangle.with_reverse().relabelled(_central_cells(atoms), owner)
    overlap, hamiltonian = _assembled(atoms, basis, elements, spin)
    shifts = cell_shifts(overlap)
    if shifts.any():
        logger.info("atoms were moved by %s cells by FHI-aims; undone", shifts.tolist())
        overlap, hamiltonian = _assembled(atoms, basis, elements.relabelled(shifts, owner), spin)
    return overlap.hermitian_part(), hamiltonian.hermitian_part()


def _assembled(
    atoms: Atoms, basis: OrbitalBasis, both: Elements, spin: Spin
) -> tuple[RealSpaceMatrix, RealSpaceMatrix]:
    S = Elements(both.rows, both.columns, both.R, both.values[:1])
    H = Elements(both.rows, both.columns, both.R, both.values[1:])
    overlap, hamiltonian = matrices_from_elements(atoms, basis, S, H, spin)
    assert hamiltonian is not None
    return overlap, hamiltonian


def _central_cells(atoms: Atoms) -> np.ndarray:
    """(n_atoms, 3) cells n such that x - n·cell has fractional coordinates in (-1/2, 1/2]."""
    if not atoms.pbc.any():
        return np.zeros((len(atoms), 3), dtype=np.int64)
    return np.ceil(np.round(atoms.get_scaled_positions(wrap=False), 9) - 0.5).astype(np.int64)
