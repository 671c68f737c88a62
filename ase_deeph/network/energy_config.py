"""EnergyConfig: every number that fixes the shape of an energy head."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ase_deeph.network.config import check_keys, check_length, check_whole

_LEAST = {"backbone_blocks": 0, "l_max": 1, "channels": 1, "n_blocks": 1, "n_radial": 2, "hidden": 1}


@dataclass(frozen=True)
class EnergyConfig:
    """The architecture of an energy head.

    Parameters
    ----------
    cutoff : Å; atoms closer than it exchange the head's own messages. Everything vanishes there with two
        continuous derivatives.
    backbone_blocks : after so many blocks of the Hamiltonian network its features of the atoms are read; 0: none.
    l_max : largest degree of the head's features.
    channels : channels of each degree.
    n_blocks : message-passing blocks of the head.
    n_radial : Gaussians that expand the distance.
    hidden : width of the scalar perceptrons.

    Raises
    ------
    ValueError : for a number that makes no head.
    """

    cutoff: float = 4.5
    backbone_blocks: int = 0
    l_max: int = 3
    channels: int = 32
    n_blocks: int = 2
    n_radial: int = 8
    hidden: int = 48

    def __post_init__(self) -> None:
        check_length(self, "cutoff", "potential")
        check_whole(self, _LEAST, "potential")

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> EnergyConfig:
        """From plain values; ValueError for a key that is not a field."""
        check_keys(cls, values, "potential")
        return cls(**values)
