"""First-order errors of energy levels: the reference's own eigenvectors around the Fermi level, held fixed.

To first order an error ΔH of the Hamiltonian moves the level n at k by

    δε_nk = c_nk† ΔH(k) c_nk,    C† S C = 1,

with the eigenvectors c of the reference, for S is exact here.  A loss on δε sees errors that add up coherently
over many blocks, which the mean over blocks does not; no derivative of an eigensolver is taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Complex, Float, Int

from ase_deeph.eigen import solve
from ase_deeph.matrix import RealSpaceMatrix
from ase_deeph.pairs import AtomPairs
from ase_deeph.reference import ReferenceData
from trainers.config import LossConfig


@dataclass(frozen=True, eq=False)
class LevelStates:
    """Eigenvectors of one structure near its Fermi level, at a few k-points.

    Parameters
    ----------
    phases : (n_kpts, n_pairs) exp(2πi k·R) of the graph's pairs.
    coefficients : for each k-point (n_atoms, M, n_states), C† S C = 1, orbitals padded to M.
    """

    phases: np.ndarray
    coefficients: tuple[np.ndarray, ...]

    def draw(self, rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
        """At most n distinct states of one k-point, and its phases."""
        k = int(rng.integers(len(self.coefficients)))
        states = self.coefficients[k]
        chosen = rng.permutation(states.shape[2])[:n]
        return states[:, :, np.sort(chosen)], self.phases[k]


@struct.dataclass
class LevelSample:
    """The states drawn for a batch (a JAX pytree).

    Attributes
    ----------
    coefficients : state s of the structure to which each atom belongs; zero on padding.
    phases : exp(2πi k·R) of each pair, k that of its structure.
    weight : 1 for each state that is there.
    """

    coefficients: Complex[Array | np.ndarray, "atoms M s"]
    phases: Complex[Array | np.ndarray, " pairs"]
    weight: Float[Array | np.ndarray, "n s"]


def level_states(
    name: str, data: ReferenceData, *, cutoff: float, n_padded: int, config: LossConfig
) -> LevelStates:
    """The states within config.level_window of the Fermi level at config.level_kpts random k-points.

    The k-points follow from the structure's name; along an axis that is not periodic k is 0.  The window is
    centred on the mean of the middle of highest occupied and lowest empty level.  The phases are those of the
    pairs within `cutoff` (Å), the graph's; orbitals are padded to `n_padded`.

    Raises
    ------
    ValueError : H, S or the electron number is unknown.
    """
    h, s = data.hamiltonian, data.overlap
    if h is None or s is None:
        raise ValueError(f"structure {name}: a loss on levels needs H and S, which the data do not give")
    n_electrons = data.n_electrons or h.basis.n_electrons(h.atoms.get_chemical_symbols())
    if not n_electrons:
        raise ValueError(
            f"structure {name}: a loss on levels needs its electron number, which the data do not give; "
            "set [loss] level_weight = 0"
        )
    rng = np.random.default_rng(np.frombuffer(name.encode(), dtype=np.uint8))
    kpts = rng.uniform(-0.5, 0.5, size=(config.level_kpts, 3)) * np.asarray(h.atoms.pbc)
    states = solve(h, s, kpts, vectors=True)
    assert states.coefficients is not None
    energies, homo = states.eigenvalues[0], max(int(np.ceil(n_electrons / 2)) - 1, 0)
    middle = float(np.mean(energies[:, homo : homo + 2]))
    inside = np.abs(energies - middle) < config.level_window
    pairs = AtomPairs.from_atoms(data.atoms, cutoff)
    return LevelStates(
        np.exp(2j * np.pi * kpts @ pairs.R.T).astype(np.complex64),
        tuple(
            _by_atom(c[:, near], h, n_padded) for c, near in zip(states.coefficients[0], inside, strict=True)
        ),
    )


def _by_atom(coefficients: np.ndarray, matrix: RealSpaceMatrix, n_padded: int) -> np.ndarray:
    """(n_orbitals, s) -> (n_atoms, n_padded, s), zero beyond an atom's orbitals."""
    counts = np.array([matrix.basis.n_orbitals([a]) for a in matrix.atoms.get_chemical_symbols()])
    atom = np.repeat(np.arange(len(counts)), counts)
    orbital = np.arange(len(atom)) - np.repeat(np.cumsum(counts) - counts, counts)
    result = np.zeros((len(counts), n_padded, coefficients.shape[1]), dtype=np.complex64)
    result[atom, orbital] = coefficients
    return result


def sample_levels(
    states: Sequence[LevelStates],
    shape: tuple[int, int],
    n: int,
    n_states: int,
    rngs: Sequence[np.random.Generator],
) -> LevelSample:
    """States of each structure, each drawn by its own rng, padded to shape (atoms, pairs) and n structures."""
    n_atoms, n_pairs = shape
    coefficients = np.zeros((n_atoms, states[0].coefficients[0].shape[1], n_states), dtype=np.complex64)
    phases, weight = np.ones(n_pairs, dtype=np.complex64), np.zeros((n, n_states), dtype=np.float32)
    atom = pair = 0
    for position, (of_structure, rng) in enumerate(zip(states, rngs, strict=True)):
        drawn, phase = of_structure.draw(rng, n_states)
        coefficients[atom : atom + len(drawn), :, : drawn.shape[2]] = drawn
        phases[pair : pair + len(phase)] = phase
        weight[position, : drawn.shape[2]] = 1.0
        atom, pair = atom + len(drawn), pair + len(phase)
    return LevelSample(coefficients, phases, weight)


def level_shifts(
    residual: Float[Array, "pairs M M"],
    i: Int[Array, " pairs"],
    j: Int[Array, " pairs"],
    sample: LevelSample,
    structure: Int[Array, " pairs"],
    n: int,
) -> Float[Array, "n s"]:
    """δε = Re Σ_ij(R) exp(2πi k·R) c_i† ΔH_ij(R) c_j of each state drawn, eV."""
    left = jnp.conj(sample.coefficients[i])
    right = sample.coefficients[j] * sample.phases[:, None, None]
    moved = jnp.einsum("pab,pbs->pas", residual.astype(right.dtype), right)
    of_pair = jnp.sum(jnp.real(left * moved), axis=1)
    return jax.ops.segment_sum(of_pair, structure, n + 1)[:n]


def level_losses(shifts: Float[Array, "n s"], sample: LevelSample) -> Float[Array, " n"]:
    """The mean |δε| over the states of each structure, eV; zero for an absent one."""
    weight = jnp.asarray(sample.weight)
    return jnp.sum(jnp.abs(shifts) * weight, axis=1) / jnp.maximum(jnp.sum(weight, axis=1), 1.0)
