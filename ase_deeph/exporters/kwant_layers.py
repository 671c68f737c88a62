"""Kwant's view of atoms: site families named after atoms, and translations whose cells begin where one says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import kwant
import numpy as np


class LayeredTranslation(kwant.TranslationalSymmetry):
    """A translation along one direction whose fundamental domain begins at a given tag.

    Kwant anchors its fundamental domains at tag zero; a layer of several cells then fits a device only when
    the device happens to end at a multiple of them.

    Parameters
    ----------
    period : (3,) Å.
    first : tag of a site in the corner of the fundamental domain.
    """

    def __init__(self, period: Sequence[float] | np.ndarray, first: Sequence[int] | np.ndarray) -> None:
        super().__init__(period)
        self.first = np.array(first, dtype=int)

    def which(self, site: Any) -> Any:
        """The domain that holds a site, counted along the period."""
        return super().which(kwant.builder.Site(site.family, site.tag - self.first, True))

    def reversed(self) -> LayeredTranslation:
        """The same fundamental domain with the opposite period."""
        result = LayeredTranslation(-np.array(self.periods[0]), self.first)
        result.site_family_data = self.site_family_data
        result.is_reversed = not self.is_reversed
        return result


def atom_family(
    index: int, symbol: str, position: np.ndarray, n_orbitals: int, lattice: np.ndarray
) -> kwant.lattice.Monatomic:
    """The site family "index:symbol" at a position (3,) in Å, repeated on a lattice (n, 3) of vectors."""
    vectors = np.asarray(lattice, dtype=float).tolist()
    return kwant.lattice.Monatomic(
        vectors, np.asarray(position, dtype=float).tolist(), name=f"{index}:{symbol}", norbs=int(n_orbitals)
    )
