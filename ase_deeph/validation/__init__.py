"""validate: is a Hamiltonian what it claims to be?  Faults of reference data, one line each.

`validate(data)` returns what is wrong; `examine(data)` also what was measured and what could not be checked;
`examine_folder(folder)` reads a DeepH folder part by part, so that damaged files are findings too.
"""

from __future__ import annotations

from pathlib import Path

from ase_deeph.matrix import RealSpaceMatrix
from ase_deeph.reference import ReferenceData
from ase_deeph.validation.density import density as check_density
from ase_deeph.validation.entries import hermiticity, prepared
from ase_deeph.validation.finding import Finding, Report
from ase_deeph.validation.folder import read_parts
from ase_deeph.validation.geometry import geometry
from ase_deeph.validation.levels import FERMI_LEVEL, levels, overlap_spectrum
from ase_deeph.validation.species import hamiltonian_shape, species

__all__ = ["Finding", "Report", "examine", "examine_folder", "validate"]


def validate(data: ReferenceData, *, density: RealSpaceMatrix | None = None) -> list[Finding]:
    """What is wrong with reference data, errors first; empty for sound data.

    Parameters
    ----------
    data : structure and matrices, H in eV, as `read_deeph` or an engine gives them.
    density : the density matrix, where there is one: Tr(ρS) and [H, ρ] are then checked.
    """
    return list(examine(data, density=density).findings)


def examine(data: ReferenceData, *, density: RealSpaceMatrix | None = None) -> Report:
    """Findings, what was measured, and what the data do not suffice to check.

    S alone judges the geometry: a two-centre block turned into the frame of its pair vanishes for m ≠ m', and
    S falls with distance.  The levels of H and S judge units, electrons and the stored Fermi level.
    """
    case, found = prepared(data, density)
    report = Report(tuple(found))
    if any(f.code == "structure" or (f.code == "nan" and f.where == "structure") for f in found):
        return report
    findings, measures = hermiticity(case)
    report += Report(tuple(findings), measures)
    where = geometry(case)
    spectrum = overlap_spectrum(case)
    if spectrum.findings:
        where = Report(tuple(f for f in where.findings if f.code != "geometry"), where.measures)
    report += where + spectrum
    if not where.findings and not spectrum.findings:
        report += species(case) + hamiltonian_shape(case)
    if not spectrum.findings:
        filled = levels(case)
        known = {f.code for f in report.findings}
        report += Report(
            tuple(f for f in filled.findings if not _is_consequence(f, known)),
            filled.measures,
            filled.unchecked,
        )
        report += check_density(case)
    return _without_repetition(report)


def examine_folder(folder: str | Path) -> Report:
    """As `examine`, of a DeepH folder; files that cannot be read are findings.

    Raises
    ------
    FileNotFoundError, ValueError : no such folder, or none of the format's files in it.
    """
    data, density, found = read_parts(Path(folder))
    report = Report(tuple(found))
    return report if data is None else report + examine(data, density=density)


def _is_consequence(finding: Finding, known: set[str]) -> bool:
    """A Fermi level or a length scale that fits no more because of a known fault is not told as another."""
    misplaced = {"wrapped-atom", "sign-of-R", "geometry"} & known
    spoilt = {"m-order", "hermiticity", "swapped-species", "nan"} & known
    if misplaced and finding.code == "units":
        return True
    return bool(spoilt) and (finding.code == "h0" or finding.where == FERMI_LEVEL)


def _without_repetition(report: Report) -> Report:
    """One finding per code, place and text; H0 seen in two ways is told once."""
    kept: list[Finding] = []
    for finding in report.findings:
        same = [f for f in kept if f.code == finding.code and (f.where == finding.where or f.code == "h0")]
        if not same:
            kept.append(finding)
    return Report(tuple(kept), report.measures, report.unchecked)
