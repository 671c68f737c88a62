"""NetworkConfig: every number that fixes the shape of a network."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from numbers import Integral, Real
from typing import Any, Literal

_LEAST = {
    "l_max": 1,
    "channels": 1,
    "pseudo_channels": 1,
    "n_blocks": 1,
    "n_heads": 1,
    "n_radial": 2,
    "hidden": 1,
}


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
    aggregation : how an atom's messages are brought together: "attention", a mean weighed by a softmax over its
        neighbours, or "sum", a sum of gated messages, which also tells how many neighbours there are; kind "elct"
        alone, "e3" always sums.

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
    aggregation: Literal["attention", "sum"] = "attention"

    def __post_init__(self) -> None:
        if self.kind not in ("elct", "e3"):
            raise ValueError(f"network kind: expected 'elct' or 'e3', received {self.kind!r}")
        check_length(self, "cutoff", "network")
        if self.message_cutoff is not None:
            check_length(self, "message_cutoff", "network", most=self.cutoff)
        check_whole(self, _LEAST, "network")
        if self.aggregation not in ("attention", "sum"):
            raise ValueError(
                f"network aggregation: expected 'attention' or 'sum', received {self.aggregation!r}"
            )
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


def check_length(config: Any, name: str, what: str, *, most: float = math.inf) -> None:
    """Make a field of a frozen config a float; ValueError unless it is a length in (0, most] Å."""
    value = getattr(config, name)
    number = isinstance(value, Real) and not isinstance(value, bool)
    if not (number and math.isfinite(value) and 0 < value <= most):
        expected = "a positive length" if math.isinf(most) else f"a length in (0, {most}]"
        raise ValueError(f"{what} {name}: expected {expected} in Å, received {value!r}")
    object.__setattr__(config, name, float(value))


def check_whole(config: Any, least: Mapping[str, int], what: str) -> None:
    """Make fields of a frozen config ints, NumPy's too; ValueError for no whole number and for one below its least."""
    for name, smallest in least.items():
        value = getattr(config, name)
        if isinstance(value, bool) or not isinstance(value, Integral):
            raise ValueError(f"{what} {name}: expected a whole number, received {value!r}")
        if value < smallest:
            raise ValueError(f"{what} {name}: expected at least {smallest}, received {value}")
        object.__setattr__(config, name, int(value))


def check_keys(config: type, values: Mapping[str, Any], what: str) -> None:
    """ValueError for a key that is no field of a config."""
    known = {f.name for f in fields(config)}
    unknown = sorted(set(values) - known)
    if unknown:
        raise ValueError(f"{what}: unknown key {unknown[0]!r}; known keys are {', '.join(sorted(known))}")
