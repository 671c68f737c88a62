"""From PySCF's Bloch matrices to H(R) and S(R): orbital order, radial functions, nearest images, aliasing.

M(R) = 1/N Σ_k exp(-2πi k·R) M(k) on a Γ-centred mesh; each element goes to the nearest periodic image of its
pair in the mesh's supercell, shared among equally near ones.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
from ase import Atoms
from ase.units import Bohr

from ase_deeph.basis import GaussianRadial, OrbitalBasis, SpeciesBasis
from ase_deeph.matrix import RealSpaceMatrix
from ase_deeph.pairs import AtomPairs
from ase_deeph.two_center import overlap

logger = logging.getLogger(__name__)

OVERLAP_THRESHOLD = 1e-9
HAMILTONIAN_THRESHOLD = 1e-7
_ALIAS_WARNING = 1e-5
_ALIAS_LIMIT = 1e-2


def house_order(cell: Any) -> np.ndarray:
    """(n,) PySCF's orbital at each place of the house order: p is y, z, x; other shells are alike."""
    places: list[int] = []
    start = 0
    for n in range(cell.nbas):
        l = cell.bas_angular(n)
        inside = [1, 2, 0] if l == 1 else list(range(2 * l + 1))
        for _ in range(cell.bas_nctr(n)):
            places.extend(start + m for m in inside)
            start += 2 * l + 1
    return np.array(places)


def orbital_basis(cell: Any) -> OrbitalBasis:
    """The shells of each species in PySCF's order, their Gaussians normalised as PySCF does, in Å."""
    species = {}
    for atom in range(cell.natm):
        symbol = cell.atom_pure_symbol(atom)
        if symbol in species:
            continue
        radial = []
        for n in cell.atom_shell_ids(atom):
            l, exponents = int(cell.bas_angular(n)), cell.bas_exp(n) / Bohr**2
            for coefficients in cell._libcint_ctr_coeff(n).T:
                radial.append(GaussianRadial(l, exponents, coefficients * Bohr ** (-1.5 - l)))
        species[symbol] = SpeciesBasis(
            tuple(f.l for f in radial), float(cell.atom_charge(atom)), tuple(radial)
        )
    return OrbitalBasis(species)


def nearest_images(atoms: Atoms, mesh: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Which cell each element of the mesh's supercell belongs to.

    Returns
    -------
    keys (n, 6) of (i, j, R1, R2, R3, cell modulo the mesh) and the weight (n,) of each, which is shared
    equally among images of one pair that are equally near; closed under reversal.
    """
    N, cells = np.asarray(mesh), _mesh_cells(mesh)
    x, lattice = atoms.positions, box_of(atoms, 1.0)
    difference = x[None, :] - x[:, None]
    fractional = difference @ np.linalg.inv(lattice)
    base = cells - N * np.round((fractional[:, :, None] + cells) / N).astype(np.int64)
    base[..., ~atoms.pbc] = 0
    steps = np.array(list(product(*((-1, 0, 1) if p else (0,) for p in atoms.pbc)))) * N
    candidates = base[:, :, :, None] + steps
    distances = np.linalg.norm(candidates @ lattice + difference[:, :, None, None], axis=-1)
    near = distances < distances.min(axis=-1, keepdims=True) + 1e-6
    i, j, modulo, step = np.nonzero(near)
    weights = 1.0 / near.sum(axis=-1)[i, j, modulo]
    return np.column_stack([i, j, candidates[i, j, modulo, step], modulo]), weights


def _mesh_cells(mesh: Sequence[int]) -> np.ndarray:
    """(n_cells, 3) cells R of the supercell that the mesh stands for."""
    return np.stack(np.meshgrid(*(np.arange(n) for n in mesh), indexing="ij"), axis=-1).reshape(-1, 3)


def real_space(bloch: np.ndarray, mesh: Sequence[int], k_fractional: np.ndarray) -> np.ndarray:
    """(n_cells, n, n) M(R) on the cells of the mesh's supercell from M(k), (n_k, n, n)."""
    phases = np.exp(-2j * np.pi * (_mesh_cells(mesh) @ k_fractional.T)) / len(k_fractional)
    matrices = np.tensordot(phases, bloch, axes=1)
    if np.abs(matrices.imag).max() > 1e-6 * max(1.0, np.abs(matrices.real).max()):
        raise RuntimeError("PySCF: M(R) is not real; the k-mesh lacks the partner -k of some k")
    return matrices.real


def nearest_image_matrices(
    atoms: Atoms,
    basis: OrbitalBasis,
    mesh: Sequence[int],
    overlap_of_cells: np.ndarray,
    hamiltonian: np.ndarray,
) -> tuple[RealSpaceMatrix, RealSpaceMatrix]:
    """S(R) and H(R) on the pairs where either is not negligible, exactly Hermitian.

    Parameters
    ----------
    overlap_of_cells : (n_cells, n, n) on the cells of the mesh's supercell, house order.
    hamiltonian : (n_spins, n_cells, n, n) eV.
    """
    keys, weights = nearest_images(atoms, mesh)
    offsets = basis.offsets(atoms.get_chemical_symbols())
    kept = _not_negligible(keys, offsets[:-1], overlap_of_cells, hamiltonian)
    keys, weights = keys[kept], weights[kept]
    order = np.lexsort(keys[:, :5].T[::-1])
    keys, weights = keys[order], weights[order]
    pairs = AtomPairs(keys[:, 0], keys[:, 1], keys[:, 2:5], len(atoms))
    s_blocks: list[np.ndarray] = []
    h_blocks: list[np.ndarray] = []
    for (i, j, _, _, _, cell), weight in zip(keys, weights, strict=True):
        rows, cols = slice(offsets[i], offsets[i + 1]), slice(offsets[j], offsets[j + 1])
        s_blocks.append(weight * overlap_of_cells[cell, rows, cols])
        h_blocks.append(weight * hamiltonian[:, cell, rows, cols])
    if len(hamiltonian) == 1:
        H = RealSpaceMatrix.from_blocks(basis, pairs, atoms, [block[0] for block in h_blocks])
    else:
        H = RealSpaceMatrix.from_blocks(basis, pairs, atoms, h_blocks, "collinear")
    S = RealSpaceMatrix.from_blocks(basis, pairs, atoms, s_blocks)
    return S.hermitian_part(), H.hermitian_part()


def _not_negligible(
    keys: np.ndarray, starts: np.ndarray, overlap_of_cells: np.ndarray, hamiltonian: np.ndarray
) -> np.ndarray:
    """Which keys carry elements above the thresholds, or are the reverse of such a key, or are on-site."""
    size = (
        np.abs(overlap_of_cells) / OVERLAP_THRESHOLD + np.abs(hamiltonian).max(axis=0) / HAMILTONIAN_THRESHOLD
    )
    largest = np.maximum.reduceat(np.maximum.reduceat(size, starts, axis=1), starts, axis=2)
    i, j, R = keys[:, 0], keys[:, 1], keys[:, 2:5]
    kept = (largest[keys[:, 5], i, j] > 1) | ((i == j) & np.all(R == 0, axis=1))
    listed = {tuple(key) for key in keys[kept, :5].tolist()}
    listed |= {(j, i, -a, -b, -c) for i, j, a, b, c in listed}
    return np.array([tuple(key) in listed for key in keys[:, :5].tolist()])


def box_of(atoms: Atoms, vacuum: float) -> np.ndarray:
    """(3, 3) lattice in Å: periodic vectors as given, the others normal to them, extent plus vacuum long."""
    box = atoms.cell.array.copy()
    if np.any(np.linalg.norm(box[atoms.pbc], axis=1) < 1e-8):
        raise ValueError(f"atoms: pbc is {tuple(atoms.pbc)} but the cell is {box.tolist()}; set a cell")
    open_axes = np.nonzero(~atoms.pbc)[0]
    if len(open_axes):
        normals = np.linalg.svd(box[atoms.pbc])[2][atoms.pbc.sum() :]
        for axis, normal in zip(open_axes, normals, strict=True):
            heights = atoms.positions @ normal
            box[axis] = normal * (np.ptp(heights) + vacuum)
        if np.linalg.det(box) < 0:
            box[open_axes[0]] *= -1
    return box


def checked_aliasing(
    atoms: Atoms, basis: OrbitalBasis, mesh: Sequence[int], overlap_of_cells: np.ndarray
) -> float:
    """max|ΔS| between S(R) from the mesh and the two-centre S(R): what folding into the supercell costs.

    Parameters
    ----------
    overlap_of_cells : (n_cells, n, n), house order.

    Raises
    ------
    ValueError : it is above 1e-2, so that H(R) is aliased as well; above 1e-5 a warning is logged.
    """
    nothing = np.zeros((1, *overlap_of_cells.shape))
    folded = nearest_image_matrices(atoms, basis, mesh, overlap_of_cells, nothing)[0]
    error = (folded - overlap(atoms, basis)).max_abs()
    if error > _ALIAS_LIMIT:
        raise ValueError(
            f"kpts {tuple(mesh)}: S(R) is off by {error:.1e}, as orbitals leave the supercell of the mesh or "
            "cross the vacuum, so H(R) is aliased; give a denser mesh and more vacuum, or None for both"
        )
    if error > _ALIAS_WARNING:
        logger.warning(
            "k-mesh %s: S(R) is off by %.1e, as orbitals reach beyond its supercell", tuple(mesh), error
        )
    return error
