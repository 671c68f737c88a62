"""Two-centre blocks in the frame of their pair: ⟨l m|S|l' m'⟩ vanishes for m ≠ m' and is one number for ±m.

Exact for a two-centre operator such as S (with PAW bases up to small three-centre terms).  The weight that
breaks the rule, the leakage, tells whether positions, R, and the order of the orbitals are right.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ase_deeph.harmonics import edge_rotations
from ase_deeph.matrix import RealSpaceMatrix

_SIGNIFICANT = 1e-2
_MOST_PAIRS = 6000

Order = Callable[[int], tuple[tuple[int, ...], tuple[int, ...]]]
"""l -> (position in the other order of each of our m = -l ... l, sign of each)."""

_OPENMX = {0: (0,), 1: (1, 2, 0), 2: (2, 4, 0, 3, 1), 3: (6, 4, 2, 0, 1, 3, 5)}


def _unsigned(places: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return places, (1,) * len(places)


def _alternating(l: int) -> tuple[int, ...]:
    """Places in the order m = 0, +1, -1, +2, -2, ..."""
    return tuple(2 * abs(m) - (m > 0) for m in range(-l, l + 1))


def _odd_signs(l: int) -> tuple[int, ...]:
    return tuple((-1) ** abs(m) for m in range(-l, l + 1))


ORDERS: dict[str, Order] = {
    "p x,y,z; d z²,x²-y²,xy,xz,yz (OpenMX, legacy DeepH)": lambda l: _unsigned(
        _OPENMX.get(l, tuple(range(2 * l + 1)))
    ),
    "p x,y,z; d, f m = -l..l (PySCF)": lambda l: _unsigned((1, 2, 0) if l == 1 else tuple(range(2 * l + 1))),
    "m = 0,+1,-1,+2,-2 with signs (-1)^m (ABACUS)": lambda l: (_alternating(l), _odd_signs(l)),
    "m = 0,+1,-1,+2,-2": lambda l: _unsigned(_alternating(l)),
    "m = -l..l with signs (-1)^m (SIESTA)": lambda l: (tuple(range(2 * l + 1)), _odd_signs(l)),
    "m = -l..l with sign -1 for odd m > 0 (FHI-aims)": lambda l: (
        tuple(range(2 * l + 1)),
        tuple(-1 if m > 0 and m % 2 else 1 for m in range(-l, l + 1)),
    ),
    "m = +l..-l": lambda l: _unsigned(tuple(range(2 * l, -1, -1))),
    "p z,x,y; d, f m = -l..l": lambda l: _unsigned((2, 0, 1) if l == 1 else tuple(range(2 * l + 1))),
}


@dataclass(frozen=True, eq=False)
class _Group:
    """Blocks of all pairs of two species."""

    rows: tuple[int, ...]
    cols: tuple[int, ...]
    members: np.ndarray
    blocks: np.ndarray


@dataclass(frozen=True, eq=False)
class EdgeView:
    """The significant off-site blocks of a matrix, grouped by species.

    Parameters
    ----------
    matrix : where they come from.
    chosen : (n,) positions of the pairs in the matrix' list.
    groups : their blocks.
    """

    matrix: RealSpaceMatrix
    chosen: np.ndarray
    groups: list[_Group]

    @classmethod
    def of(cls, matrix: RealSpaceMatrix, significant: float = _SIGNIFICANT) -> EdgeView:
        """The view of a spinless matrix; at most a few thousand pairs, evenly spread."""
        norms = matrix.block_norms()
        off = np.nonzero(~matrix.pairs.on_site & (norms > significant * norms.max(initial=0.0)))[0]
        chosen = off[:: max(1, -(-len(off) // _MOST_PAIRS))]
        symbols = np.array(matrix.atoms.get_chemical_symbols())
        kinds = list(zip(symbols[matrix.pairs.i[chosen]], symbols[matrix.pairs.j[chosen]], strict=True))
        groups = []
        for kind in sorted(set(kinds)):
            members = np.array([n for n, k in enumerate(kinds) if k == kind], dtype=int)
            blocks = np.stack([matrix.block_at(int(n)) for n in chosen[members]])
            rows, cols = (matrix.basis.shells(str(s)) for s in kind)
            groups.append(_Group(rows, cols, members, blocks))
        return cls(matrix, chosen, groups)

    @property
    def has_angular_shells(self) -> bool:
        """Whether some block has a shell with l > 0, without which the rule says nothing."""
        return any(max(g.rows + g.cols) > 0 for g in self.groups)

    def in_edge_frame(self, group: _Group, d: np.ndarray, order: Order | None = None) -> np.ndarray:
        """(n, rows, cols) blocks of a group in the frame whose z axis is d."""
        lengths = np.linalg.norm(d, axis=1, keepdims=True)
        unit = np.where(lengths > 1e-8, d / np.maximum(lengths, 1e-8), np.array([[0.0, 0.0, 1.0]]))
        rotations = edge_rotations(max(group.rows + group.cols), unit)
        blocks = group.blocks if order is None else _reordered(group, order)
        turned = np.array(blocks)
        for l, shell in _shell_slices(group.rows):
            turned[:, shell, :] = np.swapaxes(rotations[l], 1, 2) @ turned[:, shell, :]
        for l, shell in _shell_slices(group.cols):
            turned[:, :, shell] = turned[:, :, shell] @ rotations[l]
        return turned

    def leakage(self, d: np.ndarray, order: Order | None = None) -> tuple[np.ndarray, np.ndarray]:
        """(n,) squared weight of each chosen block that breaks the rule, and its whole squared weight.

        Parameters
        ----------
        d : (n, 3) displacements of the chosen pairs in Å.
        order : the order in which the orbitals are supposed to be stored.
        """
        broken, whole = np.zeros((2, len(self.chosen)))
        for group in self.groups:
            turned = self.in_edge_frame(group, d[group.members], order)
            m, n = (np.concatenate([np.arange(-l, l + 1) for l in s]) for s in (group.rows, group.cols))
            off = np.sum(np.abs(turned) ** 2 * (m[:, None] != n[None, :]), axis=(1, 2))
            mirrored = turned[:, _mirror(group.rows)][:, :, _mirror(group.cols)]
            same = np.abs(turned - mirrored) ** 2 * (m[:, None] == n[None, :])
            broken[group.members] = off + 0.5 * np.sum(same, axis=(1, 2))
            whole[group.members] = np.sum(np.abs(group.blocks) ** 2, axis=(1, 2))
        return broken, whole


def ratio(leakage: tuple[np.ndarray, np.ndarray], mask: np.ndarray | None = None) -> float:
    """Root of the share of weight that breaks the rule: 0 (exact) to about 0.8 (random)."""
    broken, whole = leakage if mask is None else (leakage[0][mask], leakage[1][mask])
    return float(np.sqrt(broken.sum() / max(whole.sum(), 1e-300)))


def _shell_slices(shells: tuple[int, ...]) -> list[tuple[int, slice]]:
    ends = np.cumsum([2 * l + 1 for l in shells])
    return [(l, slice(int(e) - 2 * l - 1, int(e))) for l, e in zip(shells, ends, strict=True)]


def _mirror(shells: tuple[int, ...]) -> np.ndarray:
    """For each orbital m the position of -m of its shell."""
    return np.concatenate([np.arange(s.start, s.stop)[::-1] for _, s in _shell_slices(shells)])


def _reordered(group: _Group, order: Order) -> np.ndarray:
    """The blocks in our order when they are stored in another."""
    blocks = group.blocks
    for axis, shells in ((1, group.rows), (2, group.cols)):
        places, signs = [], []
        for l, shell in _shell_slices(shells):
            where, sign = order(l)
            places.append(shell.start + np.array(where))
            signs.append(sign)
        factor = np.concatenate(signs).astype(float)
        blocks = np.take(blocks, np.concatenate(places), axis=axis)
        blocks = blocks * (factor[:, None] if axis == 1 else factor[None, :])
    return blocks
