"""The Z2 invariant of Kane and Mele's model, whose phases are known, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from ase import Atoms

pytest.importorskip("pythtb", reason="PythTB is not installed: pip install 'ase-deeph[export]'")

from ase_deeph import AtomPairs, ElectronicStructure, OrbitalBasis, RealSpaceMatrix
from ase_deeph.basis import SpeciesBasis
from ase_deeph.exporters.z2 import wilson_loops, z2_invariant

HOP, SPIN_ORBIT = 1.0, 0.06
X = np.array([[0, 1], [1, 0]])
Y = np.array([[0, -1j], [1j, 0]])
Z = np.diag([1.0, -1.0])


def kane_mele(staggered: float, rashba: float = 0.0) -> ElectronicStructure:
    """H = t Σ c†c + iλ Σ ν c†σ_z c + iλ_R Σ c†(σ × d)_z c + λ_v Σ ξ c†c  [C. L. Kane, E. J. Mele, PRL 95, 146802]."""
    a = np.array([[1, 0, 0], [0.5, np.sqrt(3) / 2, 0], [0, 0, 10.0]])
    positions = np.array([[0, 0, 0], (a[0] + a[1]) / 3])
    atoms = Atoms("BN", positions, cell=a, pbc=(True, True, False))
    pairs = AtomPairs.from_atoms(atoms, 1.05)
    basis = OrbitalBasis({s: SpeciesBasis((0,), 1.0) for s in "BN"})
    bond = positions[1] - positions[0]
    bonds = [bond @ np.linalg.matrix_power(_turn(), n) for n in range(3)]
    d = pairs.displacements(atoms)
    blocks = []
    for i, j, v in zip(pairs.i, pairs.j, d, strict=True):
        length = np.linalg.norm(v)
        sign = 1 if i == 0 else -1
        if length < 1e-6:
            block = sign * staggered * np.eye(2)
        elif i != j:
            block = HOP * np.eye(2) + 1j * rashba * (X * v[1] - Y * v[0]) / length
        else:
            first = next(b for b in sign * np.array(bonds) if np.linalg.norm(v - b) < 0.99 * length)
            block = 1j * SPIN_ORBIT * np.sign(np.cross(first, v - first)[2]) * Z
        blocks.append(block + 0j)
    return ElectronicStructure(RealSpaceMatrix.from_blocks(basis, pairs, atoms, blocks, "spinor"), None, 2)


def _turn() -> np.ndarray:
    c, s = np.cos(2 * np.pi / 3), np.sin(2 * np.pi / 3)
    return np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]])


@pytest.mark.parametrize(
    ("staggered", "rashba", "expected"),
    [(0.1, 0.0, 1), (0.4, 0.0, 0), (0.1, 0.05, 1), (0.4, 0.05, 0)],
)
def test_phases_of_kane_and_mele(staggered: float, rashba: float, expected: int) -> None:
    """Topological for |λ_v| < 3√3 λ (0.31 here), a little Rashba coupling changes neither phase."""
    es = kane_mele(staggered, rashba)
    assert es.hamiltonian.hermiticity_error() < 1e-12
    gap = np.ptp(es.eigenvalues([[1 / 3, 2 / 3, 0]])[0, 0, 1:3])
    if rashba == 0:
        assert gap == pytest.approx(2 * abs(3 * np.sqrt(3) * SPIN_ORBIT - staggered), abs=1e-9)
    assert z2_invariant(es) == expected


def test_what_has_no_invariant() -> None:
    """Magnetism, an odd number of bands, a mesh without k2 = 1/2."""
    es = kane_mele(0.1)
    field = np.zeros(len(es.hamiltonian.entries))
    field[np.argmax(np.abs(es.hamiltonian.entries.imag))] = 0.3
    noisy = replace(es.hamiltonian, entries=es.hamiltonian.entries + field)
    with pytest.raises(ValueError, match="time-reversal"):
        z2_invariant(replace(es, hamiltonian=noisy))
    with pytest.raises(ValueError, match="even number of occupied bands"):
        z2_invariant(es, 1)
    with pytest.raises(ValueError, match="second odd"):
        z2_invariant(es, mesh=(20, 20))
    centres = wilson_loops(es, 2, (21, 21))
    assert centres.shape == (21, 2)
    assert np.allclose(centres[0], centres[-1], atol=1e-6)
