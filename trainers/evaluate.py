"""Errors of a model, or of a committee, on a dataset: H, levels, Fermi level, gaps, DOS; one structure at a time."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ase_deeph.basis import OrbitalBasis
from ase_deeph.electronic_structure import ElectronicStructure
from ase_deeph.io.packed import PackedDataset, is_packed
from ase_deeph.matrix import RealSpaceMatrix
from ase_deeph.model import HamiltonianModel
from ase_deeph.reference import ReferenceData
from ase_deeph.sources import Committee, Source
from ase_deeph.uncertainty import HamiltonianSpread, mean_matrix
from trainers.bases import orbital_difference
from trainers.comparison import (
    Comparison,
    by_distance,
    by_shell_pair,
    level_errors,
    residuals,
    spectrum_errors,
)
from trainers.energy_evaluation import compare_energy
from trainers.report_numbers import Report
from trainers.report_tally import Tally
from trainers.structures import read_dataset, structure_folders

__all__ = ["Report", "compare", "evaluate"]

log = logging.getLogger(__name__)

UNNAMED = "unnamed"
"""What a training without a name calls its model."""
KPTS = {"density": 2.5, "gamma": True}
Model = str | Path | HamiltonianModel | Source


def compare(
    name: str, data: ReferenceData, model: Any, kpts: Any = None, *, tally: Tally | None = None
) -> Comparison:
    """Predict one structure and measure it against its reference.

    Parameters
    ----------
    model : a Committee, or what one is made of.
    kpts : the mesh of the levels, 2.5 points per Å^-1 if None.
    tally : histograms to add the structure's entries and blocks to.

    Raises
    ------
    ValueError : the reference lacks H or S, holds NaN, has another kind of spin than the model, or is of another
        basis; or the members have different bases.
    """
    committee = model if isinstance(model, Committee) else Committee(model)
    _one_basis(committee, [f"model {n} ({_label(m)})" for n, m in enumerate(committee.members, 1)])
    reference, overlap = _checked(name, data, committee)
    members = committee.predictions(reference.atoms)
    predicted = mean_matrix(members)
    errors = residuals(predicted, reference, overlap)
    spread = _spread([m.on(errors.raw.pairs) for m in members], overlap)
    if tally is not None:
        tally.add(errors, spread)
    try:
        true, ours = (_structure(h, overlap, data, kpts) for h in (reference, predicted))
        levels = level_errors(ours, true, errors.shift)
        spectrum = spectrum_errors(ours, true, levels)
        own = _with_own_overlap(committee, predicted, overlap, true, errors.shift)
    except ValueError as error:
        raise ValueError(f"structure {name}: {error}") from error
    return Comparison(
        name=name,
        n_atoms=len(reference.atoms),
        shift=errors.shift,
        overall=errors.overall(),
        rms=_rms(errors.fixed),
        by_shells=by_shell_pair(errors),
        by_shells_on_site=by_shell_pair(errors, errors.raw.pairs.on_site),
        by_distance=by_distance(errors),
        levels=levels,
        spectrum=spectrum,
        own_overlap=own,
        spread=None if spread is None else _rms(spread),
        energy=compare_energy(data, committee.members),
        spin=errors.of_spin(),
    )


def _spread(members: list[RealSpaceMatrix], overlap: RealSpaceMatrix) -> RealSpaceMatrix | None:
    """σ of the members entry by entry, each less its own μS; None for a single model."""
    if len(members) == 1:
        return None
    return HamiltonianSpread.gauge_fixed(members, overlap).standard_deviation()


def _rms(matrix: RealSpaceMatrix) -> float:
    return float(np.sqrt(np.mean(np.abs(matrix.entries) ** 2)))


def _basis(committee: Committee) -> OrbitalBasis:
    """The basis that all members share."""
    return committee.members[0].basis  # type: ignore[attr-defined]


def _one_basis(committee: Committee, names: Sequence[str]) -> None:
    """ValueError, naming the two, where two members write H in different orbitals."""
    first, *others = (member.basis for member in committee.members)  # type: ignore[attr-defined]
    for name, other in zip(names[1:], others, strict=True):
        difference = _difference(first, other)
        if difference:
            raise ValueError(
                f"committee: expected models of one basis, received {names[0]} and {name}, where {difference}; "
                "evaluate each alone"
            )


def _difference(one: OrbitalBasis, other: OrbitalBasis) -> str:
    """How two bases differ, in words; "" where they are one."""
    if set(one) != set(other):
        return f"the elements {', '.join(sorted(one))} and {', '.join(sorted(other))} differ"
    found = ((symbol, orbital_difference(one[symbol], other[symbol])) for symbol in one)
    return next((f"{what} of {symbol} differ" for symbol, what in found if what), "")


def _checked(name: str, data: ReferenceData, committee: Committee) -> tuple[RealSpaceMatrix, RealSpaceMatrix]:
    """H and S on the model's basis object."""
    basis, spin = _basis(committee), getattr(committee.members[0], "spin", "none")
    if data.hamiltonian is None or data.overlap is None:
        raise ValueError(
            f"structure {name}: expected H and S to compare with, received a folder without them"
        )
    _check_finite(name, data)
    if data.hamiltonian.spin != spin:
        raise ValueError(
            f"structure {name}: the model's H has spin {spin!r}, the reference's {data.hamiltonian.spin!r}; "
            "evaluate on data of the model's kind"
        )
    return _in_basis(data.hamiltonian, basis), _in_basis(data.overlap, basis)


def _check_finite(name: str, data: ReferenceData) -> None:
    """ValueError where anything that is compared with is NaN or infinite."""
    entries = {
        what: None if matrix is None else matrix.entries
        for what, matrix in (("Hamiltonian", data.hamiltonian), ("overlap", data.overlap))
    }
    for what, values in {**entries, "energy": data.energy, "array of forces": data.forces}.items():
        if values is not None and not np.all(np.isfinite(values)):
            raise ValueError(f"structure {name}: its {what} holds NaN or infinity; regenerate it")


def _in_basis(matrix: RealSpaceMatrix, basis: OrbitalBasis) -> RealSpaceMatrix:
    """The same matrix on another basis object of equal shells."""
    for symbol in set(matrix.atoms.get_chemical_symbols()):
        if matrix.basis.shells(symbol) != basis.shells(symbol):
            raise ValueError(
                f"dataset: shells of {symbol} are {matrix.basis.shells(symbol)}, the model's are "
                f"{basis.shells(symbol)}; evaluate on data of the model's basis"
            )
    return RealSpaceMatrix(basis, matrix.pairs, matrix.atoms, matrix.entries, matrix.spin)


def _structure(h: RealSpaceMatrix, s: RealSpaceMatrix, data: ReferenceData, kpts: Any) -> ElectronicStructure:
    return ElectronicStructure(h, s, data.n_electrons, kpts=kpts or dict(KPTS), symmetry="time-reversal")


def _with_own_overlap(
    committee: Committee,
    predicted: RealSpaceMatrix,
    overlap: RealSpaceMatrix,
    true: ElectronicStructure,
    shift: float,
) -> dict[str, float] | None:
    """Errors when S comes from the model's radial functions too; None where it carries none."""
    if not _basis(committee).has_radial_functions:
        return None
    own = committee.overlap(predicted.atoms, predicted)
    assert own is not None
    structure = ElectronicStructure(predicted, own, true.n_electrons, kpts=true.kpts, symmetry=true.symmetry)
    levels = level_errors(structure, true, shift)
    return {
        "max_error": (own - overlap).max_abs(),
        "rms_shifted": levels.rms_shifted,
        "rms_fermi": levels.rms_fermi,
        "fermi_to_bands": levels.fermi_to_bands,
    }


def band_pair(
    name: str, dataset: str | Path, committee: Committee, kpts: Any = None
) -> tuple[ElectronicStructure, ElectronicStructure]:
    """Reference and prediction of one structure of the dataset, read again, for a picture of its bands."""
    data = _read_one(name, Path(dataset))
    reference, overlap = _checked(name, data, committee)
    predicted = mean_matrix(committee.predictions(reference.atoms))
    return _structure(reference, overlap, data, kpts), _structure(predicted, overlap, data, kpts)


def _read_one(name: str, dataset: Path) -> ReferenceData:
    if is_packed(dataset):
        return PackedDataset(dataset)[name]
    from ase_deeph.io.deeph import read_deeph

    return read_deeph(next(f for f in structure_folders(dataset) if f.name == name))


def _count(dataset: Path) -> int:
    """Structures of a dataset.

    Raises
    ------
    ValueError : there is no such dataset, or nothing in it.
    """
    n = len(PackedDataset(dataset)) if is_packed(dataset) else len(structure_folders(dataset))
    if not n:
        raise ValueError(f"dataset {dataset}: expected at least one structure, received none")
    return n


def evaluate(
    model: Model | Sequence[Model],
    dataset: str | Path,
    *,
    output: str | Path | None = None,
    kpts: Any = None,
    logs: Sequence[str | Path] = (),
    bar: Callable[..., Any] | None = None,
) -> Report:
    """Measure a model on every structure of a dataset.

    Parameters
    ----------
    model : a model, its file, a registered name, or a callable source(atoms) with a `basis`; several make a
        committee, whose mean is measured.
    dataset : root of DeepH folders with H and S, or a packed file.
    output : folder for the page index.html, metrics.json, structures.csv and the figures.
    kpts : the mesh of the level errors, 2.5 points per Å^-1 if None.
    logs : log.csv of the training; those beside the models' files if none is given.
    bar : progress bar, bar(items, label, total).

    Raises
    ------
    ValueError, KeyError : model or dataset that cannot be used, in one line.
    """
    from trainers.report import learning_logs, write_report

    given: list[Model] = list(model) if isinstance(model, (list, tuple)) else [model]  # type: ignore[list-item]
    curves = learning_logs(given, logs)
    n_structures = _count(Path(dataset))
    committee = Committee(given)
    labels = [_label(*pair) for pair in zip(committee.members, given, strict=True)]
    _one_basis(committee, [_origin(*pair) for pair in zip(given, labels, strict=True)])
    items: Iterator = read_dataset([dataset])
    tally, comparisons = Tally(), []
    for name, data in items if bar is None else bar(items, "evaluating", n_structures):
        comparisons.append(compare(name, data, committee, kpts, tally=tally))
        log.info("%s: %s", name, comparisons[-1].to_dict())
    label, mesh = _committee_label(labels), kpts if kpts else dict(KPTS)
    report = Report(label, Path(dataset).name, tuple(comparisons), tally, len(given), mesh)
    for line in report.warnings():
        log.warning("%s on %s: %s", label, dataset, line)
    if output is not None:
        pairs = {
            place: (c, band_pair(c.name, dataset, committee, kpts)) for place, c in report.chosen().items()
        }
        write_report(report, committee.members, pairs, Path(output), curves)
    return report


def _committee_label(names: list[str]) -> str:
    """The names of the members, in few words."""
    distinct = list(dict.fromkeys(names))
    if len(names) == 1:
        return names[0]
    more = f" and {len(distinct) - 3} more" if len(distinct) > 3 else ""
    return f"committee of {len(names)} ({', '.join(distinct[:3])}{more})"


def _label(member: Any, given: Any = None) -> str:
    """The name that its training gave a model, with that of its file in brackets where they differ."""
    provenance: Mapping[str, Any] = getattr(member, "provenance", {})
    name = str(provenance.get("name", "")).strip()
    name = "" if name == UNNAMED else name
    if not isinstance(given, (str, Path)):
        return name or ("model" if isinstance(member, HamiltonianModel) else type(member).__name__)
    file = Path(given)
    if not name or name in (file.name, file.stem):
        return file.name
    return f"{name} ({file.name})"


def _origin(given: Any, label: str) -> str:
    """Where a model came from: its path or registered name, else what it is called."""
    return str(given) if isinstance(given, (str, Path)) else label
