"""Where a training step's time goes: the matrix products' FLOPs and bytes, counted, against the clock.

    python benchmarks/training_step.py CONFIG.toml [--epochs 2]

CONFIG is any training config (its output folder is not touched).  FLOPs and bytes are counted in the traced
gradient of each padded shape before anything is timed: 2·M·N·K of every matrix product, and its operands and its
result moved once.  The floors are those numbers over the rates that this machine reaches here and now with one
large product and with one large copy.  Then the step is timed, and some epochs are run through the real feed to see
how long the device waits for the host.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from trainers.config import load_config
from trainers.experiment import Experiment
from trainers.fit import Trainer, prepared, running
from trainers.log import read_log

_SIDE = 1024
_COPY = 2**25


@dataclass(frozen=True)
class Count:
    """Floating-point operations and bytes of matrix products."""

    flops: float = 0.0
    bytes: float = 0.0

    def __add__(self, other: Count) -> Count:
        return Count(self.flops + other.flops, self.bytes + other.bytes)

    def times(self, n: int) -> Count:
        """The same n times."""
        return Count(n * self.flops, n * self.bytes)


def products(jaxpr: Any) -> Count:
    """All matrix products of a traced function, those in loops and calls included."""
    found = Count()
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            found += _product(equation)
        inner = sum((products(sub) for sub in _inside(equation.params.values())), start=Count())
        found += inner.times(int(equation.params.get("length", 1)))
    return found


def _product(equation: Any) -> Count:
    contracted = equation.params["dimension_numbers"][0][0]
    left, right, result = (*(v.aval for v in equation.invars), equation.outvars[0].aval)
    depth = int(np.prod([left.shape[d] for d in contracted]))
    moved = sum(a.size * a.dtype.itemsize for a in (left, right, result))
    return Count(2.0 * result.size * depth, moved)


def _inside(values: Any) -> Iterator[Any]:
    for value in values:
        if isinstance(value, jax.extend.core.ClosedJaxpr):
            yield value.jaxpr
        elif isinstance(value, jax.extend.core.Jaxpr):
            yield value
        elif isinstance(value, (tuple, list)):
            yield from _inside(value)


def seconds(call: Callable[[], Any], repeats: int = 5) -> float:
    """The median of some calls after one that compiles."""
    jax.block_until_ready(call())
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        jax.block_until_ready(call())
        times.append(time.perf_counter() - began)
    return float(np.median(times))


def rates() -> tuple[float, float]:
    """(FLOP/s of one large product, bytes/s of one large copy)."""
    a = jnp.ones((_SIDE, _SIDE), dtype=jnp.float32)
    product = jax.jit(lambda a: jnp.matmul(a, a, precision="highest"))
    copied = jax.jit(lambda x: x + 1.0)
    x = jnp.ones(_COPY, dtype=jnp.float32)
    return 2.0 * _SIDE**3 / seconds(lambda: product(a)), 8.0 * _COPY / seconds(lambda: copied(x))


def table(experiment: Experiment) -> Iterator[str]:
    """One line for each padded shape."""
    steps = experiment.steps
    state = steps.start(experiment.initial_params())
    statistics = steps.devices.replicate(dict(experiment.statistics()))
    flop_rate, byte_rate = rates()
    yield f"one product: {flop_rate / 1e9:.1f} GFLOP/s; one copy: {byte_rate / 1e9:.1f} GB/s"
    yield "| atoms, pairs, near | GFLOP | GB | FLOP floor (ms) | byte floor (ms) | gradient (ms) | ratio |"
    yield "|---|---|---|---|---|---|---|"
    for members, _ in experiment.train.kinds():
        batch = experiment.train.example(members, 0)
        slope = jax.grad(lambda p, b=batch: steps.batch_loss(p, statistics, b)[0])
        count = products(jax.make_jaxpr(slope)(state.params).jaxpr)
        compute, memory = count.flops / flop_rate, count.bytes / byte_rate
        taken = seconds(lambda b=batch: steps.gradient(state, statistics, b))
        shape = ", ".join(str(n) for n in experiment.train.shapes_of(members))
        yield (
            f"| {shape} | {count.flops / 1e9:.2f} | {count.bytes / 1e9:.2f} | {1e3 * compute:.0f} | "
            f"{1e3 * memory:.0f} | {1e3 * taken:.0f} | {taken / max(compute, memory):.1f} times |"
        )


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config")
    parser.add_argument("--epochs", type=int, default=2)
    arguments = parser.parse_args()
    config = load_config(arguments.config)
    with tempfile.TemporaryDirectory() as folder:
        training = config.training.model_copy(
            update={"epochs": arguments.epochs, "max_minutes": None, "validate_every": arguments.epochs}
        )
        config = config.model_copy(update={"output": str(Path(folder) / "run"), "training": training})
        with running(config):
            experiment = prepared(config)
            for line in table(experiment):
                print(line, flush=True)
            began = time.process_time()
            trainer = Trainer(replace(experiment, config=config))
            trainer.run(resume=False)
            rows = read_log(trainer.folder.path / "log.csv")
    for row in rows:
        print(
            f"epoch {int(row['epoch'])}: {row['structures_per_second']:.2f} structures per s, the device waited "
            f"{row['host_wait_percent']:.1f} % of the time, peak memory {row['peak_memory_gib']:.2f} GiB"
        )
    print(f"{time.process_time() - began:.0f} CPU s in the epochs", file=sys.stderr)


if __name__ == "__main__":
    main()
