"""Neighbours of moving atoms: from a kept list or searched anew, the same pairs, vectors and H."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, graphene

from ase_deeph import AtomPairs
from ase_deeph import neighbours as module
from ase_deeph.neighbours import SKIN, neighbours, search
from tests.toys import untrained


def skewed(n: int = 20) -> Atoms:
    cell = [[7.0, 0.4, 0.0], [2.0, 6.5, 0.3], [0.1, -0.7, 7.5]]
    inside = np.random.default_rng(2).uniform(size=(n, 3))
    return Atoms(f"C{n}", scaled_positions=inside, cell=cell, pbc=True)


def sheet() -> Atoms:
    atoms = graphene(size=(3, 3, 1), vacuum=5.0)
    atoms.pbc = (True, True, False)
    return atoms


@pytest.fixture(autouse=True)
def _empty_memory() -> None:
    module._seen.clear()


@pytest.mark.parametrize("make", [skewed, sheet, lambda: bulk("C")], ids=["skewed", "sheet", "diamond"])
@pytest.mark.parametrize("step", [0.01, 0.1, 0.3])
def test_the_same_as_a_fresh_search(make, step: float) -> None:  # type: ignore[no-untyped-def]
    atoms, rng = make(), np.random.default_rng(0)
    for _ in range(25):
        atoms.positions += rng.normal(0.0, step, atoms.positions.shape)
        kept, fresh = neighbours(atoms, 4.3), search(atoms, 4.3)
        assert np.array_equal(kept.keys, fresh.keys)
        assert np.array_equal(kept.reverse, fresh.reverse)
        pairs = AtomPairs.from_atoms(atoms, 4.3)
        checked = AtomPairs(pairs.i, pairs.j, pairs.R, len(atoms))
        assert pairs == checked
        assert np.array_equal(pairs.reverse, checked.reverse)


def test_few_searches_in_a_slow_motion(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[float] = []

    def counted(atoms: Atoms, cutoff: float) -> module.Neighbours:
        calls.append(cutoff)
        return search(atoms, cutoff)

    monkeypatch.setattr(module, "search", counted)
    atoms, rng = sheet(), np.random.default_rng(0)
    for _ in range(200):
        atoms.positions += rng.normal(0.0, 0.002, atoms.positions.shape)
        neighbours(atoms, 4.3)
    assert calls == [4.3, 4.3 + SKIN]
    atoms.positions[3] += SKIN
    neighbours(atoms, 4.3)
    assert len(calls) == 3, "moved too far"
    atoms.set_cell(atoms.cell * 1.01)
    neighbours(atoms, 4.3)
    assert calls[3] == 4.3, "another cell is another structure"
    neighbours(atoms, 4.0)
    assert calls[4] == 4.0


def test_wrapping_an_atom_is_seen() -> None:
    atoms = skewed()
    for _ in range(3):
        neighbours(atoms, 4.0)
        atoms.positions += 0.001
    before = neighbours(atoms, 4.0)
    atoms.positions[0] += atoms.cell[0]
    after = neighbours(atoms, 4.0)
    assert np.array_equal(after.keys, search(atoms, 4.0).keys)
    assert not np.array_equal(after.keys, before.keys)


def test_bad_positions_are_still_refused() -> None:
    atoms = skewed()
    for _ in range(3):
        neighbours(atoms, 4.0)
    atoms.positions[0, 0] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        neighbours(atoms, 4.0)


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    for n in range(30):
        atoms = bulk("C", a=3.0 + 0.01 * n)
        neighbours(atoms, 4.0)
    assert len(module._seen) <= 8
    monkeypatch.setattr(module, "_MOST_PAIRS", 10)
    atoms = skewed()
    for _ in range(3):
        atoms.positions += 0.001
        assert np.array_equal(neighbours(atoms, 4.0).keys, search(atoms, 4.0).keys)
    assert next(reversed(module._seen.values())).longer is None, "large lists are not kept"


def test_a_model_is_compiled_once_for_a_motion() -> None:
    """H from the kept list is H from a fresh one to the last bit; 40 steps, one compilation."""
    model, rng = untrained(), np.random.default_rng(0)
    atoms = sheet()
    atoms.positions += rng.normal(0.0, 0.05, atoms.positions.shape)
    for n in range(40):
        atoms.positions += rng.normal(0.0, 0.02, atoms.positions.shape)
        h = model(atoms)
        if n % 13 == 12:
            module._seen.clear()
            again = model(atoms)
            assert h.pairs == again.pairs
            assert np.array_equal(h.entries, again.entries)
    assert model.n_compilations == 1


@pytest.mark.parametrize("cutoff", [0.4, 1.6])
def test_wide_flat_sheets(cutoff: float) -> None:
    """30,000 atoms in one plane, for which a cell list of so short a range would be cut into too many cells."""
    atoms = graphene(a=2.46, size=(122, 122, 1), vacuum=10)
    atoms.pbc = (True, True, False)
    found = search(atoms, cutoff)
    assert len(found.keys) == len(atoms) * (4 if cutoff > 1.42 else 1)
    assert np.array_equal(found.keys[found.reverse][:, [1, 0]], found.keys[:, :2])
