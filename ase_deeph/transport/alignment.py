"""Bringing device and leads to one zero of energy: H -> H + δ·S, with δ from the layer that they share.

δ = ⟨S_lead, H_lead - H_dev⟩ / ⟨S_lead, S_lead⟩ minimises |H_lead - H_dev - δ S|² on that layer (never δ·1: the zero of
energy multiplies S).

Without bias there is one electrochemical potential, and how the bands of the leads stand to each other is
decided by the device, whose H holds the dipoles of its interfaces; the zero of each bulk calculation is arbitrary.
So every lead is moved onto the device, whose energies keep their meaning: H_lead -> H_lead - δ·S_lead.  With
align="lead" the device is moved onto the first lead instead, H_dev -> H_dev + δ·S_dev, and the others follow it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from ase_deeph.transport.contact import Contact
from ase_deeph.transport.problem import ScatteringProblem

logger = logging.getLogger(__name__)

MODES = ("overlap", "lead", "none")
_FOREIGN = 0.01
_POOR = 0.1
_FOREIGN_END = 2.5


@dataclass(frozen=True, eq=False)
class Alignment:
    """What a device and its leads were moved by.

    Parameters
    ----------
    device_shift : δ of the device, H_dev -> H_dev + δ S_dev, eV.
    lead_shifts : (n_leads,) δ of each lead, eV.
    offsets : (n_leads,) ⟨S, H_lead - H_dev⟩ / ⟨S, S⟩ before anything was moved, eV.
    residuals : (n_leads,) largest |H_lead - H_dev - offset·S| on the shared layer, eV.
    """

    device_shift: float
    lead_shifts: np.ndarray
    offsets: np.ndarray
    residuals: np.ndarray


def _offset_and_residual(
    contact: Contact, h_of_spin: Sequence[np.ndarray], s: np.ndarray
) -> tuple[float, float]:
    """Offset (eV) of the lead against the device's blocks on the shared layer, and what is left of the difference.

    Raises
    ------
    ValueError : the overlaps differ, so that the orbitals are not the same.
    """
    gamma = np.zeros(3)
    layers = [contact.layer(gamma, spin) for spin in range(len(h_of_spin))]
    foreign = float(np.abs(layers[0].s0 - s).max(initial=0.0))
    if foreign > _FOREIGN:
        raise ValueError(
            f"side {contact.side}: lead and device overlap differ by {foreign:.1e} on the shared layer; "
            "use one basis (and the same order of atoms and orbitals) for both"
        )
    difference = [layer.h0 - h for layer, h in zip(layers, h_of_spin, strict=True)]
    weight = len(layers) * float(np.vdot(layers[0].s0, layers[0].s0).real)
    offset = sum(float(np.vdot(layers[0].s0, d).real) for d in difference) / weight
    residual = max(float(np.abs(d - offset * layers[0].s0).max(initial=0.0)) for d in difference)
    return offset, residual


def aligned(mode: str, found: Sequence[tuple[float, float]], sides: Sequence[str]) -> Alignment:
    """The shifts of device and leads from their offsets.

    Parameters
    ----------
    mode : "overlap" (all leads onto the device), "lead" (device onto the first lead, other leads onto the
        device) or "none".
    found : (offset, residual) of each lead.
    sides : their names, for the log.
    """
    if mode not in MODES:
        raise ValueError(f"align: expected one of {', '.join(MODES)}, received {mode!r}")
    offsets, residuals = (np.array(column, dtype=float) for column in zip(*found, strict=True))
    device = float(offsets[0]) if mode == "lead" else 0.0
    leads = np.zeros(len(offsets)) if mode == "none" else device - offsets
    if mode == "lead":
        leads[0] = 0.0
    logger.info(
        "alignment (%s): device moved by %+.6f eV, leads by %s eV, residuals %s eV on the shared layers",
        mode,
        device,
        ", ".join(f"{side} {shift:+.6f}" for side, shift in zip(sides, leads, strict=True)),
        ", ".join(f"{r:.1e}" for r in residuals),
    )
    if mode != "none" and residuals.max() > _FOREIGN_END:
        raise ValueError(
            f"side {sides[int(residuals.argmax())]}: after alignment lead and device still differ by "
            f"{residuals.max():.2f} eV on the shared layer, so the device ends in no bulk (vacuum, a surface?); make "
            'it periodic along the lead, or lengthen it, or accept it with align="none"'
        )
    if residuals.max() > _POOR:
        logger.warning(
            "side %s: after alignment lead and device still differ by %.2f eV on the shared layer; the device's "
            "end is not like the bulk, lengthen it",
            sides[int(residuals.argmax())],
            residuals.max(),
        )
    return Alignment(device, leads, offsets, residuals)


def check_orbitals(contact: Contact, norbs: np.ndarray) -> None:
    """ValueError when lead and device have different numbers of orbitals on an atom."""
    expected = np.tile(contact.lead.norbs, contact.n_cells)
    if not np.array_equal(norbs[contact.atoms], expected):
        raise ValueError(
            f"side {contact.side}: the lead's atoms have {expected.tolist()[:8]} orbitals, the device's have "
            f"{norbs[contact.atoms].tolist()[:8]}; use one basis for both"
        )


def best_contact(
    contacts: Sequence[Contact], plain: ScatteringProblem, h_of_spin: Sequence[sp.csr_matrix]
) -> tuple[Contact, tuple[float, float]]:
    """Of contacts that fit by position equally well, the one whose matrices fit best, its offset and residual.

    Raises
    ------
    ValueError : the overlap of none agrees with the device's.
    """
    fitting, refusals = [], []
    for contact in contacts:
        try:
            fitting.append((contact, _offset_of(contact, plain, h_of_spin)))
        except ValueError as error:
            refusals.append(error)
    if not fitting:
        raise refusals[0]
    return min(fitting, key=lambda pair: pair[1][1])


def _offset_of(
    contact: Contact, plain: ScatteringProblem, h_of_spin: Sequence[sp.csr_matrix]
) -> tuple[float, float]:
    """Offset and residual of a contact, from the sparse matrices of the device (one H for each spin)."""
    own = plain.orbitals(contact.atoms)
    return _offset_and_residual(
        contact, [h[own][:, own].toarray() for h in h_of_spin], plain.s[own][:, own].toarray()
    )
