"""Reference calculations with PySCF: GTH pseudopotentials and Gaussians, for molecules and 1D/2D/3D crystals.

Crystals run on a Γ-centred mesh of k; axes that are not periodic get a box wide enough for the Gaussians of
neighbouring images not to overlap.  How Bloch matrices become H(R) and S(R) is in pyscf_matrices.py.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import numpy as np
from ase import Atoms
from ase.units import Bohr, Hartree

from ase_deeph.dft.pyscf_matrices import (
    box_of,
    checked_aliasing,
    house_order,
    nearest_image_matrices,
    orbital_basis,
    real_space,
)
from ase_deeph.dft.pyscf_spin import final_moments, polarised_density, unpaired_electrons
from ase_deeph.occupation import Smearing, fill
from ase_deeph.reference import ReferenceData

logger = logging.getLogger(__name__)

_MESH_CAP = 12
_DENSITY = 2.0


def run_pyscf(
    atoms: Atoms,
    basis: str = "gth-szv",
    pseudo: str = "gth-pbe",
    xc: str = "pbe",
    kpts: Any = None,
    spin: str | None = None,
    *,
    width: float = 0.05,
    vacuum: float | None = None,
    convergence: float = 1e-8,
    forces: bool = True,
) -> ReferenceData:
    """One PySCF calculation of a molecule (no periodic axis) or of a 1D, 2D or 3D crystal.

    Parameters
    ----------
    atoms : the structure; positions in Å are used as given, R refers to them.
    basis : name of a GTH basis ("gth-szv", "gth-dzvp-molopt-sr", ...).
    pseudo : name of the GTH pseudopotentials.
    xc : exchange-correlation functional.
    kpts : Γ-centred mesh (n1, n2, n3) of the self-consistent density; None: about 2 points per Å^-1. H(k) and
        S(k) are then sampled on a mesh as dense as the range of the Gaussians asks for (at most 12 along an
        axis), from the converged density, so that H(R) is not aliased whatever this mesh is.
    spin : None or "none" (spin-paired), or "collinear": starts from the initial moments of `atoms`; molecules keep
        their sum, crystals with a width > 0 do not.  info["moments"] has the Mulliken moments of the result.
    width : Fermi-Dirac width in eV (crystals).
    vacuum : Å added to the extent along axes that are not periodic; None: from the range of the Gaussians.
    convergence : of the energy, in Hartree.
    forces : whether to compute the forces; with many k-points they cost more than the energy.

    Returns
    -------
    ReferenceData : H(R) in eV, S(R), basis with its Gaussians, n_electrons, fermi_level, energy (the free
        energy, whose derivatives the forces are), forces; stress is None.

    Raises
    ------
    ImportError : PySCF is not installed.
    ValueError : unknown spin, an odd number of electrons without spin, a bad mesh, an unknown basis, or so
        little vacuum that H(R) is aliased.
    RuntimeError : the self-consistency did not converge.
    """
    _require_pyscf()
    if spin not in (None, "none", "collinear"):
        raise ValueError(f"spin: expected None, 'none' or 'collinear', received {spin!r}")
    settings = RunSettings(basis, pseudo, xc, spin == "collinear", width, vacuum, convergence)
    run = molecule_run(atoms, settings) if not atoms.pbc.any() else crystal_run(atoms, settings, kpts)
    return collect(atoms, settings, run, run.forces() if forces else None)


@dataclass(frozen=True)
class RunSettings:
    """What a run is made of, apart from the structure."""

    basis: str
    pseudo: str
    xc: str
    collinear: bool
    width: float
    vacuum: float | None
    convergence: float


@dataclass(frozen=True, eq=False)
class PySCFRun:
    """A converged calculation.

    Parameters
    ----------
    method : PySCF's mean-field object.
    cell : its Mole or Cell.
    mesh : k-mesh that H(k) is sampled on, (1, 1, 1) for molecules.
    fock : (n_spins, n_k, n, n) Hartree, in PySCF's order of orbitals, on the whole mesh.
    overlap : (n_k, n, n).
    k_fractional : (n_k, 3).
    aliasing : max|ΔS| that the finite mesh costs, 0 for molecules.
    density_mesh : k-mesh of the self-consistency.
    """

    method: Any
    cell: Any
    mesh: tuple[int, int, int]
    fock: np.ndarray
    overlap: np.ndarray
    k_fractional: np.ndarray
    aliasing: float = 0.0
    density_mesh: tuple[int, int, int] = (1, 1, 1)

    @property
    def is_crystal(self) -> bool:
        """Whether the system is periodic."""
        return hasattr(self.cell, "lattice_vectors")

    def forces(self) -> np.ndarray:
        """(n_atoms, 3) eV/Å."""
        method = _plane_wave_twin(self) if self.is_crystal else self.method
        gradient = method.nuc_grad_method()
        gradient.verbose = 0
        with _without_projectors(self):
            return -np.asarray(gradient.kernel()) * (Hartree / Bohr)


@contextmanager
def _without_projectors(run: PySCFRun) -> Iterator[None]:
    """PySCF's gradient fails for molecules whose pseudopotentials have no projector (H): the term is zero."""
    from pyscf.gto import pp_int

    if run.is_crystal or any(pseudo[5:] for pseudo in run.cell._pseudo.values()):
        yield
        return
    with mock.patch.object(pp_int, "vppnl_nuc_grad", lambda mol, dm: np.zeros((mol.natm, 3))):
        yield


def _require_pyscf() -> None:
    try:
        import pyscf  # noqa: F401
    except ImportError as error:
        raise ImportError("run_pyscf needs PySCF; install it with: pip install 'ase-deeph[pyscf]'") from error


def prepared(target: Any, atoms: Atoms, settings: RunSettings) -> Any:
    """A Mole or Cell with atoms, basis and pseudopotentials, built."""
    target.atom = list(zip(atoms.get_chemical_symbols(), (atoms.positions / Bohr).tolist(), strict=True))
    target.unit = "Bohr"
    target.basis, target.pseudo = settings.basis, settings.pseudo
    target.verbose = 0
    moment = round(float(atoms.get_initial_magnetic_moments().sum())) if settings.collinear else 0
    target.spin = None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            target.build(dump_input=False, parse_arg=False)
    except (KeyError, RuntimeError) as error:
        raise ValueError(
            f"PySCF could not set up basis {settings.basis!r} and pseudopotential {settings.pseudo!r} for "
            f"{atoms.get_chemical_formula()} ({error}); choose sets that cover these elements"
        ) from error
    smeared = settings.collinear and settings.width and atoms.pbc.any()
    if (target.nelectron - moment) % 2 and not smeared:
        raise ValueError(
            f"{target.nelectron} electrons cannot have a total moment of {moment}; "
            "give spin='collinear' and initial magnetic moments whose sum has the right parity"
        )
    target.spin = moment
    return target


def _converge(method: Any, settings: RunSettings, moments: np.ndarray | None = None) -> Any:
    method.xc, method.verbose = settings.xc, 0
    method.conv_tol, method.max_cycle = settings.convergence, 100
    method.kernel(None if moments is None else polarised_density(method, moments))
    if not method.converged:
        raise RuntimeError("PySCF: the self-consistency did not converge in 100 cycles; try a larger width")
    return method


def molecule_run(atoms: Atoms, settings: RunSettings) -> PySCFRun:
    """A molecule without periodic images."""
    from pyscf import dft, gto

    molecule = prepared(gto.Mole(), atoms, settings)
    method = (dft.UKS if settings.collinear else dft.RKS)(molecule)
    method = _converge(method, settings, _moments(atoms, settings))
    n = molecule.nao
    fock = np.asarray(method.get_fock()).reshape(-1, 1, n, n)
    overlap = np.asarray(method.get_ovlp())[None]
    return PySCFRun(method, molecule, (1, 1, 1), fock, overlap, np.zeros((1, 3)))


def crystal_run(atoms: Atoms, settings: RunSettings, kpts: Any) -> PySCFRun:
    """A crystal in a box along its open axes, on a Γ-centred mesh with time reversal, by multigrid."""
    from pyscf.pbc import dft, gto

    cell = gto.Cell()
    cell.a = np.eye(3) * 50.0
    cell = prepared(cell, atoms, settings)
    reach = _gaussian_reach(cell)
    boxed = box_of(atoms, reach if settings.vacuum is None else settings.vacuum)
    density_mesh = _density_mesh(atoms) if kpts is None else _checked_mesh(atoms, kpts)
    n1, n2, n3 = np.maximum(_automatic_mesh(atoms, _gaussian_reach(cell, 1e-6)), density_mesh)
    mesh = (int(n1), int(n2), int(n3))
    cell = gto.Cell()
    cell.a = boxed / Bohr
    cell = prepared(cell, atoms, settings)
    cell.mesh = [_fast_odd(n) for n in cell.mesh]
    sampling = cell.make_kpts(list(mesh), time_reversal_symmetry=True)
    overlap = np.asarray(cell.pbc_intor("int1e_ovlp", hermi=1, kpts=sampling.kpts))
    order, scaled = house_order(cell), sampling.kpts_scaled
    in_cells = real_space(overlap, mesh, scaled)[:, order][:, :, order]
    aliasing = checked_aliasing(atoms, orbital_basis(cell), mesh, in_cells)
    kpoints = cell.make_kpts(list(density_mesh), time_reversal_symmetry=True)
    if settings.collinear:
        cell.spin = unpaired_electrons(cell.nelectron, cell.spin, kpoints.nkpts, settings.width)
    method = (dft.KUKS if settings.collinear else dft.KRKS)(cell, kpoints).multigrid_numint()
    if settings.width:
        method = method.smearing(settings.width / Hartree, "fermi")
    method = _converge(method, settings, _moments(atoms, settings))
    fock = np.asarray(sampling.transform_fock(_fock_at(method, sampling.kpts_ibz)))
    return PySCFRun(
        method, cell, mesh, fock.reshape(-1, *overlap.shape), overlap, scaled, aliasing, density_mesh
    )


def _moments(atoms: Atoms, settings: RunSettings) -> np.ndarray | None:
    """(n_atoms,) initial moments in μB, None without spin."""
    return atoms.get_initial_magnetic_moments() if settings.collinear else None


def _fock_at(method: Any, kpts: np.ndarray) -> np.ndarray:
    """(n_k, n, n) Hartree: H(k) of the converged density at any k-points."""
    density = method.make_rdm1()
    potential = method.get_veff(method.cell, density, kpts=method.kpts, kpts_band=kpts)
    return np.asarray(method.get_hcore(method.cell, kpts)) + np.asarray(potential)


def _density_mesh(atoms: Atoms) -> tuple[int, int, int]:
    """About 2 k-points per Å^-1 along periodic axes."""
    heights = 1 / np.linalg.norm(np.linalg.inv(box_of(atoms, 1.0)), axis=0)
    n1, n2, n3 = np.where(atoms.pbc, np.ceil(_DENSITY * 2 * np.pi / heights), 1).astype(int)
    return (int(n1), int(n2), int(n3))


def _fast_odd(n: int) -> int:
    """The smallest odd number >= n without prime factors above 11."""
    n = int(n) | 1
    while True:
        rest = n
        for prime in (3, 5, 7, 11):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return n
        n += 2


def _plane_wave_twin(run: PySCFRun) -> Any:
    """The converged state as a method on the whole mesh whose gradients PySCF implements."""
    from pyscf.pbc import dft

    kpts, method = run.method.kpts, run.method
    paired = np.ndim(method.mo_coeff[0]) == 2
    twin = (dft.KRKS if paired else dft.KUKS)(run.cell, kpts.kpts)
    twin.xc, twin.verbose, twin.converged, twin.e_tot = method.xc, 0, True, method.e_tot
    twin.mo_coeff = kpts.transform_mo_coeff(method.mo_coeff)
    twin.mo_occ = kpts.transform_mo_occ(method.mo_occ)
    twin.mo_energy = kpts.transform_mo_energy(method.mo_energy)
    return twin


def _gaussian_reach(cell: Any, tolerance: float = 1e-8) -> float:
    """Distance in Å at which two of the widest Gaussians overlap by about the tolerance: exp(-a d²/2)."""
    smallest = min(cell.bas_exp(n).min() for n in range(cell.nbas))
    return float(np.sqrt(2 * np.log(1 / tolerance) / smallest)) * Bohr


def _checked_mesh(atoms: Atoms, kpts: Any) -> tuple[int, int, int]:
    mesh = np.asarray(kpts)
    bad = mesh.shape != (3,) or np.any(mesh != np.round(mesh)) or np.any(mesh < 1)
    if bad or np.any(mesh[~atoms.pbc] != 1):
        raise ValueError(
            f"kpts: expected three positive integers, 1 along axes that are not periodic "
            f"(pbc {tuple(bool(p) for p in atoms.pbc)}), received {kpts}"
        )
    return (int(mesh[0]), int(mesh[1]), int(mesh[2]))


def _automatic_mesh(atoms: Atoms, reach: float) -> tuple[int, int, int]:
    """The smallest mesh whose supercell is wider than twice the reach, at most 12 along an axis."""
    box = box_of(atoms, 1.0)
    heights = 1 / np.linalg.norm(np.linalg.inv(box), axis=0)
    wanted = np.where(atoms.pbc, np.ceil(2 * reach / heights), 1).astype(int)
    if wanted.max() > _MESH_CAP:
        logger.warning("k-mesh: %s would be needed for the range of the basis; cut to %d", wanted, _MESH_CAP)
    n1, n2, n3 = np.minimum(wanted, _MESH_CAP)
    return (int(n1), int(n2), int(n3))


def collect(atoms: Atoms, settings: RunSettings, run: PySCFRun, forces: np.ndarray | None) -> ReferenceData:
    """H(R), S(R), basis and totals of a run, in eV and Å; forces (n_atoms, 3) eV/Å are passed through."""
    import pyscf

    basis = orbital_basis(run.cell)
    order = house_order(run.cell)
    overlap = real_space(run.overlap, run.mesh, run.k_fractional)[:, order][:, :, order]
    fock = [real_space(f, run.mesh, run.k_fractional)[:, order][:, :, order] for f in run.fock]
    S, H = nearest_image_matrices(atoms, basis, run.mesh, overlap, np.stack(fock) * Hartree)
    n_electrons = float(run.cell.nelectron)
    info = {
        "engine": "pyscf",
        "version": pyscf.__version__,
        "basis": settings.basis,
        "pseudo": settings.pseudo,
        "xc": settings.xc,
        "spin": H.spin,
        "kpts": list(run.density_mesh),
        "kpts_of_H": list(run.mesh),
        "width_eV": settings.width,
        "overlap_aliasing": run.aliasing,
        **({"moments": final_moments(run.method)} if settings.collinear else {}),
    }
    return ReferenceData(
        atoms=atoms,
        hamiltonian=H,
        overlap=S,
        n_electrons=n_electrons,
        fermi_level=_fermi_level(run, n_electrons, settings),
        energy=float(getattr(run.method, "e_free", None) or run.method.e_tot) * Hartree,
        forces=forces,
        basis=basis,
        info=info,
    )


def _fermi_level(run: PySCFRun, n_electrons: float, settings: RunSettings) -> float:
    """Fermi level in eV; mid-gap for molecules."""
    import scipy.linalg

    levels = [[scipy.linalg.eigvalsh(h, s) for h, s in zip(f, run.overlap, strict=True)] for f in run.fock]
    energies = np.array(levels) * Hartree
    n_k = energies.shape[1]
    smearing = Smearing("fermi-dirac", settings.width if run.is_crystal else 0.0)
    return fill(
        energies, np.full(n_k, 1 / n_k), n_electrons, smearing, degeneracy=2 // len(energies)
    ).fermi_level
