"""A device with its leads as a Kwant Builder, one site per atom, from matrices at one transverse k and spin."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import scipy.sparse as sp

from ase_deeph.exporters.kwant_guards import attach_lead, kwant_package
from ase_deeph.exporters.kwant_values import hopping_value, on_site_value

if TYPE_CHECKING:
    from kwant import Builder

_SPACING = 1.0


class LeadMatrices(Protocol):
    """A lead's principal layer in the order of the device atoms it lies on.

    atoms : (n_layer_atoms,) device atom of each atom of the layer.
    norbs : (n_layer_atoms,) orbitals of each.
    h0, s0 : blocks inside a layer, eV and dimensionless; h1, s1: ⟨layer n|X|layer n+1⟩, n counted away from
        the device.
    step : (3,) Å from one layer to the next, away from the device; None without positions.
    """

    @property
    def atoms(self) -> Sequence[int] | np.ndarray: ...
    @property
    def norbs(self) -> Sequence[int] | np.ndarray: ...
    @property
    def h0(self) -> np.ndarray: ...
    @property
    def h1(self) -> np.ndarray: ...
    @property
    def s0(self) -> np.ndarray: ...
    @property
    def s1(self) -> np.ndarray: ...
    @property
    def step(self) -> np.ndarray | None: ...


class DeviceMatrices(Protocol):
    """A device at one transverse k and spin.

    h, s : sparse (n, n), orbitals atom by atom, eV and dimensionless.
    norbs : (n_atoms,); positions: (n_atoms, 3) Å or None; symbols: (n_atoms,) or None.
    attachments : the leads.
    """

    @property
    def h(self) -> sp.csr_matrix: ...
    @property
    def s(self) -> sp.csr_matrix: ...
    @property
    def norbs(self) -> Sequence[int] | np.ndarray: ...
    @property
    def positions(self) -> np.ndarray | None: ...
    @property
    def symbols(self) -> Sequence[str] | None: ...
    @property
    def attachments(self) -> Sequence[LeadMatrices]: ...


def device_builder(problem: DeviceMatrices) -> Builder:
    """The device as an editable Builder with its leads attached, exact through the parameter E.

    Every atom is a site of its own family "index:symbol" with tag (0,); the atoms of a lead's layer repeat
    along the lead with tags (1,), (2,), ...  Atoms may be deleted or their values replaced before
    `finalized()`.  Its leads refuse params["E"] that differ from the energy, and an energy at which modes were
    lost, in every solver of Kwant; `smatrix` binds E and checks that current is conserved too.

    Parameters
    ----------
    problem : matrices, positions and leads, see `DeviceMatrices`.

    Raises
    ------
    ModuleNotFoundError : Kwant is not installed.
    ValueError : a device atom that lies in the layers of two leads, or is named twice by one.
    """
    kwant_package("device_builder")
    from ase_deeph.exporters.kwant_guarded import GuardedBuilder

    steps = _steps(problem)
    families = _families(problem, steps)
    device = GuardedBuilder()
    _fill(device, families, problem.h, problem.s)
    for attachment, step in zip(problem.attachments, steps, strict=True):
        attach_lead(device, _lead(attachment, step, [families[i] for i in attachment.atoms]))
    return device


def _lead(attachment: LeadMatrices, step: np.ndarray, families: Sequence[Any]) -> Builder:
    """The semi-infinite lead, one layer per period."""
    import kwant

    lead = kwant.Builder(kwant.TranslationalSymmetry(step.tolist()))
    _fill(lead, families, sp.csr_matrix(attachment.h0), sp.csr_matrix(attachment.s0))
    norbs = np.asarray(attachment.norbs)
    across = (sp.csr_matrix(attachment.h1), sp.csr_matrix(attachment.s1))
    for p, q, h, s in _blocks(*across, norbs):
        lead[families[p](0), families[q](1)] = hopping_value(h, s)
    return lead


def _fill(builder: Builder, families: Sequence[Any], h: sp.csr_matrix, s: sp.csr_matrix) -> None:
    """Sites with tag (0,), then the hoppings among them; H and S made Hermitian to the last bit."""
    h, s = 0.5 * (h + h.conj().T), 0.5 * (s + s.conj().T)
    norbs = np.array([family.norbs for family in families])
    listed = [block for block in _blocks(h, s, norbs) if block[0] <= block[1]]
    for i, j, h_block, s_block in listed:
        if i == j:
            builder[families[i](0)] = on_site_value(h_block, s_block)
    for i, j, h_block, s_block in listed:
        if i != j:
            builder[families[i](0), families[j](0)] = hopping_value(h_block, s_block)


def _steps(problem: DeviceMatrices) -> list[np.ndarray]:
    """(3,) Å from layer to layer of each lead; without positions they go outwards from a line of atoms."""
    outwards = (-1.0, 0.0, 0.0), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, -1.0, 0.0)
    length = _SPACING * max(len(problem.norbs), 1)
    return [
        length * np.array(outwards[n % len(outwards)]) * (1 + n // len(outwards))
        if attachment.step is None
        else np.asarray(attachment.step, dtype=float)
        for n, attachment in enumerate(problem.attachments)
    ]


def _families(problem: DeviceMatrices, steps: Sequence[np.ndarray]) -> list[Any]:
    """One family per device atom; those of a lead's layer repeat with the lead's step."""
    from ase_deeph.exporters.kwant_layers import atom_family

    n_atoms = len(problem.norbs)
    lattice: dict[int, np.ndarray] = {}
    for number, (attachment, step) in enumerate(zip(problem.attachments, steps, strict=True)):
        for atom in attachment.atoms:
            if int(atom) in lattice:
                raise ValueError(
                    f"device atom {atom} lies in the layer of lead {number} and in another one; every lead needs "
                    "a layer of its own: lengthen the device, or use view='fast'"
                )
            lattice[int(atom)] = step
    positions = _positions(problem)
    symbols = ["X"] * n_atoms if problem.symbols is None else list(problem.symbols)
    other = steps[0] if steps else np.array([_SPACING, 0.0, 0.0])
    return [
        atom_family(i, symbols[i], positions[i], problem.norbs[i], lattice.get(i, other)[None])
        for i in range(n_atoms)
    ]


def _positions(problem: DeviceMatrices) -> np.ndarray:
    """(n_atoms, 3) Å, or a line where there are none."""
    if problem.positions is not None:
        return np.asarray(problem.positions, dtype=float)
    return np.arange(len(problem.norbs))[:, None] * np.array([[_SPACING, 0.0, 0.0]])


def _blocks(
    h: sp.csr_matrix, s: sp.csr_matrix, norbs: np.ndarray
) -> Iterator[tuple[int, int, np.ndarray, np.ndarray]]:
    """Dense blocks of the pairs of atoms (i, j) that H or S couples, in lexicographic order."""
    n_atoms = len(norbs)
    offsets = np.concatenate([[0], np.cumsum(norbs)])
    atom_of = np.repeat(np.arange(n_atoms), norbs)
    entries = [matrix.tocoo() for matrix in (h, s)]
    codes = [atom_of[m.row] * n_atoms + atom_of[m.col] for m in entries]
    coupled = np.unique(np.concatenate(codes))
    i, j = coupled // n_atoms, coupled % n_atoms
    starts = np.concatenate([[0], np.cumsum(norbs[i] * norbs[j])])
    dense = []
    for matrix, code in zip(entries, codes, strict=True):
        flat = np.zeros(starts[-1], dtype=matrix.dtype)
        row, col = matrix.row - offsets[atom_of[matrix.row]], matrix.col - offsets[atom_of[matrix.col]]
        flat[starts[np.searchsorted(coupled, code)] + row * norbs[atom_of[matrix.col]] + col] = matrix.data
        dense.append(flat)
    for n, (atom, other) in enumerate(zip(i.tolist(), j.tolist(), strict=True)):
        shape = (int(norbs[atom]), int(norbs[other]))
        at = slice(starts[n], starts[n + 1])
        yield atom, other, dense[0][at].reshape(shape), dense[1][at].reshape(shape)
