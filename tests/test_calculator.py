"""DeepHCalculator with ASE's own consumers, its cache, and the errors a user can cause."""

from __future__ import annotations

import os
from pathlib import Path

import jax
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, graphene, molecule
from ase.calculators.calculator import PropertyNotImplementedError
from ase.calculators.emt import EMT
from ase.dft.bandgap import bandgap
from ase.dft.dos import DOS
from ase.io import read, write
from ase.spectrum.band_structure import BandStructure, calculate_band_structure, get_band_structure

from ase_deeph import DeepHCalculator, OrbitalBasis, RealSpaceMatrix
from ase_deeph.basis import SpeciesBasis
from ase_deeph.compilation_cache import compilation_cache
from ase_deeph.two_center import overlap
from tests.toys import ELECTRONS, Huckel, huckel_basis, untrained

PLANE = {"kpts": {"size": (6, 6, 1), "gamma": True}}


@pytest.fixture
def sheet() -> Atoms:
    atoms = graphene(vacuum=6.0)
    atoms.calc = DeepHCalculator(Huckel(), **PLANE)
    return atoms


@pytest.fixture
def diamond() -> Atoms:
    atoms = bulk("C")
    atoms.calc = DeepHCalculator(Huckel(), kpts=(4, 4, 4))
    return atoms


class TestWithASE:
    def test_dos_with_width(self, diamond: Atoms) -> None:
        dos = DOS(diamond.calc, width=0.2, npts=2001)
        assert np.trapezoid(dos.get_dos(), dos.get_energies()) == pytest.approx(16.0, rel=1e-4)

    def test_dos_by_tetrahedra(self, diamond: Atoms) -> None:
        dos = DOS(diamond.calc, width=0.0, npts=4001)
        assert np.trapezoid(dos.get_dos(), dos.get_energies()) == pytest.approx(16.0, rel=2e-2)

    def test_bandgap(self, diamond: Atoms) -> None:
        gap, valence, conduction = bandgap(diamond.calc)
        homo, lumo = diamond.calc.get_homo_lumo()
        assert gap == pytest.approx(lumo - homo)
        assert gap > 1.0
        assert (valence[2], conduction[2]) == (3, 4)

    def test_bandgap_of_graphene_is_zero(self, sheet: Atoms) -> None:
        assert bandgap(sheet.calc)[0] == pytest.approx(0.0, abs=1e-6)

    @pytest.mark.parametrize("route", ["function", "method", "calculate"])
    def test_band_structure(self, sheet: Atoms, route: str) -> None:
        level = sheet.calc.get_fermi_level()
        path = sheet.cell.bandpath("GMKG", npoints=30, pbc=sheet.pbc)
        if route == "calculate":
            bands = calculate_band_structure(sheet, path)
        else:
            sheet.calc.set(kpts=path)
            bands = get_band_structure(sheet) if route == "function" else sheet.calc.band_structure()
        assert isinstance(bands, BandStructure)
        assert bands.reference == pytest.approx(level, abs=1e-12)
        assert bands.energies.shape == (1, 30, 8)
        dirac = bands.energies[0, np.argmin(np.abs(path.kpts - [1 / 3, 1 / 3, 0]).sum(axis=1)), 3:5]
        assert np.abs(dirac - level).max() < 0.6

    def test_calculate_band_structure_by_its_other_route(self, sheet: Atoms) -> None:
        path = sheet.cell.bandpath("GK", npoints=5, pbc=sheet.pbc)
        sheet.calc.accepts_bandpath_keyword = False
        with pytest.raises(PropertyNotImplementedError):
            calculate_band_structure(sheet, path)
        sheet.calc = DeepHCalculator(Huckel(), forcefield=EMT(), **PLANE)
        sheet.calc.accepts_bandpath_keyword = False
        bands = calculate_band_structure(sheet, path)
        assert np.allclose(bands.path.kpts, path.kpts)

    def test_default_path_of_each_dimension(self, sheet: Atoms, diamond: Atoms) -> None:
        assert sheet.calc.band_structure(npoints=12).path.path == "GMKG"
        assert "X" in diamond.calc.band_structure(npoints=12).path.path
        chain = Atoms("C2", [[0, 0, 0], [0, 0, 1.25]], cell=[8, 8, 2.6], pbc=[False, False, True])
        chain.calc = DeepHCalculator(Huckel())
        assert chain.calc.band_structure(npoints=6).energies.shape == (1, 6, 8)

    def test_bands_are_json(self, sheet: Atoms, tmp_path: Path) -> None:
        bands = sheet.calc.band_structure("GK", npoints=4)
        bands.write(tmp_path / "bands.json")
        assert np.allclose(BandStructure.read(tmp_path / "bands.json").energies, bands.energies)

    def test_results_hold_ases_names_only(self, sheet: Atoms) -> None:
        properties = sheet.get_properties(["eigenvalues", "fermi_level"])
        assert properties["eigenvalues"].shape == properties["occupations"].shape
        assert properties["nspins"] == 1
        assert sum(properties["kpoint_weights"]) == pytest.approx(1.0)
        electrons = np.einsum("k,skn->", properties["kpoint_weights"], properties["occupations"])
        assert electrons == pytest.approx(8.0, abs=1e-8)

    def test_writing_and_reading_files(self, sheet: Atoms, tmp_path: Path) -> None:
        sheet.calc.get_fermi_level()
        for name in ("a.xyz", "a.traj", "a.json"):
            write(tmp_path / name, sheet)
            assert np.allclose(read(tmp_path / name).positions, sheet.positions)

    def test_mesh_and_map_agree(self, diamond: Atoms) -> None:
        calc = diamond.calc
        full, reduced, where = calc.get_bz_k_points(), calc.get_ibz_k_points(), calc.get_bz_to_ibz_map()
        assert len(full) == 64 > len(reduced) == len(calc.get_k_point_weights())
        energies = calc.get_electronic_structure().eigenvalues(full)
        shown = np.array([[calc.get_eigenvalues(kpt=k) for k in where]])
        assert np.allclose(energies, shown, atol=1e-8)

    def test_molecule(self) -> None:
        atoms = molecule("CH4")
        atoms.calc = DeepHCalculator(Huckel())
        homo, lumo = atoms.calc.get_homo_lumo()
        assert homo == pytest.approx(-16.1465, abs=1e-3)
        assert homo < atoms.calc.get_fermi_level() < lumo
        with pytest.raises(ValueError, match="periodic"):
            atoms.calc.band_structure()


class TestEnergies:
    def test_a_hamiltonian_has_no_energy(self, sheet: Atoms) -> None:
        for ask in (sheet.get_potential_energy, sheet.get_forces, sheet.get_stress):
            with pytest.raises(PropertyNotImplementedError):
                ask()

    def test_no_energy_after_a_band_structure_either(self, sheet: Atoms) -> None:
        calculate_band_structure(sheet, sheet.cell.bandpath("GK", npoints=3, pbc=sheet.pbc))
        with pytest.raises(PropertyNotImplementedError):
            sheet.get_potential_energy()

    def test_a_force_field_gives_them(self, sheet: Atoms) -> None:
        alone = sheet.copy()
        alone.calc = EMT()
        source = Huckel()
        sheet.calc = DeepHCalculator(source, forcefield=EMT(), **PLANE)
        assert sheet.get_potential_energy() == pytest.approx(alone.get_potential_energy())
        assert np.allclose(sheet.get_forces(), alone.get_forces())
        assert source.calls == 0, "energies need no Hamiltonian"
        sheet.calc.get_fermi_level()
        sheet.positions[0] += 0.05
        alone.positions[:] = sheet.positions
        assert sheet.get_potential_energy() == pytest.approx(alone.get_potential_energy())


class TestCache:
    def test_one_inference_per_geometry(self, sheet: Atoms) -> None:
        source = sheet.calc.model
        calc = sheet.calc
        level = calc.get_fermi_level()
        calc.get_hamiltonian(sheet)
        calc.band_structure("GK", npoints=3)
        calc.get_homo_lumo()
        calc.set(occupations={"name": "gaussian", "width": 0.1}, kpts=(3, 3, 1))
        assert calc.get_fermi_level() != level
        sheet.set_initial_magnetic_moments([1, -1])
        sheet.set_initial_charges([0.1, -0.1])
        calc.get_fermi_level()
        assert source.calls == 1

    @pytest.mark.parametrize("change", ["positions", "cell", "numbers", "pbc"])
    def test_a_change_means_a_new_inference(self, sheet: Atoms, change: str) -> None:
        before = sheet.calc.get_hamiltonian()
        if change == "positions":
            sheet.positions[0, 0] += 0.05
        elif change == "cell":
            sheet.set_cell(sheet.cell * 1.02, scale_atoms=True)
        elif change == "numbers":
            sheet.numbers[0] = 1
        else:
            sheet.pbc = [True, False, False]
        after = sheet.calc.get_hamiltonian()
        assert sheet.calc.model.calls == 2
        assert after is not before

    def test_asking_about_another_structure(self, sheet: Atoms) -> None:
        level = sheet.calc.get_fermi_level()
        stretched = sheet.copy()
        stretched.set_cell(sheet.cell * 1.05, scale_atoms=True)
        assert sheet.calc.get_electronic_structure(stretched).fermi_level() != pytest.approx(level, abs=1e-3)
        assert sheet.calc.get_electronic_structure(sheet).fermi_level() == pytest.approx(level)

    def test_a_path_keeps_the_fermi_level_of_the_mesh(self, sheet: Atoms) -> None:
        level = sheet.calc.get_fermi_level()
        sheet.calc.set(kpts=sheet.cell.bandpath("GM", npoints=7, pbc=sheet.pbc))
        assert sheet.calc.get_fermi_level() == level
        assert len(sheet.calc.get_ibz_k_points()) == 7
        sheet.calc.set(kpts=(6, 6, 1))
        assert len(sheet.calc.get_bz_k_points()) == 36

    def test_a_path_from_the_start_uses_the_default_mesh(self, sheet: Atoms) -> None:
        path = sheet.cell.bandpath("GM", npoints=7, pbc=sheet.pbc)
        first = DeepHCalculator(Huckel(), kpts=path)
        second = DeepHCalculator(Huckel())
        first.get_hamiltonian(sheet)
        second.get_hamiltonian(sheet)
        assert first.get_fermi_level() == second.get_fermi_level()

    def test_moved_atoms_without_new_compilations(self) -> None:
        model = untrained()
        atoms = graphene(vacuum=6.0).repeat((4, 4, 1))
        atoms.calc = DeepHCalculator(model)
        for seed in range(8):
            atoms.rattle(0.02, seed=seed)
            atoms.calc.get_hamiltonian(atoms)
        assert model.n_compilations <= 2


class TestSources:
    def test_hamiltonian_and_overlap(self, sheet: Atoms) -> None:
        h, s = sheet.calc.get_hamiltonian(), sheet.calc.get_overlap()
        assert isinstance(h, RealSpaceMatrix)
        assert h.hermiticity_error() < 1e-12
        assert (s - overlap(sheet, huckel_basis())).max_abs() == 0.0

    def test_committee(self, sheet: Atoms) -> None:
        calc = DeepHCalculator([Huckel(), Huckel(shift=0.2)], **PLANE)
        single = DeepHCalculator(Huckel(), **PLANE)
        shift = (
            calc.get_electronic_structure(sheet).fermi_level()
            - single.get_electronic_structure(sheet).fermi_level()
        )
        assert shift == pytest.approx(0.1, abs=1e-9)
        expected = 0.1 * np.abs(calc.get_overlap(sheet).entries)
        assert np.allclose(calc.get_hamiltonian_spread(sheet).on(calc.get_overlap().pairs).entries, expected)

    def test_overlap_source(self, sheet: Atoms) -> None:
        calc = DeepHCalculator(Huckel(), overlap=lambda atoms: overlap(atoms, huckel_basis()), **PLANE)
        assert calc.get_electronic_structure(sheet).fermi_level() == pytest.approx(
            sheet.calc.get_fermi_level()
        )
        orthogonal = DeepHCalculator(Huckel(), overlap=lambda atoms: None, **PLANE)
        assert orthogonal.get_overlap(sheet) is None
        assert orthogonal.get_eigenvalues(0, 0).shape == (8,)

    def test_model_by_file_object_and_precision(self, sheet: Atoms, tmp_path: Path, no_nans: None) -> None:
        model = untrained()
        model.save(tmp_path / "m.h5")
        wide = DeepHCalculator(tmp_path / "m.h5", dtype="float64").get_hamiltonian(sheet)
        narrow = DeepHCalculator(model, device="cpu").get_hamiltonian(sheet)
        assert 0.0 < (wide - narrow).max_abs() < 1e-4
        assert wide.entries.dtype == narrow.entries.dtype == np.float64

    def test_models_of_the_users_own_folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        untrained().save(tmp_path / "mine.h5")
        monkeypatch.setenv("ASE_DEEPH_MODELS", str(tmp_path))
        assert DeepHCalculator("mine").model.provenance["name"] == "untrained"

    def test_jax_settings_are_left_alone(
        self, sheet: Atoms, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("ASE_DEEPH_CACHE", str(tmp_path / "cache"))
        before = dict(jax.config.values)
        DeepHCalculator(untrained(), dtype="float64", device="cpu").get_hamiltonian(sheet)
        assert dict(jax.config.values) == before
        assert list((tmp_path / "cache").iterdir()), "the compiled network was kept on disk"

    def test_compilation_cache_is_private(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("ASE_DEEPH_CACHE", "")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        with compilation_cache():
            assert jax.config.jax_compilation_cache_dir == str(tmp_path / "ase_deeph" / "xla")
        assert (tmp_path / "ase_deeph" / "xla").stat().st_mode & 0o077 == 0
        monkeypatch.setenv("ASE_DEEPH_CACHE", str(tmp_path / "open"))
        (tmp_path / "open").mkdir()
        os.chmod(tmp_path / "open", 0o777)
        with compilation_cache():
            assert jax.config.jax_compilation_cache_dir is None


def without_radial() -> OrbitalBasis:
    return OrbitalBasis({"C": SpeciesBasis((0, 1), ELECTRONS["C"])})


def bare(atoms: Atoms) -> RealSpaceMatrix:
    """A source whose basis knows no radial functions."""
    h = Huckel()(atoms)
    return RealSpaceMatrix(without_radial(), h.pairs, atoms, h.entries)


class TestErrors:
    @pytest.mark.parametrize(
        ("arguments", "match"),
        [
            ({"model": "no-such-model"}, "no-such-model"),
            ({"model": 3}, "received int"),
            ({"model": []}, "at least one"),
            ({"model": Huckel(), "dtype": "float16"}, "float16"),
            ({"model": Huckel(), "device": "abacus"}, "abacus"),
            ({"model": Huckel(), "overlap": "exact"}, "overlap"),
            ({"model": Huckel(), "occupations": {"name": "cold"}}, "cold"),
            ({"model": Huckel(), "occupations": {"name": "gaussian", "width": -1.0}}, "width"),
        ],
    )
    def test_bad_arguments(self, arguments: dict, match: str) -> None:
        with pytest.raises(ValueError, match=match) as caught:
            DeepHCalculator(arguments.pop("model"), **arguments)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("kpts", [(0, 6, 1), [], {"size": (0, 1, 1)}, {"density": 0.0}, np.zeros((0, 3))])
    def test_no_k_points(self, sheet: Atoms, kpts: object) -> None:
        with pytest.raises(ValueError, match=r"k-point"):
            DeepHCalculator(Huckel(), kpts=kpts).get_electronic_structure(sheet).fermi_level()

    def test_unknown_parameter(self, sheet: Atoms) -> None:
        with pytest.raises(ValueError, match="xc"):
            sheet.calc.set(xc="PBE")

    def test_no_structure(self) -> None:
        with pytest.raises(ValueError, match="attach"):
            DeepHCalculator(Huckel()).get_fermi_level()

    def test_bad_structures(self, sheet: Atoms) -> None:
        calc = DeepHCalculator(untrained())
        with pytest.raises(ValueError, match="empty"):
            calc.get_hamiltonian(Atoms())
        with pytest.raises(KeyError, match="Si"):
            calc.get_hamiltonian(bulk("Si"))
        sheet.positions[0, 0] = np.nan
        with pytest.raises(ValueError, match="NaN"):
            calc.get_hamiltonian(sheet)
        with pytest.raises(ValueError, match=r"0\.100 Å apart"):
            calc.get_hamiltonian(Atoms("C2", [[0, 0, 0], [0, 0, 0.1]]))

    def test_absent_radial_functions(self, sheet: Atoms) -> None:
        calc = DeepHCalculator(bare)
        assert calc.get_hamiltonian(sheet).n_orbitals == 8
        with pytest.raises(ValueError, match="radial functions"):
            calc.get_fermi_level()

    def test_a_source_that_returns_something_else(self, sheet: Atoms) -> None:
        with pytest.raises(ValueError, match="ndarray"):
            DeepHCalculator(lambda atoms: np.zeros(3)).get_hamiltonian(sheet)

    def test_a_failed_structure_does_not_stick(self, sheet: Atoms) -> None:
        level = sheet.calc.get_fermi_level()
        kept = sheet.positions.copy()
        sheet.positions[0] = np.nan
        with pytest.raises(ValueError, match="NaN"):
            sheet.calc.get_fermi_level()
        sheet.positions[:] = kept
        assert sheet.calc.get_fermi_level() == pytest.approx(level)
