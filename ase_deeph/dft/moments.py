"""Initial magnetic moments of the structures of a data set, and whether a calculation ended in that pattern.

A self-consistent calculation may leave the pattern that it started from.  H belongs to the pattern where it ended, so
a data set that is labelled by the initial one must refuse such a calculation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from ase import Atoms

from ase_deeph.eigen import solve
from ase_deeph.matrix import RealSpaceMatrix
from ase_deeph.occupation import Smearing, fill

PATTERNS = ("ferro", "antiferro", "random")
LEAST_SHARE = 0.3
"""Of its initial moment, that an atom must keep, with its sign."""


def with_moments(
    atoms: Atoms, pattern: str, moment: float | Mapping[str, float], rng: np.random.Generator
) -> Atoms:
    """A copy with initial moments in μB: all up ("ferro"), signs in turn, starting up ("antiferro"), or drawn.

    Parameters
    ----------
    moment : of every atom, or of each element, which is 0 for those not named; only atoms with a moment are
        counted for signs in turn.

    Raises
    ------
    ValueError : an unknown pattern, or no atom with a moment.
    """
    if pattern not in PATTERNS:
        raise ValueError(f"moments: expected {', '.join(PATTERNS)}, received {pattern!r}")
    symbols = atoms.get_chemical_symbols()
    sizes = np.array([moment.get(s, 0.0) if isinstance(moment, Mapping) else moment for s in symbols])
    magnetic = np.nonzero(sizes)[0]
    if not len(magnetic):
        raise ValueError(f"moments: no atom of {atoms.get_chemical_formula()} has one, received {moment!r}")
    signs = np.ones(len(magnetic), dtype=int)
    if pattern == "antiferro":
        signs[1::2] = -1
    elif pattern == "random":
        signs = rng.choice([-1, 1], size=len(magnetic))
    values = np.zeros(len(atoms))
    values[magnetic] = signs * sizes[magnetic]
    result = atoms.copy()
    result.set_initial_magnetic_moments(values)
    return result


def check_moments(initial: np.ndarray, final: Sequence[float]) -> None:
    """RuntimeError unless each atom with an initial moment ended with its sign and a good share of its size.

    Parameters
    ----------
    initial, final : (n_atoms,) μB; an atom that starts without a moment may end with any.
    """
    start, end = np.asarray(initial, dtype=float), np.asarray(final, dtype=float)
    lost = np.nonzero((start != 0) & (end * np.sign(start) < LEAST_SHARE * np.abs(start)))[0]
    if len(lost):
        a = int(lost[0])
        raise RuntimeError(
            f"the self-consistency left the moments it started from: atom {a} ended with {end[a]:.2f} instead of "
            f"{start[a]:.2f} μB ({len(lost)} of {len(start)} atoms); start elsewhere, or drop this structure"
        )


def mulliken_moments(
    density: np.ndarray, overlap: np.ndarray, weights: np.ndarray, offsets: np.ndarray
) -> np.ndarray:
    """(n_atoms,) Mulliken moments in μB: Σ_k w_k Re Σ_{μ in A} [(P↑ - P↓) S]_μμ.

    Parameters
    ----------
    density : (2, n_k, n, n) P(k) of both channels, electrons.
    overlap : (n_k, n, n) S(k).
    weights : (n_k,) summing to 1.
    offsets : (n_atoms + 1,) first orbital of each atom, and the total.
    """
    spin = density[0] - density[1]
    per_orbital = np.einsum("k,kmn,knm->m", weights, spin, overlap).real
    return np.add.reduceat(per_orbital, offsets[:-1])


def moments_of_matrices(
    hamiltonian: RealSpaceMatrix,
    overlap: RealSpaceMatrix,
    points: np.ndarray,
    n_electrons: tuple[float, float] | float,
    width: float,
) -> list[float]:
    """Mulliken moment of each atom in μB from collinear H(R) and S(R), for engines that print no density matrix.

    Parameters
    ----------
    points : (n_k, 4) fractional k and weights that sum to 1.
    n_electrons : of both channels, which then share one Fermi level, or of each.
    width : Fermi-Dirac width in eV.
    """
    weights = points[:, 3] / points[:, 3].sum()
    states = solve(hamiltonian, overlap, points[:, :3], vectors=True)
    energies, smearing = states.eigenvalues, Smearing("fermi-dirac", width)
    if isinstance(n_electrons, tuple):
        channels = zip(energies[:, None], n_electrons, strict=True)
        filled = np.concatenate(
            [fill(e, weights, n, smearing, degeneracy=1).occupations for e, n in channels]
        )
    else:
        filled = fill(energies, weights, n_electrons, smearing, degeneracy=1).occupations
    assert states.coefficients is not None
    c = states.coefficients
    density = np.einsum("skmb,skb,sknb->skmn", c, filled, c.conj(), optimize=True)
    symbols = hamiltonian.atoms.get_chemical_symbols()
    at_k = np.stack(list(overlap.at_each_k(points[:, :3])))
    moments = mulliken_moments(density, at_k, weights, hamiltonian.basis.offsets(symbols))
    return [round(float(m), 6) for m in moments]
