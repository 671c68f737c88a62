"""Short-ranged GPAW orbitals, made when a basis name asks for them: "szp(loc.dzp)", "loc.dzp".

GPAW's stock orbitals of Mo or Si reach 4.8 to 7.5 Å, which makes S ill conditioned and H long ranged. `loc` is the
same construction confined harder: energy split 0.3 eV, radii at most 7 Bohr. What
`gpaw basis -s Si -t dzp -E 0.3 --rcut-max 7.0 --name loc` writes, kept in a folder of this process only.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

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
    orbitals = maker.generate(zeta, polarization, energysplit=ENERGY_SPLIT, rcutmax=LARGEST_RADIUS, txt=None)
    with open(Path(_folder().name) / f"{symbol}.loc.{kind}.basis", "w") as file:
        orbitals.write_to(file)


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
