"""Lead: a periodic electrode, its principal layer, and its own bands, modes and velocities."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import scipy.linalg as sl
from ase import Atoms

from ase_deeph.electronic_structure import ElectronicStructure
from ase_deeph.matrix import RealSpaceMatrix, Spin
from ase_deeph.transport.cells import CellBlocks, Layer, as_real, overlap_message, phase_factors
from ase_deeph.transport.mode_count import BandMesh, ModeCounter

logger = logging.getLogger(__name__)

Cells = int | Literal["auto"]
AXES = "abc"
TOLERANCE = 1e-8
_PROBES = 17
_HERMITICITY = 1e-5


@dataclass(frozen=True, eq=False)
class Lead:
    """A semi-infinite electrode of identical principal layers; made by `from_bulk` or `from_matrices`.

    Parameters
    ----------
    R : (n_R, 3) integer cells.
    hamiltonian : (n_spins, n_R, N, N) ⟨cell 0|H|cell R⟩ in eV.
    overlap : (n_R, N, N).
    norbs : (n_atoms,) orbitals of each atom of the primitive cell.
    axis : transport direction, 0, 1 or 2.
    n_cells : primitive cells of the principal layer.
    spin : "none", "collinear" or "spinor".
    atoms : the primitive cell, or None for a lead from matrices.
    shift : energy in eV by which H is moved, H -> H + shift·S.
    tolerance : entries up to this are zero for the reach of blocks.
    source : the bulk that the lead was made from, where there is one.
    """

    R: np.ndarray
    hamiltonian: np.ndarray
    overlap: np.ndarray
    norbs: np.ndarray
    axis: int
    n_cells: int
    spin: Spin = "none"
    atoms: Atoms | None = None
    shift: float = 0.0
    tolerance: float = TOLERANCE
    source: ElectronicStructure | None = None
    _meshes: dict[Any, BandMesh] = field(default_factory=dict, repr=False)

    @classmethod
    def from_bulk(
        cls,
        es: ElectronicStructure,
        axis: int | str,
        cells: Cells = "auto",
        *,
        tolerance: float = TOLERANCE,
    ) -> Lead:
        """The lead of a bulk that is periodic along an axis.

        Parameters
        ----------
        es : H and S of the primitive cell, of any spin.
        axis : "a", "b", "c" or 0, 1, 2.
        cells : primitive cells of the principal layer; "auto" takes as many as the longest non-zero block of
            H or S along the axis needs.
        tolerance : a block is zero when no entry exceeds this (eV for H, dimensionless for S).

        Raises
        ------
        ValueError : the structure is not periodic or not connected along the axis, a block reaches beyond the
            principal layer, or S(k) is not positive definite.
        """
        along = axis_number(axis)
        h = es.hamiltonian
        if not h.atoms.pbc[along]:
            raise ValueError(
                f"lead: expected a structure periodic along {AXES[along]}, received pbc="
                f"{tuple(bool(p) for p in h.atoms.pbc)}; choose the direction that repeats"
            )
        s = es.overlap
        R, hamiltonian, overlap = _dense_cells(h, s)
        if not (np.all(np.isfinite(hamiltonian)) and np.all(np.isfinite(overlap))):
            raise ValueError(
                "lead: expected finite H and S, received NaN or infinity; check the model or file"
            )
        norbs = h.basis.orbital_counts(h.atoms.get_chemical_symbols()) * (2 if h.spin == "spinor" else 1)
        lead = cls(R, hamiltonian, overlap, norbs, along, 1, h.spin, h.atoms, 0.0, tolerance, es)
        return lead._with_layer(cells)

    @classmethod
    def from_matrices(
        cls,
        R: np.ndarray,
        H: np.ndarray,
        S: np.ndarray | None,
        norbs: Sequence[int] | np.ndarray,
        *,
        axis: int | str = 0,
        cells: Cells = "auto",
        spin: Spin | None = None,
        atoms: Atoms | None = None,
        tolerance: float = TOLERANCE,
    ) -> Lead:
        """The lead of given blocks H(R) = ⟨cell 0|H|cell R⟩.

        Parameters
        ----------
        R : (n_R,) integers along the axis, or (n_R, 3).
        H : (n_R, N, N) eV; (2, n_R, N, N) for collinear spin.
        S : (n_R, N, N), or None for an orthogonal basis.
        norbs : orbitals of each atom of the primitive cell, adding up to N.
        axis, cells, tolerance : as in `from_bulk`.
        spin : "spinor" for two-component H whose rows hold both spins; the default follows the shape of H.

        Raises
        ------
        ValueError : shapes that do not fit, blocks without their reverse, or as in `from_bulk`.
        """
        along = axis_number(axis)
        h = np.asarray(H)
        kind: Spin = spin or ("collinear" if h.ndim == 4 else "none")
        h = h if h.ndim == 4 else h[None]
        cells_R = np.asarray(R)
        if cells_R.ndim == 1:
            cells_R = np.outer(cells_R, np.eye(3, dtype=int)[along])
        s = _unit_overlap(cells_R, h) if S is None else np.asarray(S)
        counts = np.asarray(norbs, dtype=int)
        _check_shapes(cells_R, h, s, counts, kind)
        lead = cls(cells_R.astype(int), h, s, counts, along, 1, kind, atoms, 0.0, tolerance)
        return lead._with_layer(cells)

    def _with_layer(self, cells: Cells) -> Lead:
        """The lead with its principal layer determined and everything checked."""
        sizes = np.maximum(
            np.abs(self.hamiltonian).max(axis=(0, 2, 3)), np.abs(self.overlap).max(axis=(1, 2))
        )
        reach = int(np.abs(self.R[sizes > self.tolerance, self.axis]).max(initial=0))
        n_cells = _layer_cells(reach, cells, self.axis, self.R, sizes)
        kept = np.abs(self.R[:, self.axis]) <= reach
        lead = replace(
            self,
            R=self.R[kept],
            hamiltonian=self.hamiltonian[:, kept],
            overlap=self.overlap[kept],
            n_cells=n_cells,
        )._hermitian()
        lead._check_overlap()
        logger.info(
            "lead along %s: %d orbitals per cell, principal layer of %d cells",
            AXES[self.axis],
            lead.n,
            n_cells,
        )
        return lead

    @property
    def n(self) -> int:
        """Orbitals of the primitive cell."""
        return int(self.overlap.shape[-1])

    @property
    def n_spins(self) -> int:
        """Spin channels that are solved on their own: 2 for collinear spin, else 1."""
        return int(self.hamiltonian.shape[0])

    @property
    def n_atoms(self) -> int:
        """Atoms of the primitive cell."""
        return len(self.norbs)

    @property
    def period(self) -> float:
        """Length of the primitive cell along the axis in Å; 1 for a lead from matrices."""
        return 1.0 if self.atoms is None else float(np.linalg.norm(self.atoms.cell.array[self.axis]))

    def __repr__(self) -> str:
        what = "matrices" if self.atoms is None else self.atoms.get_chemical_formula()
        return (
            f"Lead({what} along {AXES[self.axis]}, {self.n} orbitals per cell, "
            f"principal layer of {self.n_cells} cells, spin={self.spin!r})"
        )

    def shifted(self, shift: float) -> Lead:
        """The lead with H -> H + shift·S (eV)."""
        return replace(self, shift=self.shift + float(shift))

    def blocks(self, kperp: Sequence[float] | np.ndarray | None = None, spin: int = 0) -> CellBlocks:
        """H_r and S_r along the axis, summed over transverse cells at a fractional k (3,), of one spin channel."""
        along = self.R[:, self.axis]
        transverse = np.array(self.R)
        transverse[:, self.axis] = 0
        factors = phase_factors(transverse, np.zeros(3) if kperp is None else kperp)
        steps = np.unique(along)
        h = [np.tensordot(factors[along == r], self.hamiltonian[spin, along == r], 1) for r in steps]
        s = [np.tensordot(factors[along == r], self.overlap[along == r], 1) for r in steps]
        overlap = as_real(np.array(s))
        return CellBlocks(steps, as_real(np.array(h)) + self.shift * overlap, overlap)

    def layer(self, kperp: Sequence[float] | np.ndarray | None = None, spin: int = 0) -> Layer:
        """The principal layer along +axis at a transverse k."""
        return self.blocks(kperp, spin).principal_layer(self.n_cells)

    def counter(self, kperp: Sequence[float] | np.ndarray | None = None, spin: int = 0) -> ModeCounter:
        """The bands of the primitive cell at a transverse k, ready to count modes; computed once."""
        k = np.zeros(3) if kperp is None else np.asarray(kperp, dtype=float)
        key = (tuple(np.round(np.delete(k, self.axis), 12)), spin)
        if key not in self._meshes:
            self._meshes[key] = BandMesh(replace(self, shift=0.0).blocks(kperp, spin))
        return ModeCounter(self._meshes[key], self.shift)

    def with_spin(self, spin: Spin) -> Lead:
        """The lead in another kind of spin: "none" becomes "collinear" with equal channels.

        Raises
        ------
        ValueError : any other change.
        """
        if spin == self.spin:
            return self
        if (self.spin, spin) != ("none", "collinear"):
            raise ValueError(f"lead: expected spin {spin!r} as in the device, received {self.spin!r}")
        return replace(self, hamiltonian=np.repeat(self.hamiltonian, 2, axis=0), spin=spin, _meshes={})

    def window(self) -> tuple[float, float]:
        """Lowest and highest energy in eV of the bands, sampled at Γ and the zone boundary of every direction."""
        levels = [
            self.blocks(kperp, spin).eigenvalues(k)
            for kperp in self._transverse_corners()
            for spin in range(self.n_spins)
            for k in (0.0, 0.25, 0.5)
        ]
        return float(np.min(levels)), float(np.max(levels))

    def _transverse_corners(self) -> list[np.ndarray]:
        """Γ and the corners of the transverse zone."""
        transverse = [p for p in range(3) if p != self.axis and np.any(self.R[:, p])]
        corners = np.zeros((2 ** len(transverse), 3))
        corners[:, transverse] = 0.5 * np.array(list(np.ndindex(*(2,) * len(transverse))))
        return list(corners)

    def bands(self, k: np.ndarray, kperp: Sequence[float] | np.ndarray | None = None) -> np.ndarray:
        """(n_spins, n_k, N) eV: levels of H(k) c = e S(k) c at fractional k (n_k,) along the axis."""
        points = np.atleast_1d(np.asarray(k, dtype=float))
        by_spin = [self.blocks(kperp, spin) for spin in range(self.n_spins)]
        return np.array([[blocks.eigenvalues(point) for point in points] for blocks in by_spin])

    def n_modes(self, energies: np.ndarray, kperp: Sequence[float] | np.ndarray | None = None) -> np.ndarray:
        """(n_energies,) right-moving modes, for collinear spin (2, n_energies), from the primitive cell's bands."""
        points = np.atleast_1d(np.asarray(energies, dtype=float))
        counts = np.array(
            [[self.counter(kperp, s).refined(e) for e in points] for s in range(self.n_spins)], dtype=int
        )
        return counts if self.spin == "collinear" else counts[0]

    def velocities(
        self, energy: float, kperp: Sequence[float] | np.ndarray | None = None, spin: int = 0
    ) -> tuple[np.ndarray, np.ndarray]:
        """Group velocities of the propagating modes, v = dE/dk = ± L / ⟨ψ|S(k)|ψ⟩ of modes of unit current.

        Returns
        -------
        phases : (n,) k·L in radians per principal layer, in (-π, π].
        velocities : (n,) eV·Å, in the same order (L is the layer's length; eV per cell without positions).
        """
        from ase_deeph.transport.kwant_system import lead_velocities

        phases, per_radian = lead_velocities(self.layer(kperp, spin), energy)
        return phases, per_radian * self.period * self.n_cells

    def _hermitian(self) -> Lead:
        """The lead with X(R) = X(-R)† to rounding; ValueError when the blocks given are far from it."""
        place = {tuple(int(x) for x in r): n for n, r in enumerate(self.R)}
        absent = [r for r in place if (-r[0], -r[1], -r[2]) not in place]
        if absent:
            raise ValueError(
                f"lead: cell R={absent[0]} has no reverse R={tuple(-x for x in absent[0])}; pass both"
            )
        back = [place[-r[0], -r[1], -r[2]] for r in place]
        parts = []
        for name, x in (("H", self.hamiltonian), ("S", self.overlap)):
            adjoint = x[..., back, :, :].conj().swapaxes(-1, -2)
            error = float(np.abs(x - adjoint).max(initial=0.0))
            if error > _HERMITICITY * max(1.0, float(np.abs(x).max(initial=0.0))):
                raise ValueError(
                    f"lead: expected {name}(R) = {name}(-R)†, received a difference of {error:.1e}; "
                    "use hermitian_part()"
                )
            parts.append(np.ascontiguousarray(0.5 * (x + adjoint)))
        return replace(self, hamiltonian=parts[0], overlap=parts[1])

    def _check_overlap(self) -> None:
        """S(k) must be positive definite at probes of the zone."""
        for kperp in self._transverse_corners():
            blocks = self.blocks(kperp)
            for k in np.linspace(0.0, 0.5, _PROBES):
                s = blocks.at_k(float(k))[1]
                smallest = float(sl.eigvalsh(0.5 * (s + s.conj().T), subset_by_index=[0, 0])[0])
                if smallest <= 0:
                    raise ValueError(overlap_message(smallest, float(k)))


def axis_number(axis: int | str) -> int:
    """0, 1 or 2 from a number or "a", "b", "c"; ValueError otherwise."""
    if isinstance(axis, str) and len(axis) == 1 and axis in AXES:
        return AXES.index(axis)
    if isinstance(axis, (int, np.integer)) and 0 <= axis < 3:
        return int(axis)
    raise ValueError(f"axis: expected 'a', 'b', 'c' or 0, 1, 2, received {axis!r}")


def _dense_cells(h: RealSpaceMatrix, s: RealSpaceMatrix | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cells R (n_R, 3), H (n_spins, n_R, N, N) and S (n_R, N, N) on the union of both ranges."""
    matrices = [m for m in (h, s) if m is not None]
    cells = np.unique(np.concatenate([m.pairs.R for m in matrices] + [np.zeros((1, 3), int)]), axis=0)
    hamiltonian = _on_cells(h, cells)
    if s is None:
        overlap = _unit_overlap(cells, hamiltonian)
    else:
        overlap = _on_cells(s, cells)[0]
    return cells, hamiltonian, overlap


def _on_cells(matrix: RealSpaceMatrix, cells: np.ndarray) -> np.ndarray:
    """(n_spins, n_cells, N, N) dense blocks between whole cells, the Hermitian part in double precision."""
    pattern = matrix.bloch_sum
    place = {tuple(c): n for n, c in enumerate(cells.tolist())}
    of_pattern = np.array([place[tuple(c)] for c in pattern.cells.tolist()])
    entries = np.atleast_2d(matrix.hermitian_part().entries)
    dense = np.zeros((len(entries), len(cells), pattern.n, pattern.n), np.result_type(entries.dtype, float))
    dense[:, of_pattern[pattern.cell_of_entry], pattern.rows, pattern.cols] = entries
    return dense


def _unit_overlap(cells: np.ndarray, h: np.ndarray) -> np.ndarray:
    s = np.zeros(h.shape[1:])
    s[np.all(cells == 0, axis=1)] = np.eye(h.shape[-1])
    return s


def _check_shapes(R: np.ndarray, h: np.ndarray, s: np.ndarray, norbs: np.ndarray, spin: Spin) -> None:
    n_spins = 2 if spin == "collinear" else 1
    if h.shape != (n_spins, *s.shape) or s.shape != (len(R), s.shape[-1], s.shape[-1]) or R.shape[1:] != (3,):
        raise ValueError(
            f"lead: expected R (n_R,) or (n_R, 3), H and S (n_R, N, N), received {R.shape}, {h.shape[1:]} and "
            f"{s.shape} for spin {spin!r}"
        )
    if not (np.all(np.isfinite(h)) and np.all(np.isfinite(s))):
        raise ValueError(
            "lead: expected finite H and S, received NaN or infinity; check where they come from"
        )
    if len(np.unique(R, axis=0)) < len(R) or not np.array_equal(R, np.round(R)):
        raise ValueError(f"lead: expected different integer cells R, received {R.tolist()[:6]}")
    if norbs.sum() != s.shape[-1]:
        raise ValueError(f"lead: norbs add up to {norbs.sum()}, the matrices have {s.shape[-1]} orbitals")


def _layer_cells(reach: int, cells: Cells, along: int, R: np.ndarray, sizes: np.ndarray) -> int:
    """Cells of the principal layer, at least as many as the longest block needs."""
    if reach == 0:
        raise ValueError(
            f"lead: no block couples cells along {AXES[along]}, the direction is vacuum; "
            "choose the direction in which the structure is connected"
        )
    if cells == "auto":
        return reach
    if not isinstance(cells, (int, np.integer)) or cells < 1:
        raise ValueError(f"cells: expected 'auto' or a count >= 1, received {cells!r}")
    if cells < reach:
        beyond = float(sizes[np.abs(R[:, along]) > cells].max())
        raise ValueError(
            f"lead: blocks beyond the principal layer: H or S couples cells {reach} apart along {AXES[along]} "
            f"(up to {beyond:.1e} beyond {cells}); give cells >= {reach} or cells='auto'"
        )
    return int(cells)
