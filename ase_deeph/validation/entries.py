"""Faults of single matrices: NaN, missing reverse pairs, orbital counts, Hermiticity, single precision."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ase_deeph.matrix import RealSpaceMatrix
from ase_deeph.pairs import AtomPairs
from ase_deeph.reference import ReferenceData
from ase_deeph.validation.finding import DENSITY, HAMILTONIAN, OVERLAP, Case, Finding, on_structure, pair_text

_ROUNDING = 3e-9
_SINGLE = 3e-6
_ENOUGH_VALUES = 12


def prepared(data: ReferenceData, density: RealSpaceMatrix | None) -> tuple[Case, list[Finding]]:
    """The matrices that can be examined further, and what is wrong with each by itself."""
    findings: list[Finding] = []
    usable: dict[str, RealSpaceMatrix | None] = {}
    for name, matrix in ((HAMILTONIAN, data.hamiltonian), (OVERLAP, data.overlap), (DENSITY, density)):
        usable[name] = None
        if matrix is None:
            continue
        found = _wrong_structure(name, matrix, data) or _not_finite(name, matrix)
        findings += found
        if not found:
            findings += _single_precision(name, matrix)
            matrix = on_structure(matrix, data)
            found, usable[name] = _paired(name, matrix)
            findings += found
    case = Case(data, usable[HAMILTONIAN], usable[OVERLAP], usable[DENSITY])
    return case, findings + _positions(data)


def hermiticity(case: Case) -> tuple[list[Finding], dict[str, str]]:
    """|M - M†| of every matrix against its largest entry: rounding, single precision, or wrong."""
    findings, measures = [], {}
    for name, matrix in case.matrices():
        error, scale = matrix.hermiticity_error(), max(matrix.max_abs(), 1e-300)
        unit = " eV" if name == HAMILTONIAN else ""
        measures[f"Hermiticity of the {name}"] = f"|M - M†| = {error:.1e}{unit}"
        if error <= _ROUNDING * scale:
            continue
        worst = _least_hermitian(matrix)
        if error <= _SINGLE * scale:
            findings.append(
                Finding(
                    "warning",
                    "float32",
                    name,
                    f"|M - M†| = {error:.1e}{unit}, {error / scale:.0e} of the largest entry: "
                    "noise of single precision",
                    "compute or convert it again in double precision",
                )
            )
        else:
            findings.append(
                Finding(
                    "error",
                    "hermiticity",
                    f"{name}, {worst}",
                    f"|M - M†| = {error:.1e}{unit}",
                    "check the reader's order of pairs and the imaginary parts; hermitian_part() averages both",
                )
            )
    return findings, measures


def _least_hermitian(matrix: RealSpaceMatrix) -> str:
    difference = replace(matrix, entries=matrix.entries - matrix.transpose_conj().entries)
    return pair_text(matrix, int(np.argmax(difference.block_norms())))


def _wrong_structure(name: str, matrix: RealSpaceMatrix, data: ReferenceData) -> list[Finding]:
    """Findings when the structure's elements do not have the orbitals of the matrix' blocks."""
    symbols = data.atoms.get_chemical_symbols()
    counts = matrix.rows_per_atom // (2 if matrix.spin == "spinor" else 1)
    if len(symbols) != len(counts):
        what = f"it is of {len(counts)} atoms, the structure has {len(symbols)}"
        return [Finding("error", "structure", name, what, "bring structure and matrix of one calculation")]
    basis = data.basis or matrix.basis
    missing = sorted(set(symbols) - set(basis))
    if missing:
        what = f"the basis has no orbitals for {', '.join(missing)}"
        return [Finding("error", "orbital-count", name, what, "name the shells of every element")]
    return count_findings(name, symbols, np.array([basis.n_orbitals(s) for s in symbols]), counts)


def count_findings(name: str, symbols: list[str], expected: np.ndarray, found: np.ndarray) -> list[Finding]:
    """Findings about atoms whose blocks have another number of orbitals than their element."""
    wrong = np.nonzero(expected != found)[0]
    if not len(wrong):
        return []
    a = int(wrong[0])
    where = f"{name}, atom {a} ({symbols[a]})"
    what = f"{found[a]} orbitals in its blocks, {expected[a]} in the basis ({len(wrong)} such atoms)"
    if sorted(expected) == sorted(found) or _is_relabelling(symbols, expected, found):
        return [
            Finding(
                "error",
                "swapped-species",
                where,
                what + ", while another order of the elements fits",
                "elements are exchanged: put the species of POSCAR into the order of the matrices",
            )
        ]
    return [
        Finding(
            "error",
            "orbital-count",
            where,
            what,
            "correct the shells of this element (elements_orbital_map) or the order of the atoms",
        )
    ]


def _is_relabelling(symbols: list[str], expected: np.ndarray, found: np.ndarray) -> bool:
    """Whether the counts fit when the names of the elements are permuted."""
    kinds = sorted(set(symbols))
    counts = [set(found[[n for n, s in enumerate(symbols) if s == kind]].tolist()) for kind in kinds]
    ours = [int(expected[symbols.index(kind)]) for kind in kinds]
    return all(len(c) == 1 for c in counts) and sorted(c.pop() for c in counts) == sorted(ours)


def _not_finite(name: str, matrix: RealSpaceMatrix) -> list[Finding]:
    bad = ~np.isfinite(matrix.entries)
    if not bad.any():
        return []
    first = int(np.nonzero(bad.any(axis=0) if bad.ndim == 2 else bad)[0][0])
    n = int(np.searchsorted(matrix.offsets, first, side="right")) - 1
    what = f"{int(bad.sum())} entries are NaN or infinite, the first in {pair_text(matrix, n)}"
    return [Finding("error", "nan", name, what, "the calculation failed there: compute it again")]


def _paired(name: str, matrix: RealSpaceMatrix) -> tuple[list[Finding], RealSpaceMatrix | None]:
    """As `_completed`; pairs too strange to be numbered or completed are a finding."""
    try:
        return _completed(name, matrix)
    except ValueError as error:
        remedy = "the file is damaged: copy or compute it again"
        return [Finding("error", "unreadable", f"{name}, pairs", str(error), remedy)], None


def _completed(name: str, matrix: RealSpaceMatrix) -> tuple[list[Finding], RealSpaceMatrix | None]:
    """The matrix with every pair's reverse, missing ones filled in for the checks that follow."""
    pairs = matrix.pairs
    back = pairs.positions_of(np.column_stack([pairs.j, pairs.i, -pairs.R]))
    lacking = np.nonzero(back < 0)[0]
    findings = []
    if len(lacking):
        findings.append(
            Finding(
                "error",
                "missing-reverse",
                f"{name}, {pair_text(matrix, int(lacking[0]))}",
                f"{len(lacking)} of {len(pairs)} pairs lack their reverse (j, i, -R)",
                "store both directions; each missing block is the adjoint of the one that is there",
            )
        )
        both = pairs.union(AtomPairs(pairs.j[lacking], pairs.i[lacking], -pairs.R[lacking], pairs.n_atoms))
        wide = matrix.restricted_to(both)
        absent = np.repeat(pairs.indices_of(both) < 0, wide.block_shapes.prod(axis=1))
        entries = np.where(absent, wide.transpose_conj().entries, wide.entries)
        matrix, pairs = replace(wide, entries=entries), both
    if pairs.on_site.sum() < pairs.n_atoms:
        have = set(pairs.i[pairs.on_site].tolist())
        a = next(n for n in range(pairs.n_atoms) if n not in have)
        what = f"the on-site block of atom {a} is missing ({pairs.n_atoms - len(have)} such atoms)"
        findings.append(
            Finding("error", "missing-reverse", name, what, "write the pairs (i, i, R=0) as well")
        )
        return findings, None
    return findings, matrix


def _single_precision(name: str, matrix: RealSpaceMatrix) -> list[Finding]:
    """A finding when every entry is a number of single precision."""
    parts = np.concatenate([matrix.entries.real.ravel(), matrix.entries.imag.ravel()])
    fractional = parts[parts != np.round(parts, 4)]
    if len(np.unique(fractional[: 50 * _ENOUGH_VALUES])) < _ENOUGH_VALUES:
        return []
    with np.errstate(over="ignore", under="ignore"):
        if (
            not np.array_equal(parts, parts.astype(np.float32).astype(parts.dtype))
            and parts.dtype.itemsize > 4
        ):
            return []
    return [
        Finding(
            "warning",
            "float32",
            name,
            "every entry is a single-precision number: errors of about "
            f"{matrix.max_abs() * 2.0**-24:.0e}{' eV' if name == HAMILTONIAN else ''}",
            "right for predictions; as reference data write it again in double precision",
        )
    ]


def _positions(data: ReferenceData) -> list[Finding]:
    atoms = data.atoms
    if not (np.all(np.isfinite(atoms.positions)) and np.all(np.isfinite(atoms.cell.array))):
        what = "positions or cell hold NaN or infinity"
        return [Finding("error", "nan", "structure", what, "write the structure again")]
    return []
