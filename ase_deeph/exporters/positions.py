"""What an exporter says of <i,0|r|j,R>: from the radial functions, in the orthogonal basis too; or atoms alone.

With Löwdin's X(k) = S(k)^(-1/2) = Σ_L exp(+2πi k·L) X(L) the elements between orthogonal orbitals are

    r'(k) = X(k) r(k) X(k) + [Σ_L L exp(+2πi k·L) X(L)] S(k) X(k),     r(k) = Σ_R exp(+2πi k·R) r(R),

the second term because the orthogonal orbital of the home cell reaches into cells L (here in Å).
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Literal

import numpy as np

from ase_deeph.eigen import spinor_overlap
from ase_deeph.electronic_structure import ElectronicStructure
from ase_deeph.exporters.cells import by_cell, identity_overlap, orbital_list, spins_side_by_side
from ase_deeph.matrix import RealSpaceMatrix
from ase_deeph.orthogonalization import from_mesh, inverse_square_root, mesh_for, mesh_points
from ase_deeph.two_center.overlap import overlap
from ase_deeph.two_center.position import position

logger = logging.getLogger(__name__)

Positions = Literal["auto", "integrals", "centres"]
_KINDS = ("auto", "integrals", "centres")
_MESH_REACH = 3.0


def wants_integrals(es: ElectronicStructure, kind: Positions) -> bool:
    """Whether positions come from the radial functions; ValueError for an unknown kind or absent functions."""
    if kind not in _KINDS:
        raise ValueError(f"positions: expected one of {', '.join(_KINDS)} (or 'none'), received {kind!r}")
    known = es.hamiltonian.basis.has_radial_functions
    if kind == "integrals" and not known:
        raise ValueError(
            f"positions='integrals': {es.hamiltonian.basis} carries no radial functions; use 'centres', "
            "or read the basis from the DFT code"
        )
    if kind == "auto" and not known:
        logger.info("the basis has no radial functions: positions are those of the atoms, on the diagonal")
    return known and kind != "centres"


def positions_of(es: ElectronicStructure, kind: Positions = "auto") -> list[RealSpaceMatrix]:
    """The three components of ⟨i,0|r|j,R⟩ (Å) between the orbitals of `es`, overlapping or not.

    "centres" takes S times the middle of each pair, which keeps r_ij(R) = r_ji(-R)† + R S_ij(R).
    """
    h = es.hamiltonian
    if wants_integrals(es, kind):
        if es.overlap is None:
            return orthogonal_positions(es, h)
        components = position(es.atoms, h.basis)
        return [spinor_overlap(r) if h.spin == "spinor" else r for r in components]
    s = identity_overlap(h) if es.overlap is None else es.overlap
    middle = es.atoms.positions[s.pairs.i] + 0.5 * s.pairs.displacements(es.atoms)
    sizes = s.block_shapes.prod(axis=1)
    return [replace(s, entries=s.entries * np.repeat(middle[:, c], sizes)) for c in range(3)]


def cell_positions(es: ElectronicStructure, h: RealSpaceMatrix, kind: Positions = "auto") -> list[np.ndarray]:
    """⟨i,0|r|j,R⟩ between the orthogonal orbitals in which `h` is given.

    Parameters
    ----------
    es : the structure; its radial functions, orthogonalised as Löwdin does, are the orbitals of `h`.
    h : Hamiltonian of an orthogonal basis, whose pairs and cells the result is given on.
    kind : "integrals", "centres" or "auto".

    Returns
    -------
    For each R of `by_cell(h)` an array (3, n, n) in Å, the two spins of an orbital side by side.
    """
    order = spins_side_by_side(orbital_list(h))
    if not wants_integrals(es, kind):
        return _centres(h, order)
    matrices = orthogonal_positions(es, h)
    parts = [by_cell(m, order)[1][0] for m in matrices]
    return [np.stack([m.toarray() for m in xyz]) for xyz in zip(*parts, strict=True)]


def _centres(h: RealSpaceMatrix, order: np.ndarray) -> list[np.ndarray]:
    places = h.atoms.positions[orbital_list(h)[order].atom]
    n = len(places)
    at_home = np.stack([np.diag(places[:, c]) for c in range(3)])
    return [np.zeros((3, n, n)) if R.any() else at_home for R in h.bloch_sum.cells]


def orthogonal_positions(es: ElectronicStructure, h: RealSpaceMatrix) -> list[RealSpaceMatrix]:
    """The three components of r (Å) between Löwdin's orbitals, on the pairs of `h`."""
    atoms, basis = es.atoms, h.basis
    s = es.overlap if es.overlap is not None else overlap(atoms, basis)
    s = RealSpaceMatrix.from_blocks(basis, s.pairs, atoms, list(_spatial(s)))
    mesh = mesh_for(atoms, _MESH_REACH * float(np.linalg.norm(h.pairs.displacements(atoms), axis=1).max()))
    components = position(atoms, basis)
    points, n = mesh_points(mesh), s.n_orbitals
    s_k = np.stack([s.at_k(k) for k in points])
    x_k = np.stack([inverse_square_root(m) for m in s_k])
    moved = _moved(x_k, mesh, atoms.cell.array)
    result = []
    for c, r in enumerate(components):
        r_k = np.stack([r.at_k(k) for k in points])
        values = x_k @ r_k @ x_k + moved[c] @ s_k @ x_k
        at_R = from_mesh(values.reshape(1, len(points), n, n), mesh, s, h.pairs).hermitian_part()
        result.append(spinor_overlap(at_R) if h.spin == "spinor" else at_R)
    return result


def _spatial(s: RealSpaceMatrix) -> list[np.ndarray]:
    """The blocks of S without spin."""
    if s.spin != "spinor":
        return list(s.blocks())
    return [block[: len(block) // 2, : block.shape[1] // 2].real for block in s.blocks()]


def _moved(x_k: np.ndarray, mesh: tuple[int, int, int], cell: np.ndarray) -> np.ndarray:
    """(3, n_kpts, n, n) Σ_L (L·cell) exp(+2πi k·L) X(L), each L the nearest of its images in the mesh."""
    n = x_k.shape[-1]
    at_L = np.fft.fftn(x_k.reshape(*mesh, n, n), axes=(0, 1, 2))
    steps = [
        np.fft.fftfreq(size, 1 / size) * (2 * np.abs(np.fft.fftfreq(size, 1 / size)) < size) for size in mesh
    ]
    L = np.stack(np.meshgrid(*steps, indexing="ij"), axis=-1) @ cell
    weighted = np.moveaxis(L, -1, 0)[..., None, None] * at_L
    return np.fft.ifftn(weighted, axes=(1, 2, 3)).reshape(3, len(x_k), n, n)
