"""GPAW's LCAO mode with the density of all k-points put on the grid in one pass instead of one pass per k.

GPAW adds Σ_μν ρ_μν(k) φ*_μk(r) φ_νk(r) to the grid for each k in turn, which dominates the time of a small
cell on a dense mesh.  Each Bloch orbital is a sum over image spheres W (atom shell, cell s), φ_μk = Σ_s
e^(2πi k·s) φ_μs, so the sum over k can be done first, on matrices:

    n(r) = Σ_WW' P_WW' φ_W(r) φ_W'(r),   P_WW' = Σ_k Re[ρ_μν(k) e^(2πi k·(s - s'))],

and the grid is visited once with the real matrix P.
"""

from __future__ import annotations

from typing import Any

import numpy as np


def one_pass_mode() -> Any:
    """A mode for GPAW(mode=...): LCAO whose density takes one pass over the grid."""
    from gpaw.old.wavefunctions.lcao import LCAO, LCAOWaveFunctions

    class OnePassWaveFunctions(LCAOWaveFunctions):
        def calculate_density_contribution(self, nt_sG: np.ndarray) -> None:
            functions = self.basis_functions
            if self.dtype != complex or self.kptband_comm.size > 1 or functions.gd.comm.size > 1:
                super().calculate_density_contribution(nt_sG)
                return
            nt_sG.fill(0.0)
            for spin, nt_G in enumerate(nt_sG):
                channel = [kpt for kpt in self.kpt_u if kpt.s == spin]
                rho = [self.calculate_density_matrix(kpt.f_n, kpt.C_nM) for kpt in channel]
                add_density(functions, np.array(rho), np.array([kpt.q for kpt in channel]), nt_G)

    class OnePassLCAO(LCAO):
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            kwargs["atomic_correction"] = self.atomic_correction
            return OnePassWaveFunctions(*args, **kwargs)

    return OnePassLCAO()


def add_density(functions: Any, rho_kMM: np.ndarray, q_k: np.ndarray, nt_G: np.ndarray) -> None:
    """Add the density of density matrices ρ(k), for the k indices q of GPAW's basis functions, to nt_G."""
    from gpaw import cgpaw

    sizes = np.array([A_gm.shape[1] for A_gm in functions.A_Wgm])
    starts = np.concatenate([[0], np.cumsum(sizes)])
    images = cgpaw.LFC(  # type: ignore[attr-defined]
        functions.A_Wgm,
        starts[:-1].astype(np.intc),
        functions.G_B,
        functions.W_B,
        functions.gd.dv,
        np.empty((0, len(sizes)), complex),
        False,
    )
    P = _image_density_matrix(functions, rho_kMM, q_k, sizes)
    images.construct_density(P, nt_G, -1, 0, int(starts[-1]))


def _image_density_matrix(
    functions: Any, rho_kMM: np.ndarray, q_k: np.ndarray, sizes: np.ndarray
) -> np.ndarray:
    """P between the orbitals of all image spheres, in the order of the spheres."""
    orbital = np.concatenate([np.arange(M, M + n) for M, n in zip(functions.M_W, sizes, strict=True)])
    s_Wc = _cells_of_spheres(functions)
    cells, cell_of_sphere = np.unique(s_Wc, axis=0, return_inverse=True)
    members = [np.nonzero(np.repeat(cell_of_sphere.ravel(), sizes) == n)[0] for n in range(len(cells))]
    P = np.empty((len(orbital), len(orbital)))
    k_c = functions.ibzk_qc[q_k]
    flat = rho_kMM.reshape(len(q_k), -1)
    known: dict[tuple[int, ...], np.ndarray] = {}
    for first, cell in enumerate(cells):
        for second, other in enumerate(cells):
            difference = tuple(int(n) for n in cell - other)
            if difference not in known:
                phase = np.exp(2j * np.pi * k_c @ np.array(difference))
                known[difference] = (phase.real @ flat.real - phase.imag @ flat.imag).reshape(
                    rho_kMM.shape[1:]
                )
            rows, cols = members[first], members[second]
            P[np.ix_(rows, cols)] = known[difference][np.ix_(orbital[rows], orbital[cols])]
    return P


def _cells_of_spheres(functions: Any) -> np.ndarray:
    """(n_spheres, 3) the cell that each image sphere stands for."""
    cells = [np.reshape(functions.sphere_a[a].sdisp_wc, (-1, 3)) for a in functions.atom_indices]
    return np.concatenate(cells).astype(np.int64)
