"""How many modes a lead carries at an energy, counted from the generalised bands of its primitive cell.

A right-moving mode is a place where a band crosses the energy upwards.  The primitive cell is used, not the
principal layer: folded bands touch exactly where a mode solver of the layer gets into trouble.  The mesh avoids
k = 0 and 1/2 and lies dense beside them, where bands have their extrema.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from threadpoolctl import threadpool_limits

from ase_deeph.transport.cells import CellBlocks

_EDGE = 2e-5
_SAFETY = 1.5
_NARROW = 1e-7


@dataclass(eq=False)
class BandMesh:
    """The bands e_n(k) of a primitive cell on half the zone (all of it for complex H), refined on demand.

    Parameters
    ----------
    blocks : H_r and S_r of the primitive cell.
    n_k : points of the first mesh on half the zone; None chooses by the size of the cell.
    """

    blocks: CellBlocks
    n_k: int | None = None
    k: np.ndarray = field(init=False, repr=False)
    e: np.ndarray = field(init=False, repr=False)

    def __post_init__(self) -> None:
        n_k = self.n_k or int(np.clip(12000 // max(self.blocks.n, 1), 41, 201))
        mesh = np.concatenate([[_EDGE], np.linspace(0, 0.5, n_k + 1)[1:-1] + 1e-4 / n_k, [0.5 - _EDGE]])
        self.k = mesh if self.blocks.is_real else np.concatenate([mesh - 0.5, mesh])
        self.e = self._bands(self.k)

    def _bands(self, kpts: np.ndarray) -> np.ndarray:
        with threadpool_limits(1 if self.blocks.n < 400 else None, user_api="blas"):
            return np.array([self.blocks.eigenvalues(float(k)) for k in kpts])

    def count(self, energy: float) -> int:
        """Right-moving modes at an energy (eV), from the present mesh."""
        below = self.e < energy
        crossings = int((below[1:] != below[:-1]).sum())
        if self.blocks.is_real:
            return crossings
        return (crossings + int((below[0] != below[-1]).sum())) // 2

    def refine(self, energy: float, levels: int) -> None:
        """Halve the mesh, several times over, wherever a band may still touch the energy unseen."""
        for _ in range(levels):
            doubtful = self._doubtful(energy)
            if not len(doubtful):
                break
            middle = 0.5 * (self.k[doubtful] + self.k[doubtful + 1])
            self.k = np.insert(self.k, doubtful + 1, middle)
            self.e = np.insert(self.e, doubtful + 1, self._bands(middle), axis=0)

    def _doubtful(self, energy: float) -> np.ndarray:
        """Intervals in which a band comes within its own slope of the energy without being seen to cross it.

        Bands that cross inside an interval exchange their order, so the slope is that of the steepest band among
        those near the energy.
        """
        width = np.diff(self.k)
        slope = np.abs(np.diff(self.e, axis=0)) / width[:, None]
        around = np.maximum(slope, np.maximum(np.roll(slope, 1, axis=0), np.roll(slope, -1, axis=0)))
        distance = np.minimum(np.abs(self.e[:-1] - energy), np.abs(self.e[1:] - energy))
        near = distance < _SAFETY * around * width[:, None]
        steepest = np.where(near, around, 0.0).max(axis=1, initial=0.0)
        crossed = (self.e[:-1] < energy) != (self.e[1:] < energy)
        unseen = (distance < 0.5 * _SAFETY * (steepest * width)[:, None]) & ~crossed
        return np.nonzero(np.any(unseen, axis=1) & (width > _NARROW))[0]


@dataclass(frozen=True, eq=False)
class ModeCounter:
    """Right-moving modes of a lead whose H is that of the mesh moved by `shift` (H -> H + shift·S, eV)."""

    mesh: BandMesh
    shift: float = 0.0

    @property
    def window(self) -> tuple[float, float]:
        """Lowest and highest energy of the bands in eV."""
        return float(self.mesh.e.min()) + self.shift, float(self.mesh.e.max()) + self.shift

    def __call__(self, energy: float) -> int:
        """The count at an energy (eV) from the present mesh."""
        return self.mesh.count(energy - self.shift)

    def refined(self, energy: float, levels: int = 6) -> int:
        """The count after the mesh has been refined around the energy."""
        self.mesh.refine(energy - self.shift, levels)
        return self(energy)
