"""Kernel polynomials with an overlap: ways to invert S, exact counts of states, SciPy against JAX."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg as sl
import scipy.sparse as sp
from scipy.special import erfc

from ase_deeph import ElectronicStructure
from ase_deeph.sparse.inverse import inverse_polynomial, overlap_inverse
from ase_deeph.sparse.kpm import Moments, moments
from ase_deeph.sparse.recursion import Recursion
from ase_deeph.sparse.recursion_jax import JaxRecursion
from ase_deeph.sparse.states import Pencil
from tests.systems import random_crystal


def overlapping(n: int = 300, *, is_complex: bool = False) -> Pencil:
    """Gaussians on a rattled line, an S with a condition number of some hundred; all on-site terms differ."""
    random = np.random.default_rng(11)
    x = np.arange(n) + random.uniform(-0.1, 0.1, n)
    d = np.abs(x[:, None] - x)
    s, h = np.where(d < 6.5, 0.6 ** (d**2), 0.0), np.where(d < 6.5, -2.0 * np.exp(-0.5 * d), 0.0)
    h += np.diag(random.uniform(-3, 3, n))
    if is_complex:
        phases, others = (np.exp(1j * random.uniform(0, 6, n)) for _ in range(2))
        s, h = s * phases[:, None] * phases.conj(), h * others[:, None] * others.conj()
    return Pencil.of(sp.csr_matrix(h), sp.csr_matrix(s))


@pytest.mark.parametrize("is_complex", [False, True])
def test_ways_to_invert_the_overlap(is_complex: bool) -> None:
    s = overlapping(is_complex=is_complex).s
    assert 20 < np.linalg.cond(s.toarray()) < 1000
    b = np.random.default_rng(0).standard_normal((300, 3)).astype(s.dtype)
    for way in ("dense", "factors", "polynomial"):
        found = overlap_inverse(s, way)  # type: ignore[arg-type]
        np.testing.assert_allclose(s @ found.inverse(b), b, atol=1e-6)
        root = found.root(np.eye(300, dtype=s.dtype))
        np.testing.assert_allclose(s @ (root @ root.conj().T), np.eye(300), atol=1e-6)
    polynomial = inverse_polynomial(s)
    assert polynomial.local is not None
    assert len(polynomial.function.coefficients) < 15, "the polynomial in S itself takes some hundred"


def test_an_overlap_that_is_not_positive() -> None:
    for way in ("dense", "polynomial"):
        with pytest.raises(ValueError, match="positive matrix"):
            overlap_inverse(sp.csr_matrix(np.diag([1.0, 2.0, -0.5])), way)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="condition number"):
        overlap_inverse(sp.csr_matrix([[1.0, 1 - 1e-13], [1 - 1e-13, 1.0]]), "dense")


@pytest.mark.parametrize("way", ["factors", "polynomial"])
def test_one_small_eigenvalue_does_not_slip_through(way: str) -> None:
    """A random vector holds 1/40 of its eigenvector: the probe must mind that much."""
    random = np.random.default_rng(2)
    values = np.concatenate([[1e-7], np.linspace(0.1, 1.0, 1599)])
    reflector = random.standard_normal(1600)
    reflector /= np.linalg.norm(reflector)
    q = np.eye(1600) - 2 * np.outer(reflector, reflector)
    with pytest.raises(ValueError, match="condition number"):
        overlap_inverse(sp.csr_matrix(q @ (values[:, None] * q)), way)  # type: ignore[arg-type]


def test_all_levels_at_one_energy() -> None:
    """H = E S has a spectrum without width."""
    for pencil in (Pencil.of(sp.csr_matrix([[2.0]]), None), Pencil.of(sp.csr_matrix((3, 3)), None)):
        n = pencil.h.shape[0]
        found = moments(pencil, 0.1, n_vectors=None)
        energies = np.linspace(-3, 5, 801)
        dos = np.asarray(found.dos(energies)[0]).ravel()
        assert np.trapezoid(dos, energies) == pytest.approx(n, abs=0.01 * n)


@pytest.mark.parametrize("way", ["dense", "factors", "polynomial"])
def test_integrated_states_to_a_thousandth_of_the_orbitals(way: str) -> None:
    """Exact traces against the levels of LAPACK broadened alike, at every energy."""
    p = overlapping()
    levels = sl.eigh(p.h.toarray(), p.s.toarray(), eigvals_only=True)
    recursion, width = Recursion(p, way), 0.4  # type: ignore[arg-type]
    n_moments = int(6 * recursion.half_width / width) // 2 * 2
    found = recursion.moments(np.eye(300), n_moments, None).sum(axis=0, keepdims=True)
    grid = np.linspace(levels[0] - 1, levels[-1] + 1, 400)
    kpm = Moments(found, recursion.center, recursion.half_width, 300, exact=True).integrated(grid, width)[0]
    exact = 0.5 * erfc((levels - grid[:, None]) / (np.sqrt(2) * width)).sum(axis=1)
    assert np.abs(kpm[0] - exact).max() < 1e-3 * 300
    np.testing.assert_allclose(kpm[0], exact, atol=1e-4 * 300)


@pytest.mark.parametrize("n_moments", [2, 4, 6, 40, 254])
def test_exact_traces_of_a_dense_matrix(monkeypatch: pytest.MonkeyPatch, n_moments: int) -> None:
    """Against the sum over all unit vectors, with as many polynomials kept as pay, and with two."""
    p = overlapping(60, is_complex=True)
    recursion = Recursion(p, "dense")
    expected = recursion.moments(np.eye(60), n_moments, None).sum(axis=0)[0]
    found = [recursion.traces(n_moments)]
    monkeypatch.setattr("ase_deeph.sparse.recursion._TRACE_BYTES", 1.0)
    found.append(recursion.traces(n_moments))
    for traces in found:
        np.testing.assert_allclose(traces, expected, atol=1e-9 * 60)
    assert Recursion(p, "polynomial").traces(n_moments) is None


@pytest.mark.parametrize("is_complex", [False, True])
@pytest.mark.parametrize("way", ["dense", "polynomial"])
def test_the_recursion_in_jax(way: str, is_complex: bool) -> None:
    """Both kinds of sparse product, the total and by groups."""
    p = overlapping(120, is_complex=is_complex)
    scipy = Recursion(p, way)  # type: ignore[arg-type]
    z = np.random.default_rng(0).choice([-1.0, 1.0], (120, 3))
    for padded in (False, True):
        ours = JaxRecursion(scipy, padded=padded)
        for groups in (None, np.arange(120) % 4):
            expected = scipy.moments(z, 40, groups)
            found = ours.moments(z, 40, groups)
            assert found.dtype == float
            np.testing.assert_allclose(found, expected, atol=1e-8 * np.abs(expected).max())


def test_backends_of_kernel_polynomials() -> None:
    p, grid = overlapping(60), np.linspace(-3, 3, 7)
    orthogonal = Pencil.of(p.h, None)
    for case in (p, orthogonal):
        one, other = (
            moments(case, 1.0, n_vectors=4, backend=name).dos(grid, 1.0)[0] for name in ("scipy", "jax")
        )
        np.testing.assert_allclose(one, other, atol=1e-8 * np.abs(one).max())
    with pytest.raises(ValueError, match="backend"):
        moments(p, 1.0, backend="torch")  # type: ignore[arg-type]


def test_a_structure_by_either_backend() -> None:
    """H(k) and S(k) are complex on the mesh, real at Γ."""
    h, s = random_crystal(2)
    structure = ElectronicStructure(h, s, n_electrons=4, kpts=(2, 1, 1))
    grid = np.linspace(-5, 5, 9)
    curves = [
        structure.dos_by_moments(grid, 1.0, n_vectors=None, backend=name)[0] for name in ("scipy", "jax")
    ]
    np.testing.assert_allclose(*curves, atol=1e-8 * np.abs(curves[0]).max())
    np.testing.assert_allclose(curves[0][0, 0], structure.dos(grid, 1.0), rtol=1e-3, atol=1e-4)
