"""One process of the engine slepc: reads its rows of H and S, finds the states nearest an energy, rank 0 writes.

Run by mpirun under any Python that has numpy, petsc4py and slepc4py; imports nothing of this package.  With a real
build of PETSc a complex Hermitian A + iB is solved as [[A, -B], [B, A]], which has every eigenvalue twice, and the
states below the energy are counted by MUMPS; a complex build solves it as it is and does not count.
"""

from __future__ import annotations

import glob
import os
import sys
from typing import Any


def find_debian_packages() -> None:
    """Debian keeps PETSc's and SLEPc's modules beside the libraries; real builds are preferred, they count."""
    for kind in ("-real", "-complex"):
        homes = [sorted(glob.glob(f"/usr/lib/{p}dir/{p}*/*{kind}"))[-1:] for p in ("petsc", "slepc")]
        if all(homes):
            for variable, home in zip(("PETSC_DIR", "SLEPC_DIR"), homes, strict=True):
                os.environ.setdefault(variable, home[0])
                sys.path.append(os.environ[variable] + "/lib/python3/dist-packages")
            return


def main(folder: str, energy: float, n_states: int) -> None:
    """Solve and write energies, vectors, residuals and the index of the first state."""
    import numpy as np
    import slepc4py

    slepc4py.init(sys.argv[:1])
    from petsc4py import PETSc
    from slepc4py import SLEPc

    h, s = (_read(np, folder, name) for name in "hs")
    is_real = not np.issubdtype(PETSc.ScalarType, np.complexfloating)
    twice = is_real and any(np.iscomplexobj(m[2]) for m in (h, s))
    n = len(h[0]) - 1
    a, b = (_distributed(np, PETSc, m, twice) for m in (h, s))
    if os.environ.get("ASE_DEEPH_SLEPC_TEST_KILL") == str(PETSc.COMM_WORLD.rank):
        os.kill(os.getpid(), 9)
    solver = SLEPc.EPS().create()
    solver.setOperators(a, b)
    solver.setProblemType(SLEPc.EPS.ProblemType.GHEP)
    solver.setWhichEigenpairs(SLEPc.EPS.Which.TARGET_MAGNITUDE)
    solver.setTarget(energy)
    solver.setTolerances(1e-12, 500)
    solver.setDimensions((2 if twice else 1) * (n_states + 2))
    transform = solver.getST()
    transform.setType(SLEPc.ST.Type.SINVERT)
    direct = transform.getKSP()
    direct.setType("preonly")
    direct.getPC().setType("cholesky" if is_real else "lu")
    direct.getPC().setFactorSolverType("mumps")
    for prefix in ("", "st_"):
        for control in (13, 24):
            PETSc.Options().setValue(f"{prefix}mat_mumps_icntl_{control}", 1)
    solver.setFromOptions()
    solver.solve()
    below = int(direct.getPC().getFactorMatrix().getInertia()[0]) if is_real else -1
    found = _states(np, PETSc, solver, a, n, twice)
    if PETSc.COMM_WORLD.rank == 0:
        _write(np, folder, found, energy, n_states, below // 2 if twice else below)


def _read(np: Any, folder: str, name: str) -> list:
    return [np.load(f"{folder}/{name}_{p}.npy", mmap_mode="r") for p in ("indptr", "indices", "data")]


def _distributed(np: Any, PETSc: Any, matrix: list, twice: bool) -> Any:
    """The rows of this process; embedded in a real matrix of twice the size where that is needed."""
    starts, columns, data = matrix
    n = len(starts) - 1
    size = 2 * n if twice else n
    result = PETSc.Mat().create(PETSc.COMM_WORLD)
    result.setSizes(((PETSc.DECIDE, size), (PETSc.DECIDE, size)))
    result.setType("aij")
    result.setUp()
    low, high = result.getOwnershipRange()
    pointers, own_columns, own_data = [0], [], []
    for row in range(low, high):
        part = slice(int(starts[row % n]), int(starts[row % n + 1]))
        js, xs = np.asarray(columns[part]), np.asarray(data[part])
        if twice:
            upper = row < n
            js = np.concatenate([js, js + n])
            xs = np.concatenate([xs.real, -xs.imag] if upper else [xs.imag, xs.real])
        own_columns.append(js)
        own_data.append(xs)
        pointers.append(pointers[-1] + len(js))
    empty = np.zeros(0)
    result.setPreallocationCSR((
        np.array(pointers, PETSc.IntType),
        np.concatenate([empty, *own_columns]).astype(PETSc.IntType),
        np.concatenate([empty, *own_data]).astype(PETSc.ScalarType),
    ))  # fmt: skip
    result.assemble()
    result.setOption(PETSc.Mat.Option.HERMITIAN if not twice else PETSc.Mat.Option.SYMMETRIC, True)
    return result


def _states(np: Any, PETSc: Any, solver: Any, a: Any, n: int, twice: bool) -> list:
    """(energy, vector, residual) of every converged pair, vectors gathered on rank 0."""
    found = []
    vector, _ = a.createVecs()
    for i in range(solver.getConverged()):
        value = solver.getEigenpair(i, vector)
        scatter, whole = PETSc.Scatter.toZero(vector)
        scatter.scatter(vector, whole)
        x = np.array(whole.getArray())
        residual = solver.computeError(i, 0)
        if len(x):
            found.append((value.real, x[:n] + 1j * x[n:] if twice else x, residual))
    return found


def _write(np: Any, folder: str, found: list, energy: float, n_states: int, below: int) -> None:
    """The nearest states, made independent and S-orthonormal by Rayleigh-Ritz, and the index of the first."""
    import numpy.linalg as nl

    h, s = ([np.array(part) for part in _read(np, folder, name)] for name in "hs")
    x = np.stack([v for _, v, _ in found], axis=1)
    hx, sx = (_product(np, m, x) for m in (h, s))
    weights, modes = nl.eigh(x.conj().T @ sx)
    modes = modes[:, weights > 1e-6 * weights[-1]] / np.sqrt(weights[weights > 1e-6 * weights[-1]])
    small = modes.conj().T @ (x.conj().T @ hx) @ modes
    energies, rotation = nl.eigh(0.5 * (small + small.conj().T))
    turned = modes @ rotation
    x, hx, sx = x @ turned, hx @ turned, sx @ turned
    nearest = np.sort(np.argsort(np.abs(energies - energy))[:n_states])
    if len(nearest) < n_states:
        sys.exit(f"{len(nearest)} of {n_states} states converged")
    residuals = nl.norm(hx - sx * energies, axis=0)[nearest]
    first = below - int(np.sum(energies[nearest] < energy)) if below >= 0 else -1
    parts = {"vectors": x[:, nearest], "residuals": residuals, "count": np.array([first])}
    for name, value in {**parts, "energies": energies[nearest]}.items():
        np.save(f"{folder}/{name}.npy", value)


def _product(np: Any, matrix: list, x: Any) -> Any:
    starts, columns, data = matrix
    out = np.empty(x.shape, np.result_type(data.dtype, x.dtype))
    for row in range(len(starts) - 1):
        part = slice(int(starts[row]), int(starts[row + 1]))
        out[row] = data[part] @ x[columns[part]]
    return out


if __name__ == "__main__":
    find_debian_packages()
    if sys.argv[1] == "--probe":
        import slepc4py  # noqa: F401
    else:
        main(sys.argv[1], float(sys.argv[2]), int(sys.argv[3]))
