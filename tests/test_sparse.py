"""Sparse eigenproblems: counts, states near an energy, Fermi levels, kernel polynomials, all against LAPACK."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg as sl
import scipy.sparse as sp
from ase import Atoms

from ase_deeph import AtomPairs, ElectronicStructure, OrbitalBasis, RealSpaceMatrix
from ase_deeph.basis import SpeciesBasis
from ase_deeph.dos import gaussian_dos, mulliken_weights
from ase_deeph.occupation import Smearing, fill
from ase_deeph.sparse import krylov, mumps_library, states
from ase_deeph.sparse.bands import NearBands, Request
from ase_deeph.sparse.checkpoint import Checkpoint
from ase_deeph.sparse.factorisation import UnstableFactorisation, chosen_engine, factorise
from ase_deeph.sparse.fermi import CountingProblem, fermi_level_by_count
from ase_deeph.sparse.kpm import mesh_fermi_level, moments
from ase_deeph.sparse.mumps import mumps_found
from ase_deeph.sparse.slepc import slepc_python, states_by_slepc
from ase_deeph.sparse.states import Pencil, states_near, states_within

ENGINES = [
    "dense",
    "superlu",
    pytest.param("pardiso", marks=pytest.mark.skipif(find_spec("pypardiso") is None, reason="no pypardiso")),
    pytest.param("mumps", marks=pytest.mark.skipif(mumps_found() is None, reason="no MUMPS")),
]


def pencil(n: int = 200, *, is_complex: bool = True, copies: int = 1) -> tuple[Pencil, np.ndarray]:
    """A sparse pencil with a positive overlap, and its levels by LAPACK."""
    random = np.random.default_rng(5)

    def noise(density: float) -> sp.csr_matrix:
        part = sp.random(n, n, density, random_state=random)
        return part + 1j * sp.random(n, n, density, random_state=random) if is_complex else part

    h, s = noise(0.04), 0.2 * noise(0.01)
    h, s = h + h.conj().T + sp.diags(random.normal(size=n)), s + s.conj().T + sp.identity(n)
    levels = sl.eigh(h.toarray(), s.toarray(), eigvals_only=True)
    h, s = (sp.csr_matrix(sp.block_diag([m] * copies)) for m in (h, s))
    return Pencil.of(h, s), np.sort(np.tile(levels, copies))


def with_engine(p: Pencil, engine: str) -> Pencil:
    return Pencil(p.h, p.s, engine)  # type: ignore[arg-type]


@pytest.mark.parametrize("is_complex", [False, True])
@pytest.mark.parametrize("engine", ENGINES)
def test_counts_and_states_against_lapack(engine: str, is_complex: bool) -> None:
    p, levels = pencil(is_complex=is_complex)
    p = with_engine(p, engine)
    for energy in (-20.0, -1.3, 0.2, 20.0):
        assert p.count_below(energy) == np.sum(levels < energy)
    found = states_near(p, 0.3, 10)
    here = slice(found.first_band, found.first_band + 10)
    np.testing.assert_allclose(found.energies, levels[here], atol=1e-9)
    assert np.abs(found.energies - 0.3).max() == pytest.approx(np.sort(np.abs(levels - 0.3))[9])
    assert found.residuals.max() < 1e-8
    gram = found.coefficients.conj().T @ p.s @ found.coefficients
    np.testing.assert_allclose(gram, np.eye(10), atol=1e-9)
    inside = states_within(p, -0.5, 0.7)
    np.testing.assert_allclose(inside.energies, levels[(levels > -0.5) & (levels < 0.7)], atol=1e-9)


def test_degenerate_levels_and_an_energy_on_one_of_them() -> None:
    p, levels = pencil(120, copies=3)
    for energy in (0.3, float(levels[150])):
        found = states_near(p, energy, 7)
        np.testing.assert_allclose(found.energies, levels[found.first_band : found.first_band + 7], atol=1e-8)
    assert len(states_within(p, 50.0, 60.0).energies) == 0


def test_neighbouring_states_save_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    p, _ = pencil()
    found = states_near(p, 0.3, 10)
    grown = []
    grow = krylov.Krylov._grow
    monkeypatch.setattr(krylov.Krylov, "_grow", lambda self: (grown.append(1), grow(self))[1])
    states_near(p, 0.3, 10)
    n_cold = len(grown)
    states_near(p, 0.3, 10, start=found.coefficients)
    assert len(grown) - n_cold < n_cold


def test_a_state_that_the_search_missed_is_never_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Krylov space that cannot see one state: the counts say so."""
    p, levels = pencil()
    hidden = int(np.argmin(np.abs(levels - 0.3)))
    find = krylov.Krylov.find

    def blind(self, wanted, n_expected):
        pairs = find(self, wanted, n_expected)
        return pairs.subset(np.abs(pairs.energies - levels[hidden]) > 1e-6)

    monkeypatch.setattr(states.Krylov, "find", blind)
    with pytest.raises(ValueError, match=r"count"):
        states_near(p, 0.3, 10)
    with pytest.raises(ValueError, match=r"counted"):
        states_within(p, 0.0, 0.6)


@pytest.mark.parametrize("moved", [1e-6, 1e-4, 1e-3])
def test_a_moved_edge_never_shifts_the_index(monkeypatch: pytest.MonkeyPatch, moved: float) -> None:
    """Levels 2e-5 eV apart about every edge, and factorisations that refuse to be nearer the edge than `moved`."""
    comb = np.arange(-8, 9) * 2e-5
    levels = np.sort(np.concatenate([[-2.0, 2.0], 0.01 + comb, 1.01 + comb, np.linspace(0.1, 0.9, 9)]))
    p = Pencil.of(sp.csr_matrix(sp.diags(levels)), None)
    asked: list[float] = []
    original = states.factorise

    def refusing(a: sp.csr_matrix, *args, **kwargs):
        energy = levels[0] - float(np.real(a[0, 0]))
        asked[:] = asked if asked and abs(asked[0] - energy) < 2e-3 else [energy]
        if abs(energy - asked[0]) < 0.9 * moved:
            raise UnstableFactorisation("on a level")
        return original(a, *args, **kwargs)

    monkeypatch.setattr(states, "factorise", refusing)
    low, high = 0.01 + 1e-5, 1.01 - 1e-5
    found = states_within(p, low, high)
    np.testing.assert_allclose(found.energies, levels[(levels > low) & (levels < high)], atol=1e-9)
    assert found.first_band == np.sum(levels < low)
    near = states_near(p, 0.51, 9 + 20)
    expected = np.sort(levels[np.argsort(np.abs(levels - 0.51))[:29]])
    np.testing.assert_allclose(np.abs(near.energies - 0.51).max(), np.abs(expected - 0.51).max(), atol=1e-8)
    np.testing.assert_allclose(near.energies, levels[near.first_band : near.first_band + 29], atol=1e-8)


def test_unstable_factorisations_are_refused() -> None:
    singular = sp.csr_matrix(np.array([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]))
    for engine in ("dense", "superlu"):
        with pytest.raises(UnstableFactorisation):
            factorise(singular, engine)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="expected one of"):
        chosen_engine(10, "magic")  # type: ignore[arg-type]


def chain(n_cells: int = 20, gap: float = 0.5, spin: str = "none") -> ElectronicStructure:
    """A rattled dimerised chain of s orbitals with overlap: an insulator for a gap, else a metal."""
    atoms = Atoms(
        f"H{n_cells}", [[1.0 * n, 0, 0] for n in range(n_cells)], cell=[n_cells, 9, 9], pbc=(1, 0, 0)
    )
    atoms.positions[:, 0] += 0.1 * np.random.default_rng(1).random(n_cells)
    pairs = AtomPairs.from_atoms(atoms, 2.4)
    d = np.linalg.norm(pairs.displacements(atoms), axis=1)
    basis = OrbitalBasis({"H": SpeciesBasis((0,), 1)})
    onsite = np.where(pairs.on_site, gap * (-1.0) ** np.asarray(pairs.i), 0.0)
    h = onsite - 2.0 * np.exp(-d) * ~pairs.on_site
    entries = np.stack([h, h + 0.3 * pairs.on_site]) if spin == "collinear" else h
    s = np.where(pairs.on_site, 1.0, 0.3 * np.exp(-d))
    matrix = RealSpaceMatrix(basis, pairs, atoms, entries, spin)  # type: ignore[arg-type]
    return ElectronicStructure(matrix, RealSpaceMatrix(basis, pairs, atoms, s), kpts=(4, 1, 1))


@pytest.mark.parametrize("spin", ["none", "collinear"])
@pytest.mark.parametrize("gap", [0.0, 0.5])
@pytest.mark.parametrize("occupations", [("fermi-dirac", 0.05), ("gaussian", 0.2), ("fermi-dirac", 0.0)])
def test_fermi_level_by_count(spin: str, gap: float, occupations: tuple[str, float]) -> None:
    structure = chain(gap=gap, spin=spin)
    object.__setattr__(structure, "occupations", Smearing(*occupations))
    counted = structure.fermi_level_by_count()
    assert counted.fermi_level == pytest.approx(structure.fermi_level(), abs=1e-5)
    assert counted.n_states < structure.mesh_eigenvalues.size


def test_a_wide_gap_takes_few_counts() -> None:
    """Two bands 16 eV apart at width 0, the counts of every factorisation told."""
    random = np.random.default_rng(3)
    levels = np.sort(np.concatenate([random.uniform(-9, -8, 20), random.uniform(8, 9, 20)]))
    p = Pencil.of(sp.csr_matrix(sp.diags(levels)), None)
    problem = CountingProblem(lambda spin, k: p, np.ones(1), 1, 2, 40.0)
    counted = fermi_level_by_count(problem, Smearing("fermi-dirac", 0.0))
    assert counted.fermi_level == pytest.approx(0.5 * (levels[19] + levels[20]), abs=1e-9)
    assert counted.n_counts < 45, "steps of the reach took 166"
    assert counted.n_states < 40


def test_fermi_level_of_a_mesh_by_moments() -> None:
    """Exact traces of two k-points: a metal's level, and the middle of an insulator's gap."""
    parts, spectra = [], []
    for weight, shift in ((0.25, 0.0), (0.75, 0.4)):
        p, levels = pencil(60, is_complex=False)
        p = Pencil.of(p.h + shift * p.s, p.s)
        parts.append((0, 2 * weight, moments(p, 0.2, n_vectors=None)))
        spectra.append(levels + shift)
    smearing = Smearing("fermi-dirac", 0.1)
    reference = fill(np.array(spectra)[None], np.array([0.25, 0.75]), 50.0, smearing).fermi_level
    level, error = mesh_fermi_level(parts, 50.0, smearing)
    assert level == pytest.approx(reference, abs=1e-3)
    assert error < 1e-3
    gapped = Pencil.of(sp.csr_matrix(sp.diags([-2.0] * 10 + [2.0] * 10)), None)
    one = [(0, 2.0, moments(gapped, 0.1, n_vectors=None))]
    assert mesh_fermi_level(one, 20.0, Smearing())[0] == pytest.approx(0.0, abs=0.01)
    with pytest.raises(ValueError, match="wider"):
        mesh_fermi_level(one, 20.0, Smearing("fermi-dirac", 0.01))
    with pytest.raises(ValueError, match="fewer than 40"):
        mesh_fermi_level(one, 41.0, Smearing())


def test_one_random_vector_has_no_standard_error() -> None:
    p, _ = pencil(60, is_complex=False)
    grid = np.linspace(-2, 2, 5)
    assert np.all(np.isnan(moments(p, 0.5, n_vectors=1).dos(grid, 0.5)[1]))
    assert np.all(moments(p, 0.5, n_vectors=2).dos(grid, 0.5)[1] > 0)
    assert np.all(moments(p, 0.5, n_vectors=None).dos(grid, 0.5)[1] == 0)


def test_moments_against_diagonalisation() -> None:
    p, levels = pencil(80, is_complex=False)
    _, c = sl.eigh(p.h.toarray(), p.s.toarray())
    grid, groups = np.linspace(-5, 5, 41), np.arange(80) % 3
    exact = moments(p, 0.3, n_vectors=None)
    np.testing.assert_allclose(
        exact.dos(grid, 0.3)[0], gaussian_dos(grid, levels, np.ones((1, 80)), 0.3), atol=1e-5
    )
    shares = mulliken_weights(c, p.s.toarray(), groups)
    projected = moments(p, 0.3, n_vectors=None, groups=groups)
    np.testing.assert_allclose(
        projected.dos(grid, 0.3)[0], gaussian_dos(grid, levels, shares, 0.3), atol=1e-5
    )
    smearing = Smearing("fermi-dirac", 0.3)
    reference = fill(levels[None, None], np.ones(1), 60.0, smearing).fermi_level
    assert exact.fermi_level(60.0, smearing) == pytest.approx(reference, abs=1e-4)
    random = moments(p, 0.3, n_vectors=40, seed=2)
    states_below, error = random.integrated(grid, 0.3)
    off = np.abs(states_below - exact.integrated(grid, 0.3)[0])
    assert 0 < error.max() < 5
    assert np.mean(off < 2 * error + 1e-6) > 0.8
    np.testing.assert_array_equal(random.samples, moments(p, 0.3, n_vectors=40, seed=2).samples)


@pytest.mark.skipif(mumps_found() is None, reason="no MUMPS")
def test_mumps_says_when_a_matrix_is_singular() -> None:
    with pytest.raises(UnstableFactorisation):
        factorise(sp.csr_matrix(np.diag([1.0, 0.0, 2.0])), "mumps")
    p, levels = pencil(120, copies=3)
    found = states_near(with_engine(p, "mumps"), float(levels[150]), 7)
    np.testing.assert_allclose(found.energies, levels[found.first_band : found.first_band + 7], atol=1e-8)


@pytest.mark.skipif(mumps_found() in (None, "python-mumps"), reason="not the system's MUMPS")
def test_mumps_of_another_release_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mumps_library, "RELEASE", "9.9")
    with pytest.raises(ModuleNotFoundError, match=r"expected release 9\.9"):
        mumps_library.Instance(sp.csr_matrix(np.eye(3)))


def test_bands_along_k_have_their_index(tmp_path: Path) -> None:
    structure = chain()
    path = np.column_stack([np.linspace(0, 0.5, 5), np.zeros((5, 2))])
    every = structure.eigenvalues(path)
    near = structure.eigenvalues_near(path, structure.fermi_level(), 4)
    for k in range(5):
        first = near.first_band[0, k]
        np.testing.assert_allclose(near.energies[0][k], every[0, k, first : first + 4], atol=1e-9)
    window = structure.eigenvalues_near(path, window=(-1.0, 1.0))
    assert [len(e) for e in window.energies[0]] == [int(np.sum(np.abs(e) < 1)) for e in every[0]]


def test_an_interrupted_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    structure, file = chain(), tmp_path / "bands.npz"
    path = np.column_stack([np.linspace(0, 0.5, 6), np.zeros((6, 2))])

    def stop(done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        structure.eigenvalues_near(path, 0.0, 4, checkpoint=file, progress=stop)
    solved = []
    original = Pencil.factorised
    monkeypatch.setattr(Pencil, "factorised", lambda *a, **k: (solved.append(1), original(*a, **k))[1])
    resumed = structure.eigenvalues_near(path, 0.0, 4, checkpoint=file)
    n_resumed = len(solved)
    whole = structure.eigenvalues_near(path, 0.0, 4)
    assert n_resumed == (len(solved) - n_resumed) // 2
    np.testing.assert_allclose(resumed.energies, whole.energies, atol=1e-9)
    np.testing.assert_array_equal(resumed.first_band, whole.first_band)
    with pytest.raises(ValueError, match="another structure"):
        structure.eigenvalues_near(path, 0.1, 4, checkpoint=file)


def test_files_that_are_no_checkpoint(tmp_path: Path) -> None:
    file = tmp_path / "c.npz"
    Checkpoint(file, "x").put(0, 0, np.ones(50), np.ones(50), 3)
    whole = file.read_bytes()
    for n_bytes in (len(whole) // 2, 10, 1, 0):
        file.write_bytes(whole[:n_bytes])
        with pytest.raises(ValueError, match="delete it"):
            Checkpoint(file, "x")
    with file.open("wb") as stream:
        np.save(stream, np.ones(3))
    with pytest.raises(ValueError, match="an array"):
        Checkpoint(file, "x")
    file.write_bytes(whole.replace(np.ones(50).tobytes(), np.zeros(50).tobytes()))
    with pytest.raises(ValueError, match="delete it"):
        Checkpoint(file, "x")


def test_states_without_an_index_are_not_joined(tmp_path: Path) -> None:
    """As SLEPc of a complex PETSc leaves them: no band index, at one k-point or at all."""
    from ase_deeph.cli.sparse import _write

    path = Atoms("H", cell=[2, 9, 9], pbc=(1, 0, 0)).cell.bandpath("GX", npoints=3, pbc=(1, 0, 0))
    energies = [[np.array([0.1, 0.2]), np.array([0.3, 0.4, 0.5]), np.array([0.6])]]
    bands = NearBands(path.kpts, energies, energies, np.array([[7, -1, 8]]))
    assert bands.band_range == (7, 9)
    assert not bands.counted
    np.testing.assert_array_equal(bands.of_band(8), [0.2, np.nan, 0.6])
    assert [len(e) for e in bands.uncounted()] == [0, 3, 0]
    without = NearBands(path.kpts, energies, energies, np.array([[-1, -1, -1]]))
    assert without.band_range == (0, 0)
    assert np.all(np.isnan([without.of_band(band) for band in range(-2, 3)]))
    for found in (bands, without):
        for suffix in ("csv", "json", "png"):
            _write(found, path, 0.0, tmp_path / f"n.{suffix}", (-1.0, 1.0))
        header, first, *_ = (tmp_path / "n.csv").read_text().splitlines()
        assert header.split(",")[4:] == ["state0_spin0_eV", "state1_spin0_eV", "state2_spin0_eV"]
        assert first.split(",")[4:] == ["0.1", "0.2", "nan"]
    assert json.loads((tmp_path / "n.json").read_text())["first_band"] == [[None, None, None]]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ase_deeph.cli import sparse, table

    path = Atoms("H", cell=[2, 9, 9], pbc=(1, 0, 0)).cell.bandpath("GX", npoints=3, pbc=(1, 0, 0))
    energies = [[np.array([0.1, 0.2])] * 3]
    found = NearBands(path.kpts, energies, energies, np.array([[7, 7, 7]]))
    (tmp_path / "n.csv").write_text("old")

    def stop(file: Path, *rest) -> None:
        file.write_text("half")
        raise OSError("disk full")

    monkeypatch.setattr(table, "write_csv", stop)
    with pytest.raises(OSError, match="disk full"):
        sparse._write(found, path, 0.0, tmp_path / "n.csv", (-1.0, 1.0))
    assert [file.name for file in tmp_path.iterdir()] == ["n.csv"]
    assert (tmp_path / "n.csv").read_text() == "old"


def test_numbers_refused_before_any_computation(capsys: pytest.CaptureFixture[str]) -> None:
    """The structure does not exist: it is not reached."""
    from ase_deeph.cli import main

    for option, words in {
        "--near": ["bands", "nowhere.cif", "--near", "0"],
        "--ranks": ["bands", "nowhere.cif", "--near", "3", "--engine", "slepc", "--ranks", "0"],
        "--vectors": ["dos", "nowhere.cif", "--engine", "kpm", "--vectors", "1"],
    }.items():
        assert main([*words, "-o", "n.csv"]) != 0
        assert f"{option}: expected at least" in capsys.readouterr().err
    for wrong in ({"n_states": 0}, {"n_ranks": 0}):
        with pytest.raises(ValueError, match="at least 1"):
            Request(0.0, **wrong)  # type: ignore[arg-type]


def test_a_run_killed_at_any_moment_leaves_a_whole_file(tmp_path: Path) -> None:
    file = tmp_path / "c.npz"
    code = (
        "import sys, numpy as np\nfrom ase_deeph.sparse.checkpoint import Checkpoint\n"
        "c = Checkpoint(sys.argv[1], 'x')\nk = 0\n"
        "while True:\n    c.put(0, k, np.ones(500), np.ones(500), k)\n    print(k, flush=True)\n    k += 1\n"
    )
    run = subprocess.Popen([sys.executable, "-c", code, str(file)], stdout=subprocess.PIPE, text=True)
    assert run.stdout is not None
    last = [run.stdout.readline() for _ in range(20)][-1]
    run.kill()
    run.wait()
    run.stdout.close()
    kept = Checkpoint(file, "x")
    assert len(kept) > int(last)
    assert kept.get(0, 7)[2] == 7  # type: ignore[index]


def _has_slepc() -> bool:
    try:
        slepc_python()
    except ModuleNotFoundError:
        return False
    return shutil.which("mpirun") is not None


@pytest.mark.skipif(not _has_slepc(), reason="no mpirun with slepc4py")
def test_two_ranks_of_slepc(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "OMPI_ALLOW_RUN_AS_ROOT",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM",
        "OMPI_MCA_rmaps_base_oversubscribe",
    ):
        monkeypatch.setenv(name, "1")
    p, _ = pencil(100)
    found, ours = states_by_slepc(p, 0.2, 6), states_near(p, 0.2, 6)
    np.testing.assert_allclose(found.energies, ours.energies, atol=1e-8)
    assert found.residuals.max() < 1e-8
    assert found.first_band in (ours.first_band, -1), "a complex build of PETSc does not count"
    monkeypatch.setenv("ASE_DEEPH_SLEPC_TEST_KILL", "1")
    with pytest.raises(ValueError, match="killed"):
        states_by_slepc(p, 0.2, 6)


def test_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ase_deeph.cli import main
    from ase_deeph.cli.sparse import fermi_rows
    from ase_deeph.io import write_deeph
    from ase_deeph.reference import ReferenceData

    structure = chain()
    monkeypatch.chdir(tmp_path)
    data = ReferenceData(structure.atoms, structure.hamiltonian, structure.overlap, n_electrons=20.0)
    write_deeph("chain", data)
    common = ["chain", "--kpts", "4,1,1", "--quiet"]
    assert main(["bands", *common, "--npoints", "4", "--near", "3", "-o", "n.csv"]) == 0
    assert (
        main(["bands", *common, "--npoints", "4", "--engine", "superlu", "--near", "3", "-o", "n.json"]) == 0
    )
    assert main(["bands", *common, "--npoints", "4", "--near", "3", "-o", "n.png"]) == 0
    assert (tmp_path / "n.csv").read_text().count("\n") == 5
    assert np.shape(json.loads((tmp_path / "n.json").read_text())["energies_eV"]) == (1, 4, 3)
    assert not [name for name in os.listdir() if "unfinished" in name]
    dos = ["dos", *common, "--engine", "kpm", "--vectors", "4", "--broadening", "0.5"]
    with monkeypatch.context() as patch:
        for name in ("factorised", "count_below"):
            patch.setattr(Pencil, name, lambda *a, **k: pytest.fail("kernel polynomials factorise nothing"))
        patch.setattr(ElectronicStructure, "eigenvalues", lambda *a: pytest.fail("nor diagonalise"))
        assert main([*dos, "-o", "d.csv"]) == 0
        assert main([*dos, "--vectors", "400", "-o", "d.json"]) == 0
    level = json.loads((tmp_path / "d.json").read_text())["fermi_level_eV"]
    assert level == pytest.approx(structure.fermi_level(), abs=0.1)
    assert "standard error" in (tmp_path / "d.csv").read_text()
    assert main([*dos, "--project", "species", "-o", "p.csv"]) == 0
    _, values = fermi_rows(structure)
    assert values["fermi_level"] == pytest.approx(structure.fermi_level(), abs=1e-5)
