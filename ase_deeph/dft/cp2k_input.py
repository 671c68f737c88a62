"""The input file of a CP2K single point: structure, basis, functional, k-points, smearing, and what to print.

Functionals carry PySCF's names.  Sections are nested lists: a string is a line, (head, lines) a section.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms, units

Lines = Sequence["str | tuple[str, Lines]"]

_FUNCTIONALS: dict[str, Lines] = {
    "pbe": [("PBE", [])],
    "pbesol": [("PBE", ["PARAMETRIZATION PBESOL"])],
    "revpbe": [("PBE", ["PARAMETRIZATION REVPBE"])],
    "blyp": [("BECKE88", []), ("LYP", [])],
    "lda,vwn": [("LDA_X", []), ("LDA_C_VWN", [])],
    "pbe0": [("PBE", ["SCALE_X 0.75", "SCALE_C 1.0"])],
    "hse06": [
        ("PBE", ["SCALE_X 0.0", "SCALE_C 1.0"]),
        ("XWPBE", ["SCALE_X -0.25", "SCALE_X0 1.0", "OMEGA 0.11"]),
    ],
}
_ALSO = {"gga": "pbe", "pbe,pbe": "pbe", "hse": "hse06", "b88,lyp": "blyp", "svwn": "lda,vwn"}
HYBRIDS = ("pbe0", "hse06")
PROJECT = "cp2k"


@dataclass(frozen=True, eq=False)
class Job:
    """What an input is made of.

    Parameters
    ----------
    atoms : structure in its box; its pbc are CP2K's (none: a free molecule in a cubic box).
    moments : (n_atoms,) initial moments, None without spin.
    xc : functional, a name from `known_functional`.
    kpoints : (n, 4) fractional k and weight; None runs at Γ without k-points.
    n_electrons, n_orbitals : of the cell.
    width : Fermi-Dirac width in eV, 0 for none.
    cutoff : of the finest grid, Ry.
    convergence : of the density matrix.
    forces, stress : what to compute.
    """

    atoms: Atoms
    moments: np.ndarray | None
    xc: str
    kpoints: np.ndarray | None
    n_electrons: int
    n_orbitals: int
    width: float
    cutoff: float
    convergence: float
    forces: bool
    stress: bool


def known_functional(name: str) -> str:
    """The functional's name in our table; ValueError lists the known ones."""
    plain = name.lower().replace(" ", "")
    plain = _ALSO.get(plain, plain)
    if plain not in _FUNCTIONALS:
        raise ValueError(f"xc: run_cp2k knows {', '.join(map(repr, _FUNCTIONALS))}, received {name!r}")
    return plain


def kinds_of(atoms: Atoms, moments: np.ndarray | None) -> list[str]:
    """(n_atoms,) a kind for each element, or for each element and initial moment."""
    symbols = atoms.get_chemical_symbols()
    if moments is None:
        return symbols
    distinct = sorted({(s, round(float(m), 6)) for s, m in zip(symbols, moments, strict=True)})
    count = {key: sum(s == key[0] for s, _ in distinct[: n + 1]) for n, key in enumerate(distinct)}
    keys = [(s, round(float(m), 6)) for s, m in zip(symbols, moments, strict=True)]
    return [f"{key[0]}{count[key]}" for key in keys]


def input_text(job: Job, basis: dict[str, str], pseudo: dict[str, str]) -> str:
    """The whole file; basis and pseudo name the sets of each element in the files BASIS and POTENTIAL."""
    general = ("GLOBAL", [f"PROJECT {PROJECT}", f"RUN_TYPE ENERGY{'_FORCE' if job.forces else ''}"])
    body: Lines = [
        "METHOD QUICKSTEP",
        *(["STRESS_TENSOR ANALYTICAL"] if job.stress else []),
        ("DFT", _dft(job)),
        ("SUBSYS", _subsystem(job, basis, pseudo)),
        ("PRINT", [("FORCES", ["NDIGITS 12"]), ("STRESS_TENSOR", [])] if job.forces else []),
    ]
    return "\n".join(_written([general, ("FORCE_EVAL", body)])) + "\n"


def _written(lines: Lines, depth: int = 0) -> list[str]:
    out: list[str] = []
    for line in lines:
        if isinstance(line, str):
            out.append("  " * depth + line)
        else:
            head, inside = line
            out += [
                "  " * depth + "&" + head,
                *_written(inside, depth + 1),
                "  " * depth + "&END " + head.split()[0],
            ]
    return out


def _dft(job: Job) -> Lines:
    real_space = [] if job.kpoints is None else ["REAL_SPACE T"]
    matrices = [(f"{name}_CSR_WRITE", ["THRESHOLD 1.0E-13", *real_space]) for name in ("KS", "S")]
    lines: list = ["BASIS_SET_FILE_NAME BASIS", "POTENTIAL_FILE_NAME POTENTIAL", *_spin(job)]
    lines += [
        ("QS", ["EPS_DEFAULT 1.0E-12"]),
        ("MGRID", [f"CUTOFF {job.cutoff:.1f}", "REL_CUTOFF 60"]),
        ("SCF", _scf(job)),
        ("XC", [("XC_FUNCTIONAL", _FUNCTIONALS[job.xc]), *_exchange(job)]),
    ]
    if not job.atoms.pbc.any():
        lines.append(("POISSON", ["PERIODIC NONE", "POISSON_SOLVER WAVELET"]))
    if job.kpoints is not None:
        points = ["KPOINT " + " ".join(f"{x:.12f}" for x in point) for point in job.kpoints]
        lines.append(("KPOINTS", ["SCHEME GENERAL", "UNITS B_VECTOR", "SYMMETRY F", *points]))
    lines.append(("PRINT", [*matrices, ("MULLIKEN OFF", []), ("HIRSHFELD OFF", [])]))
    return lines


def _spin(job: Job) -> list[str]:
    """Spin-polarised, starting from the initial moments of the kinds."""
    if job.moments is None:
        return []
    moment = round(float(job.moments.sum()))
    moment += (moment + job.n_electrons) % 2
    return ["LSD T", f"MULTIPLICITY {moment + 1}"]


def _scf(job: Job) -> Lines:
    lines: list = [f"EPS_SCF {job.convergence:.1E}", "MAX_SCF 100", ("PRINT", [("RESTART OFF", [])])]
    if job.width:
        empty = job.n_orbitals - job.n_electrons // 2
        lines.append(f"ADDED_MOS {empty}" + (f" {empty}" if job.moments is not None else ""))
        kelvin = job.width / units.kB
        lines.append(("SMEAR ON", ["METHOD FERMI_DIRAC", f"ELECTRONIC_TEMPERATURE [K] {kelvin:.6f}"]))
    if job.atoms.pbc.any():
        lines.append(("MIXING", ["METHOD BROYDEN_MIXING", "ALPHA 0.4", "NBROYDEN 8"]))
    return lines


def exchange_radius(atoms: Atoms) -> float:
    """Å; half the smallest height of a periodic cell, beyond which exact exchange meets its image."""
    return 0.49 / float(np.linalg.norm(np.linalg.inv(atoms.cell.array), axis=0).max())


def _exchange(job: Job) -> Lines:
    """Exact exchange of hybrids: short-ranged, bare for molecules, truncated in crystals."""
    if job.xc not in HYBRIDS:
        return []
    if job.xc == "hse06":
        operator = ["POTENTIAL_TYPE SHORTRANGE", "OMEGA 0.11"]
    elif job.atoms.pbc.any():
        radius = f"CUTOFF_RADIUS {exchange_radius(job.atoms):.4f}"
        operator = ["POTENTIAL_TYPE TRUNCATED", radius, "T_C_G_DATA t_c_g.dat"]
    else:
        operator = ["POTENTIAL_TYPE COULOMB"]
    screening = ["EPS_SCHWARZ 1.0E-10", "EPS_SCHWARZ_FORCES 1.0E-7"]
    return [
        (
            "HF",
            [
                "FRACTION 0.25",
                ("SCREENING", screening),
                ("INTERACTION_POTENTIAL", operator),
                ("MEMORY", ["MAX_MEMORY 2000"]),
            ],
        )
    ]


def _subsystem(job: Job, basis: dict[str, str], pseudo: dict[str, str]) -> Lines:
    atoms = job.atoms
    vectors = ["ABC"[n] + "".join(f" {x:.14f}" for x in vector) for n, vector in enumerate(atoms.cell.array)]
    periodic = "".join(axis for axis, p in zip("XYZ", atoms.pbc, strict=True) if p) or "NONE"
    names = kinds_of(atoms, job.moments)
    rows = [
        name + "".join(f" {x:.14f}" for x in place)
        for name, place in zip(names, atoms.positions, strict=True)
    ]
    kinds: list = []
    for name in dict.fromkeys(names):
        first = names.index(name)
        symbol = atoms.get_chemical_symbols()[first]
        lines = [f"ELEMENT {symbol}", f"BASIS_SET {basis[symbol]}", f"POTENTIAL {pseudo[symbol]}"]
        if job.moments is not None:
            lines.append(f"MAGNETIZATION {job.moments[first]:.6f}")
        kinds.append((f"KIND {name}", lines))
    return [("CELL", [*vectors, f"PERIODIC {periodic}"]), ("COORD", rows), *kinds]
