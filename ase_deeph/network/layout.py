"""OrbitalLayout: one list of shells that holds every species of a basis, and the way in and out of it.

A network writes blocks over the common shells (for each l, as many as any species has); a species' k-th shell
of degree l is the k-th common shell of that degree.
"""

from __future__ import annotations

from functools import cached_property

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from ase_deeph.basis import OrbitalBasis
from ase_deeph.coupling import BlockCoupling


class OrbitalLayout:
    """Common shells of a basis.

    Parameters
    ----------
    basis : the orbitals of each species.
    """

    def __init__(self, basis: OrbitalBasis) -> None:
        self.basis = basis
        degrees = sorted({l for s in basis for l in basis.shells(s)})
        self.shells = tuple(l for l in degrees for _ in range(max(basis.shells(s).count(l) for s in basis)))
        self.coupling = BlockCoupling(self.shells)

    @property
    def n_species(self) -> int:
        """Species of the basis."""
        return len(self.basis)

    @cached_property
    def orbitals_of_species(self) -> np.ndarray:
        """(n_species, M) common orbital of each species' orbital, n_orbitals of the layout where there is none."""
        n = self.coupling.n_orbitals
        starts: dict[int, list[int]] = {}
        at = 0
        for l in self.shells:
            starts.setdefault(l, []).append(at)
            at += 2 * l + 1
        table = np.full((self.n_species, self.basis.max_orbitals), n, dtype=np.int32)
        for row, symbol in enumerate(self.basis):
            shells = self.basis.shells(symbol)
            for s, (l, where) in enumerate(zip(shells, self.basis[symbol].shell_slices, strict=True)):
                first = starts[l][shells[:s].count(l)]
                table[row, where] = np.arange(first, first + 2 * l + 1)
        return table

    @cached_property
    def _is_identity(self) -> bool:
        n = self.coupling.n_orbitals
        return (
            bool(np.all(self.orbitals_of_species == np.arange(n))) if self.basis.max_orbitals == n else False
        )

    def mask(self, species_i: Int[Array, " n"], species_j: Int[Array, " n"]) -> Bool[Array, "n M M"]:
        """True where both orbitals exist."""
        exists = jnp.asarray(self.orbitals_of_species < self.coupling.n_orbitals)
        return exists[species_i][:, :, None] & exists[species_j][:, None, :]

    def to_species(
        self, blocks: Float[Array, "n c c"], species_i: Int[Array, " n"], species_j: Int[Array, " n"]
    ) -> Float[Array, "n M M"]:
        """Blocks over the common shells -> blocks over each species' own orbitals, zero beyond them."""
        if self._is_identity:
            return blocks
        padded = jnp.pad(blocks, ((0, 0), (0, 1), (0, 1)))
        table = jnp.asarray(self.orbitals_of_species)
        rows, cols = table[species_i], table[species_j]
        picked = jnp.take_along_axis(padded, rows[:, :, None], axis=1)
        return jnp.take_along_axis(picked, cols[:, None, :], axis=2)

    def to_common(self, blocks: np.ndarray, species_i: np.ndarray, species_j: np.ndarray) -> np.ndarray:
        """The inverse (NumPy): blocks over species' orbitals -> over the common shells, zero where absent."""
        n = self.coupling.n_orbitals
        common = np.zeros((len(blocks), n + 1, n + 1))
        rows = self.orbitals_of_species[species_i][:, :, None]
        cols = self.orbitals_of_species[species_j][:, None, :]
        common[np.arange(len(blocks))[:, None, None], rows, cols] = blocks
        return common[:, :n, :n]
