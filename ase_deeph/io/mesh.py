"""H(R) and S(R) from H(k) and S(k) on a full k-mesh of any code, by the inverse Fourier sum.

    M_ij(R) = w/N Σ_k exp(-2πi k·R) M_ij(k),

R the nearest periodic image of the pair in the supercell that the mesh stands for, w = 1/n where n images are
equally near.  It equals the true M(R) when M has decayed inside that supercell.
"""

from __future__ import annotations

import logging
from itertools import pairwise, product

import numpy as np
from ase import Atoms

from ase_deeph.basis import OrbitalBasis
from ase_deeph.io.elements import orbital_atoms
from ase_deeph.io.proof import prove_distance
from ase_deeph.matrix import RealSpaceMatrix, Spin
from ase_deeph.pairs import AtomPairs

logger = logging.getLogger(__name__)

_ON_MESH = 1e-5
_EQUALLY_NEAR = 1e-6
_REAL = 1e-5
_NEGLIGIBLE_H, _NEGLIGIBLE_S = 1e-9, 1e-11
_OUTER = 0.9
_WARN = 0.1


def hamiltonian_from_mesh(
    atoms: Atoms,
    basis: OrbitalBasis,
    kpts: np.ndarray,
    H_k: np.ndarray,
    S_k: np.ndarray | None = None,
    *,
    tolerance: float = 0.01,
) -> tuple[RealSpaceMatrix, RealSpaceMatrix | None]:
    """H(R) in eV and S(R) from matrices on every point of a regular k-mesh.

    Parameters
    ----------
    atoms : the structure; its pbc tells the periodic axes.
    basis : the orbitals; matrices are in its order (shells as declared, m = -l ... l; the order of
        RealSpaceMatrix.at_k), H(k) = Σ_R exp(+2πi k·R) H(R) without phases of positions.
    kpts : (n_k, 3) fractional, the whole mesh (no symmetry reduction), shifted or not, in any order.
    H_k : (n_k, n, n) eV; (2, n_k, n, n) for collinear spin; (n_k, 2n, 2n) for spinors, as at_k gives them.
    S_k : (n_k, n, n), for spinors too; None for an orthogonal basis.
    tolerance : largest |H| (eV) allowed at the edge of the mesh's supercell, where it would be folded;
        np.inf skips the check, for a cell that is known to be wider than the range of H.

    Returns
    -------
    (H, S) on one pair list, exactly Hermitian; S is None where S_k is.

    Raises
    ------
    ValueError : kpts is no full mesh, shapes do not fit, H(R) of real orbitals is not real (a point's partner -k
        is missing, or the phases contain positions), S(R) does not fall with distance (the phase has the other
        sign), or the mesh is too coarse: the message gives the measured |H|.

    Examples
    --------
    >>> from ase import Atoms
    >>> from ase_deeph.basis import OrbitalBasis, SpeciesBasis
    >>> chain = Atoms("H", cell=[2, 9, 9], pbc=(True, False, False))
    >>> k = [[n / 8, 0, 0] for n in range(8)]
    >>> H_k = np.array([[[-2 * np.cos(2 * np.pi * n / 8)]] for n in range(8)])
    >>> H, _ = hamiltonian_from_mesh(chain, OrbitalBasis({"H": SpeciesBasis((0,), 1)}), k, H_k)
    >>> round(H.block(0, 0, (1, 0, 0)).item(), 12)
    -1.0
    """
    points = np.asarray(kpts, dtype=float)
    mesh = _mesh_of(points, atoms)
    n = basis.n_orbitals(atoms.get_chemical_symbols())
    H, spin = _checked_hamiltonian(np.asarray(H_k), len(points), n)
    S = None if S_k is None else _checked_overlap(np.asarray(S_k), len(points), n)
    keys, weights, second = _nearest_images(atoms, mesh)
    hamiltonian = _real_space(atoms, basis, points, H, (keys, weights, spin))
    overlap = None if S is None else _real_space(atoms, basis, points, S[None], (keys, weights, "none"))
    _check_decay(hamiltonian, mesh, second, tolerance)
    kept = hamiltonian.block_norms() > _NEGLIGIBLE_H
    if overlap is not None:
        kept |= overlap.block_norms() > _NEGLIGIBLE_S
    kept |= hamiltonian.pairs.on_site
    pairs = hamiltonian.pairs.select(kept | kept[hamiltonian.pairs.reverse])
    if overlap is not None:
        overlap = overlap.restricted_to(pairs).hermitian_part()
        prove_distance(overlap, "S_k")
    return hamiltonian.restricted_to(pairs).hermitian_part(), overlap


def _mesh_of(points: np.ndarray, atoms: Atoms) -> np.ndarray:
    """(3,) points along each axis; ValueError unless they are every point of a regular mesh, once."""
    if points.ndim != 2 or points.shape[1:] != (3,) or not len(points) or not np.all(np.isfinite(points)):
        raise ValueError(
            f"kpts: expected (n_k, 3) finite fractional coordinates, received shape {points.shape}"
        )
    from_first = (points - points[0] + 0.5 * _ON_MESH) % 1.0
    mesh = np.array([len(np.unique(np.round(axis, 4))) for axis in from_first.T])
    steps = from_first * mesh
    whole = np.abs(steps - np.rint(steps)) < 2 * _ON_MESH * mesh
    cells = np.rint(steps).astype(int) % mesh
    if mesh.prod() != len(points) or not whole.all() or len(np.unique(cells, axis=0)) != len(points):
        raise ValueError(
            f"kpts: expected every point of a regular mesh once, received {len(points)} points with "
            f"{mesh.tolist()} different coordinates per axis; unfold symmetry-reduced points first"
        )
    if np.any(mesh[~atoms.pbc] > 1):
        raise ValueError(f"kpts: {mesh.tolist()} points per axis, but pbc is {atoms.pbc.tolist()}")
    return mesh


def _checked_hamiltonian(H: np.ndarray, n_k: int, n: int) -> tuple[np.ndarray, Spin]:
    """(n_spins, n_k, rows, rows) and the spin that the shape tells."""
    shapes: dict[tuple[int, ...], Spin] = {
        (n_k, n, n): "none",
        (2, n_k, n, n): "collinear",
        (n_k, 2 * n, 2 * n): "spinor",
    }
    if H.shape not in shapes or not np.all(np.isfinite(H)):
        raise ValueError(
            f"H_k: expected finite numbers of shape {(n_k, n, n)}, {(2, n_k, n, n)} or {(n_k, 2 * n, 2 * n)}, "
            f"received {H.shape}"
        )
    spin = shapes[H.shape]
    return (H if spin == "collinear" else H[None]), spin


def _checked_overlap(S: np.ndarray, n_k: int, n: int) -> np.ndarray:
    if S.shape != (n_k, n, n) or not np.all(np.isfinite(S)):
        raise ValueError(f"S_k: expected finite numbers of shape {(n_k, n, n)}, received {S.shape}")
    return S


def _nearest_images(atoms: Atoms, mesh: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where each block of the supercell belongs.

    Returns
    -------
    keys (n, 5) of (i, j, R), weights (n,) shared among equally near images, and the shortest vectors (3,) in Å of
    the supercell along the mesh's periodic axes (inf along open ones).
    """
    lattice = atoms.cell.complete().array
    cells = np.stack(np.meshgrid(*(np.arange(m) for m in mesh), indexing="ij"), axis=-1).reshape(-1, 3)
    difference = atoms.positions[None] - atoms.positions[:, None]
    fractional = difference @ np.linalg.inv(lattice)
    base = cells - mesh * np.rint((fractional[:, :, None] + cells) / mesh).astype(np.int64)
    base[..., ~atoms.pbc] = 0
    steps = [np.array(s) * mesh for s in product(*((-1, 0, 1) if p else (0,) for p in atoms.pbc))]
    lengths = [np.linalg.norm((base + s) @ lattice + difference[:, :, None], axis=-1) for s in steps]
    nearest = np.minimum.reduce(lengths)
    chosen = [length < nearest + _EQUALLY_NEAR for length in lengths]
    shared = 1.0 / np.sum(chosen, axis=0)
    keys, weights = [], []
    for step, here in zip(steps, chosen, strict=True):
        i, j, cell = np.nonzero(here)
        keys.append(np.column_stack([i, j, base[i, j, cell] + step]))
        weights.append(shared[i, j, cell])
    heights = np.array([np.linalg.norm(s @ lattice) for s in steps if s.any()])
    return np.concatenate(keys), np.concatenate(weights), heights


def _real_space(
    atoms: Atoms,
    basis: OrbitalBasis,
    points: np.ndarray,
    matrices: np.ndarray,
    images: tuple[np.ndarray, np.ndarray, Spin],
) -> RealSpaceMatrix:
    """The blocks of (n_spins, n_k, rows, rows) matrices on their images."""
    keys, weights, spin = images
    order = np.lexsort(keys.T[::-1])
    keys, weights = keys[order], weights[order]
    pairs = AtomPairs(keys[:, 0], keys[:, 1], keys[:, 2:], len(atoms))
    owner = orbital_atoms(atoms, basis)
    orbitals = [np.nonzero(owner == a)[0] for a in range(len(atoms))]
    if spin == "spinor":
        counts = [len(o) for o in orbitals]
        first = np.concatenate([[0], np.cumsum(counts)])
        orbitals = [np.arange(2 * first[a], 2 * first[a + 1]) for a in range(len(atoms))]
    phases = np.exp(-2j * np.pi * (points @ keys[:, 2:].T)) * (weights / len(points))
    blocks: list[np.ndarray] = [np.zeros(0)] * len(keys)
    starts = np.concatenate(
        [[0], np.nonzero(np.any(np.diff(keys[:, :2], axis=0), axis=1))[0] + 1, [len(keys)]]
    )
    for start, stop in pairwise(starts):
        i, j = keys[start, :2]
        part = matrices[:, :, orbitals[i][:, None], orbitals[j]]
        summed = np.einsum("skab,kr->rsab", part, phases[:, start:stop], optimize=True)
        for n in range(start, stop):
            blocks[n] = summed[n - start] if spin == "collinear" else summed[n - start, 0]
    matrix = RealSpaceMatrix.from_blocks(basis, pairs, atoms, blocks, spin)
    return matrix if spin == "spinor" else _real(matrix)


def _real(matrix: RealSpaceMatrix) -> RealSpaceMatrix:
    """Real orbitals have real M(R); ValueError when it is not."""
    imaginary, size = float(np.abs(matrix.entries.imag).max()), matrix.max_abs()
    if imaginary > _REAL * max(1.0, size):
        raise ValueError(
            f"H_k or S_k: M(R) of real orbitals must be real, its imaginary part reaches {imaginary:.1e}; the mesh "
            "lacks the partner -k of some k, the sign of the phase is mixed, or the phases contain positions"
        )
    return RealSpaceMatrix(matrix.basis, matrix.pairs, matrix.atoms, matrix.entries.real.copy(), matrix.spin)


def _check_decay(
    hamiltonian: RealSpaceMatrix, mesh: np.ndarray, periods: np.ndarray, tolerance: float
) -> None:
    """ValueError when |H| has not decayed at half the shortest period of the supercell."""
    if not len(periods) or tolerance == np.inf:
        return
    edge = _OUTER * 0.5 * float(periods.min())
    distance = np.linalg.norm(hamiltonian.pairs.displacements(hamiltonian.atoms), axis=1)
    outer = distance >= edge
    if not outer.any():
        raise ValueError(
            f"kpts: the mesh {mesh.tolist()} has no pair of atoms {edge:.2f} Å or more apart, so that the decay of H "
            "cannot be measured; give a denser mesh, or tolerance=np.inf if the cell is wider than the range of H"
        )
    measured = float(hamiltonian.block_norms()[outer].max())
    if measured > tolerance:
        raise ValueError(
            f"kpts: the mesh {mesh.tolist()} is too coarse, |H| is still {measured:.2e} eV at {edge:.2f} Å, the edge "
            f"of its supercell (tolerance {tolerance:g} eV); give a denser mesh"
        )
    if measured > _WARN * tolerance:
        logger.warning("k-mesh %s: |H| is %.1e eV at the edge of its supercell", mesh.tolist(), measured)
