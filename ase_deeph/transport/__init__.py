"""Quantum transport with an overlap matrix: leads, devices, T(E); Kwant and ASE behind it."""

from ase_deeph.transport.device import Device
from ase_deeph.transport.lead import Lead
from ase_deeph.transport.transmission import TransmissionReport

__all__ = ["Device", "Lead", "TransmissionReport"]
