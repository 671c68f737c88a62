"""The evaluation report: its page is whole, and every number equals one computed here another way."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import replace
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.linalg
from ase import Atoms
from scipy.stats import spearmanr

pytest.importorskip("pydantic")
pytest.importorskip("optax")

from ase_deeph.basis import OrbitalBasis, SpeciesBasis
from ase_deeph.cli import main
from ase_deeph.io.dataset import read_dataset
from ase_deeph.io.packed import PackedWriter
from ase_deeph.matrix import RealSpaceMatrix
from ase_deeph.model import HamiltonianModel
from ase_deeph.network import NetworkConfig, build_network
from ase_deeph.reference import ReferenceData
from tests.training_data import TINY, hueckel, rattled_graphene, sp_basis, write_dataset
from trainers.comparison import Comparison
from trainers.evaluate import _label, evaluate
from trainers.log import COLUMNS
from trainers.report import _finite
from trainers.report_tally import LogHistogram, Parity, rank_correlation

KPTS = (3, 3, 1)
SIZES = (1, 2, 1, 2)
VOID = {"meta", "img", "link", "br", "hr", "input"}


def tiny_model(seed: int, basis: OrbitalBasis | None = None) -> HamiltonianModel:
    """An untrained network with plausible scales; its errors are eV."""
    config, basis = NetworkConfig(**TINY), basis or sp_basis()
    network = build_network(config, basis)
    return HamiltonianModel(
        config,
        basis,
        network.init(seed),
        network.empty_statistics(),
        {"name": f"m<{seed}>", "licence": "a & b"},
    )


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("report") / "tiny & <set>", SIZES)


@pytest.fixture(scope="module")
def models() -> list[HamiltonianModel]:
    """Three members that shall differ from the reference by little."""
    return [Near(seed) for seed in range(3)]  # type: ignore[misc]


@cache
def reference(positions: bytes, cells: int) -> ReferenceData:
    """The Hückel matrices of one of the dataset's structures."""
    atoms = rattled_graphene(cells, 0)
    atoms.positions = np.frombuffer(positions).reshape(-1, 3)
    return hueckel(atoms, sp_basis())


class Near:
    """The reference with a seeded Hermitian error that grows with the number of atoms, and a shift of its own."""

    def __init__(self, seed: int) -> None:
        self.seed, self.basis = seed, sp_basis()

    def __call__(self, atoms: Atoms) -> RealSpaceMatrix:
        data = reference(atoms.positions.tobytes(), len(atoms) // 2)
        rng = np.random.default_rng([self.seed, int(1e6 * abs(atoms.positions).sum())])
        h = data.hamiltonian
        noise = RealSpaceMatrix(self.basis, h.pairs, atoms, rng.standard_normal(h.entries.size))
        error = noise.hermitian_part() * (0.01 * len(atoms))
        return h + error + data.overlap.restricted_to(h.pairs) * (0.1 * self.seed)

    def overlap(self, atoms: Atoms) -> RealSpaceMatrix:
        return reference(atoms.positions.tobytes(), len(atoms) // 2).overlap


@pytest.fixture(scope="module")
def written(dataset: Path, models: list[Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a committee, with a learning curve."""
    folder = tmp_path_factory.mktemp("written")
    log = folder / "run" / "log.csv"
    log.parent.mkdir()
    rows = [
        ",".join(f"{10.0 / (epoch + 1) if n else epoch}" for n in range(len(COLUMNS))) for epoch in range(4)
    ]
    log.write_text("\n".join([",".join(COLUMNS), *rows, ""]))
    evaluate(models, dataset, output=folder / "out", kpts=KPTS, logs=[log])
    return folder / "out"


@pytest.fixture(scope="module")
def metrics(written: Path) -> dict[str, Any]:
    return json.loads((written / "metrics.json").read_text())


def dense(matrix: RealSpaceMatrix, k: np.ndarray) -> np.ndarray:
    """M(k) summed block by block."""
    size = [matrix.basis.n_orbitals(s) for s in matrix.atoms.get_chemical_symbols()]
    start = np.concatenate([[0], np.cumsum(size)])
    total = np.zeros((start[-1], start[-1]), dtype=complex)
    for i, j, R in zip(matrix.pairs.i, matrix.pairs.j, matrix.pairs.R, strict=True):
        phase = np.exp(2j * np.pi * np.dot(k, R))
        total[start[i] : start[i + 1], start[j] : start[j + 1]] += phase * matrix.block(i, j, tuple(R))
    return total


def on_every_pair(matrix: RealSpaceMatrix, pairs: Any) -> np.ndarray:
    """Blocks on pairs, zero where the matrix has none."""
    known = {
        (i, j, *R) for i, j, R in zip(matrix.pairs.i, matrix.pairs.j, matrix.pairs.R.tolist(), strict=True)
    }
    return np.array(
        [
            matrix.block(i, j, R) if (i, j, *R) in known else np.zeros((4, 4))
            for i, j, R in (
                (int(a), int(b), tuple(c)) for a, b, c in zip(pairs.i, pairs.j, pairs.R.tolist(), strict=True)
            )
        ]
    )


def mesh() -> np.ndarray:
    return np.array([[a / 3, b / 3, 0.0] for a in range(3) for b in range(3)])


def levels_of(h: RealSpaceMatrix, s: RealSpaceMatrix) -> np.ndarray:
    """(n_kpts, n_bands) on the whole mesh."""
    return np.array([scipy.linalg.eigh(dense(h, k), dense(s, k), eigvals_only=True) for k in mesh()])


def fermi_level(levels: np.ndarray, n_electrons: float) -> float:
    """By bisection of the Fermi-Dirac count, width 0.05 eV, two electrons per level."""
    low, high = levels.min() - 1.0, levels.max() + 1.0
    for _ in range(200):
        mu = 0.5 * (low + high)
        filled = 2.0 * np.sum(0.5 * (1.0 - np.tanh((levels - mu) / 0.1))) / len(levels)
        low, high = (mu, high) if filled < n_electrons else (low, mu)
    return 0.5 * (low + high)


def independent(dataset: Path, models: list[Any]) -> list[dict[str, Any]]:
    """Everything of the page, from dense matrices and loops."""
    found = []
    for name, data in read_dataset([dataset]):
        members = [m(data.atoms) for m in models]
        pairs = data.hamiltonian.pairs
        h, s = (on_every_pair(m, pairs) for m in (data.hamiltonian, data.overlap))
        each = np.array([on_every_pair(m, pairs) for m in members])
        every_s = np.array([*data.overlap.entries])
        norm = np.sum(every_s**2)
        error = each.mean(axis=0) - h
        fixed = error - s * (np.sum(error * s) / norm)
        deviations = each - each.mean(axis=0)
        deviations = np.array([d - s * (np.sum(d * s) / norm) for d in deviations])
        mean = members[0]
        for other in members[1:]:
            mean = mean + other
        true, ours = (levels_of(m, data.overlap) for m in (data.hamiltonian, mean * (1 / len(members))))
        mu = [fermi_level(e, data.n_electrons) for e in (true, ours)]
        found.append({
            "name": name, "raw": np.abs(error), "fixed": np.abs(fixed), "H": np.abs(h), "pairs": pairs,
            "d": np.linalg.norm(pairs.displacements(data.atoms), axis=1), "rms": np.sqrt(np.mean(fixed**2)),
            "spread": np.sqrt(np.mean(deviations**2)), "spreads": np.mean(deviations**2, axis=(0, 2, 3)),
            "errors": np.mean(fixed**2, axis=(1, 2)), "true": true, "ours": ours, "mu": mu,
        })  # fmt: skip
    return found


@pytest.fixture(scope="module")
def truth(dataset: Path, models: list[Any]) -> list[dict[str, Any]]:
    return independent(dataset, models)


def pooled(truth: list[dict[str, Any]], key: str, where: Any = lambda t: slice(None)) -> float:
    """Mean over all entries of all structures, meV."""
    parts = [t[key][where(t)].ravel() for t in truth]
    return 1e3 * float(np.concatenate(parts).mean())


def test_errors_of_matrix_elements(metrics: dict[str, Any], truth: list[dict[str, Any]]) -> None:
    assert metrics["mae_raw_meV"] == pytest.approx(pooled(truth, "raw"), rel=1e-9)
    assert metrics["mae_gauge_fixed_meV"] == pytest.approx(pooled(truth, "fixed"), rel=1e-9)
    assert metrics["mae_raw_meV"] > 1.02 * metrics["mae_gauge_fixed_meV"]
    assert metrics["mean_abs_H_meV"] == pytest.approx(pooled(truth, "H"), rel=1e-9)
    for row, t in zip(metrics["structures"], truth, strict=True):
        assert row["name"] == t["name"]
        assert row["mae_gauge_fixed_meV"] == pytest.approx(1e3 * t["fixed"].mean(), rel=1e-9)
        assert row["rms_gauge_fixed_meV"] == pytest.approx(1e3 * t["rms"], rel=1e-9)


@pytest.mark.parametrize(("table", "on_site"), [("on_site", True), ("between", False)])
def test_errors_by_shells(
    metrics: dict[str, Any], truth: list[dict[str, Any]], table: str, on_site: bool
) -> None:
    found = metrics[f"by_shell_pair_{table}"]
    p = slice(1, 4)
    for label, parts in {
        "C:s1 - C:s1": [(slice(0, 1), slice(0, 1))],
        "C:p1 - C:s1": [(slice(0, 1), p), (p, slice(0, 1))],
        "C:p1 - C:p1": [(p, p)],
    }.items():
        blocks = [t["fixed"][t["pairs"].on_site == on_site] for t in truth]
        entries = np.concatenate([b[:, rows, cols].ravel() for b in blocks for rows, cols in parts])
        assert found[label]["gauge_fixed_meV"] == pytest.approx(1e3 * entries.mean(), rel=1e-8)
        assert found[label]["entries"] == entries.size


def test_errors_by_distance(metrics: dict[str, Any], truth: list[dict[str, Any]]) -> None:
    table = metrics["by_distance"]
    for label, low in (("01.0-01.5 Å", 1.0), ("02.5-03.0 Å", 2.5)):
        for key, name in (("fixed", "gauge_fixed_meV"), ("H", "mean_abs_H_meV")):
            expected = pooled(truth, key, lambda t, low=low: (t["d"] >= low) & (t["d"] < low + 0.5))
            assert table[label][name] == pytest.approx(expected, rel=1e-9)
    on_site = pooled(truth, "fixed", lambda t: t["pairs"].on_site)
    assert table["on site"]["gauge_fixed_meV"] == pytest.approx(on_site, rel=1e-9)


def test_levels_and_fermi_level(metrics: dict[str, Any], truth: list[dict[str, Any]]) -> None:
    rms = []
    for row, t in zip(metrics["structures"], truth, strict=True):
        near = np.abs(t["true"] - t["mu"][0]) <= 3.0
        error = (t["ours"] - t["true"])[near]
        rms.append(1e3 * np.std(error))
        assert row["levels_rms_shifted"] == pytest.approx(rms[-1], rel=1e-6)
        assert row["levels_n_levels"] > 0
        fermi = 1e3 * (t["mu"][1] - t["mu"][0] - error.mean())
        assert row["levels_fermi_to_bands"] == pytest.approx(fermi, abs=1e-3)
    assert metrics["levels_meV"]["rms_shifted"]["over_structures"] == pytest.approx(
        np.sqrt(np.mean(np.square(rms))), rel=1e-6
    )
    assert metrics["levels_meV"]["rms_shifted"]["worst"] == pytest.approx(max(rms), rel=1e-6)


def test_gaps(metrics: dict[str, Any], truth: list[dict[str, Any]]) -> None:
    errors = []
    for row, t in zip(metrics["structures"], truth, strict=True):
        gaps = []
        for e, mu in zip((t["true"], t["ours"]), t["mu"], strict=True):
            below = (e <= mu).sum(axis=1)
            gaps.append(1e3 * max(0.0, e[e > mu].min() - e[e <= mu].max()) if np.ptp(below) == 0 else 0.0)
        assert row["gap_dft_meV"] == pytest.approx(gaps[0], abs=1e-6)
        assert row["gap_predicted_meV"] == pytest.approx(gaps[1], abs=1e-6)
        errors += [abs(gaps[1] - gaps[0])] if gaps[0] > 100.0 else []
    assert metrics["gap"]["n_insulators"] == len(errors)
    assert errors
    assert metrics["gap"]["mean_meV"] == pytest.approx(np.mean(errors), rel=1e-6)


def test_density_of_states(metrics: dict[str, Any], truth: list[dict[str, Any]]) -> None:
    for row, t in zip(metrics["structures"], truth, strict=True):
        window = t["mu"][0] + np.linspace(-3.0, 3.0, 1201)
        near = np.abs(t["true"] - t["mu"][0]) <= 3.0
        common = (t["ours"] - t["true"])[near].mean()
        curves = [
            np.exp(-0.5 * ((window[:, None] - e.ravel()) / 0.1) ** 2).sum(axis=1)
            for e in (t["true"], t["ours"] - common)
        ]
        expected = 100 * np.abs(curves[1] - curves[0]).sum() / curves[0].sum()
        assert row["dos_error_percent"] == pytest.approx(expected, rel=0.01)


def test_calibration_of_the_spread(metrics: dict[str, Any], truth: list[dict[str, Any]]) -> None:
    spread, error = (np.array([t[key] for t in truth]) for key in ("spread", "rms"))
    found = metrics["calibration"]
    assert [row["spread_meV"] for row in metrics["structures"]] == pytest.approx(1e3 * spread, rel=1e-9)
    expected = spearmanr(spread, error).statistic
    assert found["rank_correlation_of_structures"] == pytest.approx(expected)
    assert found["error_over_spread"] == pytest.approx(np.sqrt(np.mean(error**2) / np.mean(spread**2)))
    blocks = found["blocks"]
    of_blocks = [np.concatenate([t[key] for t in truth]) for key in ("spreads", "errors")]
    assert blocks["n_blocks"] == len(of_blocks[0])
    assert blocks["error_over_spread"] == pytest.approx(np.sqrt(of_blocks[1].sum() / of_blocks[0].sum()))
    assert blocks["rank_correlation"] == pytest.approx(spearmanr(*of_blocks).statistic, abs=0.03)
    middle = max(blocks["bins"], key=lambda row: row["blocks"] * (row["spread_meV"] > 1.0))
    decade = np.floor(10 * np.log10(1e-3 * middle["spread_meV"]))
    chosen = np.floor(5 * np.log10(of_blocks[0])) == decade
    assert middle["blocks"] == chosen.sum()
    assert middle["error_meV"] == pytest.approx(1e3 * np.sqrt(of_blocks[1][chosen].mean()))


class Page(HTMLParser):
    """Open tags, pictures and text; complains about a tag that closes another."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.links: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [v or "" for k, v in attrs if k in ("src", "href", "srcset", "data")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_page_is_whole_and_stands_alone(written: Path, metrics: dict[str, Any]) -> None:
    source = (written / "index.html").read_text(encoding="utf-8")
    page = Page()
    page.feed(source)
    page.close()
    assert page.open == []
    assert "script" not in page.tags
    figures = {"shells", "distance", "parity", "families", "bands", "gaps", "learning", "calibration"}
    assert {p.stem for p in (written / "figures").iterdir()} == figures
    assert len(page.links) == len(figures)
    assert all(link.startswith("data:image/svg+xml;base64,") for link in page.links)
    assert "tiny & <set>" in page.text
    assert "<set>" not in re.sub(r"base64,[^\"]*", "", source)
    assert f"{metrics['mae_gauge_fixed_meV']:.1f}" in page.text
    assert all(row["name"] in page.text for row in metrics["structures"])
    assert {p.name for p in written.iterdir()} == {"index.html", "metrics.json", "structures.csv", "figures"}


def test_table_of_structures(written: Path, metrics: dict[str, Any]) -> None:
    with (written / "structures.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["name"] for row in rows] == [f"sheet_{n:03d}" for n in range(len(SIZES))]
    assert {row["family"] for row in rows} == {"sheet"}
    for row, known in zip(rows, metrics["structures"], strict=True):
        assert float(row["levels_rms_shifted"]) == pytest.approx(known["levels_rms_shifted"], rel=1e-8)


@pytest.mark.parametrize(
    ("name", "family"),
    [("tube-4-1-000", "tube-4-1"), ("007", "007"), ("a b", "a b"), ("run2/ripple-1", "run2/ripple")],
)
def test_family(name: str, family: str) -> None:
    empty = Comparison.__new__(Comparison)
    object.__setattr__(empty, "name", name)
    assert empty.family == family


def test_histograms_add_up() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(0.0, 3.0, 500)
    y = x + rng.normal(0.0, 0.3, 500)
    whole, parts = Parity(), Parity()
    whole.add(x, y)
    parts.add(x[:200], y[:200])
    parts.add(x[200:], y[200:])
    assert np.array_equal(whole.cells, parts.cells)
    assert np.array_equal(whole.counts, parts.counts)
    expected, _, _ = np.histogram2d(x, y, bins=[np.arange(-15.0, 15.05, 0.1)] * 2)
    assert sorted(whole.counts) == sorted(expected[expected > 0].astype(int))
    image, low, high = whole.image(50)
    assert image.sum() == 500
    assert low <= min(x.min(), y.min())
    assert high >= max(x.max(), y.max())
    histogram = LogHistogram()
    histogram.add(np.abs(x), np.abs(y))
    assert histogram.rank_correlation() == pytest.approx(spearmanr(np.abs(x), np.abs(y)).statistic, abs=0.01)
    assert rank_correlation(np.ones(5), np.arange(5.0)) is None


def test_command_line_with_a_packed_set(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [tmp_path / f"model{seed}.h5" for seed in range(2)]
    for seed, path in enumerate(paths):
        tiny_model(seed).save(path)
    name, data = next(iter(read_dataset([dataset])))
    with PackedWriter(tmp_path / "packed.h5") as writer:
        writer.append(name, data)
    words = [
        "evaluate",
        str(paths[0]),
        str(tmp_path / "packed.h5"),
        "--model",
        str(paths[1]),
        "--kpts",
        "2x2x1",
    ]
    assert main([*words, "-o", str(tmp_path / "out"), "--quiet"]) == 0
    assert "committee of 2 (m<0> (model0.h5), m<1> (model1.h5))" in capsys.readouterr().out
    found = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert found["n_members"] == 2
    assert [m["name"] for m in found["about"]["models"]] == ["m<0>", "m<1>"]
    assert found["about"]["models"][0]["cutoff_A"] == TINY["cutoff"]
    assert found["calibration"]["rank_correlation_of_structures"] is None
    assert "m&lt;0&gt;" in (tmp_path / "out" / "index.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("case", ["missing", "empty", "basis", "element", "log", "foreign log", "kpts"])
def test_bad_input_is_one_line(
    case: str, dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = {
        "basis": OrbitalBasis({"C": SpeciesBasis((0, 0, 1), 4.0)}),
        "element": OrbitalBasis({"N": SpeciesBasis((0, 1), 5.0)}),
    }
    tiny_model(0, other.get(case)).save(tmp_path / "model.h5")
    (tmp_path / "empty").mkdir()
    (tmp_path / "foreign.csv").write_text("a,b\n1,2\n")
    target = {"missing": tmp_path / "nowhere", "empty": tmp_path / "empty"}.get(case, dataset)
    extra = {
        "log": ["--log", str(tmp_path / "none.csv")],
        "foreign log": ["--log", str(tmp_path / "foreign.csv")],
        "kpts": ["--kpts", "0,1"],
    }.get(case, [])
    assert main(["evaluate", str(tmp_path / "model.h5"), str(target), "--quiet", *extra]) == 2
    said = capsys.readouterr().err
    expected = {
        "missing": "does not exist",
        "empty": "holds no structure",
        "basis": "the model's are",
        "element": "not in this basis",
        "log": "no such file",
        "foreign log": "no column epoch",
        "kpts": "--kpts: expected",
    }
    assert expected[case] in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("species", "words"),
    [
        ({"C": SpeciesBasis((0, 0, 1), 4.0)}, "the shells .* of C differ"),
        ({"C": sp_basis()["C"], "H": SpeciesBasis((0, 1), 1.0)}, "the elements C and C, H differ"),
    ],
)
def test_members_of_different_bases_are_refused(
    species: dict[str, SpeciesBasis], words: str, dataset: Path, tmp_path: Path
) -> None:
    paths = [tmp_path / f"{n}.h5" for n in "abc"]
    for path, basis in zip(paths, (None, None, OrbitalBasis(species)), strict=True):
        tiny_model(0, basis).save(path)
    received = re.escape(f"received {paths[0]} and {paths[2]}, where ")
    with pytest.raises(ValueError, match=f"expected models of one basis, {received}{words}"):
        evaluate(paths, dataset)


def test_members_that_agree_have_no_calibration(tmp_path: Path) -> None:
    """By an error over no spread, that of rounding a mean of three, nothing is calibrated."""
    one = write_dataset(tmp_path / "one", (1,))
    report = evaluate([Near(1)] * 3, one, output=tmp_path / "out", kpts=(1, 1, 1))  # type: ignore[list-item]
    found = report.to_dict()["calibration"]
    assert found["error_over_spread"] is found["blocks"]["error_over_spread"] is None
    assert found["rank_correlation_of_structures"] is found["blocks"]["rank_correlation"] is None
    page = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    assert "<dt>error / spread, structures</dt><dd>–</dd>" in page
    assert "<dt>error / spread, blocks</dt><dd>–</dd>" in page


@pytest.mark.parametrize(
    ("name", "label"),
    [("graphene", "graphene (model.h5)"), ("model", "model.h5"), ("unnamed", "model.h5"), ("", "model.h5")],
)
def test_a_model_is_called_by_its_name_and_file(name: str, label: str, tmp_path: Path) -> None:
    model = tiny_model(0)
    assert _label(replace(model, provenance={"name": name}), tmp_path / "model.h5") == label
    assert _label(replace(model, provenance={"name": name})) == (name if label != "model.h5" else label[:5])


def test_json_holds_numbers_only() -> None:
    given = {"a": [np.nan, 1.0, (np.float64(np.inf), "nan")], "b": {"c": -np.inf, "d": 2, "e": None}}
    assert _finite(given) == {"a": [None, 1.0, [None, "nan"]], "b": {"c": None, "d": 2, "e": None}}


def test_a_single_sheet_has_no_calibration(dataset: Path, tmp_path: Path) -> None:
    one = write_dataset(tmp_path / "one", (1,))
    report = evaluate(Near(1), one, output=tmp_path / "out", kpts=KPTS)  # type: ignore[arg-type]
    assert report.to_dict()["calibration"] is None
    assert list(report.chosen()) == ["only"]
    assert not (tmp_path / "out" / "figures" / "calibration.svg").exists()
