"""A synthetic dataset for the tests of trainers: extended-Hückel H, on-site levels feel the neighbours."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from ase import Atoms
from ase.build import graphene

from ase_deeph.basis import GaussianRadial, OrbitalBasis, SpeciesBasis
from ase_deeph.graph import CrystalGraph
from ase_deeph.io.deeph import write_basis_file, write_deeph
from ase_deeph.matrix import RealSpaceMatrix
from ase_deeph.pairs import AtomPairs
from ase_deeph.reference import ReferenceData
from ase_deeph.two_center import overlap

if TYPE_CHECKING:
    from trainers.config import TrainingConfig
    from trainers.experiment import Experiment

LEVELS = {0: -17.0, 1: -9.0}
WOLFSBERG = 1.75
EXPONENT = 1.5
CUTOFF = 4.2


def sp_basis() -> OrbitalBasis:
    """s and p Gaussians on carbon, normalised."""
    s_norm = (2.0 * EXPONENT / np.pi) ** 0.75 * np.sqrt(4 * np.pi)
    p_norm = s_norm * np.sqrt(4.0 * EXPONENT / 3.0)
    radial = (
        GaussianRadial(0, np.array([EXPONENT]), np.array([s_norm])),
        GaussianRadial(1, np.array([EXPONENT]), np.array([p_norm])),
    )
    return OrbitalBasis({"C": SpeciesBasis((0, 1), 4.0, radial)})


def hueckel(atoms: Atoms, basis: OrbitalBasis) -> ReferenceData:
    """H_ij = K (E_i + E_j) S_ij / 2, E_i + 0.5 Σ_j exp(-d²/2) on site, with S from two-centre integrals."""
    pairs = AtomPairs.from_atoms(atoms, CUTOFF)
    full = overlap(atoms, basis)
    s = full.restricted_to(pairs)
    d = np.linalg.norm(pairs.displacements(atoms), axis=1)
    crowd = np.bincount(
        pairs.i, weights=np.where(pairs.on_site, 0.0, np.exp(-0.5 * d * d)), minlength=len(atoms)
    )
    shell_levels = np.concatenate([np.full(2 * l + 1, LEVELS[l]) for l in basis.shells("C")])
    blocks = []
    for n, block in enumerate(s.blocks()):
        rows = shell_levels + 0.5 * crowd[pairs.i[n]]
        cols = shell_levels + 0.5 * crowd[pairs.j[n]]
        factor = 1.0 if pairs.on_site[n] else WOLFSBERG * np.exp(-0.05 * d[n] ** 2)
        blocks.append(0.5 * factor * (rows[:, None] + cols[None, :]) * block)
    h = RealSpaceMatrix.from_blocks(basis, pairs, atoms, blocks)
    return ReferenceData(
        atoms,
        h,
        full,
        n_electrons=4.0 * len(atoms),
        fermi_level=-8.0,
        basis=basis,
        info={"engine": "hueckel"},
    )


def rattled_graphene(cells: int, seed: int) -> Atoms:
    """A rattled supercell of graphene of cells x 1."""
    atoms = graphene(a=2.46, size=(cells, 1, 1), vacuum=5.0)
    atoms.pbc = (True, True, False)
    atoms.positions += 0.05 * np.random.default_rng(seed).standard_normal(atoms.positions.shape)
    return atoms


def write_dataset(root: Path, sizes: tuple[int, ...] = (1, 1, 2, 2, 1)) -> Path:
    """root/dft/<id> folders and root/basis.h5."""
    basis = sp_basis()
    (root / "dft").mkdir(parents=True)
    write_basis_file(root / "basis.h5", basis)
    for n, cells in enumerate(sizes):
        write_deeph(
            root / "dft" / f"sheet_{n:03d}", hueckel(rattled_graphene(cells, n), basis), own_basis=False
        )
    return root


TINY = {
    "cutoff": CUTOFF,
    "l_max": 2,
    "channels": 4,
    "pseudo_channels": 2,
    "n_blocks": 1,
    "n_heads": 2,
    "n_radial": 8,
    "hidden": 8,
}


class ToyNetwork:
    """Blocks exp(-d²/2) W + reverse†: an instant stand-in with a network's interface."""

    def __init__(self, basis: OrbitalBasis) -> None:
        self.basis = basis

    def init(self, seed: int) -> dict[str, Any]:
        """One matrix."""
        size = self.basis.max_orbitals
        return {"layer": {"w": np.random.default_rng(seed).standard_normal((size, size)).astype(np.float32)}}

    def apply(
        self, params: Mapping[str, Any], statistics: Mapping[str, Any], graph: CrystalGraph
    ) -> jax.Array:
        """Hermitian blocks in eV."""
        d2 = jnp.sum(jnp.asarray(graph.vectors) ** 2, axis=1)
        blocks = jnp.exp(-0.5 * d2)[:, None, None] * (params["layer"]["w"] * statistics["scale"])[None]
        blocks = 0.5 * (blocks + jnp.swapaxes(blocks[jnp.asarray(graph.reverse)], 1, 2))
        return jnp.where(jnp.asarray(graph.pair_mask)[:, None, None], blocks, 0.0)

    def orbital_mask(self, graph: CrystalGraph) -> jax.Array:
        """Every orbital of a real pair."""
        size = self.basis.max_orbitals
        return jnp.broadcast_to(jnp.asarray(graph.pair_mask)[:, None, None], (graph.n_pairs, size, size))

    def empty_statistics(self) -> dict[str, np.ndarray]:
        """Unit scale."""
        return {"scale": np.ones((1, 1), dtype=np.float32)}

    def fit_statistics(self, samples: Iterable[tuple[CrystalGraph, np.ndarray]]) -> dict[str, np.ndarray]:
        """Root mean square of the targets."""
        squares = [float(np.mean(np.square(blocks))) for _, blocks in samples]
        return {"scale": np.full((1, 1), np.sqrt(np.mean(squares)), dtype=np.float32)}


def toy_experiment(config: TrainingConfig, sizes: tuple[int, ...] = (1, 2, 3, 1, 2, 1)) -> Experiment:
    """An experiment on the toy network, in memory."""
    from trainers.dataset import Batches
    from trainers.experiment import Experiment
    from trainers.structures import fingerprint, make_structure

    basis = sp_basis()
    made = [
        make_structure(
            f"s{n}",
            hueckel(rattled_graphene(c, n), basis),
            basis,
            config.network_config,
            tolerance=0,
            dtype=np.float32,
        )
        for n, c in enumerate(sizes)
    ]
    train, held = made[:-1], made[-1:]
    batch, shapes = config.training.batch, config.data.max_shapes
    sets = Batches(train, batch, shapes), Batches(held, batch, shapes)
    return Experiment(config, basis, ToyNetwork(basis), *sets, True, None, fingerprint(made))
