"""Evaluation: a Hamiltonian that is off by a known amount gives exactly the errors it should."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from html import unescape
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms

pytest.importorskip("pydantic")
pytest.importorskip("optax")

from ase_deeph.basis import GaussianRadial, OrbitalBasis, SpeciesBasis
from ase_deeph.electronic_structure import ElectronicStructure
from ase_deeph.io.deeph import write_basis_file, write_deeph
from ase_deeph.matrix import RealSpaceMatrix
from ase_deeph.model import HamiltonianModel
from ase_deeph.network import NetworkConfig, build_network
from tests.training_data import EXPONENT, TINY, hueckel, rattled_graphene, sp_basis, write_dataset
from trainers.comparison import by_distance, by_shell_pair, residuals
from trainers.evaluate import Report, compare, evaluate
from trainers.report_page import summary

SHIFT = 0.3


class Oracle:
    """The reference itself, off by μS, plus an error on every on-site s level."""

    def __init__(self, shift: float, s_error: float = 0.0) -> None:
        self.shift, self.s_error = shift, s_error
        self.basis = sp_basis()

    def __call__(self, atoms: Atoms) -> RealSpaceMatrix:
        data = hueckel(atoms, self.basis)
        wrong = data.hamiltonian + data.overlap * self.shift
        entries = wrong.entries.copy()
        entries[wrong.offsets[:-1][wrong.pairs.on_site]] += self.s_error
        return RealSpaceMatrix(self.basis, wrong.pairs, atoms, entries)

    def overlap(self, atoms: Atoms) -> RealSpaceMatrix:
        return hueckel(atoms, self.basis).overlap


def test_a_pure_gauge_error_is_no_error() -> None:
    data = hueckel(rattled_graphene(2, 3), sp_basis())
    found = compare("sheet", data, Oracle(SHIFT), (3, 3, 1))
    raw, fixed, _, entries = found.overall
    assert found.shift == pytest.approx(SHIFT, abs=1e-12)
    assert raw / entries > 1e-3
    assert fixed / entries < 1e-12
    levels = found.levels
    for value in (levels.rms_shifted, levels.rms_fermi, levels.fermi_to_bands, levels.fermi_gauge):
        assert abs(value) < 1e-6
    assert found.own_overlap["max_error"] < 1e-12
    assert found.own_overlap["rms_shifted"] < 1e-6


def test_an_error_on_site_is_found_where_it_is() -> None:
    data = hueckel(rattled_graphene(2, 3), sp_basis())
    predicted = Oracle(0.0, s_error=0.01)(data.atoms)
    errors = residuals(predicted, data.hamiltonian, data.overlap)
    shells, distances = by_shell_pair(errors).mean(), by_distance(errors).mean()
    assert set(shells) == {"C:s1 - C:s1", "C:p1 - C:s1", "C:p1 - C:p1"}
    assert shells["C:p1 - C:s1"]["raw_meV"] == shells["C:p1 - C:p1"]["raw_meV"] == 0.0
    assert distances["on site"]["raw_meV"] == pytest.approx(10.0 / 16)
    assert all(row["raw_meV"] == 0.0 for label, row in distances.items() if label != "on site")
    assert sum(row["entries"] for row in shells.values()) == errors.raw.entries.size
    assert sum(row["entries"] for row in distances.values()) == errors.raw.entries.size
    assert compare("sheet", data, Oracle(0.0, s_error=0.01), (3, 3, 1)).levels.rms_shifted > 0.01


def test_the_whole_evaluation_of_an_untrained_model(tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "data", (1, 1))
    config, basis = NetworkConfig(**TINY), sp_basis()
    network = build_network(config, basis)
    params = network.init(0)
    data = [hueckel(rattled_graphene(1, n), basis) for n in range(2)]
    from trainers.structures import make_structure

    made = [
        make_structure(str(n), d, basis, config, tolerance=0, dtype=np.float32) for n, d in enumerate(data)
    ]
    statistics = network.fit_statistics((m.graph, m.target) for m in made)
    HamiltonianModel(config, basis, params, statistics, {"name": "untrained"}).save(tmp_path / "model.h5")
    report = evaluate(tmp_path / "model.h5", root, output=tmp_path / "out", kpts=(2, 2, 1))
    written = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert written["n_structures"] == 2
    assert written["mae_gauge_fixed_meV"] < 1000
    assert np.isfinite(written["levels_meV"]["rms_shifted"]["worst"])
    assert {p.stem for p in (tmp_path / "out" / "figures").iterdir()} == {
        "shells", "distance", "parity", "families", "bands", "gaps",
    }  # fmt: skip
    assert "worst structure" in report.table()
    with pytest.raises(ValueError, match="neither a named model nor a file"):
        evaluate(tmp_path / "none.h5", root)
    with pytest.raises(ValueError, match="does not exist"):
        evaluate(tmp_path / "model.h5", tmp_path / "nowhere")


def _broken(matrix: RealSpaceMatrix, value: float) -> RealSpaceMatrix:
    entries = matrix.entries.copy()
    entries[-1] = value
    return RealSpaceMatrix(matrix.basis, matrix.pairs, matrix.atoms, entries)


@pytest.mark.parametrize(
    ("what", "broken"),
    [
        ("Hamiltonian", lambda d: {"hamiltonian": _broken(d.hamiltonian, np.nan)}),
        ("overlap", lambda d: {"overlap": _broken(d.overlap, np.inf)}),
        ("energy", lambda d: {"energy": np.nan}),
        ("array of forces", lambda d: {"forces": np.full((2, 3), np.inf)}),
    ],
)
def test_a_reference_that_is_not_finite(what: str, broken: Callable) -> None:
    data = hueckel(rattled_graphene(1, 3), sp_basis())
    with pytest.raises(ValueError, match=f"structure sheet_7: its {what} holds NaN or infinity; regenerate"):
        compare("sheet_7", replace(data, **broken(data)), Oracle(SHIFT), (1, 1, 1))


class OtherRadial(Oracle):
    """The same H, and S of s and p Gaussians narrower by a factor."""

    def __init__(self, factor: float) -> None:
        super().__init__(0.0)
        self.other = _narrower(factor)

    def overlap(self, atoms: Atoms) -> RealSpaceMatrix:
        other = hueckel(atoms, self.other).overlap
        return RealSpaceMatrix(self.basis, other.pairs, atoms, other.entries)


def _narrower(factor: float) -> OrbitalBasis:
    """Normalised Gaussians; the width changes S and nothing else of the basis."""
    known = sp_basis()["C"]
    radial = tuple(
        GaussianRadial(r.l, np.array([factor * EXPONENT]), r.coefficients * factor ** (0.75 + 0.5 * r.l))
        for r in known.radial
    )
    return OrbitalBasis({"C": SpeciesBasis(known.shells, 4.0, radial)})


@pytest.mark.parametrize(("factor", "warned"), [(1.2, True), (1.0 + 1e-4, False)])
def test_data_of_other_radial_functions_are_warned_of(
    factor: float, warned: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = write_dataset(tmp_path / "data", (1,))
    report = evaluate(OtherRadial(factor), root, kpts=(1, 1, 1))  # type: ignore[arg-type]
    said = "data were computed with other radial functions than the model's"
    page = unescape(summary(report.to_dict()))
    assert report.comparisons[0].own_overlap["max_error"] > 1e-6
    assert (said in caplog.text) == (said in page) == warned
    assert any(said in line and "sheet_000" in line for line in report.to_dict()["warnings"]) == warned


def test_where_all_bands_are_full(tmp_path: Path) -> None:
    """Eight electrons in the four orbitals of carbon: the levels count below the highest one, there is no gap."""
    basis, root = sp_basis(), tmp_path / "data"
    (root / "dft").mkdir(parents=True)
    write_basis_file(root / "basis.h5", basis)
    data = hueckel(rattled_graphene(1, 0), basis)
    write_deeph(root / "dft" / "full_1", replace(data, n_electrons=16.0), own_basis=False)
    model: Oracle = Oracle(SHIFT, s_error=0.01)
    report = evaluate(model, root, output=tmp_path / "out", kpts=(2, 2, 1))  # type: ignore[arg-type]
    text = (tmp_path / "out" / "metrics.json").read_text()
    found = json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    row = found["structures"][0]
    assert row["gap_dft_meV"] is None
    assert row["gap_predicted_meV"] is None
    assert found["gap"] == {"n_insulators": 0, "n_all_bands_full": 1, "n_wrong_character": 0}
    page = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    assert "<td>all bands full</td>" in page
    assert not (tmp_path / "out" / "figures" / "gaps.svg").exists()
    assert "all bands full" in report.table()
    top = report.comparisons[0]
    levels = ElectronicStructure(
        data.hamiltonian, data.overlap, 16.0, kpts=(2, 2, 1), symmetry="time-reversal"
    ).mesh_eigenvalues
    assert top.levels.n_levels == np.sum(levels >= levels.max() - 3.0) > 0


def test_a_gap_beside_a_full_structure(tmp_path: Path) -> None:
    """One without a gap takes it from no other."""
    data = hueckel(rattled_graphene(1, 0), sp_basis())
    model: Oracle = Oracle(0.0, s_error=0.1)
    found = tuple(compare(f"s_{n}", replace(data, n_electrons=n), model, (1, 1, 1)) for n in (8.0, 16.0))
    gaps = Report("m", "d", found).to_dict()["gap"]
    assert gaps["n_insulators"] == gaps["n_all_bands_full"] == 1
    assert gaps["mean_meV"] == found[0].spectrum.gap_error > 0
