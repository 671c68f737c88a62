"""Faults that the levels show: singular S, units of H, electron count, and an H that its Fermi level disowns."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from scipy.linalg import eigvalsh

from ase_deeph.electronic_structure import ElectronicStructure
from ase_deeph.validation.electrons import choices_text, exchange_that_fits, plausible
from ase_deeph.validation.finding import HAMILTONIAN, OVERLAP, Case, Finding, Report
from ase_deeph.validation.scale import (
    LARGEST_RATIO,
    SMALLEST_RATIO,
    UNITS,
    kinetic_scale,
    largest_share,
    spread,
    tells_little,
)

_PROBES = np.array([[0.0, 0.0, 0.0], [0.5, 0.5, 0.5], [0.1732, 0.3819, 0.2713]])
_SINGULAR, _NEGATIVE = 1e-10, 1e-6
_MOST_ORBITALS = 2500
_COARSE_ABOVE = 500
_MARGIN = 0.15
_SAME_LEVEL = 0.05
_COUNT = 0.02
_INFO = "info.json"
FERMI_LEVEL = "info.json, Fermi level"


def overlap_spectrum(case: Case) -> Report:
    """Whether S(k) is positive definite, and its condition number, at a few k-points."""
    s = case.overlap
    if s is None:
        return Report(unchecked=("whether S is positive definite: there is no overlap",))
    if s.n_orbitals > _MOST_ORBITALS:
        return Report(unchecked=(f"S(k) of {s.n_orbitals} orbitals: too large to diagonalise here",))
    lowest, highest, at = np.inf, 0.0, _PROBES[0]
    for k in _probes(case):
        matrix = s.at_k(k)
        values = eigvalsh(0.5 * (matrix + matrix.conj().T))
        if values[0] < lowest:
            lowest, at = float(values[0]), k
        highest = max(highest, float(values[-1]))
    measures = {"smallest eigenvalue of S(k)": f"{lowest:.1e}"}
    if lowest > 0:
        measures["condition number of S(k)"] = f"{highest / lowest:.1e}"
    if lowest > _SINGULAR * highest:
        return Report(measures=measures)
    where = f"{OVERLAP} at k = ({', '.join(f'{x:.2f}' for x in at)})"
    if lowest < -_NEGATIVE * highest:
        what = f"S is not positive: its smallest eigenvalue is {lowest:.1e}"
        remedy = "blocks are wrong or missing: check that S reaches as far as the orbitals overlap"
    else:
        what = f"S is singular: its smallest eigenvalue is {lowest:.1e}"
        remedy = "orbitals are linearly dependent: remove diffuse or doubled ones from the basis"
    return Report((Finding("error", "singular-overlap", where, what, remedy),), measures)


def _probes(case: Case) -> np.ndarray:
    """Γ, the corner of the zone and a general point; Γ alone for a molecule."""
    matrix = case.overlap if case.overlap is not None else case.hamiltonian
    assert matrix is not None
    return _PROBES if np.any(matrix.pairs.R) else _PROBES[:1]


@dataclass(frozen=True, eq=False)
class _Levels:
    """The levels of H and S on a mesh, and what their filling says."""

    case: Case

    @cached_property
    def structure(self) -> ElectronicStructure:
        """The electronic structure on the mesh that was recorded, else on a dense one."""
        h, s = self.case.hamiltonian, self.case.overlap
        assert h is not None
        mesh: Any = {"density": 3.5 if h.n_orbitals <= _COARSE_ABOVE else 2.0, "gamma": True}
        width = 0.05
        if self.recorded is not None:
            mesh, width = {"size": self.recorded[0], "gamma": True}, self.recorded[1]
        count = self.case.data.n_electrons or self.case.valence or 0.0
        filling = {"name": "fermi-dirac", "width": width}
        return ElectronicStructure(h.hermitian_part(), s, count, kpts=mesh, occupations=filling)

    @cached_property
    def recorded(self) -> tuple[tuple[int, ...], float] | None:
        """The k-mesh and the Fermi-Dirac width of the calculation, where its provenance tells both."""
        info, atoms = self.case.data.info, self.case.data.atoms
        kpts = info.get("kpts_of_H", info.get("kpts"))
        width = info.get("width_eV", info.get("width"))
        if not isinstance(width, int | float) or not isinstance(kpts, list | tuple):
            return None
        if len(kpts) != 3 or not all(isinstance(n, int) and n > 0 for n in kpts):
            return None
        return tuple(kpts), float(width) if atoms.pbc.any() else 0.0

    def places(self, n_electrons: float) -> tuple[float, float]:
        """Where H and S place the Fermi level: a point on the recorded mesh, else a window of equal counts."""
        if self.recorded is None or n_electrons != self.structure.n_electrons:
            low, high = self.window(n_electrons)
            return low - _MARGIN, high + _MARGIN
        level = self.structure.fermi_level()
        return level - _SAME_LEVEL, level + _SAME_LEVEL

    @cached_property
    def _sorted(self) -> tuple[np.ndarray, np.ndarray]:
        """Levels in ascending order, and the electrons that fill each and those below."""
        es = self.structure
        energies = es.mesh_eigenvalues
        weights = np.broadcast_to(es.mesh.weights[None, :, None], energies.shape).ravel()
        order = np.argsort(energies, axis=None)
        return energies.ravel()[order], es.degeneracy * np.cumsum(weights[order])

    @property
    def capacity(self) -> float:
        """Electrons that all levels hold."""
        return float(self._sorted[1][-1])

    def count(self, energy: float) -> float:
        """Electrons below an energy."""
        levels, filled = self._sorted
        n = int(np.searchsorted(levels, energy))
        return float(filled[n - 1]) if n else 0.0

    def window(self, n_electrons: float) -> tuple[float, float]:
        """The energies between which the count is right: a gap, or nearly a point in a metal."""
        levels, filled = self._sorted
        slack = min(0.2, _COUNT * len(self.case.symbols))
        low = int(np.searchsorted(filled, n_electrons - slack))
        high = int(np.searchsorted(filled, n_electrons + slack))
        last = len(levels) - 1
        return float(levels[min(low, last)]), float(levels[min(high, last)])

    def is_integer_at(self, energy: float) -> float | None:
        """The whole number of electrons below an energy inside a gap, else None."""
        count = self.count(energy)
        return float(round(count)) if abs(count - round(count)) < _COUNT and round(count) > 0 else None

    @cached_property
    def ratio(self) -> float | None:
        """Spread of the levels over the kinetic scale of S; None when S does not tell."""
        s = self.case.overlap
        scale = kinetic_scale(s) if s is not None and s.spin == "none" else None
        if s is None or not scale or tells_little(s):
            return None
        return spread(self._sorted[0], largest_share(s)) / scale


def levels(case: Case) -> Report:
    """Units, electron count and Fermi level, judged by the levels of H and S."""
    h, s = case.hamiltonian, case.overlap
    if h is None or s is None:
        lacking = "Hamiltonian" if h is None else "overlap"
        return Report(unchecked=(f"units, Fermi level, H0: they need the {lacking}",)) + _counts(case)
    if h.n_orbitals > _MOST_ORBITALS:
        return Report(unchecked=(f"levels of {h.n_orbitals} orbitals: too many to diagonalise here",))
    found = _Levels(case)
    try:
        ratio = found.ratio
    except ValueError as error:
        return Report(unchecked=(f"levels: {error}",)) + _counts(case)
    measures = {}
    unchecked = () if ratio is not None else ("units of H: S does not tell how far levels should be apart",)
    if ratio is not None:
        measures["spread of levels over kinetic scale of S"] = f"{ratio:.2f} (0.8 to 4 in eV)"
    units = _units(found)
    if units is not None:
        return Report((units,), measures) + _counts(case)
    stored = case.data.fermi_level
    counts = _counts(case, found.count(stored) if stored else None)
    fermi = _fermi_level(found, {f.code for f in counts.findings})
    return Report(measures=measures, unchecked=unchecked) + counts + fermi


def _units(found: _Levels) -> Finding | None:
    """A finding when the levels are too close or too far apart for eV."""
    ratio, stored = found.ratio, found.case.data.fermi_level
    if ratio is None or SMALLEST_RATIO <= ratio <= LARGEST_RATIO:
        return None
    if ratio > LARGEST_RATIO:
        what = f"levels are {ratio:.0f} kinetic scales apart (0.8 to 4 in eV)"
        remedy = "it was converted to eV twice, or lacks the electrons' repulsion; write H in eV"
        return Finding("error", "units", HAMILTONIAN, what, remedy)
    if ratio * max(UNITS.values()) < SMALLEST_RATIO:
        what = f"levels are only {ratio:.1e} kinetic scales apart (0.8 to 4 in eV), too few for any unit"
        remedy = "this is no Hamiltonian (S passed for H?): bring the matrix of the last iteration"
        return Finding("error", "units", HAMILTONIAN, what, remedy)
    fitting = [u for u in UNITS if stored and _fits(found, stored, UNITS[u])]
    unit = fitting[0] if fitting else ""
    what = f"levels are only {ratio:.2f} kinetic scales apart (0.8 to 4 in eV): this is not eV but "
    if len(fitting) == 1:
        what += f"{unit}, which the Fermi level confirms"
        return Finding(
            "error", "units", HAMILTONIAN, what, f"multiply H by {UNITS[unit]:.4f} to store it in eV"
        )
    what += "Hartree or Rydberg"
    remedy = "multiply H by 27.2114 (Hartree) or 13.6057 (Rydberg) to store it in eV"
    return Finding("error", "units", HAMILTONIAN, what, remedy)


def _fits(found: _Levels, stored: float, factor: float) -> bool:
    """Whether the stored Fermi level is that of factor·H."""
    count = found.case.data.n_electrons or found.case.valence
    if count:
        low, high = found.window(count)
        return factor * low - _MARGIN <= stored <= factor * high + _MARGIN
    return bool(plausible(found.case.symbols, found.count(stored / factor)))


def _counts(case: Case, below: float | None = None) -> Report:
    """The stored number of electrons against what the elements bring, the basis holds, and E_F lies above."""
    count, valence, symbols = case.data.n_electrons, case.valence, case.symbols
    if count is None:
        return Report()
    charge = case.data.info.get("charge")
    neutral = count + (charge if isinstance(charge, int | float) else 0.0)
    matrix = case.hamiltonian if case.hamiltonian is not None else case.overlap
    remedy = "correct occupation in info.json; a charged cell states its charge in reference.json"
    capacity = 2.0 * matrix.basis.n_orbitals(symbols) if matrix is not None else np.inf
    if not 0 < count <= capacity:
        what = f"{count:g} electrons stored, the orbitals hold {capacity:g}"
        return Report((Finding("error", "electron-count", _INFO, what, remedy),))
    if valence is not None:
        if abs(neutral - valence) < 1e-3:
            return Report(measures={"electrons": f"{count:g}, as the atoms bring"})
        what = f"{count:g} electrons stored, the atoms bring {valence:g}"
        return Report((Finding("error", "electron-count", _INFO, what, remedy),))
    return _plausible_counts(case, neutral, f"{neutral:g} electrons stored", remedy, below)


def _plausible_counts(case: Case, count: float, what: str, remedy: str, below: float | None = None) -> Report:
    """The same where the basis does not know the valence: by closed shells of each element."""
    symbols = case.symbols
    fits = plausible(symbols, count)
    if fits is None:
        return Report(unchecked=("electron count: the f shell of an element may be core or valence",))
    if fits:
        return Report(measures={"electrons": f"{count:g}, which the elements can bring"})
    other = exchange_that_fits(symbols, count)
    if below is not None and abs(below - count) > 0.5 and plausible(symbols, below):
        other, what = None, f"{what}, {below:g} lie below the Fermi level"
    if other is not None:
        renamed = ", ".join(f"{a} -> {b}" for a, b in sorted(other.items()) if a != b)
        text = f"{what}: not possible for {case.data.atoms.get_chemical_formula()}, but with {renamed}"
        remedy = "elements are exchanged: put the species of the structure into the order of the matrices"
        return Report((Finding("error", "swapped-species", "structure", text, remedy),))
    text = f"{what}, which valence electrons cannot add up to ({choices_text(symbols)})"
    return Report((Finding("error", "electron-count", _INFO, text, remedy),))


def _fermi_level(found: _Levels, known: set[str]) -> Report:
    """The stored Fermi level against that of H, S and the electrons."""
    case = found.case
    stored, count = case.data.fermi_level, case.data.n_electrons
    if not stored:
        return Report(
            unchecked=(
                "whether H is converged (H0): it needs the Fermi level in info.json or a density matrix",
            )
        )
    reference = case.valence if known & {"electron-count"} and case.valence else count or case.valence
    if reference is None:
        return _fermi_level_alone(found, stored)
    low, high = found.places(reference)
    measures = {"Fermi level": f"stored {stored:.3f} eV, H and S place it in {low:.3f} ... {high:.3f} eV"}
    if low <= stored <= high:
        return Report(measures=measures)
    there = found.is_integer_at(stored)
    other = there is not None and count is not None and abs(there - count) > 0.5
    if other and "electron-count" not in known and _may_hold(case, there or 0.0):
        what = f"{count:g} electrons stored, H has {there:g} below its Fermi level {stored:.3f} eV"
        remedy = "correct occupation in info.json"
        return Report((Finding("error", "electron-count", FERMI_LEVEL, what, remedy),), measures)
    if "electron-count" in known:
        return Report(measures=measures)
    return Report((_disowned(found, stored, low, high),), measures)


def _may_hold(case: Case, count: float) -> bool:
    if case.valence is not None:
        return abs(count - case.valence) < 0.5
    return count % 2 == 0 and plausible(case.symbols, count) is not False


def _disowned(found: _Levels, stored: float, low: float, high: float) -> Finding:
    """H and Fermi level of different calculations, iterations, units or zeros."""
    for unit, factor in UNITS.items():
        if factor * low - _MARGIN <= stored <= factor * high + _MARGIN and (found.ratio or 1.0) < 1.0:
            what = f"times {factor:.4f} its levels meet the stored Fermi level: it is in {unit}"
            return Finding("error", "units", HAMILTONIAN, what, "multiply H by that number")
    where = f"{low:.3f}" if high - low < 1e-3 else f"{low:.3f} to {high:.3f}"
    return Finding(
        "error",
        "h0",
        HAMILTONIAN,
        f"its Fermi level is {where} eV, {_INFO} stores {stored:.3f} eV: this H is not the converged one "
        "(a zeroth-step H0?), or of another zero of energy",
        "export H of the last iteration, and its own Fermi level",
    )


def _fermi_level_alone(found: _Levels, stored: float) -> Report:
    """A stored Fermi level without an electron count: the levels below it must be a possible number."""
    case, count = found.case, found.count(stored)
    measures = {"electrons below the stored Fermi level": f"{count:.2f}"}
    if plausible(case.symbols, count) is not False and 0 < count < found.capacity:
        return Report(measures=measures)
    if found.is_integer_at(stored) is not None and exchange_that_fits(case.symbols, count):
        return _plausible_counts(case, count, f"{count:g} electrons below the Fermi level", "")
    for unit, factor in UNITS.items():
        if (found.ratio or 1.0) < 1.0 and _fits(found, stored, factor):
            what = f"times {factor:.4f} its levels meet the stored Fermi level: it is in {unit}"
            return Report(
                (Finding("error", "units", HAMILTONIAN, what, "multiply H by that number"),), measures
            )
    what = (
        f"{count:.2f} electrons lie below the stored Fermi level {stored:.3f} eV, which valence electrons cannot "
        f"add up to ({choices_text(case.symbols)}): not the converged H (a zeroth-step H0?), or another zero"
    )
    remedy = "export H of the last iteration, and its own Fermi level"
    return Report((Finding("error", "h0", HAMILTONIAN, what, remedy),), measures)
