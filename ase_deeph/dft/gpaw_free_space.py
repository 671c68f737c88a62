"""GPAW's Poisson solver with moments taken out of a cluster's density, its Gaussians made once instead of each time.

GPAW's MomentCorrectionPoissonSolver takes multipoles q_L of a density out with Gaussians g_L about the middle of the
box, solves for the rest with a potential of zero on the faces, and adds Σ_L q_L v_L of free space again.  It makes g_L
and v_L anew in each step of the self-consistency and asks of each grid point alone which centre is nearest; for the
one centre that a cluster has both are settled once for a grid, with the same numbers, for up to 18 arrays on the
fine grid (1.2 GB for 200³ points).
"""

from __future__ import annotations

from functools import cache
from typing import Any


@cache
def _solver_class() -> type:
    import numpy as np
    from gpaw.poisson_moment import MomentCorrectionPoissonSolver
    from gpaw.utilities.gauss import Gaussian

    class KeptGaussian(Gaussian):
        """A Gaussian that keeps its densities and potentials."""

        def __init__(self, gd: Any) -> None:
            super().__init__(gd)
            self.kept: dict[int, tuple[np.ndarray, np.ndarray]] = {}

        def _of(self, L: int) -> tuple[np.ndarray, np.ndarray]:
            if L not in self.kept:
                self.kept[L] = super().get_gauss(L), super().get_gauss_pot(L)
            return self.kept[L]

        def get_gauss(self, L: int) -> np.ndarray:
            """g_L on the grid."""
            return self._of(L)[0]

        def get_gauss_pot(self, L: int) -> np.ndarray:
            """v_L on the grid."""
            return self._of(L)[1]

    class FreeSpaceSolver(MomentCorrectionPoissonSolver):
        """Moments about the middle of the box."""

        def set_grid_descriptor(self, gd: Any) -> None:
            """Another grid asks for other Gaussians, also where it has as many points."""
            self._initialized = False
            super().set_grid_descriptor(gd)

        def load_moment_corrections_gauss(self) -> None:
            """One centre, to which every grid point belongs."""
            (moments,) = self.moment_corrections
            self.gauss_i = [KeptGaussian(self.gd)]
            self.mom_ij = [moments.moms]
            self.mask_ig = [self.gd.zeros(dtype=int) + 1]

    return FreeSpaceSolver


def free_space_solver(n_moments: int) -> Any:
    """A solver for GPAW(poissonsolver=...) that takes out the first n_moments multipoles, (l, m) in order."""
    return _solver_class()({"name": "fast"}, n_moments)
