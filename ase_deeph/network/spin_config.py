"""SpinConfig: every number that fixes the shape of a spin head."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from ase_deeph.network.config import NetworkConfig, check_keys, check_length, check_whole

_LEAST = {"channels": 1, "pseudo_channels": 1, "n_heads": 1, "n_radial": 2, "hidden": 1}


@dataclass(frozen=True)
class SpinConfig:
    """The architecture of a spin head: what is added to a Hamiltonian network so that H has spin.

    Parameters
    ----------
    kind : "collinear" (H of spin up and of spin down) or "spinor" (spin-orbit coupling, noncollinear moments).
    magnetic_cutoff : Å; H_ij depends on the moments of i, j and of atoms within it of either, on none beyond. At
        most the network's message cutoff. None: no moments are read (kind "spinor" only), H is time-reversal symmetric.
    channels, pseudo_channels : channels per degree of natural and of the other parity.
    n_heads : attention heads; must divide both.
    n_radial : Gaussians that expand the distance.
    hidden : width of the scalar perceptrons.

    Raises
    ------
    ValueError : for a number that makes no head.
    """

    kind: Literal["collinear", "spinor"] = "spinor"
    magnetic_cutoff: float | None = None
    channels: int = 16
    pseudo_channels: int = 8
    n_heads: int = 2
    n_radial: int = 16
    hidden: int = 32

    def __post_init__(self) -> None:
        if self.kind not in ("collinear", "spinor"):
            raise ValueError(f"spin kind: expected 'collinear' or 'spinor', received {self.kind!r}")
        if self.magnetic_cutoff is None and self.kind == "collinear":
            raise ValueError("spin magnetic_cutoff: a collinear head reads moments; give a length in Å")
        if self.magnetic_cutoff is not None:
            check_length(self, "magnetic_cutoff", "spin")
        check_whole(self, _LEAST, "spin")
        if self.channels % self.n_heads or self.pseudo_channels % self.n_heads:
            raise ValueError(
                f"spin n_heads: expected a divisor of channels={self.channels} and "
                f"pseudo_channels={self.pseudo_channels}, received {self.n_heads}"
            )

    @property
    def magnetic(self) -> bool:
        """Whether moments are an input."""
        return self.magnetic_cutoff is not None

    def layers(self, network: NetworkConfig, l_max: int) -> NetworkConfig:
        """The numbers of the head's own layers beside a Hamiltonian network.

        Raises
        ------
        ValueError : the magnetic cutoff is beyond the network's message cutoff.
        """
        if self.magnetic_cutoff is not None and self.magnetic_cutoff > network.reach:
            raise ValueError(
                f"spin magnetic_cutoff: expected at most the network's message cutoff {network.reach} Å, "
                f"received {self.magnetic_cutoff}"
            )
        return NetworkConfig(
            cutoff=network.cutoff,
            message_cutoff=self.magnetic_cutoff or network.reach,
            l_max=max(l_max, network.l_max),
            channels=self.channels,
            pseudo_channels=self.pseudo_channels,
            n_blocks=1,
            n_heads=self.n_heads,
            n_radial=self.n_radial,
            hidden=self.hidden,
            aggregation=network.aggregation,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and strings."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SpinConfig:
        """From plain values; ValueError for a key that is not a field."""
        check_keys(cls, values, "spin")
        return cls(**values)
