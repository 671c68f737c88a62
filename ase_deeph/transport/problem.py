"""ScatteringProblem: a device and its leads as plain matrices, at one transverse k and in one spin channel.

Everything behind it (Kwant, ASE, densities) needs nothing else and knows no atoms beyond their positions.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.sparse as sp

from ase_deeph.transport.cells import Layer


@dataclass(frozen=True, eq=False)
class LeadAttachment:
    """A lead as it leaves the device: its principal layer, ordered as the device's atoms that it continues.

    Parameters
    ----------
    layer : blocks with x1 = ⟨layer n|X|layer n+1⟩, n counted away from the device.
    atoms : (n_layer_atoms,) device atom of each atom of the layer, cell by cell going outward.
    norbs : (n_layer_atoms,) orbitals of each.
    n_cells : primitive cells of the layer.
    side : where it is attached, "-a", "+b", ...
    step : (3,) Å, one principal layer away from the device; None without positions.
    """

    layer: Layer
    atoms: np.ndarray
    norbs: np.ndarray
    n_cells: int
    side: str
    step: np.ndarray | None = None

    @property
    def n_lead_atoms(self) -> int:
        """Atoms of the primitive cell."""
        return len(self.atoms) // self.n_cells

    @property
    def h0(self) -> np.ndarray:
        """(n, n) H of the layer, eV."""
        return self.layer.h0

    @property
    def h1(self) -> np.ndarray:
        """(n, n) ⟨layer n|H|layer n+1⟩, eV."""
        return self.layer.h1

    @property
    def s0(self) -> np.ndarray:
        """(n, n) S of the layer."""
        return self.layer.s0

    @property
    def s1(self) -> np.ndarray:
        """(n, n) ⟨layer n|S|layer n+1⟩."""
        return self.layer.s1


@dataclass(frozen=True, eq=False)
class ScatteringProblem:
    """H ψ = E S ψ of a device between leads.

    Parameters
    ----------
    h, s : (n, n) sparse, Hermitian to rounding (Kwant checks 1e-13), eV and dimensionless.
    norbs : (n_atoms,) orbitals of each atom.
    attachments : the leads.
    positions : (n_atoms, 3) Å, or None.
    symbols : element of each atom, or None.
    """

    h: sp.csr_matrix
    s: sp.csr_matrix
    norbs: np.ndarray
    attachments: list[LeadAttachment]
    positions: np.ndarray | None = None
    symbols: list[str] | None = None

    @property
    def n(self) -> int:
        """Orbitals of the device."""
        return int(self.h.shape[0])

    @cached_property
    def offsets(self) -> np.ndarray:
        """(n_atoms + 1,) first orbital of each atom, and the total."""
        return np.concatenate([[0], np.cumsum(self.norbs)]).astype(int)

    def orbitals(self, atoms: np.ndarray) -> np.ndarray:
        """The orbitals of some atoms, in their order."""
        starts, counts = self.offsets[atoms], self.norbs[atoms]
        ends = np.cumsum(counts)
        return np.arange(int(ends[-1]) if len(ends) else 0) + np.repeat(starts - (ends - counts), counts)

    def extended(self) -> ScatteringProblem:
        """The device with one more principal layer of each lead inside it, appended after its own orbitals.

        In it every orbital of the device proper is an interior one: S ψ needs no amplitude outside.
        """
        h, s = [[self.h]], [[self.s]]
        n_atoms, attachments, norbs = len(self.norbs), [], [self.norbs]
        for attachment in self.attachments:
            own = self.orbitals(attachment.atoms)
            x = attachment.layer
            _append(h, x.h0, x.h1, own, self.n)
            _append(s, x.s0, x.s1, own, self.n)
            added = len(attachment.atoms)
            attachments.append(
                LeadAttachment(
                    x,
                    np.arange(n_atoms, n_atoms + added),
                    attachment.norbs,
                    attachment.n_cells,
                    attachment.side,
                    attachment.step,
                )
            )
            n_atoms += added
            norbs.append(attachment.norbs)
        return ScatteringProblem(_bordered(h), _bordered(s), np.concatenate(norbs), attachments)


def _append(blocks: list[list], x0: np.ndarray, x1: np.ndarray, own: np.ndarray, n: int) -> None:
    """Record one more diagonal block and its coupling ⟨device|X|layer⟩ with rows `own`."""
    rows, columns = np.repeat(own, x1.shape[1]), np.tile(np.arange(x1.shape[1]), len(own))
    coupling = sp.csr_matrix((x1.ravel(), (rows, columns)), shape=(n, x1.shape[1]))
    blocks[0].append(coupling)
    blocks.append([coupling.conj().T, sp.csr_matrix(x0)])


def _bordered(blocks: list[list]) -> sp.csr_matrix:
    """Device in the corner, layers on the rest of the diagonal, couplings in the first row and column."""
    size = len(blocks)
    grid: list[list] = [[None] * size for _ in range(size)]
    grid[0] = blocks[0]
    for n in range(1, size):
        grid[n][0], grid[n][n] = blocks[n]
    return sp.csr_matrix(sp.bmat(grid))
