"""Models in no time: extended Hückel theory as a Hamiltonian source, and a small untrained network."""

from __future__ import annotations

from collections.abc import Mapping
from math import gamma, sqrt

import jax
import numpy as np
from ase import Atoms
from flax import nnx

from ase_deeph import HamiltonianModel, OrbitalBasis, RealSpaceMatrix
from ase_deeph.basis import GaussianRadial, SpeciesBasis
from ase_deeph.network import NetworkConfig, build_network
from ase_deeph.two_center import overlap

SMALL = NetworkConfig(
    cutoff=4.0, l_max=2, channels=8, pseudo_channels=4, n_blocks=1, n_heads=2, n_radial=8, hidden=8
)

LEVELS: Mapping[str, Mapping[int, float]] = {"C": {0: -21.4, 1: -11.4}, "H": {0: -13.6}}
ELECTRONS = {"C": 4.0, "H": 1.0}
EXPONENTS = {"C": 1.4, "H": 2.2}
WOLFSBERG_HELMHOLZ = 1.75


def gaussian(l: int, exponent: float) -> GaussianRadial:
    """r^l exp(-a r²), normalised: ∫ R² r² dr = 1."""
    norm = 2 * (2 * exponent) ** (l + 1.5) / gamma(l + 1.5)
    return GaussianRadial(l, np.array([exponent]), np.array([sqrt(norm)]))


def huckel_basis(symbols: str = "CH") -> OrbitalBasis:
    """One s shell, and one p shell on carbon."""
    return OrbitalBasis(
        {
            s: SpeciesBasis(
                tuple(LEVELS[s]), ELECTRONS[s], tuple(gaussian(l, EXPONENTS[s]) for l in LEVELS[s])
            )
            for s in symbols
        }
    )


class Huckel:
    """source(atoms) -> H with H_ij = K (e_i + e_j) S_ij / 2 off the diagonal, e_i on it; counts its calls.

    Two of them make a committee of known disagreement: `shift` moves the zero of energy, `strength` is K.
    """

    def __init__(
        self,
        shift: float = 0.0,
        basis: OrbitalBasis | None = None,
        *,
        strength: float = WOLFSBERG_HELMHOLZ,
    ) -> None:
        self.basis = basis or huckel_basis()
        self.shift = shift
        self.strength = strength
        self.calls = 0

    def __call__(self, atoms: Atoms) -> RealSpaceMatrix:
        self.calls += 1
        s = overlap(atoms, self.basis)
        symbols = atoms.get_chemical_symbols()
        levels = [np.repeat(list(LEVELS[x].values()), [2 * l + 1 for l in LEVELS[x]]) for x in symbols]
        blocks = []
        for i, j, on_site, block in zip(s.pairs.i, s.pairs.j, s.pairs.on_site, s.blocks(), strict=True):
            if on_site:
                blocks.append(np.diag(levels[i]) + self.shift * block)
            else:
                mean = 0.5 * (levels[i][:, None] + levels[j][None, :])
                blocks.append((self.strength * mean + self.shift) * block)
        return RealSpaceMatrix.from_blocks(self.basis, s.pairs, atoms.copy(), blocks)


def untrained(seed: int = 0) -> HamiltonianModel:
    """A small network with random numbers for parameters: a legal model file, not a useful one."""
    basis = huckel_basis()
    network = build_network(SMALL, basis)
    random = np.random.default_rng(seed)
    shapes = nnx.to_pure_dict(nnx.eval_shape(lambda: nnx.state(network._module(0))))
    params = jax.tree.map(lambda leaf: random.normal(0.0, 0.3, leaf.shape).astype(np.float32), shapes)
    named = _with_string_keys(params)
    return HamiltonianModel(SMALL, basis, named, network.empty_statistics(), {"name": "untrained"})


def untrained_with_statistics(seed: int = 5) -> HamiltonianModel:
    """The same network with random means and scales, so that no block vanishes."""
    toy, random = untrained(), np.random.default_rng(seed)
    statistics = {
        key: random.uniform(0.1, 0.9, size=np.shape(a)).astype(np.float32)
        for key, a in toy.statistics.items()
    }
    return HamiltonianModel(toy.config, toy.basis, toy.params, statistics, {"name": "toy"})


def _with_string_keys(tree: object) -> dict:
    return {str(k): _with_string_keys(v) for k, v in tree.items()} if isinstance(tree, Mapping) else tree
