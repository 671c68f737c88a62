"""How many electrons the elements of a structure can bring: full shells are core, the rest is valence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import permutations

import numpy as np
from ase.data import atomic_numbers

_NOBLE = (0, 2, 10, 18, 36, 54, 86)
_WITH_D = {18: 28, 36: 46, 54: 78, 86: 110}
_MOST_SPECIES = 5


def valence_counts(symbol: str) -> tuple[int, ...]:
    """Electron numbers with which pseudopotentials treat an element, usual first; its own Z is the last.

    Empty for lanthanides and actinides, whose f shell may be in the core or not.

    >>> valence_counts("C"), valence_counts("Te"), valence_counts("Mo")
    ((4, 6), (6, 16, 52), (6, 14, 12, 42))
    """
    Z = atomic_numbers[symbol]
    noble = max(n for n in _NOBLE if n < Z)
    if noble in (54, 86) and 2 < Z - noble <= 17:
        return ()
    behind_f = noble in (54, 86) and Z - noble > 17
    cores = [noble + 14 if behind_f else noble]
    d_closed = _WITH_D.get(noble)
    if d_closed is not None and d_closed < Z:
        in_p_block = Z - d_closed > 2
        cores = [d_closed, *cores] if in_p_block or Z - d_closed == 2 else [*cores, d_closed]
    before = max((n for n in _NOBLE if n < noble), default=0)
    if noble >= 10 and Z - (noble + 14 if behind_f else noble) <= 12:
        inner = noble + 6 if behind_f else _WITH_D.get(before, before)
        cores += [inner, inner + 2]
    elif noble == 2 and Z == 3:
        cores.append(0)
    counts = [Z - core for core in cores if core < Z]
    return tuple(dict.fromkeys([*counts, Z]))


def plausible(symbols: Sequence[str], n_electrons: float) -> bool | None:
    """Whether neutral atoms can bring this many electrons, each element in one way; None when not known."""
    number = Counter(symbols)
    choices = {s: valence_counts(s) for s in number}
    if any(not c for c in choices.values()):
        return None
    reachable = {0}
    for symbol, count in number.items():
        reachable = {n + count * z for n in reachable for z in choices[symbol]}
    return bool(np.any(np.abs(np.array(sorted(reachable)) - n_electrons) < 0.3))


def exchange_that_fits(symbols: Sequence[str], n_electrons: float) -> dict[str, str] | None:
    """A relabelling of the elements after which the electrons fit; None when there is none, or many."""
    kinds = sorted(set(symbols))
    if not 1 < len(kinds) <= _MOST_SPECIES:
        return None
    for order in permutations(kinds):
        renamed = dict(zip(kinds, order, strict=True))
        if list(order) != kinds and plausible([renamed[s] for s in symbols], n_electrons):
            return renamed
    return None


def choices_text(symbols: Sequence[str]) -> str:
    """The counts of each element, readable."""
    return "; ".join(f"{s} {' or '.join(map(str, valence_counts(s)))}" for s in sorted(set(symbols)))
