"""The training domain: what it keeps of structures, what it says of others, in the model file and the calculator."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, graphene, molecule

from ase_deeph import DeepHCalculator, HamiltonianModel
from ase_deeph.domain import TrainingDomain
from ase_deeph.matrix import RealSpaceMatrix
from tests.test_calculator import bare
from tests.toys import Huckel, untrained

CUTOFF = 4.0


def sheet(a: float = 2.46) -> Atoms:
    return graphene(a=a, vacuum=6.0)


def knows(*structures: Atoms) -> TrainingDomain:
    first, *others = (TrainingDomain.of(atoms, CUTOFF) for atoms in structures)
    for other in others:
        first = first | other
    return first


class Trained(Huckel):
    """Extended Hückel theory that claims a training domain."""

    def __init__(self, domain: TrainingDomain, strength: float = 1.75) -> None:
        super().__init__(strength=strength)
        self.domain = domain


class TestDomain:
    def test_graphene_and_methane(self) -> None:
        seen = knows(sheet(), molecule("CH4"))
        assert seen.shortest[("C", "C")] == pytest.approx(2.46 / np.sqrt(3))
        assert seen.shortest[("C", "H")] == pytest.approx(1.0896, abs=1e-3)
        assert set(seen.shortest) == {("C", "C"), ("C", "H"), ("H", "H")}
        assert seen.coordination == {"C": (3, 4), "H": (1, 1)}
        assert seen.n_structures == 2
        assert seen.outside(sheet(2.4)) == seen.outside(molecule("CH4")) == ()

    def test_what_lies_outside(self) -> None:
        seen = knows(sheet())
        assert seen.outside(bulk("Si")) == ("no Si in training",)
        (close,) = seen.outside(sheet(2.0))
        assert close.startswith("C 0 and C 1 are 1.155 Å apart")
        assert "1.420 Å" in close
        assert seen.outside(sheet(2.3)) == (), "less than 10 % below the shortest"
        (bonds,) = seen.outside(bulk("C"))
        assert bonds == "C 0 has 4 bonds (and 1 more such atoms); in training always 3"

    def test_unseen_pair(self) -> None:
        far = Atoms("HH", [[0, 0, 0], [0, 0, 20.0]])
        seen = knows(sheet(), far)
        assert seen.outside(Atoms("HH", [[0, 0, 0], [0, 0, 3.0]])) == (
            "no H-H pairs closer than 4 Å in training",
        )

    def test_atoms_far_from_all_others(self) -> None:
        seen = knows(sheet())
        assert seen.nearest == {"C": pytest.approx(2.46 / np.sqrt(3))}
        lines = seen.outside(sheet(2.8))
        assert lines[-1].startswith(
            "the nearest neighbour of C 0 is 1.617 Å away; in training at most 1.420 Å"
        )
        assert seen.outside(sheet(2.6)) == ()
        assert seen.outside(Atoms("C"))[-1].startswith("the nearest neighbour of C 0 is beyond 4 Å away")

    def test_moments_of_other_sizes(self) -> None:
        layer = sheet()
        moments = np.array([[0.0, 0.0, 1.0], [0.0, 0.6, -0.8]])
        seen = TrainingDomain.of(layer, CUTOFF, moments=moments)
        assert seen.moments == {"C": (1.0, 1.0)}
        assert TrainingDomain.from_dict(json.loads(json.dumps(seen.to_dict()))).moments == seen.moments
        layer.set_initial_magnetic_moments([-1.0, 1.0])
        assert seen.outside(layer) == ()
        layer.set_initial_magnetic_moments([1.0, -0.86])
        assert seen.outside(layer) == ("C 1 has an initial moment of 0.86 μB; in training always 1 μB",)
        less = seen | TrainingDomain.of(layer, CUTOFF, moments=0.5 * moments)
        assert less.moments == {"C": (0.5, 1.0)}
        assert less.outside(layer) == ()
        assert knows(layer).outside(layer) == (), "a model that reads no moments knows no sizes"

    def test_json_round_trip(self) -> None:
        seen = knows(sheet(), molecule("CH4"))
        back = TrainingDomain.from_dict(json.loads(json.dumps(seen.to_dict())))
        assert back.coordination == seen.coordination
        assert back.shortest == pytest.approx(dict(seen.shortest), abs=1e-5)
        assert (back.cutoff, back.n_structures) == (CUTOFF, 2)

    @pytest.mark.parametrize(
        "content",
        [
            {},
            [],
            {"cutoff": 4.0, "shortest_distances": {"C": 1.0}, "coordination": {}, "bond_factor": 1.3},
            {**knows(sheet()).to_dict(), "cutoff": -1.0},
            {**knows(sheet()).to_dict(), "coordination": {"C": [3]}},
        ],
    )
    def test_what_is_no_domain(self, content: object) -> None:
        with pytest.raises(ValueError, match="training domain"):
            TrainingDomain.from_dict(content)  # type: ignore[arg-type]


class TestModelFile:
    def test_kept_and_optional(self, tmp_path: Path) -> None:
        model = untrained()
        model.save(tmp_path / "without.h5")
        assert HamiltonianModel.load(tmp_path / "without.h5").domain is None
        seen = knows(sheet())
        replace(model, provenance={**model.provenance, "domain": seen.to_dict()}).save(tmp_path / "with.h5")
        back = HamiltonianModel.load(tmp_path / "with.h5")
        assert back.domain == TrainingDomain.from_dict(seen.to_dict())
        for a, b in zip(jax.tree.leaves(back.params), jax.tree.leaves(model.params), strict=True):
            assert np.array_equal(a, b)

    def test_a_damaged_one_is_named(self, tmp_path: Path) -> None:
        replace(untrained(), provenance={"domain": {"cutoff": "far"}}).save(tmp_path / "odd.h5")
        with pytest.raises(ValueError, match=r"odd\.h5: training domain") as caught:
            HamiltonianModel.load(tmp_path / "odd.h5")
        assert "\n" not in str(caught.value)

    def test_the_model_that_ships(self) -> None:
        domain = DeepHCalculator().model.domain
        assert domain.n_structures > 100
        assert domain.outside(sheet()) == ()
        assert "bonds" in domain.outside(bulk("C"))[0]


class TestCalculator:
    def test_one_warning_per_geometry(self, caplog: pytest.LogCaptureFixture) -> None:
        diamond = bulk("C")
        diamond.calc = DeepHCalculator(Trained(knows(sheet())))
        for _ in range(2):
            diamond.calc.get_hamiltonian()
            diamond.calc.get_fermi_level()
        assert len(caplog.records) == 1
        assert caplog.records[0].levelno == logging.WARNING
        assert "C 0 has 4 bonds" in caplog.text
        diamond.rattle(0.01, seed=1)
        diamond.calc.get_hamiltonian()
        assert len(caplog.records) == 2

    def test_silence_inside(self, caplog: pytest.LogCaptureFixture) -> None:
        members = [Trained(knows(sheet()), k) for k in (1.75, 1.7501)]
        DeepHCalculator(members).get_hamiltonian(sheet())
        DeepHCalculator(Huckel()).get_hamiltonian(bulk("C"))
        assert not caplog.records

    def test_spread_above_the_limit(self, caplog: pytest.LogCaptureFixture) -> None:
        members = [Huckel(strength=k) for k in (1.70, 1.80)]
        DeepHCalculator(members, max_spread=None).get_hamiltonian(sheet())
        DeepHCalculator(members, max_spread=10.0).get_hamiltonian(sheet())
        assert not caplog.records
        calc = DeepHCalculator(members, max_spread=1e-3)
        calc.get_hamiltonian(sheet())
        found = calc.get_uncertainty()
        expected = (
            f"differ by {1e3 * found.hamiltonian.mean_absolute:.2f} meV in H, above the limit of 1.00 meV"
        )
        assert expected in caplog.text
        assert expected in found.outside_domain[0]
        assert len(caplog.records) == 1
        with pytest.raises(ValueError, match="max_spread"):
            DeepHCalculator(members, max_spread=-1.0)

    def test_uncertainty(self) -> None:
        members = [Huckel(strength=k) for k in (1.745, 1.755)]
        calc = DeepHCalculator(members, kpts={"size": (4, 4, 1), "gamma": True})
        found = calc.get_uncertainty(sheet())
        assert all(m.calls == 1 for m in members)
        alone = [DeepHCalculator(m, kpts={"size": (4, 4, 1), "gamma": True}) for m in members]
        levels = np.array([c.get_electronic_structure(sheet()).mesh_eigenvalues for c in alone])
        levels = levels - found.hamiltonian.shifts[:, None, None, None]
        low = slice(0, 5)
        assert found.eigenvalues.shape == calc.get_electronic_structure().mesh_eigenvalues.shape
        np.testing.assert_allclose(found.eigenvalues[..., low], np.std(levels, axis=0)[..., low], atol=2e-3)
        fermi = [c.get_fermi_level() for c in alone] - found.hamiltonian.shifts
        assert found.fermi_level == pytest.approx(np.std(fermi), abs=2e-3)
        assert found.eigenvalues[..., low].max() > 0.01

    def test_a_single_model_has_none(self) -> None:
        calc = DeepHCalculator(Trained(knows(sheet())))
        with pytest.raises(ValueError, match=r"two or more members, received 1.*list of models"):
            calc.get_uncertainty(sheet())

    def test_without_an_overlap(self) -> None:
        def shifted(atoms: Atoms) -> RealSpaceMatrix:
            return bare(atoms) * 1.01

        found = DeepHCalculator([bare, shifted]).get_uncertainty(sheet())
        assert found.hamiltonian.mean_absolute == pytest.approx(
            0.005 * np.abs(Huckel()(sheet()).entries).mean()
        )
        with pytest.raises(ValueError, match="overlap is unknown"):
            _ = found.eigenvalues
