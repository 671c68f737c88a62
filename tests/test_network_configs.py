"""Configs of networks and heads: what makes none is refused by name, NumPy's numbers become plain ones."""

import json

import numpy as np
import pytest

from ase_deeph.network import NetworkConfig
from ase_deeph.network.energy_config import EnergyConfig
from ase_deeph.network.spin_config import SpinConfig


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "mlp"}, "expected 'elct' or 'e3'"),
        ({"cutoff": -1.0}, "positive length"),
        ({"n_heads": 3}, "divisor"),
        ({"message_cutoff": 9.0}, "message_cutoff"),
        ({"depth": 3}, "unknown key 'depth'"),
        ({"n_blocks": 0}, "at least 1"),
        ({"channels": "8"}, "channels: expected a whole number, received '8'"),
        ({"hidden": 8.0}, "hidden: expected a whole number, received 8.0"),
        ({"n_blocks": True}, "n_blocks: expected a whole number, received True"),
        ({"n_radial": None}, "n_radial: expected a whole number, received None"),
        ({"n_radial": 1}, "n_radial: expected at least 2, received 1"),
        ({"cutoff": "6"}, "cutoff: expected a positive length in Å, received '6'"),
        ({"cutoff": True}, "cutoff: expected a positive length in Å, received True"),
        ({"cutoff": float("inf")}, "cutoff: expected a positive length in Å, received inf"),
        ({"aggregation": "mean"}, "aggregation: expected 'attention' or 'sum', received 'mean'"),
        ({"message_cutoff": "3"}, "message_cutoff: expected a length in .* received '3'"),
    ],
)
def test_bad_configurations(values, message):
    with pytest.raises(ValueError, match=message):
        NetworkConfig.from_dict(values)


def test_a_length_may_be_any_real_number():
    assert NetworkConfig(cutoff=6, message_cutoff=np.float64(3)).reach == 3


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "spin"}, "spin kind: expected 'collinear' or 'spinor'"),
        ({"kind": "collinear"}, "spin magnetic_cutoff: a collinear head reads moments"),
        ({"magnetic_cutoff": "3"}, "spin magnetic_cutoff: expected a positive length in Å, received '3'"),
        (
            {"magnetic_cutoff": float("nan")},
            "spin magnetic_cutoff: expected a positive length in Å, received nan",
        ),
        ({"channels": 16.0}, "spin channels: expected a whole number, received 16.0"),
        ({"n_radial": 1}, "spin n_radial: expected at least 2, received 1"),
        ({"n_heads": 3}, "divisor"),
    ],
)
def test_bad_spin_heads(values, message):
    with pytest.raises(ValueError, match=message):
        SpinConfig.from_dict(values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"cutoff": 0.0}, "potential cutoff: expected a positive length in Å, received 0.0"),
        ({"cutoff": "4"}, "potential cutoff: expected a positive length in Å, received '4'"),
        ({"backbone_blocks": -1}, "potential backbone_blocks: expected at least 0, received -1"),
        ({"backbone_blocks": True}, "potential backbone_blocks: expected a whole number, received True"),
        ({"n_radial": 1}, "potential n_radial: expected at least 2, received 1"),
        ({"hidden": "48"}, "potential hidden: expected a whole number, received '48'"),
    ],
)
def test_bad_energy_heads(values, message):
    with pytest.raises(ValueError, match=message):
        EnergyConfig.from_dict(values)


def test_numbers_of_numpy_become_plain_ones():
    """A config goes into files as JSON, which knows no NumPy."""
    network = NetworkConfig(cutoff=np.float32(5.5), channels=np.int64(8), pseudo_channels=np.int32(4))
    spin, head = SpinConfig(channels=np.int64(8)), EnergyConfig(cutoff=np.float64(4.0), l_max=np.int8(2))
    for config in (network, spin, head):
        assert type(config).from_dict(json.loads(json.dumps(config.to_dict()))) == config
