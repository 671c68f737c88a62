"""Prediction: what one geometry gave, asked for lazily, and the one warning when it cannot be trusted."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ase import Atoms

from ase_deeph.matrix import RealSpaceMatrix
from ase_deeph.sources import Committee
from ase_deeph.uncertainty import HamiltonianSpread, mean_matrix

log = logging.getLogger("ase_deeph.calculator")


@dataclass(frozen=True)
class Prediction:
    """H, S and the members' disagreement for one geometry; kept by a calculator until an atom moves.

    Parameters
    ----------
    atoms : the structure; not changed by anyone.
    source : one or several Hamiltonian sources.
    max_spread : eV, mean absolute deviation of the members' H above which the warning speaks; None: never.
    """

    atoms: Atoms
    source: Committee
    max_spread: float | None = None

    @cached_property
    def members(self) -> list[RealSpaceMatrix]:
        """H(R) of each source, eV."""
        return self.source.predictions(self.atoms)

    @cached_property
    def hamiltonian(self) -> RealSpaceMatrix:
        """The mean H(R), eV; logs a warning, once, where `outside_domain` has something to say."""
        mean = mean_matrix(self.members)
        remarks = self.outside_domain
        if remarks:
            log.warning(
                "%s lies outside the training domain, its H is an extrapolation: %s",
                self.atoms.get_chemical_formula(),
                "; ".join(remarks),
            )
        return mean

    @cached_property
    def overlap(self) -> RealSpaceMatrix | None:
        """S(R); None for an orthonormal basis."""
        return self.source.overlap(self.atoms, self.members[0])

    @cached_property
    def potential(self) -> Any:
        """Energy, forces and what comes with them, the members' mean; only where they have an energy head."""
        return self.source.potential(self.atoms)

    @cached_property
    def stressed(self) -> Any:
        """The same with the stress asked for."""
        if self.potential.stress is not None or not all(self.atoms.pbc):
            return self.potential
        return self.source.potential(self.atoms, stress=True)

    @property
    def knows_overlap(self) -> bool:
        """Whether `overlap` can be had."""
        return self.source.knows_overlap(self.members[0])

    @cached_property
    def spread(self) -> HamiltonianSpread:
        """The members' deviations from their mean, on one zero of energy where S is known.

        Raises
        ------
        ValueError : a single source.
        """
        if not self.knows_overlap:
            return HamiltonianSpread.raw(self.members)
        return HamiltonianSpread.gauge_fixed(self.members, self.overlap)

    @cached_property
    def outside_domain(self) -> tuple[str, ...]:
        """One line for each reason to distrust this prediction; empty inside the training domain."""
        remarks = self.source.outside_domain(self.atoms)
        if self.max_spread is None or len(self.members) < 2 or self.spread.mean_absolute <= self.max_spread:
            return remarks
        spread = 1e3 * self.spread.mean_absolute
        limit = 1e3 * self.max_spread
        return (
            *remarks,
            f"the {len(self.members)} members differ by {spread:.2f} meV in H, above the limit of {limit:.2f} meV",
        )
