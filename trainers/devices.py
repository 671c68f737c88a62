"""Where a training runs: one device, several of this process, or those of several processes, by JAX's sharding."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

log = logging.getLogger(__name__)

AXIS = "data"


@dataclass(frozen=True)
class Devices:
    """The devices that share each batch; without a mesh, JAX's default device alone.

    Parameters
    ----------
    mesh : one axis, "data"; the devices of process 0 first.
    """

    mesh: Mesh | None = None

    @property
    def n(self) -> int:
        """Devices, over all processes."""
        return 1 if self.mesh is None else self.mesh.size

    @property
    def mine(self) -> tuple[int, ...]:
        """Positions of this process' devices on the mesh."""
        if self.mesh is None:
            return (0,)
        here = jax.process_index()
        return tuple(n for n, d in enumerate(self.mesh.devices) if d.process_index == here)

    @property
    def first(self) -> Any:
        """A device of this process."""
        return jax.devices()[0] if self.mesh is None else self.mesh.devices[self.mine[0]]

    def put(self, parts: Any) -> Any:
        """A batch on the devices; with a mesh, the leading axis runs over this process' devices."""
        if self.mesh is None:
            return jax.device_put(parts)
        sharding = NamedSharding(self.mesh, PartitionSpec(AXIS))
        return jax.tree.map(lambda a: jax.make_array_from_process_local_data(sharding, np.asarray(a)), parts)

    def replicate(self, tree: Any) -> Any:
        """The same arrays on every device, buffers of their own."""
        if self.mesh is None:
            return jax.tree.map(lambda leaf: jnp.array(leaf), tree)
        everywhere = NamedSharding(self.mesh, PartitionSpec())
        return jax.jit(lambda leaves: leaves, out_shardings=everywhere)(jax.tree.map(np.asarray, tree))

    def mapped(self, function: Callable, n_batches_at: int) -> Callable:
        """A function of one device's batch -> of the whole batch; what it returns must be equal everywhere.

        Parameters
        ----------
        function : its argument number `n_batches_at` is a batch, all others and the results are replicated.
        """
        if self.mesh is None:
            return function

        def on_one(*arguments: Any) -> Any:
            own = list(arguments)
            own[n_batches_at] = jax.tree.map(lambda leaf: leaf[0], own[n_batches_at])
            return function(*own)

        def on_all(*arguments: Any) -> Any:
            specs = tuple(PartitionSpec(AXIS if n == n_batches_at else None) for n in range(len(arguments)))
            return _shard_map(on_one, self.mesh, specs)(*arguments)

        return on_all

    def total(self, tree: Any) -> Any:
        """Sums over the devices (inside a mapped function)."""
        return tree if self.mesh is None else jax.lax.psum(tree, AXIS)

    def gathered(self, rows: jax.Array) -> jax.Array:
        """The rows of all devices, one below the other (inside a mapped function)."""
        return rows if self.mesh is None else jax.lax.all_gather(rows, AXIS, tiled=True)


def _shard_map(function: Callable, mesh: Mesh | None, specs: tuple) -> Callable:
    """jax.shard_map, or what it was called before."""
    replicated = PartitionSpec()
    if hasattr(jax, "shard_map"):
        return jax.shard_map(function, mesh=mesh, in_specs=specs, out_specs=replicated, check_vma=False)
    from jax.experimental.shard_map import shard_map

    return shard_map(function, mesh=mesh, in_specs=specs, out_specs=replicated, check_rep=False)


def choose_devices(wanted: int | str | None, batch: int) -> Devices:
    """The devices for batches of some size.

    Parameters
    ----------
    wanted : devices of each process; "all"; None for every accelerator that the batch can feed (one on a CPU).
    batch : structures of a batch over all processes.

    Raises
    ------
    ValueError : there are fewer devices, or fewer structures in a batch than devices.
    """
    local, n_processes = jax.local_devices(), jax.process_count()
    if wanted is None:
        usable = 1 if local[0].platform == "cpu" else len(local)
        wanted = max(n for n in range(1, usable + 1) if n == 1 or batch % (n * n_processes) == 0)
        if wanted < usable:
            log.warning(
                "%d of %d devices are used: [training] batch = %d feeds no more in equal parts",
                wanted, usable, batch,
            )  # fmt: skip
    n = len(local) if wanted == "all" else int(wanted)
    if n > len(local):
        raise ValueError(
            f"[training] devices: received {n}, this process has {len(local)} of kind {local[0].platform}; "
            "lower devices"
        )
    if n * n_processes > batch:
        raise ValueError(
            f"[training] batch = {batch} cannot be shared by {n * n_processes} devices; raise batch to a "
            f"multiple of {n * n_processes}, or lower devices"
        )
    if n == n_processes == 1:
        return Devices()
    chosen = [d for p in range(n_processes) for d in [d for d in jax.devices() if d.process_index == p][:n]]
    return Devices(Mesh(np.array(chosen), (AXIS,)))


def from_first_process(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Process 0's arrays on every process, bit for bit; shapes and types must be the same everywhere."""
    arrays = {key: np.asarray(value) for key, value in arrays.items()}
    if jax.process_count() == 1:
        return arrays
    from jax.experimental.multihost_utils import broadcast_one_to_all

    order = sorted(arrays)
    blob = np.frombuffer(b"".join(arrays[key].tobytes() for key in order), dtype=np.uint8)
    received = np.asarray(broadcast_one_to_all(blob)).astype(np.uint8).tobytes()
    result, at = {}, 0
    for key in order:
        value = arrays[key]
        part = np.frombuffer(received[at : at + value.nbytes], dtype=value.dtype)
        result[key], at = part.reshape(value.shape).copy(), at + value.nbytes
    return result
