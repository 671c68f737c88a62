"""Evaluation: a Hamiltonian that is off by a known amount gives exactly the errors it should."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms

pytest.importorskip("pydantic")
pytest.importorskip("optax")

from ase_deeph.matrix import RealSpaceMatrix
from ase_deeph.model import HamiltonianModel
from ase_deeph.network import NetworkConfig, build_network
from tests.training_data import TINY, hueckel, rattled_graphene, sp_basis, write_dataset
from trainers.comparison import by_distance, by_shell_pair, residuals
from trainers.evaluate import compare, evaluate

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
