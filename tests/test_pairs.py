"""AtomPairs: against ASE's neighbour list, reverse pairs, positions taken as given."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, graphene, molecule
from ase.neighborlist import neighbor_list

from ase_deeph.pairs import AtomPairs


def _sheet() -> Atoms:
    atoms = graphene(size=(2, 3, 1), vacuum=4.0)
    atoms.rattle(0.1, seed=1)
    return atoms


STRUCTURES = {"molecule": molecule("H2O"), "sheet": _sheet(), "bulk": bulk("Si")}


@pytest.mark.parametrize("name", STRUCTURES)
def test_same_pairs_as_ase(name):
    atoms = STRUCTURES[name].copy()
    cells = np.random.default_rng(0).integers(-2, 3, (len(atoms), 3)) * atoms.pbc
    atoms.positions += cells @ atoms.cell.array
    pairs = AtomPairs.from_atoms(atoms, 5.5)
    i, j, R = neighbor_list("ijS", atoms, 5.5)
    expected = {(a, b, *map(int, c)) for a, b, c in zip(i, j, R, strict=True)} | {
        (a, a, 0, 0, 0) for a in range(len(atoms))
    }
    found = {(int(a), int(b), *map(int, c)) for a, b, c in zip(pairs.i, pairs.j, pairs.R, strict=True)}
    assert found == expected
    assert np.max(np.linalg.norm(pairs.displacements(atoms), axis=1)) < 5.5


def test_reverse_is_an_involution():
    pairs = AtomPairs.from_atoms(STRUCTURES["sheet"], 4.0)
    assert np.array_equal(pairs.reverse[pairs.reverse], np.arange(len(pairs)))
    assert np.array_equal(pairs.R[pairs.reverse], -pairs.R)
    assert np.array_equal(pairs.i[pairs.reverse], pairs.j)


def test_radii_per_species():
    atoms = molecule("H2O")
    pairs = AtomPairs.from_atoms(atoms, {"H": 0.4, "O": 0.7})
    assert len(pairs) == 3 + 4
    with pytest.raises(KeyError, match="no radius for O"):
        AtomPairs.from_atoms(atoms, {"H": 1.0})


def test_index_union_and_selection():
    atoms = STRUCTURES["bulk"]
    near, far = AtomPairs.from_atoms(atoms, 2.5), AtomPairs.from_atoms(atoms, 5.0)
    assert near.union(far) == far
    where = far.indices_of(near)
    assert np.array_equal(far.R[where], near.R)
    n = far.index(0, 1, (0, 0, 0))
    assert (far.i[n], far.j[n]) == (0, 1)
    with pytest.raises(KeyError, match="not among"):
        near.index(0, 0, (9, 0, 0))


@pytest.mark.parametrize(
    ("i", "j", "R", "message"),
    [
        ([0, 0], [0, 0], [[0, 0, 0], [0, 0, 0]], "appears twice"),
        ([0, 3], [0, 0], [[0, 0, 0], [0, 0, 0]], "indices"),
    ],
)
def test_bad_pairs(i, j, R, message):
    with pytest.raises(ValueError, match=message):
        AtomPairs(np.array(i), np.array(j), np.array(R), 2)


def test_missing_reverse_is_named():
    pairs = AtomPairs(np.array([0, 0]), np.array([0, 1]), np.zeros((2, 3), int), 2)
    with pytest.raises(ValueError, match=r"\(0, 1, R=\(0, 0, 0\)\) has no reverse"):
        _ = pairs.reverse


def test_bad_structures():
    atoms = molecule("H2O")
    atoms.positions[0, 0] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        AtomPairs.from_atoms(atoms, 3.0)
    with pytest.raises(ValueError, match="set a cell"):
        AtomPairs.from_atoms(Atoms("C", pbc=True), 3.0)
    with pytest.raises(ValueError, match="positive length"):
        AtomPairs.from_atoms(molecule("H2O"), -1.0)
