"""EnergyConfig: every number that fixes the shape of an energy head."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ase_deeph.network.config import check_keys


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
        if not self.cutoff > 0:
            raise ValueError(f"potential cutoff: expected a positive length in Å, received {self.cutoff}")
        if self.backbone_blocks < 0:
            raise ValueError(
                f"potential backbone_blocks: expected 0 or more, received {self.backbone_blocks}"
            )
        for name in ("l_max", "channels", "n_blocks", "hidden"):
            if getattr(self, name) < 1:
                raise ValueError(f"potential {name}: expected at least 1, received {getattr(self, name)}")
        if self.n_radial < 2:
            raise ValueError(f"potential n_radial: expected at least 2, received {self.n_radial}")

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> EnergyConfig:
        """From plain values; ValueError for a key that is not a field."""
        check_keys(cls, values, "potential")
        return cls(**values)
