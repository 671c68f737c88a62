"""The generalised eigenproblem H(k) c = e S(k) c, dense, over many k and both spins.

Near-singular overlaps are handled in the open: directions of S(k) whose eigenvalue is below `threshold` times
its largest are removed (canonical orthogonalisation), a warning says how many and where.  All k-points of one
call then report the same number of bands, the smallest over its k-points; elsewhere the highest bands are
left out, so no array ever holds NaN or infinity.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from itertools import islice, repeat
from typing import TYPE_CHECKING

import numpy as np
import scipy.linalg as sl
from threadpoolctl import ThreadpoolController

from ase_deeph.matrix import RealSpaceMatrix

if TYPE_CHECKING:
    from ase_deeph.eigen_batched import DenseEngine

logger = logging.getLogger(__name__)

OVERLAP_THRESHOLD = 1e-8
_NEGATIVE = 1e-6
_HERMITICITY = 1e-5
_SMALL = 400
"""Orbitals up to which one BLAS thread is used: more gain nothing, and wait for each other on a busy machine."""


@dataclass(frozen=True, eq=False)
class EigenStates:
    """Eigenvalues, and coefficients C with C† S C = 1 where they were asked for.

    Parameters
    ----------
    kpts : (n_kpts, 3) fractional.
    eigenvalues : (n_spins, n_kpts, n_bands) eV, ascending.
    coefficients : (n_spins, n_kpts, n_orbitals, n_bands) complex, or None.
    n_removed : (n_kpts,) directions of S(k) left out as linearly dependent.
    """

    kpts: np.ndarray
    eigenvalues: np.ndarray
    coefficients: np.ndarray | None
    n_removed: np.ndarray

    def __iter__(self) -> Iterator[np.ndarray | None]:
        """Unpacks as eigenvalues, coefficients."""
        return iter((self.eigenvalues, self.coefficients))


def solve_dense(
    h: np.ndarray, s: np.ndarray | None = None, *, vectors: bool = False, threshold: float = OVERLAP_THRESHOLD
) -> tuple[np.ndarray, np.ndarray | None]:
    """All eigenpairs of one H c = e S c.

    Parameters
    ----------
    h, s : (n, n) Hermitian, eV and dimensionless; s None means the identity.
    vectors : whether to return C (n, n_bands) with C† S C = 1.
    threshold : directions with an eigenvalue of S below this times its largest are removed.

    Returns
    -------
    (n_bands,) ascending eigenvalues in eV and C or None; n_bands < n when directions were removed.

    Raises
    ------
    ValueError : NaN, a matrix that is not Hermitian, or an overlap with a clearly negative eigenvalue.
    """
    h = _checked(h, "Hamiltonian")
    if s is None:
        return _eigh(h, vectors)
    s = _checked(s, "overlap")
    if h.shape != s.shape:
        raise ValueError(f"overlap: expected the Hamiltonian's shape {h.shape}, received {s.shape}")
    if _is_well_conditioned(s, 10 * threshold):
        return _eigh(h, vectors, s)
    x = _canonical_basis(s, threshold)
    e, c = _eigh(x.conj().T @ h @ x, vectors)
    return e, None if c is None else x @ c


def solve(
    hamiltonian: RealSpaceMatrix,
    overlap: RealSpaceMatrix | None,
    kpts: np.ndarray,
    *,
    vectors: bool = False,
    threshold: float = OVERLAP_THRESHOLD,
    engine: DenseEngine = "auto",
) -> EigenStates:
    """H(k) c = e S(k) c at every k and spin; one H(k) and S(k) in memory at a time, or by JAX one batch.

    Parameters
    ----------
    hamiltonian : H(R) in eV, of any spin.
    overlap : S(R) of spin "none" (used for both channels, doubled for spinors), or None for identity.
    kpts : (n_kpts, 3) fractional.
    engine : "lapack" one by one, "jax" in batches on JAX's default device, or "auto", see `ase_deeph.eigen_batched`;
        where nothing in this process has used JAX yet, "auto" is LAPACK.

    Raises
    ------
    ValueError : as `solve_dense`, with the k-point named; an unknown engine.
    """
    if overlap is not None and hamiltonian.spin == "spinor" and overlap.spin == "none":
        overlap = spinor_overlap(overlap)
    energies: list[list[np.ndarray]] = []
    states: list[list[np.ndarray | None]] = []
    with blas().limit(limits=1 if hamiltonian.n_orbitals <= _SMALL else None, user_api="blas"):
        overlaps = repeat(None, len(kpts)) if overlap is None else overlap.at_each_k(kpts)
        at_each_k = zip(kpts, hamiltonian.at_each_k(kpts), overlaps, strict=True)
        matrices = ((k, h if hamiltonian.spin == "collinear" else h[None], s) for k, h, s in at_each_k)
        in_batches = _by_jax(hamiltonian.n_orbitals, len(kpts), engine, vectors)
        solver = _solved_in_batches if in_batches else _solved_one_by_one
        for solved in solver(matrices, vectors, threshold):
            energies.append([e for e, _ in solved])
            states.append([c for _, c in solved])
    n_removed = np.array([hamiltonian.n_orbitals - len(at_k[0]) for at_k in energies])
    _warn_removed(n_removed, kpts, threshold)
    n_bands = hamiltonian.n_orbitals - int(n_removed.max())
    coefficients = (
        np.array([[c[:, :n_bands] for c in at_k if c is not None] for at_k in states]) if vectors else None
    )
    return EigenStates(
        kpts,
        np.array([[e[:n_bands] for e in at_k] for at_k in energies]).swapaxes(0, 1),
        None if coefficients is None else coefficients.swapaxes(0, 1),
        n_removed,
    )


_Matrices = Iterable[tuple[np.ndarray, np.ndarray, np.ndarray | None]]
"""(k, H(k) of each spin, S(k))."""
_Solved = list[tuple[np.ndarray, "np.ndarray | None"]]
"""Energies and coefficients of each spin."""


def _by_jax(n: int, n_kpts: int, engine: DenseEngine, vectors: bool) -> bool:
    if engine == "lapack" or (engine == "auto" and "jax" not in sys.modules):
        return False
    from ase_deeph.eigen_batched import chosen_engine

    return chosen_engine(n, n_kpts, engine, vectors=vectors) == "jax"


def _solved_one_by_one(matrices: _Matrices, vectors: bool, threshold: float) -> Iterator[_Solved]:
    for k, channels, s in matrices:
        try:
            yield [solve_dense(channel, s, vectors=vectors, threshold=threshold) for channel in channels]
        except ValueError as error:
            raise ValueError(f"at k = {_text(k)}: {error}") from None


def _solved_in_batches(matrices: _Matrices, vectors: bool, threshold: float) -> Iterator[_Solved]:
    """Batches of one size, the last one filled up, so that one is compiled; near-singular S(k) by `solve_dense`."""
    from ase_deeph.eigen_batched import batch_size, solve_batch

    matrices, length = iter(matrices), 0
    while first := next(matrices, None):
        n_spins, n, _ = first[1].shape
        batch = [first, *islice(matrices, max(batch_size(n) // n_spins, 1) - 1)]
        length = length or len(batch)
        filled = batch + [batch[-1]] * (length - len(batch))
        h = np.concatenate(
            [[_checked_at(k, c, "Hamiltonian") for c in channels] for k, channels, _ in filled]
        )
        s = None
        if first[2] is not None:
            s = np.repeat([_checked_at(k, m, "overlap") for k, _, m in filled], n_spins, axis=0)
        e, c, trusted = solve_batch(h, s, vectors=vectors, smallest=10 * threshold)
        for place, matrix in enumerate(batch):
            here = slice(place * n_spins, (place + 1) * n_spins)
            if not trusted[here].all():
                yield from _solved_one_by_one([matrix], vectors, threshold)
            else:
                yield list(zip(e[here], repeat(None) if c is None else c[here].astype(complex), strict=False))


def _checked_at(k: np.ndarray, m: np.ndarray | None, name: str) -> np.ndarray:
    assert m is not None, "S is there at every k or at none"
    try:
        return _checked(m, name)
    except ValueError as error:
        raise ValueError(f"at k = {_text(k)}: {error}") from None


@cache
def blas() -> ThreadpoolController:
    """The BLAS libraries of this process, found once: the search takes longer than a small eigenproblem."""
    return ThreadpoolController()


def spinor_overlap(overlap: RealSpaceMatrix) -> RealSpaceMatrix:
    """S for two-component spinors from the spatial S: every block becomes [[S, 0], [0, S]]."""
    double = partial(np.kron, np.eye(2, dtype=complex))
    blocks = [double(block) for block in overlap.blocks()]
    return RealSpaceMatrix.from_blocks(overlap.basis, overlap.pairs, overlap.atoms, blocks, "spinor")


def _checked(m: np.ndarray, name: str) -> np.ndarray:
    """The Hermitian part; real when the imaginary part is rounding (k at a zone-boundary or Γ point)."""
    largest = _largest(m)
    if not np.isfinite(largest):
        raise ValueError(f"{name}: expected finite numbers, received NaN or infinity")
    scale, difference = max(1.0, largest), m - m.conj().T
    error = _largest(difference)
    if error > _HERMITICITY * scale:
        raise ValueError(
            f"{name}: expected a Hermitian matrix, received |M - M†| = {error:.1e}; "
            "use hermitian_part(), or check that every pair carries its reverse"
        )
    m = m - 0.5 * difference
    if np.iscomplexobj(m) and float(np.abs(m.imag).max(initial=0.0)) < 1e-13 * scale:
        return np.ascontiguousarray(m.real)
    return m


def _largest(m: np.ndarray) -> float:
    """The largest real or imaginary part (cheaper than moduli); NaN where there is one."""
    return float(np.abs(np.ascontiguousarray(m).view(m.real.dtype)).max(initial=0.0))


def _eigh(h: np.ndarray, vectors: bool, s: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray | None]:
    if not vectors:
        return sl.eigh(h, s, eigvals_only=True, check_finite=False), None
    e, c = sl.eigh(h, s, driver="evd" if s is None else "gvd", check_finite=False)
    return e, c.astype(complex)


def _is_well_conditioned(s: np.ndarray, threshold: float) -> bool:
    """Whether Cholesky succeeds and LAPACK's O(n²) estimate of 1/cond(S) exceeds the threshold."""
    potrf, pocon = sl.get_lapack_funcs(("potrf", "pocon"), (s,))
    factor, info = potrf(s, lower=False)
    if info != 0:
        return False
    reciprocal, info = pocon(factor, float(np.abs(s).sum(axis=0).max()), uplo="U")
    return info == 0 and float(reciprocal) > threshold


def _canonical_basis(s: np.ndarray, threshold: float) -> np.ndarray:
    """(n, n_kept) X = U λ^(-1/2) over the eigenvalues λ of S above threshold·λ_max, so that X† S X = 1."""
    values, vectors = sl.eigh(s, check_finite=False)
    largest = float(values[-1])
    if largest <= 0 or values[0] < -max(threshold, _NEGATIVE) * largest:
        raise ValueError(
            f"overlap: expected a positive matrix, received smallest eigenvalue {values[0]:.2e}; "
            "check the order of orbitals, the sign of R and that S reaches as far as the orbitals overlap"
        )
    kept = values > threshold * largest
    return vectors[:, kept] / np.sqrt(values[kept])


def _warn_removed(n_removed: np.ndarray, kpts: np.ndarray, threshold: float) -> None:
    touched = np.nonzero(n_removed)[0]
    if len(touched):
        worst = touched[np.argmax(n_removed[touched])]
        logger.warning(
            "near-singular overlap (below %.0e of its largest eigenvalue): directions removed at %d of %d "
            "k-points, up to %d at k = %s; every k-point reports %d bands fewer",
            threshold,
            len(touched),
            len(kpts),
            n_removed[worst],
            _text(kpts[worst]),
            n_removed[worst],
        )


def _text(k: np.ndarray) -> str:
    return "(" + ", ".join(f"{x:.4f}" for x in k) + ")"
