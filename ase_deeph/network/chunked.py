"""Blocks of H of a large structure, chunk by chunk, layer by layer: work and memory linear in the number of atoms.

Before each layer every atom's features are there; a layer runs over the chunks, each of which reads the features of
its own atoms and of their neighbours and writes those of its own.  Features of the edges stay with their chunk
("stored"), or are made again from the atoms' features of all layers before ("rebuilt", which takes K (K + 1) / 2
edge updates in place of K but no memory for edges).  Over several devices each takes every n-th chunk, and the
atoms' features are gathered after each layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ase_deeph.network import Network
from ase_deeph.network.chunks import Chunk, Chunks
from ase_deeph.network.so2 import of_each
from ase_deeph.network.statistics import Statistics

EdgeMemory = Literal["stored", "rebuilt"]

_AXIS = "chunks"


class ChunkedNetwork:
    """A network run over chunks.

    Parameters
    ----------
    network : of kind "elct".
    params, statistics : its parameters and the means and scales of its targets.
    edges : whether the features of edges are stored between layers or rebuilt.
    devices : where chunks run, JAX's default device if None.

    Raises
    ------
    ValueError : the network is of another kind.
    """

    def __init__(
        self,
        network: Network,
        params: Mapping[str, Any],
        statistics: Statistics,
        *,
        edges: EdgeMemory = "stored",
        devices: tuple[Any, ...] | None = None,
    ) -> None:
        if network.config.kind != "elct":
            raise ValueError(f"chunks: expected a network of kind 'elct', received {network.config.kind!r}")
        if edges not in ("stored", "rebuilt"):
            raise ValueError(f"edges: expected 'stored' or 'rebuilt', received {edges!r}")
        self.network, self.edges = network, edges
        self.mesh = None if devices is None or len(devices) < 2 else Mesh(np.array(devices), (_AXIS,))
        self._device = devices[0] if devices is not None and len(devices) == 1 else None
        self._compiled: dict[Any, Callable] = {}
        self._weights = (jax.tree.map(np.asarray, dict(params)), dict(statistics))

    @property
    def n_devices(self) -> int:
        """Chunks that run at the same time."""
        return 1 if self.mesh is None else self.mesh.size

    def _everywhere(self, tree: Any) -> Any:
        if self.mesh is None:
            return jax.device_put(tree, self._device)
        return jax.device_put(tree, NamedSharding(self.mesh, PartitionSpec()))

    def _module(self, weights: Any, dtype: Any) -> Any:
        return self.network.module(weights[0], dtype)

    def _begin(self, weights: Any, chunk: Chunk) -> tuple[Any, Any]:
        module = self._module(weights, chunk.graph.vectors.dtype)
        return module.begin(chunk.graph, module.near_edges(chunk.graph))

    @staticmethod
    def _of_layers(weights: Any) -> list[Any]:
        """For each layer the weights with its own in the place of every layer: all share one compiled function."""
        params, statistics = weights
        layers = params["blocks"]
        return [
            ({**params, "blocks": dict.fromkeys(layers, layers[n])}, statistics)
            for n in sorted(layers, key=int)
        ]

    def _layer(self, weights: Any, x: Any, e: Any, chunk: Chunk) -> tuple[Any, Any]:
        module = self._module(weights, chunk.graph.vectors.dtype)
        return module.blocks[0](x[chunk.atoms], e, module.near_edges(chunk.graph))

    def _rebuilt(self, weights: Any, xs: tuple[Any, ...], chunk: Chunk) -> Any:
        """Features of the near edges after some layers, from those of the atoms before each of them."""
        module = self._module(weights, chunk.graph.vectors.dtype)
        near = module.near_edges(chunk.graph)
        e = module.begin(chunk.graph, near)[1]
        for block, x in zip(list(module.blocks)[: len(xs)], xs, strict=True):
            e = of_each(jnp.add, e, block.write(block.edge(x[chunk.atoms], e, near)[0])[0])
        return e

    def _finish(self, weights: Any, x: Any, e: Any, chunk: Chunk) -> Any:
        module, graph = self._module(weights, chunk.graph.vectors.dtype), chunk.graph
        read = module.read(*module.widened(graph, x[chunk.atoms], e))
        blocks = self.network.one_sided(weights[1], graph, *read)
        species = graph.species
        return self.network.layout.to_species(blocks, species[graph.i], species[graph.j])

    def _run(self, what: Any, function: Callable, everywhere: tuple[Any, ...], own: tuple[Any, ...]) -> Any:
        """function(*everywhere, *own) compiled; with several devices `own` has a leading axis over them."""
        if what not in self._compiled:
            n_shared = len(everywhere)

            def on_one(*arguments: Any) -> Any:
                shared, mine = arguments[:n_shared], arguments[n_shared:]
                with jax.default_matmul_precision("highest"):
                    if self.mesh is None:
                        return function(*shared, *mine)
                    mine = jax.tree.map(lambda leaf: leaf[0], mine)
                    return jax.tree.map(lambda leaf: leaf[None], function(*shared, *mine))

            if self.mesh is None:
                self._compiled[what] = jax.jit(on_one)
            else:
                specs = (PartitionSpec(),) * n_shared + (PartitionSpec(_AXIS),) * len(own)
                mapped = jax.shard_map(
                    on_one, mesh=self.mesh, in_specs=specs, out_specs=PartitionSpec(_AXIS), check_vma=False
                )
                self._compiled[what] = jax.jit(mapped)
        return self._compiled[what](*everywhere, *own)

    @property
    def n_compilations(self) -> int:
        """Compiled functions so far, over all shapes."""
        return sum(int(f._cache_size()) for f in self._compiled.values())  # type: ignore[misc, attr-defined]

    def _batches(self, chunks: Chunks) -> Iterator[tuple[list[int], Any]]:
        """Chunks of each device at once: their numbers (the last ones repeat) and their arrays."""
        for first in range(chunks.mine.start, chunks.mine.stop, self.n_devices):
            numbers = [min(first + d, chunks.mine.stop - 1) for d in range(self.n_devices)]
            if self.mesh is None:
                yield numbers, jax.device_put(chunks[first], self._device)
            else:
                stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *(chunks[n] for n in numbers))
                yield numbers, jax.device_put(stacked, NamedSharding(self.mesh, PartitionSpec(_AXIS)))

    def _homes(self, features: Any, chunks: Chunks) -> list[np.ndarray]:
        """The rows of each device's home atoms, on the host."""
        rows = np.asarray(features)
        return [rows[: chunks.n_home]] if self.mesh is None else [r[: chunks.n_home] for r in rows]

    def __call__(
        self,
        chunks: Chunks,
        progress: Callable[[int], Any] = lambda done: None,
        gather: Callable[[np.ndarray], np.ndarray] = lambda rows: rows,
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(positions of pairs, their blocks (n, M, M) in eV) of each chunk, each pair seen from its own side.

        H is the Hermitian part: ½ (block of (i, j, R) + block of (j, i, -R)^T).

        Parameters
        ----------
        progress : told after each chunk and layer, with 1.
        gather : (rows of the atoms' features of this process' chunks) -> those of all processes' chunks.
        """
        n_layers = self.network.config.n_blocks
        weights = self._everywhere(self._weights)
        of_layers = self._of_layers(weights)
        states: list[Any] = []
        kept: dict[int, Any] = {}
        for layer in range(n_layers + 1):
            gathered: dict[int, np.ndarray] = {}
            for batch, (numbers, chunk) in enumerate(self._batches(chunks)):
                if layer == 0:
                    x, e = self._run("begin", self._begin, (weights,), (chunk,))
                else:
                    e = self._edges(weights, states[: layer - 1], kept.pop(batch, None), chunk)
                    x, e = self._run("layer", self._layer, (of_layers[layer - 1], states[-1]), (e, chunk))
                if self.edges == "stored":
                    kept[batch] = e
                gathered |= dict(zip(numbers, self._homes(x, chunks), strict=True))
                progress(len(set(numbers)))
            stacked = gather(np.concatenate([gathered[n] for n in chunks.mine]))
            if self.edges == "stored":
                states.clear()
            states.append(self._everywhere(stacked))
        for batch, (numbers, chunk) in enumerate(self._batches(chunks)):
            e = self._edges(weights, states[:n_layers], kept.pop(batch, None), chunk)
            found = self._run("finish", self._finish, (weights, states[-1]), (e, chunk))
            blocks = np.asarray(found)[None] if self.mesh is None else np.asarray(found)
            for place, n in enumerate(dict.fromkeys(numbers)):
                pairs = chunks.pairs(n)
                yield pairs, blocks[place][: len(pairs)]
            progress(len(set(numbers)))

    def _edges(self, weights: Any, states: list[Any], kept: Any, chunk: Any) -> Any:
        """Features of a chunk's near edges, kept or made from the atoms' features before each layer so far."""
        if kept is not None:
            return kept
        return self._run(("rebuilt", len(states)), self._rebuilt, (weights, tuple(states)), (chunk,))


def n_steps(chunks: Chunks, network: Network) -> int:
    """How often `progress` is told in one run."""
    return len(chunks.mine) * (network.config.n_blocks + 2)
