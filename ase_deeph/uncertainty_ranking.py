"""Which of many candidate structures a committee knows least about: ranked by spread, chosen without duplicates."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import isnan, nan
from typing import Any

from ase import Atoms

from ase_deeph.calculator_prediction import Prediction
from ase_deeph.electronic_structure import ElectronicStructure
from ase_deeph.io.duplicates import duplicates
from ase_deeph.sources import Committee
from ase_deeph.uncertainty import Uncertainty

log = logging.getLogger(__name__)

KPTS = {"density": 2.0, "gamma": True}


@dataclass(frozen=True, eq=False)
class RankedStructure:
    """A candidate and what the committee says of it.

    Parameters
    ----------
    name, atoms : the candidate.
    spread : mean absolute deviation of the members' H, eV; None where no prediction was made.
    levels : root mean square deviation of the levels within 3 eV of the Fermi level, eV; None where not asked
        for, unknown, or without a level there.
    outside_domain : in which ways it lies outside the training domain.
    refused : why no prediction was made, else None.
    """

    name: str
    atoms: Atoms
    spread: float | None = None
    levels: float | None = None
    outside_domain: tuple[str, ...] = ()
    refused: str | None = None


def rank(
    candidates: Iterable[tuple[str, Atoms]], committee: Committee, *, kpts: Any = KPTS
) -> list[RankedStructure]:
    """Every candidate, the one with the largest spread of H first; refused ones at the end.

    Parameters
    ----------
    candidates : (name, atoms), names distinct.
    committee : two or more Hamiltonian sources.
    kpts : mesh of the spread of levels; None leaves that out.

    Raises
    ------
    ValueError : fewer than two members, no candidates, a name twice, or none that the members can predict.
    """
    if len(committee.members) < 2:
        raise ValueError(
            f"rank: expected a committee of two or more models, received {len(committee.members)}; "
            "train a second one with another seed"
        )
    ranked = [_examine(name, atoms, committee, kpts) for name, atoms in candidates]
    names = [r.name for r in ranked]
    if len(set(names)) < len(names):
        raise ValueError(f"rank: expected distinct names, received {max(names, key=names.count)!r} twice")
    if all(r.refused is not None for r in ranked):
        reason = (
            f"all {len(ranked)} were refused, the first: {ranked[0].refused}" if ranked else "received none"
        )
        raise ValueError(f"rank: expected candidates that the models can predict; {reason}")
    return sorted(ranked, key=lambda r: -1.0 if r.spread is None else r.spread, reverse=True)


def _examine(name: str, atoms: Atoms, committee: Committee, kpts: Any) -> RankedStructure:
    """One candidate; what the models refuse is noted, not raised."""
    prediction = Prediction(atoms, committee)
    try:
        spread, remarks = prediction.spread, prediction.outside_domain
        structure = None
        if kpts is not None and prediction.knows_overlap:
            structure = ElectronicStructure(
                spread.mean, prediction.overlap, kpts=kpts, symmetry="time-reversal"
            )
        has_levels = structure is not None and structure.n_electrons is not None
        levels = Uncertainty(spread, remarks, structure).levels.rms() if has_levels else nan
    except (KeyError, ValueError) as error:
        reason = str(error.args[0]) if error.args else type(error).__name__
        log.info("%s: no prediction: %s", name, reason)
        return RankedStructure(name, atoms, refused=reason)
    return RankedStructure(name, atoms, spread.mean_absolute, None if isnan(levels) else levels, remarks)


def choose(ranked: Sequence[RankedStructure], n: int) -> list[RankedStructure]:
    """The first n that are predicted and not the same structure as an earlier one.

    Raises
    ------
    ValueError : n below 1.
    """
    if n < 1:
        raise ValueError(f"n: expected at least one structure to choose, received {n}")
    usable = [r for r in ranked if r.refused is None]
    repeated = {later for later, _ in duplicates((r.name, r.atoms) for r in usable)}
    return [r for r in usable if r.name not in repeated][:n]
