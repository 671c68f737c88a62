"""CP2K's executable, its data folder, and the basis sets and pseudopotentials in it by PySCF's names or its own."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ase_deeph.basis import OrbitalBasis, SpeciesBasis
from ase_deeph.io.cp2k_basis import (
    charges_named,
    core_exponent,
    entry_of,
    plain,
    shells_of,
    species_basis,
    text_of,
    valence_electrons,
)

VARIABLE = "ASE_DEEPH_CP2K"
_EXECUTABLES = ("cp2k.psmp", "cp2k.popt", "cp2k.ssmp", "cp2k")
_BASIS_FILES = ("GTH_BASIS_SETS", "BASIS_MOLOPT", "BASIS_MOLOPT_UZH", "HFX_BASIS", "BASIS_MOLOPT_UCL")
_PSEUDO_FILES = ("GTH_POTENTIALS", "POTENTIAL_UZH", "HF_POTENTIALS")


@dataclass(frozen=True, eq=False)
class KindSets:
    """The entries of one element, verbatim from CP2K's files, header first.

    Parameters
    ----------
    basis, pseudo : lines of the two entries.
    species : the orbitals, shells sorted by l as PySCF sorts them.
    """

    basis: list[str]
    pseudo: list[str]
    species: SpeciesBasis

    @property
    def largest_exponent(self) -> float:
        """Bohr^-2, of basis and core charge; the grid must resolve it."""
        from ase.units import Bohr

        return max(
            max(float(f.exponents.max()) for f in shells_of(self.basis)) * Bohr**2, core_exponent(self.pseudo)
        )


def executable() -> str:
    """CP2K's program: the variable ASE_DEEPH_CP2K, else cp2k.psmp, cp2k.popt, cp2k.ssmp or cp2k on the path.

    Raises
    ------
    FileNotFoundError : none of them is there.
    """
    named = os.environ.get(VARIABLE)
    for candidate in (named,) if named else _EXECUTABLES:
        found = shutil.which(candidate)
        if found:
            return found
    what = f"{VARIABLE}={named!r} is no executable file" if named else f"found no {', '.join(_EXECUTABLES)}"
    raise FileNotFoundError(
        f"run_cp2k needs CP2K, {what}; install it (Debian, Ubuntu: apt-get install cp2k; conda: "
        f"conda install -c conda-forge cp2k), or set {VARIABLE} to its executable"
    )


def data_folder(program: str) -> Path:
    """Where CP2K's basis sets are: CP2K_DATA_DIR, else share/cp2k or data beside the executable's folder."""
    named = os.environ.get("CP2K_DATA_DIR")
    prefix = Path(program).resolve().parent.parent
    homes = (
        [Path(named)]
        if named
        else [prefix / "share/cp2k", prefix / "share/cp2k/data", prefix.parent / "data"]
    )
    for home in homes:
        if (home / _PSEUDO_FILES[0]).is_file():
            return home
    looked = ", ".join(map(str, homes))
    raise FileNotFoundError(
        f"CP2K's basis sets are not in {looked}; set CP2K_DATA_DIR to the folder of {_PSEUDO_FILES[0]}"
    )


def kind_sets(data: Path, symbols: Iterable[str], basis: str, pseudo: str) -> dict[str, KindSets]:
    """The sets of each element.

    Raises
    ------
    ValueError : an element has no such set, or basis and pseudopotential are for different valence electrons.
    """
    return {symbol: _of_element(data, symbol, basis, pseudo) for symbol in sorted(set(symbols))}


def _of_element(data: Path, symbol: str, basis: str, pseudo: str) -> KindSets:
    orbitals = _found(data, _BASIS_FILES, symbol, basis, "basis")
    core = _found(data, _PSEUDO_FILES, symbol, pseudo, "pseudopotential")
    charge = valence_electrons(core)
    named = charges_named(orbitals[0])
    if named and charge not in named:
        raise ValueError(
            f"{symbol}: basis {orbitals[0]!r} is for {sorted(named)} valence electrons, pseudopotential {core[0]!r} "
            f"has {charge}; name sets of one charge (…-q{charge})"
        )
    return KindSets(orbitals, core, species_basis(shells_of(orbitals), float(charge)))


def _found(data: Path, files: tuple[str, ...], symbol: str, name: str, what: str) -> list[str]:
    """The entry called as CP2K does, "DZVP-MOLOPT-SR-GTH", or as PySCF does, "gth-dzvp-molopt-sr"."""
    key = plain(name)
    names = [key, key[3:] + "gth"] if key.startswith("gth") and what == "basis" else [key]
    for file in files:
        entry = entry_of(text_of(data / file), symbol, names) if (data / file).is_file() else None
        if entry is not None:
            return entry
    raise ValueError(
        f"CP2K has no {what} {name!r} for {symbol} in {', '.join(files)}; choose sets that cover it"
    )


def orbital_basis(sets: dict[str, KindSets]) -> OrbitalBasis:
    """The orbitals of all elements."""
    return OrbitalBasis({symbol: kind.species for symbol, kind in sets.items()})
