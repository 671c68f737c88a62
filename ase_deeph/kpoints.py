"""k-points: meshes with their symmetry-reduced part, explicit lists and band paths, all fractional.

A mesh may only be reduced by operations that H(k) obeys.  Time reversal holds exactly whenever H(R) is real.
The point group of the structure holds for an equivariant model to rounding, for a real-space-grid DFT
Hamiltonian to about a meV, and for an arbitrary matrix not at all: `k_points` does what it is told,
`ElectronicStructure` probes H before it trusts the point group.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from ase import Atoms

from ase_deeph.matrix import RealSpaceMatrix

logger = logging.getLogger(__name__)

Symmetry = Literal["full", "time-reversal", "none"]
SYMMETRIES = ("full", "time-reversal", "none")
DEFAULT_KPTS: Mapping[str, Any] = {"density": 3.5, "gamma": True}
_PROBE = np.array([0.1732, 0.3819, 0.2713])


@dataclass(frozen=True, eq=False)
class KPoints:
    """A set of k-points and its irreducible part.

    Parameters
    ----------
    points : (n_bz, 3) every point, fractional; for a mesh in C order (last axis fastest), as ASE's are.
    irreducible : (n_ibz, 3) the points to be computed.
    weights : (n_ibz,) share of the zone of each irreducible point, summing to 1.
    bz_to_ibz : (n_bz,) the irreducible point that stands for each point.
    size : points along each axis of a mesh; None for an explicit list or a path.
    """

    points: np.ndarray
    irreducible: np.ndarray
    weights: np.ndarray
    bz_to_ibz: np.ndarray
    size: tuple[int, int, int] | None = None

    def __len__(self) -> int:
        return len(self.irreducible)


def k_points(
    atoms: Atoms, kpts: Any = None, symmetry: Symmetry = "full", *, time_reversal: bool = True
) -> KPoints:
    """The k-points that `kpts` asks for, a mesh being reduced by symmetry.

    Parameters
    ----------
    atoms : the structure; axes without periodicity get one k-point.
    kpts : whatever ASE's `kpts2ndarray` takes: None (Γ), three integers (Monkhorst-Pack), a dict with "size"
        or "density" (points per Å^-1) and "gamma" / "even", a dict with "path" or "kpts", an (n, 3) array,
        a BandPath.
    symmetry : "full" (point group of the structure, found by spglib), "time-reversal" or "none".  Lists and
        paths are never reduced.
    time_reversal : whether E(-k) = E(k); without it "time-reversal" means "none".

    Raises
    ------
    ValueError : no k-points, a negative size or density, an unknown word or dict key, non-finite numbers.
    """
    if symmetry not in SYMMETRIES:
        raise ValueError(f"symmetry: expected one of {', '.join(SYMMETRIES)}, received {symmetry!r}")
    mesh = _mesh_of(kpts, atoms)
    if mesh is None:
        return _unreduced(_explicit(kpts, atoms))
    size, offset = mesh
    points = (np.indices(tuple(int(n) for n in size)).reshape(3, -1).T + 0.5) / size - 0.5 + offset
    rotations = point_group(atoms) if symmetry == "full" else np.eye(3, dtype=int)[None]
    if time_reversal and symmetry != "none":
        rotations = np.concatenate([rotations, -rotations])
    return _reduced(points, size, rotations)


def point_list(kpts: Any) -> np.ndarray:
    """(n_kpts, 3) from an (n_kpts, 3) array, one k-point or a BandPath; ValueError when there is none."""
    try:
        points = np.atleast_2d(np.asarray(getattr(kpts, "kpts", kpts), dtype=float))
    except (TypeError, ValueError):
        raise ValueError(
            f"k-points: expected fractional coordinates or a BandPath, received {kpts!r}"
        ) from None
    if points.size == 0:
        raise ValueError("k-points: expected at least one, received none; give a mesh, a list or a band path")
    if points.ndim != 2 or points.shape[1] != 3 or not np.all(np.isfinite(points)):
        raise ValueError(
            f"k-points: expected finite fractional coordinates (n, 3), received shape {points.shape}"
        )
    return points


def point_group(atoms: Atoms) -> np.ndarray:
    """(n_operations, 3, 3) integer rotations W of the structure in its lattice basis: E(k·W) = E(k).

    Only rotations that mix periodic axes matter, so structures periodic along fewer than two axes have the
    identity.  A slab's cell is closed by a long normal vector: images across the vacuum are no neighbours.
    Atoms of one element with different initial magnetic moments are taken as different.
    """
    import spglib

    identity = np.eye(3, dtype=int)[None]
    if np.sum(atoms.pbc) < 2:
        return identity
    closed = _with_closed_vacuum(atoms)
    moments = np.round(np.reshape(atoms.get_initial_magnetic_moments(), (len(atoms), -1)), 6)
    kinds = np.unique(np.column_stack([atoms.numbers, moments]), axis=0, return_inverse=True)[1].ravel() + 1
    crystal: Any = (closed.cell.array, closed.get_scaled_positions(), kinds)
    found = spglib.get_symmetry(crystal, symprec=1e-5)
    if found is None:
        logger.info("no symmetry found for %s; the mesh is not reduced", atoms.get_chemical_formula())
        return identity
    rotations = np.unique(found["rotations"], axis=0)
    mixing = np.not_equal.outer(atoms.pbc, atoms.pbc)
    return rotations[~np.any(rotations[:, mixing] != 0, axis=1)]


def symmetry_probes(atoms: Atoms) -> np.ndarray:
    """(n, 3) images of one generic k under the point group, up to sign; a symmetric H has equal levels."""
    images = (_PROBE * atoms.pbc) @ point_group(atoms)
    leading = np.argmax(np.abs(images) > 1e-9, axis=1)
    signs = np.sign(images[np.arange(len(images)), leading])
    return np.unique(np.round(images * np.where(signs == 0, 1, signs)[:, None], 12), axis=0)


def respects_time_reversal(matrix: RealSpaceMatrix, tolerance: float = 1e-8) -> bool:
    """Whether E(-k) = E(k) is exact: H(R) real, or for spinors σ_y H* σ_y = H in every block."""
    if matrix.spin != "spinor":
        return float(np.abs(np.imag(matrix.entries)).max(initial=0.0)) <= tolerance
    for block in matrix.blocks():
        rows, cols = block.shape[0] // 2, block.shape[1] // 2
        same = np.abs(block[:rows, :cols] - np.conj(block[rows:, cols:])).max(initial=0.0)
        flip = np.abs(block[:rows, cols:] + np.conj(block[rows:, :cols])).max(initial=0.0)
        if max(same, flip) > tolerance:
            return False
    return True


def _with_closed_vacuum(atoms: Atoms) -> Atoms:
    """The structure with a long normal vector along a non-periodic axis, atoms in its middle."""
    closed = atoms.copy()
    for axis in np.nonzero(~atoms.pbc)[0]:
        a, b = (closed.cell.array[other] for other in range(3) if other != axis)
        normal = np.cross(a, b)
        normal /= np.linalg.norm(normal)
        heights = atoms.positions @ normal
        cell = closed.cell.array.copy()
        cell[axis] = normal * (3 * np.ptp(heights) + 20.0)
        closed.set_cell(cell)
        closed.positions += normal * (np.linalg.norm(cell[axis]) / 2 - heights.mean())
        closed.pbc = True
    return closed


def _mesh_of(kpts: Any, atoms: Atoms) -> tuple[np.ndarray, np.ndarray] | None:
    """(size, offset) of the mesh asked for, or None when kpts lists points."""
    from ase.calculators.calculator import kpts2sizeandoffsets

    if kpts is None:
        size, offset = np.ones(3, dtype=int), np.zeros(3)
    elif isinstance(kpts, Mapping):
        if {"path", "kpts"} & set(kpts):
            return None
        unknown = set(kpts) - {"size", "density", "gamma", "even"}
        if unknown:
            raise ValueError(
                f"kpts: unknown key {', '.join(sorted(unknown))}; known are size, density, gamma, even"
            )
        density = kpts.get("density")
        if density is not None and (not np.isfinite(density) or density <= 0):
            raise ValueError(f"k-points: expected a positive density in points per Å^-1, received {density}")
        size, offset = kpts2sizeandoffsets(atoms=atoms, **kpts)
    elif (
        not hasattr(kpts, "kpts")
        and np.shape(kpts) == (3,)
        and np.issubdtype(np.asarray(kpts).dtype, np.integer)
    ):
        size, offset = kpts, np.zeros(3)
    else:
        return None
    size = np.array(size, dtype=int)
    if size.shape != (3,) or np.any(size <= 0):
        raise ValueError(
            f"k-points: expected three positive mesh sizes, received {size.tolist()}; give at least 1 each"
        )
    if np.any(size[~atoms.pbc] > 1):
        logger.info("mesh %s cut to one k-point along non-periodic axes", tuple(size))
    return np.where(atoms.pbc, size, 1), np.where(atoms.pbc, offset, 0.0)


def _explicit(kpts: Any, atoms: Atoms) -> np.ndarray:
    """The points of an explicit list, of a BandPath or of a dict with "path"."""
    from ase.calculators.calculator import kpts2ndarray

    if isinstance(kpts, Mapping) and "path" in kpts:
        return point_list(kpts2ndarray(dict(kpts), atoms))
    if isinstance(kpts, Mapping):
        return point_list(kpts["kpts"])
    return point_list(kpts)


def _unreduced(points: np.ndarray, size: tuple[int, int, int] | None = None) -> KPoints:
    n = len(points)
    return KPoints(points, points, np.full(n, 1 / n), np.arange(n), size)


def _reduced(points: np.ndarray, size: np.ndarray, rotations: np.ndarray) -> KPoints:
    """Orbits of the mesh under k -> k·W, each represented by its last point (positive k in ASE's order)."""
    last = np.arange(len(points))
    for rotation in np.unique(rotations, axis=0):
        steps = (points @ rotation - points[0]) * size
        nearest = np.rint(steps)
        if np.abs(steps - nearest).max() > 1e-6:
            continue
        images = np.ravel_multi_index(tuple(np.mod(nearest.astype(int), size).T), tuple(size))
        last = np.maximum(last, images)
    chosen, bz_to_ibz, counts = np.unique(last, return_inverse=True, return_counts=True)
    shape = (int(size[0]), int(size[1]), int(size[2]))
    return KPoints(points, points[chosen], counts / len(points), bz_to_ibz.ravel(), shape)
