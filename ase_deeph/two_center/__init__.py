"""S(R) from radial functions by two-centre integrals: numerical orbitals, Gaussians, and PAW bases.

`overlap` gives the matrix of a structure; `overlap_function` gives its entries as a differentiable
function of positions and cell.
"""

from __future__ import annotations

from ase_deeph.two_center.derivative import OverlapDerivative, overlap_derivatives, overlap_gradient
from ase_deeph.two_center.overlap import overlap, overlap_function

__all__ = ["OverlapDerivative", "overlap", "overlap_derivatives", "overlap_function", "overlap_gradient"]
