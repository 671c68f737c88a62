"""Numbers of an HDF5 dataset, never many more than the file holds: a damaged shape must not fill the memory."""

from __future__ import annotations

from typing import Any

import h5py
import numpy as np

_COMPRESSION = 2000
"""Bytes per stored byte: twice what deflate can reach."""


def stored_values(node: Any) -> np.ndarray:
    """The numbers of an HDF5 dataset, never many more than the file holds.

    Raises
    ------
    ValueError : it is no dataset of numbers, or its shape is absurd for what is stored.
    """
    if not isinstance(node, h5py.Dataset) or node.dtype.kind not in "iufc":
        raise ValueError(f"{node.name} is no dataset of numbers")
    size = float(np.prod(node.shape, dtype=float)) * node.dtype.itemsize
    if size > _COMPRESSION * node.id.get_storage_size() + 2**20:
        raise ValueError(f"{node.name} has the shape {node.shape}, of which almost nothing is stored")
    return np.asarray(node[()])
