"""Reference calculations with GPAW in LCAO mode: Atoms -> H(R), S(R), radial functions, energy, forces.

GPAW's Bloch matrices on a k-mesh are Fourier-transformed to real space,

    M_ij(R) = Re Σ_k w_k exp(+2πi k·R) M_ij(k)   (GPAW's M(k) is the conjugate of ours),

and each element of the mesh's supercell is given to the nearest periodic image of the pair.  The result is the
full H(R) when the supercell is wider than twice the range of H, which the automatic mesh provides.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
from ase import Atoms
from ase.units import Bohr, Hartree

from ase_deeph.basis import Augmentation, GridRadial, OrbitalBasis, SpeciesBasis
from ase_deeph.matrix import RealSpaceMatrix
from ase_deeph.pairs import AtomPairs
from ase_deeph.reference import ReferenceData

logger = logging.getLogger(__name__)

HAMILTONIAN_THRESHOLD = 1e-6
OVERLAP_THRESHOLD = 1e-8
_KNOT_SPACING = 0.008
_ALIAS_LIMIT = 1e-4


def run_gpaw(
    atoms: Atoms,
    basis: str = "dzp",
    xc: str = "PBE",
    kpts: Any = None,
    h: float = 0.2,
    spin: str | None = None,
    *,
    width: float = 0.1,
    vacuum: float | None = 6.0,
    density_convergence: float = 1e-6,
    forces: bool = True,
    txt: str | None = None,
    calculator_options: Mapping[str, Any] | None = None,
) -> ReferenceData:
    """One GPAW LCAO calculation of a molecule, tube, layer or crystal.

    Parameters
    ----------
    atoms : the structure; positions in Å are used as given, R refers to them.
    basis : GPAW's name of the orbitals, "dzp", "szp(dzp)", ...
    xc : exchange-correlation functional.
    kpts : mesh (n1, n2, n3); None: odd counts whose supercell is wider than twice the range of H.
    h : grid spacing in Å.
    spin : None or "none" (spin-paired), or "collinear" (initial moments taken from `atoms`).
    width : Fermi-Dirac width in eV.
    vacuum : Å on each side along axes that are not periodic (Dirichlet boundaries: the zero of energy is the
        vacuum level); None keeps the cell as given.
    density_convergence : electrons per valence electron.
    forces : whether to compute the forces.
    txt : file for GPAW's own log; None discards it.
    calculator_options : passed on to GPAW.

    Returns
    -------
    ReferenceData : H(R) in eV, S(R), basis, n_electrons, fermi_level, energy, forces; stress is None (GPAW's
        LCAO mode has none). `info` tells the engine, the settings, and what was dropped.

    Raises
    ------
    ImportError : GPAW is not installed.
    ValueError : unknown spin, or a mesh that is not three positive integers with 1 along open axes.
    RuntimeError : the self-consistency did not converge.
    """
    if spin not in (None, "none", "collinear"):
        raise ValueError(f"spin: run_gpaw knows None, 'none' and 'collinear', received {spin!r}")
    work = boxed(atoms, vacuum)
    calc = converged_calculator(
        work,
        basis=basis,
        xc=xc,
        kpts=kpts,
        h=h,
        spin=spin,
        width=width,
        density=density_convergence,
        txt=txt,
        options=calculator_options or {},
    )
    return collect(atoms, work, calc, forces=forces, settings={"basis": basis, "xc": xc, "h": h, "width": width})


def boxed(atoms: Atoms, vacuum: float | None) -> Atoms:
    """A copy with `vacuum` Å on each side along open axes, the atoms moved rigidly into the box."""
    work = Atoms(
        atoms.get_chemical_symbols(), positions=atoms.positions, cell=atoms.cell.complete(), pbc=atoms.pbc
    )
    work.set_initial_magnetic_moments(atoms.get_initial_magnetic_moments())
    for axis in range(3):
        if vacuum is not None and not atoms.pbc[axis]:
            work.center(vacuum=vacuum, axis=axis)
    return work


def _gpaw_class() -> type:
    try:
        from gpaw import GPAW
    except ImportError as error:
        raise ImportError(
            "run_gpaw needs GPAW, which is not installed; install it with: pip install 'ase-deeph[gpaw]'"
        ) from error
    return GPAW


def converged_calculator(
    work: Atoms,
    *,
    basis: str,
    xc: str,
    kpts: Any,
    h: float,
    spin: str | None,
    width: float,
    density: float,
    txt: str | None,
    options: Mapping[str, Any],
) -> Any:
    """A GPAW calculator with a converged LCAO density for a structure in its box."""
    GPAW = _gpaw_class()
    from gpaw import KohnShamConvergenceError

    mesh = checked_mesh(work, kpts) if kpts is not None else automatic_mesh(work, orbital_radii(work, basis, xc))
    calc = GPAW(
        mode="lcao",
        basis=basis,
        xc=xc,
        h=h,
        kpts={"size": mesh, "gamma": True},
        spinpol=spin == "collinear",
        occupations={"name": "fermi-dirac", "width": width},
        convergence={"density": density, "energy": 1e-6},
        symmetry={"point_group": False, "time_reversal": True},
        legacy_gpaw=True,
        txt=txt,
        **options,
    )
    work.calc = calc
    try:
        work.get_potential_energy()
    except KohnShamConvergenceError as error:
        raise RuntimeError(f"GPAW did not converge for {work.get_chemical_formula()}: {error}") from error
    return calc


def checked_mesh(atoms: Atoms, kpts: Any) -> tuple[int, int, int]:
    """Three positive integers, 1 along open axes; ValueError otherwise."""
    mesh = tuple(int(n) for n in np.ravel(kpts))
    if len(mesh) != 3 or min(mesh) < 1 or any(n != 1 for n, p in zip(mesh, atoms.pbc, strict=True) if not p):
        raise ValueError(
            f"kpts: expected three positive integers with 1 along open axes (pbc {tuple(map(bool, atoms.pbc))}), "
            f"received {kpts}"
        )
    return mesh


def automatic_mesh(atoms: Atoms, radii: Mapping[str, float]) -> tuple[int, int, int]:
    """Odd counts (or 1) for which the mesh's supercell is higher than 4 times the largest orbital radius.

    Two orbitals of radius r overlap up to a distance 2r; a supercell of height 4r keeps all such pairs apart
    from their images.
    """
    reach = 4.0 * max(radii[s] for s in set(atoms.get_chemical_symbols()))
    heights = np.abs(np.linalg.det(atoms.cell.array)) / np.linalg.norm(
        np.cross(atoms.cell.array[[1, 2, 0]], atoms.cell.array[[2, 0, 1]]), axis=1
    )
    counts = [int(np.ceil(reach / height)) if periodic else 1 for height, periodic in zip(heights, atoms.pbc, strict=True)]
    return tuple(n + 1 if n % 2 == 0 else n for n in counts)  # type: ignore[return-value]


def orbital_radii(atoms: Atoms, basis: str, xc: str) -> dict[str, float]:
    """Largest orbital radius of each species in Å."""
    return {symbol: max(f.cutoff for f in species.radial or ()) for symbol, species in gpaw_basis(atoms, basis, xc).items()}


def gpaw_basis(atoms: Atoms, basis: str = "dzp", xc: str = "PBE") -> OrbitalBasis:
    """The orbitals, projectors and ΔO of GPAW's setups, without running a calculation."""
    _gpaw_class()
    from gpaw.setup import Setups
    from gpaw.xc import XC

    numbers = np.unique(atoms.numbers)
    setups = Setups(numbers, "paw", basis, XC(xc))
    return OrbitalBasis({s.symbol: _species_basis(s) for s in setups})


def _species_basis(setup: Any) -> SpeciesBasis:
    """Shells, radial functions, projectors and ΔO of one GPAW setup."""
    radial = tuple(_radial(f) for f in setup.basis_functions_J)
    projectors = tuple(_radial(f) for f in setup.pt_j)
    first = np.concatenate([[0], np.cumsum([2 * p.l + 1 for p in projectors])[:-1]]).astype(int)
    same_l = np.equal.outer([p.l for p in projectors], [p.l for p in projectors])
    delta = np.where(same_l, np.asarray(setup.dO_ii)[np.ix_(first, first)], 0.0)
    return SpeciesBasis(tuple(f.l for f in radial), float(setup.Nv), radial, Augmentation(projectors, delta))


def _radial(spline: Any) -> GridRadial:
    """A GPAW spline f(r) (Bohr; R(r) = f(r) r^l) on a fine grid in Å."""
    l, rc = int(spline.get_angular_momentum_number()), float(spline.get_cutoff())
    n = int(np.ceil(rc * Bohr / _KNOT_SPACING))
    r = np.linspace(0.0, rc, n + 1)
    values = np.array([spline(x) for x in r]) * r**l * Bohr**-1.5
    return GridRadial(l, r * Bohr, values)


def bloch_matrices(calc: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """H(k) (n_spins, n_k, n, n) in eV, S(k) (n_k, n, n), the irreducible k (n_k, 3) and their weights."""
    from gpaw.utilities.tools import tri2full

    wfs, kd = calc.wfs, calc.wfs.kd
    n_k, n = len(kd.ibzk_kc), wfs.setups.nao
    hamiltonian = np.empty((wfs.nspins, n_k, n, n), dtype=complex)
    overlap = np.empty((n_k, n, n), dtype=complex)
    for kpt in wfs.kpt_u:
        H = wfs.eigensolver.calculate_hamiltonian_matrix(calc.hamiltonian, wfs, kpt)
        S = wfs.S_qMM[kpt.q].copy()
        tri2full(H)
        tri2full(S)
        hamiltonian[kpt.s, kpt.k], overlap[kpt.k] = H * Hartree, S
    return hamiltonian, overlap, np.array(kd.ibzk_kc), np.array(kd.weight_k)


def nearest_image_cells(atoms: Atoms, mesh: Sequence[int], cells: np.ndarray) -> np.ndarray:
    """(n_cells, n_atoms, n_atoms, 3): the nearest image of each pair (i, j, R mod mesh), as a cell R.

    Among R + mesh·t (t integer along periodic axes) the one with the smallest |x_j + R·cell - x_i|.
    """
    x, N = atoms.positions, np.asarray(mesh)
    difference = x[None, :, :] - x[:, None, :]
    fractional = np.linalg.solve(atoms.cell.array.T, difference.reshape(-1, 3).T).T.reshape(difference.shape)
    base = cells - N * np.round((fractional[None] + cells) / N).astype(np.int64)
    base = np.where(atoms.pbc, base, 0)
    best, distance = base.copy(), np.full(base.shape[:-1], np.inf)
    for step in product(*((-1, 0, 1) if periodic else (0,) for periodic in atoms.pbc)):
        candidate = base + np.array(step) * N
        d = np.linalg.norm(candidate @ atoms.cell.array + difference[None], axis=-1)
        nearer = d < distance - 1e-9
        best[nearer], distance[nearer] = candidate[nearer], d[nearer]
    return best


def real_space_blocks(
    matrices: np.ndarray, kpoints: np.ndarray, weights: np.ndarray, cells: np.ndarray
) -> np.ndarray:
    """(n_cells, n, n) M(R) = Re Σ_k w_k exp(+2πi k·R) M(k), for real orbitals and k, -k paired by time reversal."""
    phase = weights[:, None] * np.exp(2j * np.pi * kpoints @ cells.T)
    flat = matrices.reshape(len(kpoints), -1)
    real = phase.real.T @ flat.real - phase.imag.T @ flat.imag
    return real.reshape(len(cells), *matrices.shape[1:])


def collect(
    atoms: Atoms, work: Atoms, calc: Any, *, forces: bool, settings: Mapping[str, Any]
) -> ReferenceData:
    """ReferenceData of a converged calculator; R refers to the positions of `atoms`."""
    from gpaw import __version__

    mesh = tuple(int(n) for n in calc.wfs.kd.N_c) if not calc.wfs.kd.gamma else (1, 1, 1)
    basis = OrbitalBasis({s.symbol: _species_basis(s) for s in calc.wfs.setups})
    clean = atoms.copy()
    clean.calc = None
    hamiltonian, overlap, dropped = _real_space_pair(clean, work, calc, basis, mesh)
    return ReferenceData(
        atoms=clean,
        hamiltonian=hamiltonian,
        overlap=overlap,
        n_electrons=float(calc.wfs.nvalence),
        fermi_level=float(calc.get_fermi_level()),
        energy=float(work.get_potential_energy()),
        forces=np.asarray(work.get_forces()) if forces else None,
        basis=basis,
        info={
            "engine": "gpaw",
            "version": __version__,
            **settings,
            "kpts": list(mesh),
            "box": work.cell.array.tolist(),
            "grid": [int(n) for n in calc.hamiltonian.finegd.N_c // 2],
            "n_iterations": int(calc.scf.niter),
            **dropped,
        },
    )


def _real_space_pair(
    atoms: Atoms, work: Atoms, calc: Any, basis: OrbitalBasis, mesh: tuple[int, int, int]
) -> tuple[RealSpaceMatrix, RealSpaceMatrix, dict[str, Any]]:
    """H and S on the union of their pairs, and what was dropped."""
    h_skMM, s_kMM, kpoints, weights = bloch_matrices(calc)
    cells = np.array(list(product(*(range(n) for n in mesh))), dtype=np.int64)
    h_sRMM = np.stack([real_space_blocks(h, kpoints, weights, cells) for h in h_skMM])
    s_RMM = real_space_blocks(s_kMM, kpoints, weights, cells)
    starts = basis.offsets(atoms.get_chemical_symbols())
    h_size, s_size = _block_maxima(np.abs(h_sRMM).max(axis=0), starts), _block_maxima(np.abs(s_RMM), starts)
    kept = (h_size > HAMILTONIAN_THRESHOLD) | (s_size > OVERLAP_THRESHOLD)
    at, i, j = np.nonzero(kept)
    wraps = np.round(work.cell.scaled_positions(work.positions) - calc.spos_ac).astype(np.int64)
    labels = cells[:, None, None, :] + wraps[None, :, None, :] - wraps[None, None, :, :]
    R = nearest_image_cells(work, mesh, labels)[at, i, j]
    order = np.lexsort(np.column_stack([i, j, R]).T[::-1])
    at, i, j, R = at[order], i[order], j[order], R[order]
    found = AtomPairs(i, j, R, len(atoms))
    pairs = found.union(AtomPairs(j, i, -R, len(atoms)))
    where = [
        (n, slice(starts[a], starts[a + 1]), slice(starts[b], starts[b + 1])) for n, a, b in zip(at, i, j, strict=True)
    ]
    if len(h_sRMM) == 2:
        h_blocks = [h_sRMM[(slice(None), *w)] for w in where]
        hamiltonian = RealSpaceMatrix.from_blocks(basis, found, atoms, h_blocks, "collinear")
    else:
        hamiltonian = RealSpaceMatrix.from_blocks(basis, found, atoms, [h_sRMM[(0, *w)] for w in where])
    overlap = RealSpaceMatrix.from_blocks(basis, found, atoms, [s_RMM[w] for w in where])
    report = {
        "dropped_blocks": int(kept.size - kept.sum()),
        "dropped_hamiltonian_eV": float(h_size[~kept].max(initial=0.0)),
        "dropped_overlap": float(s_size[~kept].max(initial=0.0)),
        "outermost_hamiltonian_eV": _outermost(hamiltonian, work, mesh),
    }
    return hamiltonian.on(pairs).hermitian_part(), overlap.on(pairs).hermitian_part(), report


def _block_maxima(matrices: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """(n_cells, n_atoms, n_atoms) largest entry of each atom block."""
    rows = np.maximum.reduceat(matrices, starts[:-1], axis=1)
    return np.maximum.reduceat(rows, starts[:-1], axis=2)


def _outermost(hamiltonian: RealSpaceMatrix, work: Atoms, mesh: Sequence[int]) -> float:
    """Largest |H| (eV) in the outer tenth of the mesh's supercell, where aliasing would show; warns above a limit."""
    fractional = work.cell.scaled_positions(hamiltonian.pairs.displacements(hamiltonian.atoms)) / np.asarray(mesh)
    outer = np.any((np.abs(fractional) > 0.45) & np.asarray(work.pbc), axis=1)
    largest = float(hamiltonian.block_norms()[outer].max(initial=0.0))
    if largest > _ALIAS_LIMIT:
        logger.warning(
            "H(R) reaches %.1e eV at the edge of the supercell of the k-mesh %s: it is aliased; use a denser mesh",
            largest,
            tuple(mesh),
        )
    return largest
