"""Reference calculations with GPAW in LCAO mode: Atoms -> H(R), S(R), radial functions, energy, forces.

The structure is put into its own box (open axes get vacuum, so that the zero of energy is the vacuum level),
the density converged on a k-mesh wide enough for H(R) to decay, and the matrices taken by gpaw_matrices.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from ase import Atoms
from ase.units import Bohr

from ase_deeph.basis import Augmentation, GridRadial, OrbitalBasis, SpeciesBasis
from ase_deeph.dft.gpaw_confined import provide
from ase_deeph.dft.gpaw_density import one_pass_mode
from ase_deeph.dft.gpaw_free_space import free_space_solver
from ase_deeph.dft.gpaw_matrices import real_space_matrices
from ase_deeph.dft.moments import mulliken_moments
from ase_deeph.eigen import solve
from ase_deeph.matrix import RealSpaceMatrix
from ase_deeph.occupation import Smearing, fill
from ase_deeph.reference import ReferenceData

_KNOT_SPACING = 0.008
_MAX_ITERATIONS = 100
_ROUNDING = 1e-10
_MULTIPOLES = 9
_MOST_OBLONG = 3.0


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
    basis : GPAW's name of the orbitals, "dzp", "szp(dzp)", ...; "szp(loc.dzp)" and "loc.dzp" are the shorter ones of
        gpaw_confined, made when asked for (better for Si, Mo, S).
    xc : exchange-correlation functional.
    kpts : mesh (n1, n2, n3); None: odd counts whose supercell is wider than twice the range of H.
    h : grid spacing in Å; the number of points is the nearest integer, so that the spacing hardly depends on
        the cell (it moves the energies by more than the position on the grid does).
    spin : None or "none" (spin-paired), "collinear" (initial moments taken from `atoms`; the Mulliken moments of
        the result are in info["moments"]), or "spinor": H with spin–orbit coupling, added once to the spin-paired
        scalar-relativistic density (see gpaw_spin_orbit); energy and forces are then None, as they lack it.
    width : Fermi-Dirac width in eV.
    vacuum : Å on each side along axes that are not periodic (the zero of energy is the vacuum level); None keeps
        the cell as given.  The electrostatic potential is zero on those faces, for a cluster (no periodic axis, a
        box up to three times as long as wide) after its monopole, dipole and quadrupole have been taken out and
        added again for free space.
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
    ModuleNotFoundError : GPAW is not installed.
    ValueError : unknown spin, or a mesh that is not three positive integers with 1 along open axes.
    RuntimeError : the self-consistency did not converge.
    """
    if spin not in (None, "none", "collinear", "spinor"):
        raise ValueError(f"spin: run_gpaw knows None, 'none', 'collinear' and 'spinor', received {spin!r}")
    work = boxed(atoms, vacuum, h)
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
    settings = {"basis": basis, "xc": xc, "h": h, "width": width}
    data = collect(
        atoms, work, calc, forces=forces and spin != "spinor", spin_orbit=spin == "spinor", settings=settings
    )
    if spin == "spinor":
        assert data.hamiltonian is not None
        level = spinor_fermi_level(data.hamiltonian, data.overlap, calc, width)
        told = {"spin_orbit": "PAW one-centre operator, once, on the scalar-relativistic density"}
        return replace(data, fermi_level=level, energy=None, info={**data.info, **told})
    return data


def boxed(atoms: Atoms, vacuum: float | None, h: float) -> Atoms:
    """A copy with at least `vacuum` Å on each side along open axes (a multiple of h), atoms moved rigidly.

    A cluster's box is right-angled along x, y, z, however its cell was turned; without `vacuum` its cell is kept.
    """
    work = Atoms(
        atoms.get_chemical_symbols(), positions=atoms.positions, cell=atoms.cell.complete(), pbc=atoms.pbc
    )
    work.set_initial_magnetic_moments(atoms.get_initial_magnetic_moments())
    if not work.pbc.any():
        cell = np.eye(3) if vacuum is not None else work.cell.array
        work.cell = np.where(np.abs(cell) < _ROUNDING, 0.0, cell)
    for axis in range(3):
        if vacuum is not None and not atoms.pbc[axis]:
            work.center(vacuum=vacuum, axis=axis)
            height = heights(work)[axis]
            work.center(vacuum=vacuum + 0.5 * (np.ceil(height / h - 1e-9) * h - height), axis=axis)
    return work


def heights(atoms: Atoms) -> np.ndarray:
    """(3,) distances in Å between opposite faces of the cell."""
    return 1.0 / np.linalg.norm(np.linalg.inv(atoms.cell.array), axis=0)


def _gpaw_class() -> Any:
    try:
        from gpaw import GPAW
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "run_gpaw needs GPAW, which is not installed; install it with: pip install 'ase-deeph[gpaw]'",
            name=error.name,
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

    provide(work.get_chemical_symbols(), basis, xc)

    mesh = (
        checked_mesh(work, kpts) if kpts is not None else automatic_mesh(work, orbital_radii(work, basis, xc))
    )
    calc = GPAW(
        mode=one_pass_mode(),
        basis=basis,
        xc=xc,
        gpts=np.maximum(np.round(heights(work) / h), 4).astype(int),
        kpts={"size": mesh, "gamma": True},
        spinpol=spin == "collinear",
        occupations={"name": "fermi-dirac", "width": width},
        convergence={"density": density, "energy": 1e-6},
        symmetry={"point_group": False, "time_reversal": True},
        legacy_gpaw=True,
        txt=txt,
        **{"maxiter": _MAX_ITERATIONS, **free_boundaries(work), **options},
    )
    work.calc = calc
    try:
        work.get_potential_energy()
    except KohnShamConvergenceError as error:
        raise RuntimeError(f"GPAW did not converge for {work.get_chemical_formula()}: {error}") from error
    return calc


def free_boundaries(work: Atoms) -> dict[str, Any]:
    """Options of GPAW by which a cluster stands in free space; none for anything else.

    A potential that is zero on the faces of a box mirrors the dipole, in a way that turns with the box and not with
    the atoms: for water with 3.5 Å of vacuum it moves H by 2 to 3 meV on average.  Moments about the middle of the
    box help little in one much longer than wide, nor can GPAW take them out of a turned one: both stay grounded.
    """
    cell = work.cell.array
    sides = np.abs(np.diag(cell))
    if work.pbc.any() or (cell != np.diag(np.diag(cell))).any() or sides.max() > _MOST_OBLONG * sides.min():
        return {}
    return {"poissonsolver": free_space_solver(_MULTIPOLES)}


def checked_mesh(atoms: Atoms, kpts: Any) -> tuple[int, int, int]:
    """Three positive integers, 1 along open axes; ValueError otherwise."""
    mesh = tuple(int(n) for n in np.ravel(kpts))
    if len(mesh) != 3 or min(mesh) < 1 or any(n != 1 for n, p in zip(mesh, atoms.pbc, strict=True) if not p):
        raise ValueError(
            f"kpts: expected three positive integers with 1 along open axes, received {kpts} for pbc "
            f"{tuple(map(bool, atoms.pbc))}"
        )
    return mesh


def automatic_mesh(atoms: Atoms, radii: Mapping[str, float]) -> tuple[int, int, int]:
    """Odd counts (or 1) for which the mesh's supercell is higher than 4 times the largest orbital radius.

    Two orbitals of radius r overlap up to a distance 2r; a supercell of height 4r keeps all such pairs apart
    from their images.
    """
    reach = 4.0 * max(radii[s] for s in set(atoms.get_chemical_symbols()))
    counts = [int(np.ceil(reach / d)) if p else 1 for d, p in zip(heights(atoms), atoms.pbc, strict=True)]
    return tuple(n + 1 if n % 2 == 0 else n for n in counts)  # type: ignore[return-value]


def orbital_radii(atoms: Atoms, basis: str, xc: str) -> dict[str, float]:
    """Largest orbital radius of each species in Å."""
    return {
        symbol: max(f.cutoff for f in species.radial or ())
        for symbol, species in gpaw_basis(atoms, basis, xc).items()
    }


def gpaw_basis(atoms: Atoms, basis: str = "dzp", xc: str = "PBE") -> OrbitalBasis:
    """The orbitals, projectors and ΔO of GPAW's setups, without running a calculation."""
    _gpaw_class()
    from gpaw.setup import Setups
    from gpaw.xc import XC

    numbers = np.unique(atoms.numbers)
    provide(atoms.get_chemical_symbols(), basis, xc)
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


def collect(
    atoms: Atoms,
    work: Atoms,
    calc: Any,
    *,
    forces: bool,
    settings: Mapping[str, Any],
    spin_orbit: bool = False,
) -> ReferenceData:
    """ReferenceData of a converged calculator; R refers to the positions of `atoms`."""
    from gpaw import __version__

    mesh = (1, 1, 1) if calc.wfs.kd.gamma else tuple(int(n) for n in calc.wfs.kd.N_c)
    basis = OrbitalBasis({s.symbol: _species_basis(s) for s in calc.wfs.setups})
    clean = atoms.copy()
    clean.calc = None
    hamiltonian, overlap, dropped = real_space_matrices(clean, work, calc, basis, mesh, spin_orbit=spin_orbit)
    moments = {"moments": final_moments(calc)} if calc.wfs.nspins == 2 else {}
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
            "grid": [int(n) for n in calc.wfs.gd.N_c],
            "poissonsolver": str(calc.hamiltonian.poisson.todict().get("name")),
            "n_iterations": int(calc.scf.niter),
            **dropped,
            **moments,
        },
    )


def final_moments(calc: Any) -> list[float]:
    """Mulliken moment of each atom in μB, of a converged collinear calculator."""
    wfs = calc.wfs
    n_k, n = len(wfs.kd.ibzk_kc), wfs.setups.nao
    density = np.zeros((2, n_k, n, n), dtype=complex)
    overlap = np.zeros((n_k, n, n), dtype=complex)
    for kpt in wfs.kpt_u:
        density[kpt.s, kpt.k] = kpt.C_nM.T @ (kpt.f_n[:, None] / kpt.weight * kpt.C_nM.conj())
        lower = np.tril(wfs.S_qMM[kpt.q])
        overlap[kpt.k] = (lower + np.tril(lower, -1).conj().T).conj()
    offsets = np.concatenate([[0], np.cumsum([setup.nao for setup in wfs.setups])])
    moments = mulliken_moments(density, overlap, np.array(wfs.kd.weight_k), offsets)
    return [round(float(m), 6) for m in moments]


def spinor_fermi_level(
    hamiltonian: RealSpaceMatrix, overlap: RealSpaceMatrix | None, calc: Any, width: float
) -> float:
    """eV; that of the spinor levels on the k-points of the density."""
    kd = calc.wfs.kd
    energies = solve(hamiltonian, overlap, np.array(kd.ibzk_kc)).eigenvalues
    weights, smearing = np.array(kd.weight_k), Smearing("fermi-dirac", width)
    return fill(energies, weights, float(calc.wfs.nvalence), smearing, degeneracy=1).fermi_level
