"""How far the members of a committee disagree about one structure: H(R) block by block, and what follows from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from ase_deeph.eigen import spinor_overlap
from ase_deeph.electronic_structure import ElectronicStructure
from ase_deeph.matrix import RealSpaceMatrix
from ase_deeph.uncertainty_levels import LevelSpread, level_spread


@dataclass(frozen=True, eq=False)
class HamiltonianSpread:
    """The members' deviations from their mean, H_m − H̄ − μ_m S, on the mean's pairs.

    The zero of energy is arbitrary (docs/conventions.md, item 9), so what only shifts a member's zero is no
    disagreement: μ_m = ⟨H_m − H̄, S⟩ / ⟨S, S⟩ is taken out where S is known.

    Parameters
    ----------
    mean : H̄(R), eV.
    deviations : one per member, eV, on the pairs of the mean.
    shifts : (n_members,) μ_m in eV; zeros where S is unknown.

    Raises
    ------
    ValueError : fewer than two members.
    """

    mean: RealSpaceMatrix
    deviations: tuple[RealSpaceMatrix, ...]
    shifts: np.ndarray

    def __post_init__(self) -> None:
        if len(self.deviations) < 2:
            raise ValueError(
                f"uncertainty: expected a committee of two or more members, received {len(self.deviations)}; "
                "give DeepHCalculator a list of models"
            )

    @classmethod
    def raw(cls, members: Sequence[RealSpaceMatrix]) -> HamiltonianSpread:
        """Of the members' H(R) as they are, each with its own zero of energy."""
        mean = mean_matrix(members)
        deviations = tuple((h - mean).on(mean.pairs) for h in members)
        return cls(mean, deviations, np.zeros(len(members)))

    @classmethod
    def gauge_fixed(
        cls, members: Sequence[RealSpaceMatrix], overlap: RealSpaceMatrix | None
    ) -> HamiltonianSpread:
        """Of the members' H(R) less each one's μ_m S; overlap None is an orthonormal basis."""
        spread = cls.raw(members)
        s = _overlap_like(spread.mean, overlap)
        norm = float(np.sum(np.abs(s) ** 2)) * (2 if spread.mean.spin == "collinear" else 1)
        shifts = np.array([float(np.sum(d.entries * np.conj(s)).real) / norm for d in spread.deviations])
        fixed = (
            replace(d, entries=d.entries - mu * s) for d, mu in zip(spread.deviations, shifts, strict=True)
        )
        return replace(spread, deviations=tuple(fixed), shifts=shifts)

    @cached_property
    def _mean_square(self) -> np.ndarray:
        return np.mean([np.abs(d.entries) ** 2 for d in self.deviations], axis=0)

    def standard_deviation(self) -> RealSpaceMatrix:
        """σ of every entry over the members, eV."""
        return replace(self.mean, entries=np.sqrt(self._mean_square).astype(self.mean.entries.dtype))

    def block_deviations(self) -> np.ndarray:
        """(n_pairs,) root mean square over the entries of a block and the members, eV; spin channels pooled."""
        if not len(self.mean.pairs):
            return np.zeros(0)
        per_entry = np.atleast_2d(self._mean_square).mean(axis=0)
        sums = np.add.reduceat(per_entry, self.mean.offsets[:-1])
        return np.sqrt(sums / self.mean.block_shapes.prod(axis=1))

    @property
    def mean_absolute(self) -> float:
        """Mean |deviation| over entries and members, eV: what a mean absolute error of H is compared with.

        A turned structure changes it by a few per cent, for it depends on the axes; `rms` does not.
        """
        return float(np.mean([np.abs(d.entries).mean() for d in self.deviations]))

    @property
    def rms(self) -> float:
        """Root mean square deviation over entries and members, eV; the same however the structure is turned."""
        return float(np.sqrt(self._mean_square.mean()))


@dataclass(frozen=True, eq=False)
class Uncertainty:
    """What the members of a committee do not agree on, for one structure.

    Parameters
    ----------
    hamiltonian : the spread of H(R).
    outside_domain : in which ways the structure lies outside the training domain; empty inside it.
    structure : of the mean H; None where S is unknown.
    """

    hamiltonian: HamiltonianSpread
    outside_domain: tuple[str, ...] = ()
    structure: ElectronicStructure | None = None

    @cached_property
    def levels(self) -> LevelSpread:
        """The spread of levels on the k-mesh, to first order in the deviations; computed when asked for.

        Raises
        ------
        ValueError : the overlap, and with it the levels, are unknown.
        """
        if self.structure is None:
            raise ValueError(
                "uncertainty of levels: the overlap is unknown, for the basis carries no radial functions; "
                "give DeepHCalculator(..., overlap=source)"
            )
        return level_spread(self.structure, self.hamiltonian.deviations)

    @property
    def eigenvalues(self) -> np.ndarray:
        """(n_spins, n_kpts, n_bands) standard deviation of the levels on the irreducible mesh, eV."""
        return self.levels.standard_deviation

    @property
    def fermi_level(self) -> float:
        """Standard deviation of the Fermi level, eV, each member on the common zero of energy."""
        return self.levels.fermi_level_deviation

    @property
    def band_gap(self) -> float:
        """Standard deviation of the band gap, eV."""
        return self.levels.band_gap_deviation


def mean_matrix(members: Sequence[RealSpaceMatrix]) -> RealSpaceMatrix:
    """The mean of matrices, on the pairs that any of them has."""
    total = members[0]
    for member in members[1:]:
        total = total + member
    return total if len(members) == 1 else total * (1.0 / len(members))


def _overlap_like(hamiltonian: RealSpaceMatrix, overlap: RealSpaceMatrix | None) -> np.ndarray:
    """The entries of S on the Hamiltonian's pairs, per spin channel; of the identity where S is None."""
    if overlap is None:
        counts = hamiltonian.block_shapes
        blocks = [
            np.eye(*shape) if own else np.zeros(shape)
            for shape, own in zip(counts, hamiltonian.pairs.on_site, strict=True)
        ]
        return np.concatenate([b.ravel() for b in blocks])
    if hamiltonian.spin == "spinor" and overlap.spin == "none":
        overlap = spinor_overlap(overlap)
    return overlap.restricted_to(hamiltonian.pairs).entries
