"""FHI-aims: the sign of R and wrapped atoms put right, order and signs proved in the frame of the bond."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ase_deeph.electronic_structure import ElectronicStructure
from ase_deeph.io import read_aims, read_deeph, write_deeph
from ase_deeph.io.proof import cell_shifts, distance_correlation
from ase_deeph.matrix import RealSpaceMatrix
from ase_deeph.pairs import AtomPairs
from tests.reader_files import crystal, write_aims
from tests.test_io_siesta import assert_same, difference

DATA = next(
    (p / "shared/data/aims" for p in Path(__file__).parents if (p / "shared/data/aims").is_dir()), None
)
needs_data = pytest.mark.skipif(DATA is None, reason="FHI-aims's example output (shared/data/aims) is absent")


@pytest.fixture(scope="module")
def silicon():
    return read_aims(DATA / "Si")


@needs_data
def test_example_is_proved(silicon) -> None:
    assert distance_correlation(silicon.overlap) <= -0.9
    assert distance_correlation(silicon.overlap, -1) > -0.7
    assert silicon.info["bond_frame_defect"] < 0.01
    assert silicon.n_electrons == 28
    assert silicon.basis.shells("Si") == (0, 0, 0, 0, 1, 1, 1, 2, 3)


@needs_data
def test_example_has_silicons_levels(silicon) -> None:
    """Cubic degeneracies at Γ, a gap of PBE's size, and 1s levels that hold two electrons each."""
    es = ElectronicStructure(silicon.hamiltonian, silicon.overlap, silicon.n_electrons, kpts=(4, 4, 4))
    levels = es.eigenvalues([[0, 0, 0]])[0, 0]
    assert np.ptp(levels[11:14]) < 1e-3
    assert np.ptp(levels[14:17]) < 1e-3
    assert levels[14] - levels[13] == pytest.approx(2.56, abs=0.05)
    assert levels[1] < -1700


@needs_data
def test_example_is_kept(silicon, tmp_path: Path) -> None:
    write_deeph(tmp_path / "s", silicon)
    assert_same(read_deeph(tmp_path / "s"), silicon)


@pytest.mark.parametrize("spin", ["none", "collinear"])
def test_written_is_read_back(spin: str, tmp_path: Path) -> None:
    data = crystal(spin)
    write_aims(tmp_path / "a", data)
    back = read_aims(tmp_path / "a")
    assert difference(back.hamiltonian, data.hamiltonian) < 1e-11
    assert difference(back.overlap, data.overlap) < 1e-12
    assert np.allclose(back.atoms.positions, data.atoms.positions, atol=1e-10)
    assert (back.n_electrons, back.fermi_level) == (5 + 7 - 4, -4.25)


@pytest.mark.parametrize("moved", [(1, 0, 0), (0, -2, 1), (3, 3, -1)])
def test_cells_of_moved_atoms_are_found_from_the_overlap(moved: tuple[int, int, int]) -> None:
    S = crystal().overlap
    step = np.array(moved) * ((S.pairs.j == 1).astype(int) - (S.pairs.i == 1))[:, None]
    pairs = AtomPairs(S.pairs.i, S.pairs.j, S.pairs.R + step, 2)
    order = np.lexsort(np.column_stack([S.pairs.i, S.pairs.j, S.pairs.R + step]).T[::-1])
    blocks = list(S.blocks())
    wrong = RealSpaceMatrix.from_blocks(S.basis, pairs, S.atoms, [blocks[n] for n in order])
    shifts = cell_shifts(wrong)
    assert (shifts[1] - shifts[0]).tolist() == list(moved)
    assert not cell_shifts(S).any()


def test_an_atom_on_the_edge_of_the_central_cell(tmp_path: Path) -> None:
    """1/2 and -1/2 differ by rounding; the overlap decides."""
    data = crystal()
    write_aims(tmp_path / "a", data)
    path = tmp_path / "a/geometry.in"
    lines = path.read_text().splitlines()
    words = lines[-1].split()
    words[1] = f"{float(words[1]) - 1.0:.15f}"
    path.write_text("\n".join([*lines[:-1], " ".join(words)]) + "\n")
    back = read_aims(tmp_path / "a")
    assert distance_correlation(back.overlap) == pytest.approx(distance_correlation(data.overlap), abs=1e-9)
    assert len(back.overlap.pairs) == len(data.overlap.pairs)


def test_what_does_not_belong_together_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_aims(tmp_path / "nowhere")
    write_aims(tmp_path / "a", crystal())
    overlap, hamiltonian = tmp_path / "a/rs_overlap.out", tmp_path / "a/rs_hamiltonian.out"
    s, h = overlap.read_text(), hamiltonian.read_text()
    overlap.write_text(h)
    with pytest.raises(ValueError, match="orthonormal"):
        read_aims(tmp_path / "a")
    overlap.write_text(s[: len(s) // 2])
    with pytest.raises(ValueError, match="truncated"):
        read_aims(tmp_path / "a")
    overlap.write_text(s)
    geometry = tmp_path / "a/geometry.in"
    geometry.write_text(geometry.read_text().replace(" N ", " empty_site "))
    with pytest.raises(ValueError, match=r"geometry\.in.*unknown"):
        read_aims(tmp_path / "a")
