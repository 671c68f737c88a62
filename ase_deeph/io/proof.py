"""A reader proves itself: cheap numbers that betray a wrong R, order of orbitals, spin mapping or a damaged file.

With R, atoms and orbitals right, S falls with distance (rank correlation near -0.95; near -0.5 when the sign of R
is wrong), an atom's own orbitals are orthonormal up to shells of equal l, and in the frame of a bond S couples equal
m only (J. C. Slater, G. F. Koster, Phys. Rev. 94, 1498 (1954)).
"""

from __future__ import annotations

import logging

import numpy as np
import scipy.sparse as sp
from scipy.sparse.csgraph import breadth_first_order, connected_components, minimum_spanning_tree
from scipy.stats import spearmanr

from ase_deeph.harmonics import edge_rotations, rotation_of_degree
from ase_deeph.matrix import RealSpaceMatrix

logger = logging.getLogger(__name__)

_FEWEST_PAIRS = 12
_BETTER = 0.05
_FAILS, _DOUBTFUL = -0.5, -0.8
_ON_SITE = 0.01
_BOND_FRAME = 0.1
_SAMPLE = 150
_REPULSIVE = -1e-4
_ZERO = 1e-10


def distance_correlation(overlap: RealSpaceMatrix, sign: int = 1) -> float | None:
    """Spearman's rank correlation of |d| with max|S block| over pairs with a block; None below a dozen pairs.

    Parameters
    ----------
    sign : +1 for d = x_j + R·cell - x_i, -1 for the same with -R.
    """
    size = overlap.block_norms()
    held = size > _ZERO
    pairs, atoms = overlap.pairs, overlap.atoms
    d = atoms.positions[pairs.j] + sign * pairs.R @ atoms.cell.array - atoms.positions[pairs.i]
    distance = np.linalg.norm(d, axis=1)[held]
    if held.sum() < _FEWEST_PAIRS or np.ptp(distance) < 1e-6 or np.ptp(size[held]) < _ZERO:
        return None
    return float(spearmanr(np.round(distance, 6), size[held]).statistic)


def on_site_defect(overlap: RealSpaceMatrix) -> float:
    """Largest deviation of an atom's own S block from 1 on the diagonal and 0 between different (l, m).

    Orbitals of one atom with different (l, m) are orthogonal, whatever their radial functions; normalised ones
    have 1 on the diagonal.  A matrix folded at Γ (other cells added to R = 0) or a wrong list of shells shows
    here.  Not for PAW overlaps.
    """
    worst, symbols = 0.0, overlap.atoms.get_chemical_symbols()
    pairs = overlap.pairs
    for n in np.nonzero(pairs.on_site)[0]:
        l, m = _quantum_numbers(overlap.basis.shells(symbols[pairs.i[n]]))
        alike = (l[:, None] == l) & (m[:, None] == m)
        block = overlap.block(int(pairs.i[n]), int(pairs.i[n]), (0, 0, 0))
        worst = max(
            worst, float(np.abs(block[~alike]).max(initial=0.0)), float(np.abs(np.diag(block) - 1).max())
        )
    return worst


def bond_frame_defect(overlap: RealSpaceMatrix) -> float:
    """Largest |⟨l m|l' m'⟩| with m ≠ m' in the frame of the bond, over the largest element; near pairs only.

    Near 0 when order and signs of the orbitals are ours, of order 1 when they are not.  Not for PAW overlaps.
    """
    pairs = overlap.pairs
    d = pairs.displacements(overlap.atoms)
    distance = np.linalg.norm(d, axis=1)
    near = np.argsort(distance, kind="stable")
    near = near[(distance[near] > 0.3)][:_SAMPLE]
    if not len(near):
        return 0.0
    symbols = np.array(overlap.atoms.get_chemical_symbols())
    l_max = max(max(overlap.basis.shells(s)) for s in set(symbols.tolist()))
    rotations = edge_rotations(l_max, d[near] / distance[near, None])
    worst = largest = 0.0
    for row, column in {(str(symbols[pairs.i[n]]), str(symbols[pairs.j[n]])) for n in near}:
        chosen = np.nonzero((symbols[pairs.i[near]] == row) & (symbols[pairs.j[near]] == column))[0]
        rows, columns = overlap.basis.shells(row), overlap.basis.shells(column)
        blocks = np.stack([overlap.block_at(int(near[at])) for at in chosen])
        left = _frames(rows, [D[chosen] for D in rotations])
        right = _frames(columns, [D[chosen] for D in rotations])
        turned = np.abs(left.swapaxes(1, 2) @ blocks @ right)
        unequal = _quantum_numbers(rows)[1][:, None] != _quantum_numbers(columns)[1]
        worst = max(worst, float(turned[:, unequal].max(initial=0.0)))
        largest = max(largest, float(turned.max()))
    return worst / largest if largest > 1e-6 else 0.0


def _frames(shells: tuple[int, ...], rotations: list[np.ndarray]) -> np.ndarray:
    """(n, n_orbitals, n_orbitals) block-diagonal rotations of the shells."""
    size = sum(2 * l + 1 for l in shells)
    frames, start = np.zeros((len(rotations[0]), size, size)), 0
    for l in shells:
        inside = slice(start, start + 2 * l + 1)
        frames[:, inside, inside] = rotations[l]
        start += 2 * l + 1
    return frames


def _quantum_numbers(shells: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """l and m of each orbital."""
    l = np.concatenate([np.full(2 * k + 1, k) for k in shells])
    return l, np.concatenate([np.arange(-k, k + 1) for k in shells])


def spin_orbit_strength(hamiltonian: RealSpaceMatrix) -> float:
    """Mean λ (eV) of the part λ L·S of an atom's own spinor block, over its p, d, f shells; 0 without spin-orbit.

    Nuclei attract, so λ > 0; conjugated or transposed spin components make it negative.  Crystal fields and
    magnetisation do not contribute: their products with L·S have no trace.
    """
    total = weight = 0.0
    symbols, pairs = hamiltonian.atoms.get_chemical_symbols(), hamiltonian.pairs
    for n in np.nonzero(pairs.on_site)[0]:
        shells = hamiltonian.basis.shells(symbols[pairs.i[n]])
        block = hamiltonian.block_at(int(n))
        count = sum(2 * l + 1 for l in shells)
        by_spin, start = block.reshape(2, count, 2, count), 0
        for l in shells:
            width = 2 * l + 1
            inside = slice(start, start + width)
            LS = spin_orbit(l)
            total += float(np.real(np.einsum("ambn,bnam->", by_spin[:, inside, :, inside], LS)))
            weight += float(np.real(np.einsum("ambn,bnam->", LS, LS)))
            start += width
    return total / weight if weight else 0.0


def spin_orbit(l: int) -> np.ndarray:
    """L·S (2, 2l+1, 2, 2l+1) in our harmonics, L_a = i d/dt D(rotation by t about a)."""
    t, sigma = 1e-4, 0.5 * np.array([[[0, 1], [1, 0]], [[0, -1j], [1j, 0]], [[1, 0], [0, -1]]])
    product = np.zeros((2, 2 * l + 1, 2, 2 * l + 1), dtype=complex)
    for axis in range(3):
        turn = np.eye(3)
        first, second = (axis + 1) % 3, (axis + 2) % 3
        turn[[first, second], [first, second]] = np.cos(t)
        turn[first, second], turn[second, first] = -np.sin(t), np.sin(t)
        L = 1j * (rotation_of_degree(l, turn) - rotation_of_degree(l, turn.T)) / (2 * np.sin(t))
        product += np.einsum("ab,mn->ambn", sigma[axis], L)
    return product


def checked_hermitian(matrix: RealSpaceMatrix, name: str, where: str, tolerance: float) -> RealSpaceMatrix:
    """The Hermitian part; ValueError when the matrix was further from it than `tolerance`."""
    error = matrix.hermiticity_error()
    if error > tolerance:
        raise ValueError(
            f"{where}: {name} is not Hermitian, max|M_ij(R) - M_ji(-R)*| = {error:.1e} > {tolerance:.0e}; "
            "the file is damaged, or of a layout that this reader does not know"
        )
    return matrix.hermitian_part()


def prove_distance(overlap: RealSpaceMatrix, where: str) -> dict[str, float]:
    """The rank correlation of distance with |S|; empty where there are too few pairs to tell.

    Raises
    ------
    ValueError : it says that R or the atoms are wrong, or that -R would be better.
    """
    correlation = distance_correlation(overlap)
    if correlation is None:
        return {}
    reverse = distance_correlation(overlap, -1)
    reverse = 0.0 if reverse is None else reverse
    if correlation > _FAILS or reverse < correlation - _BETTER:
        raise ValueError(
            f"{where}: rank correlation of distance with |S| is {correlation:.2f} (with -R {reverse:.2f}), near -0.95 "
            "is right: structure and matrices do not belong together, atoms were wrapped, or R has the other sign"
        )
    if correlation > _DOUBTFUL:
        logger.warning("%s: rank correlation of distance with |S| is only %.2f", where, correlation)
    return {"distance_correlation": correlation}


def prove(
    overlap: RealSpaceMatrix,
    where: str,
    hamiltonian: RealSpaceMatrix | None = None,
    *,
    on_site: float = _ON_SITE,
) -> dict[str, float]:
    """The three numbers of an overlap of atom-centred orbitals, and λ of a spinor Hamiltonian.

    Parameters
    ----------
    on_site : the largest `on_site_defect` to accept; integrals on coarse grids need more.

    Raises
    ------
    ValueError : one of them says that R, the atoms or the orbitals are wrong.
    """
    own, bond = on_site_defect(overlap), bond_frame_defect(overlap)
    if own > on_site:
        raise ValueError(
            f"{where}: an atom's own overlap is off by {own:.1e} from orthonormal orbitals; H(R) and S(R) are "
            "folded into one cell (print them for k-points, e.g. SIESTA's ForceAuxCell), or the shells are wrong"
        )
    numbers = {"on_site_defect": own, "bond_frame_defect": bond, **prove_distance(overlap, where)}
    if bond > _BOND_FRAME:
        raise ValueError(
            f"{where}: in the frame of the bond, S couples different m by {bond:.2f} of its largest element; "
            "the order or the signs of the orbitals are not those expected, or the structure is another"
        )
    if hamiltonian is not None and hamiltonian.spin == "spinor":
        numbers["spin_orbit_eV"] = spin_orbit_strength(hamiltonian)
        if numbers["spin_orbit_eV"] < _REPULSIVE:
            raise ValueError(
                f"{where}: the spin-orbit strength is {numbers['spin_orbit_eV']:.1e} eV, it must be positive; the spin "
                "components of H are conjugated or of another order than expected"
            )
    return numbers


def cell_shifts(overlap: RealSpaceMatrix) -> np.ndarray:
    """(n_atoms, 3) whole cells by which a code moved its atoms, judged from S alone.

    The mean displacement of a pair (i, j) weighted with |S_ij(R)|² is within half a cell when the labels R fit
    the positions; whole cells beyond that are steps of j against i, taken along the strongest overlaps.
    """
    pairs, atoms = overlap.pairs, overlap.atoms
    apart = pairs.i != pairs.j
    weight = np.add.reduceat(np.abs(overlap.entries) ** 2, overlap.offsets[:-1])[apart]
    codes, where = np.unique(pairs.i[apart] * len(atoms) + pairs.j[apart], return_inverse=True)
    fractional = (pairs.displacements(atoms) @ np.linalg.inv(atoms.cell.complete().array))[apart]
    total = np.bincount(where, weight, len(codes))
    mean = np.stack([np.bincount(where, weight * f, len(codes)) for f in fractional.T], axis=1)
    strong = total > _ZERO
    steps = np.rint(np.round(mean[strong] / total[strong, None], 3)).astype(np.int64)
    return _walked(len(atoms), codes[strong], total[strong], steps)


def _walked(n: int, codes: np.ndarray, strength: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """Shifts from pairwise steps along a tree of the strongest couplings, from the first atom of each part."""
    rows, columns = codes // n, codes % n
    tree = minimum_spanning_tree(sp.csr_array((1.0 / strength, (rows, columns)), shape=(n, n)))
    step_of = dict(zip(codes.tolist(), steps, strict=True))
    shifts = np.zeros((n, 3), dtype=np.int64)
    parts = connected_components(tree, directed=False)[1]
    for root in np.unique(parts, return_index=True)[1]:
        order, parents = breadth_first_order(tree, int(root), directed=False)
        for a in order[1:]:
            shifts[a] = shifts[parents[a]] + step_of[int(parents[a]) * n + int(a)]
    return shifts
