"""Generalised eigenproblems at many k: JAX in batches against LAPACK one by one, on this machine's default device.

    python benchmarks/eigen_batched.py [--orbitals 18 72 288 576] [--kpts 32] [--vectors]

Random Hermitian H and S with a condition number of about ten. Reported per size: seconds by each, the second call of
each, the largest difference of a level, and what "auto" takes.
"""

from __future__ import annotations

import argparse
import sys
import time

import numpy as np
import scipy.linalg as sl

from ase_deeph.eigen_batched import batch_size, chosen_engine, solve_batch


def problems(n: int, n_kpts: int) -> tuple[np.ndarray, np.ndarray]:
    """(n_kpts, n, n) H in eV and S."""
    random = np.random.default_rng(0)
    m = random.standard_normal((n_kpts, n, n)) + 1j * random.standard_normal((n_kpts, n, n))
    adjoint = m.conj().swapaxes(1, 2)
    return m + adjoint, m @ adjoint / (2 * n) + 0.5 * np.eye(n)


def by_lapack(h: np.ndarray, s: np.ndarray, vectors: bool) -> np.ndarray:
    """(n_kpts, n) eV."""
    if not vectors:
        return np.array([sl.eigh(*pair, eigvals_only=True) for pair in zip(h, s, strict=True)])
    return np.array([sl.eigh(*pair, driver="gvd")[0] for pair in zip(h, s, strict=True)])


def by_jax(h: np.ndarray, s: np.ndarray, vectors: bool) -> np.ndarray:
    """(n_kpts, n) eV, in batches as `ase_deeph.eigen` makes them."""
    size = min(batch_size(h.shape[1]), len(h))
    parts = (slice(start, start + size) for start in range(0, len(h), size))
    return np.concatenate([solve_batch(h[p], s[p], vectors=vectors, smallest=0.0)[0] for p in parts])


def main() -> None:
    """A line for each size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--orbitals", type=int, nargs="+", default=[18, 72, 288, 576])
    parser.add_argument("--kpts", type=int, default=32)
    parser.add_argument("--vectors", action="store_true")
    arguments = parser.parse_args()
    for n in arguments.orbitals:
        h, s = problems(n, arguments.kpts)
        seconds, levels = [], []
        for solver in (by_lapack, by_jax):
            solver(h, s, arguments.vectors)
            cpu, wall = time.process_time(), time.perf_counter()
            levels.append(solver(h, s, arguments.vectors))
            seconds.append((time.process_time() - cpu, time.perf_counter() - wall))
        difference = np.abs(levels[0] - levels[1]).max()
        taken = chosen_engine(n, arguments.kpts, vectors=arguments.vectors)
        (cpu, wall), (cpu_jax, wall_jax) = seconds
        sys.stdout.write(
            f"{n} orbitals, {arguments.kpts} k: LAPACK {cpu:.3f} CPU s ({wall:.3f} s), JAX {cpu_jax:.3f} CPU s "
            f"({wall_jax:.3f} s), levels differ by {difference:.1e} eV; auto: {taken}\n"
        )
        sys.stdout.flush()


if __name__ == "__main__":
    main()
