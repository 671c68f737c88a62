"""dH/dR of a model, exact: derivatives along displacements (jvp) and the gradient of any Σ W·H (vjp)."""

from __future__ import annotations

from collections.abc import Iterator

import jax
import numpy as np
from ase import Atoms

from ase_deeph.graph import CrystalGraph
from ase_deeph.matrix import RealSpaceMatrix
from ase_deeph.model import Dtype, HamiltonianModel
from ase_deeph.pairs import AtomPairs
from ase_deeph.two_center.derivative import checked_displacements

CHUNK = 8
"""Displacements that go through the network together; one alone goes alone."""


def hamiltonian_derivatives(
    model: HamiltonianModel, atoms: Atoms, displacements: np.ndarray, *, dtype: Dtype = "float32"
) -> list[RealSpaceMatrix]:
    """Σ_a u_a · ∂H/∂x_a of some displacements u, every atom moving with its images.

    Exact derivatives of the network by forward differentiation, along several displacements at once.  A padded
    shape is compiled twice at most, once for a displacement alone and once for several; further ones compile nothing.

    Parameters
    ----------
    displacements : (n, n_atoms, 3) u, real.
    dtype : precision of the network; the blocks come back in float64.

    Returns
    -------
    n matrices, in eV/Å times the unit of u, on the pairs of H; exactly Hermitian.

    Raises
    ------
    ValueError : displacements of another shape, complex or not finite, or a structure that cannot be predicted.
    """
    u = checked_displacements(atoms, displacements)
    graph, pairs = _padded(model, atoms, dtype)
    found = []
    for part in _chunks(u):
        padded = np.zeros((CHUNK if len(part) > 1 else 1, graph.n_atoms, 3), graph.vectors.dtype)
        padded[: len(part), : len(atoms)] = part
        with jax.enable_x64(dtype == "float64"):
            blocks = np.asarray(model.pushforward(model.params, model.statistics, graph, padded), dtype=float)
        for one in blocks[: len(part), : len(pairs)]:
            found.append(RealSpaceMatrix.from_padded_blocks(model.basis, pairs, atoms.copy(), one))
    return found


def hamiltonian_gradient(
    model: HamiltonianModel, atoms: Atoms, weights: RealSpaceMatrix, *, dtype: Dtype = "float32"
) -> np.ndarray:
    """(n_atoms, 3) ∂/∂x of Σ W·H, the sum over all entries of all pairs, by one backward pass.

    With the density matrix for W (that of cells: W_ij(R) = Re Σ_k w_k P_ij(k) exp(-2πi k·R)) this is the derivative of
    the band energy at fixed coefficients, the Hellmann-Feynman part of a force; the other, -Σ (energy-weighted
    density matrix)·∂S, is `overlap_gradient`.

    Parameters
    ----------
    weights : W, real, on any pairs; those outside the pairs of H count nothing, as H is zero there.

    Returns
    -------
    eV/Å times the unit of W.
    """
    if weights.spin != "none" or np.iscomplexobj(weights.entries):
        raise ValueError(
            f"weights: expected real entries and spin 'none', received {weights.entries.dtype} and "
            f"{weights.spin!r}"
        )
    graph, pairs = _padded(model, atoms, dtype)
    cotangent = np.zeros((graph.n_pairs, *(2 * [model.basis.max_orbitals])), graph.vectors.dtype)
    cotangent[: len(pairs)] = weights.restricted_to(pairs).padded_blocks(model.basis.max_orbitals)
    with jax.enable_x64(dtype == "float64"):
        gradient = model.pullback(model.params, model.statistics, graph, cotangent)
        return np.asarray(gradient, dtype=float)[: len(atoms)]


def _padded(model: HamiltonianModel, atoms: Atoms, dtype: Dtype) -> tuple[CrystalGraph, AtomPairs]:
    """The graph that the model sees of a structure, in one of its shapes, and the pairs of H."""
    if dtype not in ("float32", "float64"):
        raise ValueError(f"dtype: expected 'float32' or 'float64', received {dtype!r}")
    if model.spin != "none":
        raise ValueError(
            f"derivatives of H: expected a model without spin, received one of spin {model.spin!r}; "
            "use the spinless model that its spin head was trained on, where there is one ([spin] backbone = 'frozen')"
        )
    model.check(atoms)
    pairs = AtomPairs.from_atoms(atoms, model.cutoff)
    graph = CrystalGraph.from_atoms(
        atoms, pairs, model.basis, message_cutoff=model.config.reach, dtype=np.dtype(dtype).type
    )
    return graph.pad(*model._shapes.shape(graph)), pairs


def _chunks(displacements: np.ndarray) -> Iterator[np.ndarray]:
    return (displacements[n : n + CHUNK] for n in range(0, len(displacements), CHUNK))
