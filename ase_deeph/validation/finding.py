"""Finding: one line about one fault, and Case: the reference data made ready to be examined."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from ase_deeph.matrix import RealSpaceMatrix
from ase_deeph.reference import ReferenceData

Severity = Literal["error", "warning"]

HAMILTONIAN, OVERLAP, DENSITY = "hamiltonian", "overlap", "density matrix"


@dataclass(frozen=True)
class Finding:
    """What is wrong, where, and what to do.

    Parameters
    ----------
    severity : "error" (results would be wrong) or "warning" (look at it before use).
    code : a short fixed name: "units", "sign-of-R", "wrapped-atom", "m-order", "missing-reverse", "h0",
        "float32", "electron-count", "singular-overlap", "swapped-species", "nan", "unreadable",
        "hermiticity", "orbital-count", "fermi-level", "geometry", "structure" or "density-matrix".
    where : the matrix, file, pair or atom.
    what : the fault with its measured numbers.
    remedy : what to do.
    """

    severity: Severity
    code: str
    where: str
    what: str
    remedy: str

    def __str__(self) -> str:
        return " ".join(f"{self.severity}: {self.code}: {self.where}: {self.what}; {self.remedy}".split())


@dataclass(frozen=True)
class Report:
    """The result of an examination.

    Parameters
    ----------
    findings : faults, errors first; none for sound data.
    measures : what was measured, by name.
    unchecked : what the data do not suffice to check, and what would.
    """

    findings: tuple[Finding, ...] = ()
    measures: dict[str, str] = field(default_factory=dict)
    unchecked: tuple[str, ...] = ()

    def __add__(self, other: Report) -> Report:
        findings = sorted(self.findings + other.findings, key=lambda f: f.severity != "error")
        return Report(tuple(findings), {**self.measures, **other.measures}, self.unchecked + other.unchecked)


@dataclass(frozen=True, eq=False)
class Case:
    """Reference data whose matrices are finite, on paired pairs and of the structure's orbitals.

    Parameters
    ----------
    data : as given; its `atoms` are the structure that is judged.
    hamiltonian, overlap, density : usable matrices; None where absent or unusable.
    """

    data: ReferenceData
    hamiltonian: RealSpaceMatrix | None = None
    overlap: RealSpaceMatrix | None = None
    density: RealSpaceMatrix | None = None

    def matrices(self) -> Iterator[tuple[str, RealSpaceMatrix]]:
        """The usable matrices by name."""
        for name, matrix in (
            (HAMILTONIAN, self.hamiltonian),
            (OVERLAP, self.overlap),
            (DENSITY, self.density),
        ):
            if matrix is not None:
                yield name, matrix

    @property
    def symbols(self) -> list[str]:
        """Chemical symbol of each atom."""
        return self.data.atoms.get_chemical_symbols()

    @property
    def valence(self) -> float | None:
        """Valence electrons of the neutral cell; None where the basis does not know them."""
        matrix = self.overlap if self.overlap is not None else self.hamiltonian
        basis = self.data.basis or (matrix.basis if matrix is not None else None)
        if basis is None or any(s not in basis or basis.valence_electrons(s) <= 0 for s in set(self.symbols)):
            return None
        return basis.n_electrons(self.symbols)


def pair_text(matrix: RealSpaceMatrix, n: int) -> str:
    """The n-th pair of a matrix, readable."""
    pairs = matrix.pairs
    return f"pair ({pairs.i[n]}, {pairs.j[n]}, R={tuple(int(x) for x in pairs.R[n])})"


def on_structure(matrix: RealSpaceMatrix, data: ReferenceData) -> RealSpaceMatrix:
    """The matrix with the structure that the data give, whatever it carried."""
    return matrix if matrix.atoms is data.atoms else replace(matrix, atoms=data.atoms)


def atom_text(atoms: np.ndarray | list[int], symbols: list[str]) -> str:
    """Atoms by index and symbol, at most four."""
    named = ", ".join(f"{n} ({symbols[n]})" for n in list(atoms)[:4])
    return f"atom{'s' if len(atoms) > 1 else ''} {named}{' ...' if len(atoms) > 4 else ''}"
