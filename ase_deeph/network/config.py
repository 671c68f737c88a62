"""NetworkConfig: every number that fixes the shape of a network."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from numbers import Real
from typing import Any, Literal

_WHOLE = ("l_max", "channels", "pseudo_channels", "n_blocks", "n_heads", "n_radial", "hidden")


@dataclass(frozen=True)
class NetworkConfig:
    """The architecture of a Hamiltonian network.

    Parameters
    ----------
    kind : "elct" (SO(2) convolutions in edge frames) or "e3" (full Clebsch-Gordan products, the baseline).
    cutoff : Å; pairs at or beyond it get no block. Everything vanishes there with two continuous derivatives.
    message_cutoff : Å; atoms exchange messages within it (the receptive field grows by it per block), while
        every pair within `cutoff` still has an edge. None: the same as `cutoff`.
    l_max : largest degree of the features; at least twice the largest shell.
    channels : channels per degree of natural parity (-1)^l.
    pseudo_channels : channels per degree of the other parity; blocks such as p⊗p -> L=1 need them.
    n_blocks : blocks, each updating edges and then nodes.
    n_heads : attention heads; must divide channels and pseudo_channels.
    n_radial : Gaussians that expand the distance.
    hidden : width of the scalar perceptrons.

    Raises
    ------
    ValueError : for a number that makes no network.
    """

    kind: Literal["elct", "e3"] = "elct"
    cutoff: float = 6.0
    message_cutoff: float | None = None
    l_max: int = 4
    channels: int = 24
    pseudo_channels: int = 8
    n_blocks: int = 3
    n_heads: int = 4
    n_radial: int = 32
    hidden: int = 64

    def __post_init__(self) -> None:
        if self.kind not in ("elct", "e3"):
            raise ValueError(f"network kind: expected 'elct' or 'e3', received {self.kind!r}")
        if not (_is_length(self.cutoff) and self.cutoff > 0):
            raise ValueError(f"network cutoff: expected a positive length in Å, received {self.cutoff!r}")
        reach = self.reach
        if not (_is_length(reach) and 0 < reach <= self.cutoff):
            raise ValueError(
                f"network message_cutoff: expected a length in (0, {self.cutoff}] Å, received {reach!r}"
            )
        for name in _WHOLE:
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int):
                raise ValueError(f"network {name}: expected a whole number, received {value!r}")
            if value < 1:
                raise ValueError(f"network {name}: expected at least 1, received {value}")
        if self.channels % self.n_heads or self.pseudo_channels % self.n_heads:
            raise ValueError(
                f"network n_heads: expected a divisor of channels={self.channels} and "
                f"pseudo_channels={self.pseudo_channels}, received {self.n_heads}"
            )

    @property
    def reach(self) -> float:
        """The message cutoff in force, Å."""
        return self.cutoff if self.message_cutoff is None else self.message_cutoff

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and strings."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> NetworkConfig:
        """From plain values; ValueError for a key that is not a field."""
        check_keys(cls, values, "network")
        return cls(**values)


def _is_length(value: Any) -> bool:
    """Whether a value is a finite real number; True and False are none."""
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def check_keys(config: type, values: Mapping[str, Any], what: str) -> None:
    """ValueError for a key that is no field of a config."""
    known = {f.name for f in fields(config)}
    unknown = sorted(set(values) - known)
    if unknown:
        raise ValueError(f"{what}: unknown key {unknown[0]!r}; known keys are {', '.join(sorted(known))}")
