"""The first-order change of H and S under a lattice wave: displacements u_a exp(2πi q·R) for a commensurate q.

The wave is laid out on the smallest supercell that holds it; the rows of the home cell then are

    ⟨i,0|∂H|j,R⟩ = Σ u·∂H_ij(R)/∂x over the whole wave,    ∂H(k) = Σ_R exp(+2πi k·R) ⟨i,0|∂H|j,R⟩,

which takes a Bloch state at k to one at k + q.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms

from ase_deeph.derivatives.hamiltonian import hamiltonian_derivatives
from ase_deeph.matrix import RealSpaceMatrix
from ase_deeph.model import Dtype, HamiltonianModel
from ase_deeph.pairs import AtomPairs
from ase_deeph.two_center import OverlapDerivative, overlap_derivatives
from ase_deeph.two_center.derivative import checked_displacements

_COMMENSURATE = 1e-6
_LARGEST_SUPERCELL = 48


@dataclass(frozen=True, eq=False)
class Perturbation:
    """What one lattice wave does to first order; matrices are ⟨i,0|·|j,R⟩ of the primitive cell.

    Parameters
    ----------
    q : (3,) fractional.
    hamiltonian : ∂H, eV/Å times the unit of the displacements; complex, Hermitian at q = 0 for a real u only.
    overlap : ∂S, 1/Å times that unit.
    ket : its part ⟨i,0|∂(j,R)⟩, in which the orbitals of the ket move.
    """

    q: np.ndarray
    hamiltonian: RealSpaceMatrix
    overlap: RealSpaceMatrix
    ket: RealSpaceMatrix

    def at_k(self, k: Sequence[float]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """∂H(k), and the bra's and the ket's part of ∂S(k): rows at k + q, columns at k."""
        h, s, ket = (np.asarray(m.at_k(k)) for m in (self.hamiltonian, self.overlap, self.ket))
        return h, s - ket, ket


def perturbations(
    model: HamiltonianModel,
    atoms: Atoms,
    displacements: np.ndarray,
    q: Sequence[float] = (0.0, 0.0, 0.0),
    *,
    dtype: Dtype = "float32",
) -> list[Perturbation]:
    """The change of a model's H and S under some waves of one q, by exact derivatives.

    Parameters
    ----------
    displacements : (n, n_atoms, 3) u in the home cell, real or complex; in cell R they are u exp(2πi q·R).
    q : fractional, commensurate: q·N integer for a supercell N of at most 48 cells.

    Raises
    ------
    ValueError : a q that is not commensurate, displacements of another shape or not finite, or a basis without
        radial functions.
    """
    u = np.asarray(displacements)
    checked_displacements(atoms, u.real)
    checked_displacements(atoms, u.imag)
    repetitions = commensurate_supercell(q)
    wide = atoms.repeat(repetitions)
    cells = np.array(list(np.ndindex(*repetitions)))
    waves = np.exp(2j * np.pi * (cells @ np.asarray(q, dtype=float)))[None, :, None, None] * u[:, None]
    waves = waves.reshape(len(u), len(wide), 3)
    parts = np.concatenate([waves.real, waves.imag])
    moving = np.nonzero(np.any(np.abs(parts) > 1e-14, axis=(1, 2)))[0].tolist()
    moving = moving or list(range(len(u)))[:1]  # when nothing moves, one still says on which pairs ∂H is zero
    h = dict(zip(moving, hamiltonian_derivatives(model, wide, parts[moving], dtype=dtype), strict=True))
    s = dict(zip(moving, overlap_derivatives(wide, model.basis, parts[moving]), strict=True))
    return [_folded(atoms, repetitions, q, h, s, (n, n + len(u))) for n in range(len(u))]


def commensurate_supercell(q: Sequence[float]) -> tuple[int, int, int]:
    """The smallest repetitions N with q·N integer along each axis.

    Raises
    ------
    ValueError : no three finite numbers, or no supercell of up to 48 cells holds the wave.
    """
    point = np.asarray(q, dtype=float)
    if point.shape != (3,) or not np.all(np.isfinite(point)):
        raise ValueError(f"q: expected three finite fractional coordinates, received {q}")
    found = []
    for x in point:
        whole = [n for n in range(1, _LARGEST_SUPERCELL + 1) if abs(n * x - round(n * x)) < n * _COMMENSURATE]
        found.append(whole[0] if whole else 2 * _LARGEST_SUPERCELL)
    if np.prod(found) > _LARGEST_SUPERCELL:
        raise ValueError(
            f"q = {q}: expected a wave that fits a supercell of at most {_LARGEST_SUPERCELL} cells, "
            f"this one needs {' x '.join(map(str, found))}; choose a commensurate q, such as (1/3, 1/3, 0)"
        )
    n1, n2, n3 = found
    return n1, n2, n3


def _folded(
    atoms: Atoms,
    repetitions: tuple[int, int, int],
    q: Sequence[float],
    h: dict[int, RealSpaceMatrix],
    s: dict[int, OverlapDerivative],
    parts: tuple[int, int],
) -> Perturbation:
    """The home cell's rows of real part + i imaginary part."""

    def one(found: dict[int, RealSpaceMatrix]) -> RealSpaceMatrix:
        some = next(iter(found.values()))
        real, imaginary = (found[n].entries if n in found else np.zeros_like(some.entries) for n in parts)
        whole = RealSpaceMatrix(some.basis, some.pairs, some.atoms, real + 1j * imaginary)
        return home_rows(whole, atoms, repetitions)

    return Perturbation(
        np.asarray(q, dtype=float),
        one(h),
        one({n: d.total for n, d in s.items()}),
        one({n: d.ket for n, d in s.items()}),
    )


def home_rows(matrix: RealSpaceMatrix, atoms: Atoms, repetitions: tuple[int, int, int]) -> RealSpaceMatrix:
    """⟨i,0|M|j,R⟩ of the primitive cell from M of `atoms.repeat(repetitions)`, whose first atoms are the home cell."""
    n = len(atoms)
    cells = np.array(list(np.ndindex(*repetitions)))
    home = np.nonzero(matrix.pairs.i < n)[0]
    wide_j = matrix.pairs.j[home]
    i, j = matrix.pairs.i[home], wide_j % n
    R = cells[wide_j // n] + matrix.pairs.R[home] * np.array(repetitions)
    order = np.lexsort(np.column_stack([i, j, R]).T[::-1])
    blocks = [matrix.block_at(int(m)) for m in home[order]]
    return RealSpaceMatrix.from_blocks(matrix.basis, AtomPairs(i, j, R, n), atoms.copy(), blocks)
