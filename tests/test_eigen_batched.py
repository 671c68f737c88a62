"""Batched eigenproblems in JAX against LAPACK one by one, and which of them is taken."""

from __future__ import annotations

import logging
import subprocess
import sys

import numpy as np
import pytest

from ase_deeph import ElectronicStructure, eigen_batched
from ase_deeph.eigen import solve
from ase_deeph.eigen_batched import batch_size, chosen_engine
from ase_deeph.matrix import RealSpaceMatrix
from tests.systems import chain, random_crystal

KPTS = np.random.default_rng(4).uniform(-0.5, 0.5, (7, 3))
KPTS[2] = 0.0


@pytest.mark.parametrize("with_overlap", [True, False])
@pytest.mark.parametrize("per_batch", [1, 3, 100])
def test_same_levels_and_states(monkeypatch: pytest.MonkeyPatch, per_batch: int, with_overlap: bool) -> None:
    """Batches of one, batches whose last is filled up, and all at once; one of the k-points is Γ, where H is real."""
    monkeypatch.setattr(eigen_batched, "batch_size", lambda n: per_batch)
    h, s = random_crystal(3)
    s = s if with_overlap else None
    one, many = (solve(h, s, KPTS, vectors=True, engine=name) for name in ("lapack", "jax"))
    np.testing.assert_allclose(many.eigenvalues, one.eigenvalues, atol=1e-10)
    assert one.coefficients is not None
    assert many.coefficients is not None
    for k, kpt in enumerate(KPTS):
        c = many.coefficients[0, k]
        overlap = np.eye(len(c)) if s is None else s.at_k(kpt)
        np.testing.assert_allclose(c.conj().T @ overlap @ c, np.eye(c.shape[1]), atol=1e-10)
        np.testing.assert_allclose(h.at_k(kpt) @ c, overlap @ c * many.eigenvalues[0, k], atol=1e-9)
    levels = solve(h, s, KPTS, engine="jax")
    assert levels.coefficients is None
    np.testing.assert_allclose(levels.eigenvalues, one.eigenvalues, atol=1e-10)


def test_both_spins_and_a_structure() -> None:
    h, s = random_crystal(2)
    both = RealSpaceMatrix(h.basis, h.pairs, h.atoms, np.stack([h.entries, 0.5 * h.entries]), "collinear")
    structure = ElectronicStructure(both, s, n_electrons=4, kpts=(2, 1, 1))
    one, many = (structure.eigenvalues(KPTS, engine=name) for name in ("lapack", "jax"))
    np.testing.assert_allclose(many, one, atol=1e-10)
    one, many = (structure.eigenstates(KPTS, engine=name).eigenvalues for name in ("lapack", "jax"))
    np.testing.assert_allclose(many, one, atol=1e-10)


def test_a_near_singular_overlap_is_left_to_lapack(caplog: pytest.LogCaptureFixture) -> None:
    """At Γ one direction vanishes; a negative overlap names its k-point."""
    h, s = chain(-1.0, -0.5, n=2)
    kpts = np.array([[0.0, 0, 0], [0.1, 0, 0], [0.3, 0, 0]])
    one, many = (solve(h, s, kpts, vectors=True, engine=name) for name in ("lapack", "jax"))
    assert many.n_removed.tolist() == [1, 0, 0]
    np.testing.assert_allclose(many.eigenvalues, one.eigenvalues, atol=1e-10)
    h, s = chain(-1.0, -0.7)
    with pytest.raises(ValueError, match=r"at k = .*positive"):
        solve(h, s, kpts, engine="jax")
    with pytest.raises(ValueError, match=r"at k = .*finite"):
        solve(h * np.nan, None, kpts, engine="jax")


def test_the_engine_is_measured_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """LAPACK on a CPU and for few k-points; elsewhere the faster of each size class, told in the log."""
    assert chosen_engine(500, 100) == "lapack"
    assert chosen_engine(500, 1, "jax") == "jax"
    measured = []
    monkeypatch.setattr(eigen_batched.jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(eigen_batched, "_faster", lambda n, vectors: (measured.append(n), "jax")[1])
    assert chosen_engine(500, 4) == "lapack"
    with caplog.at_level(logging.INFO, logger="ase_deeph.eigen_batched"):
        assert chosen_engine(500, 100) == "jax"
    assert measured == [512]
    assert "100 eigenproblems of 500 orbitals by jax" in caplog.text
    with pytest.raises(ValueError, match="expected one of auto, lapack, jax"):
        chosen_engine(5, 5, "magma")  # type: ignore[arg-type]
    assert batch_size(100_000) == 1


def test_a_measurement() -> None:
    assert eigen_batched._faster(8, False) in ("lapack", "jax")
    assert eigen_batched._faster.cache_info().currsize >= 1


def test_lapack_alone_imports_no_jax() -> None:
    code = (
        "import sys, numpy as np; from tests.systems import chain; from ase_deeph.eigen import solve\n"
        "assert 'jax' not in sys.modules, 'imported by the test systems'\n"
        "h, s = chain(-1.0, 0.1); solve(h, s, np.zeros((20, 3)))\n"
        "assert 'jax' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
