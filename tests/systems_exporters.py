"""Electronic structures that exporters are tried on: every spin, DFT data, the model that ships."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from ase_deeph import ElectronicStructure, RealSpaceMatrix, pretrained
from ase_deeph.exporters import read_neutral
from tests.systems import SP_D, random_crystal, random_matrix

EXAMPLES = next(
    (p / "shared/data/deeph" for p in Path(__file__).parents if (p / "shared/data/deeph").is_dir()), None
)
GENERIC = np.array([[0.137, 0.291, 0.413], [-0.377, 0.081, 0.222]])


def generic_points(es: ElectronicStructure) -> np.ndarray:
    """Two k-points without symmetry, 0 along open axes."""
    return GENERIC * es.atoms.pbc


def random_structure(spin: str = "none", orthogonal: bool = False) -> ElectronicStructure:
    """A skewed crystal of B and N in s, p and d shells with random blocks; no symmetry whatever."""
    h, s = random_crystal()
    if spin == "collinear":
        h = replace(h, entries=np.stack([h.entries, 0.8 * h.entries + 0.3 * s.entries]), spin="collinear")
    elif spin == "spinor":
        h = _spinor(h)
    return ElectronicStructure(h, None if orthogonal else s, 8, kpts=(3, 3, 3))


def _spinor(h: RealSpaceMatrix) -> RealSpaceMatrix:
    """[[A, B], [B†, C]] with complex blocks that obey no time reversal."""
    rng = np.random.default_rng(5)
    parts = [list(random_matrix(h.atoms, SP_D, 4.5, rng).blocks()) for _ in range(6)]
    blocks = [
        np.block([[a + 0.3j * b, c + 0.2j * d], [d - 0.1j * c, e - 0.2j * f]])
        for a, b, c, d, e, f in zip(*parts, strict=True)
    ]
    return RealSpaceMatrix.from_blocks(SP_D, h.pairs, h.atoms, blocks, "spinor").hermitian_part()


@cache
def carbon_layer() -> ElectronicStructure:
    """Graphene from the model that ships (data/make_graphene_model.py), in its PAW basis of 9 orbitals per atom."""
    data = read_neutral(Path(__file__).parent / "data" / "graphene_model.npz")
    basis = pretrained.load().basis
    h, s = (replace(m, basis=basis) for m in (data.hamiltonian, data.overlap) if m is not None)
    return ElectronicStructure(h, s, data.n_electrons, kpts=(6, 6, 1))


def dichalcogenide() -> ElectronicStructure:
    """MoTe2 in 57 OpenMX orbitals from the example data; skips where they are absent."""
    if EXAMPLES is None:
        pytest.skip("the DeepH example data (shared/data/deeph) are absent")
    from ase_deeph.io import read_deeph

    data = read_deeph(EXAMPLES / "MoTe2_with_bands")
    return ElectronicStructure(data.hamiltonian, data.overlap, data.n_electrons, kpts=(3, 3, 1))
