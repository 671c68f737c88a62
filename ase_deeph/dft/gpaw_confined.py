"""Short-ranged GPAW orbitals, made when a basis name asks for them: "szp(loc.dzp)", "loc.dzp".

GPAW's stock orbitals of Mo or Si reach 4.8 to 7.5 Å, which makes S ill conditioned and H long ranged. `loc` is the
same construction confined harder: energy split 0.3 eV, radii at most 7 Bohr. What
`gpaw basis -s Si -t dzp -E 0.3 --rcut-max 7.0 --name loc` writes, kept in a folder of this process only.

One thing is chosen here: an element whose outermost shell holds s electrons alone (Mo 4d5 5s1, Na 3s1) is polarized
by the p functions of that shell, as in GPAW's stock sets, although inner p electrons are among its valence. With f
functions instead MoS2's gap at K is 1.59 eV, with p 1.67 (dzp: 1.68).
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

ENERGY_SPLIT, LARGEST_RADIUS = 0.3, 7.0
_FAMILY = "loc."


@cache
def _folder() -> TemporaryDirectory[str]:
    """A folder on GPAW's search path, removed when the process ends."""
    from gpaw import setup_paths

    folder = TemporaryDirectory(prefix="ase-deeph-orbitals-")
    setup_paths.insert(0, folder.name)
    return folder


@cache
def _write(symbol: str, kind: str, xc: str) -> None:
    """One element's orbitals as SYMBOL.loc.KIND.basis."""
    from gpaw.atom.basis import BasisMaker
    from gpaw.basis_data import parse_basis_name

    zeta, polarization = parse_basis_name(kind)
    maker = BasisMaker.from_symbol(symbol, gtxt=None, xc=xc, name="loc")
    confined = {
        "energysplit": ENERGY_SPLIT,
        "rcutmax": LARGEST_RADIUS,
        "l_pol": _polarization(maker.valence_data),
    }
    orbitals = maker.generate(zeta, polarization, txt=None, **confined)
    with open(Path(_folder().name) / f"{symbol}.loc.{kind}.basis", "w") as file:
        orbitals.write_to(file)


def _polarization(setup: Any) -> int | None:
    """Angular momentum of the polarization functions: p above an outermost shell of s alone, else GPAW's choice."""
    occupied = [(n, l) for n, l, f in zip(setup.n_j, setup.l_j, setup.f_j, strict=True) if n > 0 and f > 0]
    outermost = max((n for n, _ in occupied), default=0)
    return 1 if {l for n, l in occupied if n == outermost} == {0} else None


def provide(symbols: Iterable[str], basis: str, xc: str) -> None:
    """Make the confined orbitals that a basis name such as "szp(loc.dzp)" refers to; nothing for other names.

    Raises
    ------
    ValueError : the kind after "loc." is not one of GPAW's ("dzp", "szp", "tzp", ...).
    """
    inner = basis.partition("(")[2].rstrip(")") or basis
    if not inner.startswith(_FAMILY):
        return
    kind = inner.removeprefix(_FAMILY)
    for symbol in sorted(set(symbols)):
        try:
            _write(symbol, kind, xc)
        except (AssertionError, IndexError, ValueError) as error:
            raise ValueError(
                f"basis: expected 'loc.' and a kind such as dzp, received {basis!r} for {symbol}: {error}"
            ) from error
