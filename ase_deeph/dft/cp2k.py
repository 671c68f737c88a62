"""Reference calculations with CP2K: GTH pseudopotentials and Gaussians, for molecules and 1D/2D/3D crystals.

Crystals run on a Γ-centred mesh reduced by time reversal, in a box along their open axes; CP2K integrates H(R) in real
space for every image, so H(R) is never aliased, however coarse the mesh.  The folder is read back by read_cp2k.
"""

from __future__ import annotations

import logging
import os
import subprocess
import tempfile
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from ase_deeph.basis import GaussianRadial, OrbitalBasis
from ase_deeph.dft.cp2k_input import HYBRIDS, Job, exchange_radius, input_text, known_functional
from ase_deeph.dft.cp2k_sets import KindSets, data_folder, executable, kind_sets, orbital_basis
from ase_deeph.dft.moments import moments_of_matrices
from ase_deeph.dft.pyscf_matrices import HAMILTONIAN_THRESHOLD, OVERLAP_THRESHOLD, box_of
from ase_deeph.io.cp2k import read_cp2k
from ase_deeph.io.cp2k_log import abort_reason
from ase_deeph.kpoints import k_points
from ase_deeph.matrix import RealSpaceMatrix
from ase_deeph.reference import ReferenceData

_INPUT, _LOG = "cp2k.inp", "cp2k.out"
_DENSITY = 2.0
_REL_CUTOFF, _CUTOFFS = 50.0, (280.0, 600.0)
_REACH = 1e-8
_ACROSS_WARNING, _ACROSS = 1e-5, 1e-2

logger = logging.getLogger(__name__)


def run_cp2k(
    atoms: Atoms,
    basis: str = "gth-szv",
    pseudo: str = "gth-pbe",
    xc: str = "pbe",
    kpts: Any = None,
    spin: str | None = None,
    *,
    width: float = 0.05,
    vacuum: float | None = None,
    cutoff: float | None = None,
    convergence: float = 1e-7,
    forces: bool = True,
    threads: int | None = None,
    folder: str | Path | None = None,
) -> ReferenceData:
    """One CP2K calculation of a molecule (no periodic axis) or of a 1D, 2D or 3D crystal.

    Parameters
    ----------
    atoms : the structure; positions in Å are used as given, R refers to them.
    basis, pseudo : sets of CP2K's own files, by its names ("DZVP-MOLOPT-SR-GTH") or PySCF's ("gth-dzvp-molopt-sr",
        "gth-szv", "gth-pbe"): the tables are the same, and so is the basis of the result.
    xc : "pbe", "pbesol", "revpbe", "blyp", "lda,vwn", or the hybrids "pbe0" and "hse06".
    kpts : Γ-centred mesh (n1, n2, n3) of the self-consistent density; None: about 2 points per Å^-1.  H(R) is
        complete whatever it is.  Hybrids have no k-points in CP2K 2023.1: molecules, and cells so wide that H(R)
        folded at Γ can be unfolded to nearest images; PBE0's exchange is truncated at half such a cell.
    spin : None or "none" (spin-paired), or "collinear" (initial moments from `atoms`; molecules keep their sum; the
        Mulliken moments of the result are in info["moments"]).
    width : Fermi-Dirac width in eV (crystals).
    vacuum : Å added to the extent along axes that are not periodic; None: from the range of the Gaussians.
    cutoff : Ry, of the finest grid; None: 50 times the largest exponent of basis and core charges, 280 to 600.
    convergence : of the density matrix.
    forces : whether to compute forces, and stress of 3D crystals.
    threads : OpenMP threads; None leaves OMP_NUM_THREADS as it is.
    folder : keeps CP2K's files there (for read_cp2k); None: a temporary folder.

    Returns
    -------
    ReferenceData : H(R) in eV, S(R), basis with its Gaussians, n_electrons, fermi_level, energy (the free energy, whose
        derivatives the forces are), forces, stress of 3D crystals (ASE's sign and order).  info tells what the
        outermost R carry and what was dropped.

    Raises
    ------
    FileNotFoundError : CP2K is not installed.
    ValueError : unknown spin, functional, basis or pseudopotential, an odd number of electrons without spin, a bad
        mesh, a hybrid with k-points or in a small cell, or too little vacuum.
    RuntimeError : the self-consistency did not converge, or CP2K stopped; the message has the end of its log.
    """
    if spin not in (None, "none", "collinear"):
        raise ValueError(f"spin: expected None, 'none' or 'collinear', received {spin!r}")
    functional = known_functional(xc)
    mesh = _mesh(atoms, kpts, functional)
    program = executable()
    sets = kind_sets(data_folder(program), atoms.get_chemical_symbols(), basis, pseudo)
    orbitals = orbital_basis(sets)
    finest = float(np.clip(_REL_CUTOFF * max(s.largest_exponent for s in sets.values()), *_CUTOFFS))
    job = Job(
        atoms=_boxed(atoms, orbitals, vacuum),
        moments=_orientation(atoms) * np.asarray(atoms.get_initial_magnetic_moments(), dtype=float)
        if spin == "collinear"
        else None,
        xc=functional,
        kpoints=None if functional in HYBRIDS or not atoms.pbc.any() else _reduced(atoms, mesh),
        n_electrons=round(orbitals.n_electrons(atoms.get_chemical_symbols())),
        n_orbitals=orbitals.n_orbitals(atoms.get_chemical_symbols()),
        width=width if atoms.pbc.any() else 0.0,
        cutoff=finest if cutoff is None else float(cutoff),
        convergence=convergence,
        forces=forces,
        stress=forces and bool(atoms.pbc.all()),
    )
    _check_electrons(job)
    settings = {"basis": basis, "pseudo": pseudo, "xc": xc, "kpts": list(mesh), "width_eV": job.width}
    with ExitStack() as stack:
        home = Path(folder or stack.enter_context(tempfile.TemporaryDirectory(prefix="ase-deeph-cp2k-")))
        _prepare(home, job, sets)
        _execute(program, home, threads)
        return _collected(atoms, job, read_cp2k(home / _LOG), settings)


def _mesh(atoms: Atoms, kpts: Any, functional: str) -> tuple[int, int, int]:
    """The mesh of the density: three positive integers, 1 along open axes and for hybrids."""
    if kpts is None:
        heights = (
            1 / np.linalg.norm(np.linalg.inv(box_of(atoms, 1.0)), axis=0) if atoms.pbc.any() else np.ones(3)
        )
        wanted = np.where(atoms.pbc, np.ceil(_DENSITY * 2 * np.pi / heights), 1).astype(int)
        counts = np.ones(3, dtype=int) if functional in HYBRIDS else wanted
    else:
        counts = np.asarray(kpts)
        bad = counts.shape != (3,) or np.any(counts != np.round(counts)) or np.any(counts < 1)
        if bad or np.any(counts[~atoms.pbc] != 1):
            raise ValueError(
                f"kpts: expected three positive integers, 1 along axes that are not periodic "
                f"(pbc {tuple(bool(p) for p in atoms.pbc)}), received {kpts}"
            )
    if functional in HYBRIDS and np.any(counts != 1):
        raise ValueError(
            f"kpts: CP2K 2023.1 has no k-points for {functional}, received {kpts}; use a supercell at Γ"
        )
    return (int(counts[0]), int(counts[1]), int(counts[2]))


def _reduced(atoms: Atoms, mesh: tuple[int, int, int]) -> np.ndarray:
    """(n, 4) points and weights of the Γ-centred mesh, one of each pair k, -k."""
    points = k_points(atoms, {"size": mesh, "gamma": True}, "time-reversal")
    return np.column_stack([points.irreducible, points.weights])


def _boxed(atoms: Atoms, basis: OrbitalBasis, vacuum: float | None) -> Atoms:
    """The structure as CP2K gets it: crystals periodic in all axes, molecules centred in a free cubic box."""
    shells = [f for species in basis.values() for f in species.radial or ()]
    exponents = [f.exponents.min() for f in shells if isinstance(f, GaussianRadial)]
    reach = float(np.sqrt(2 * np.log(1 / _REACH) / min(exponents)))
    space = reach if vacuum is None else float(vacuum)
    symbols = atoms.get_chemical_symbols()
    if atoms.pbc.any():
        return Atoms(symbols, positions=atoms.positions, cell=box_of(atoms, space), pbc=True)
    low, high = atoms.positions.min(axis=0), atoms.positions.max(axis=0)
    width = float((high - low).max()) + space
    return Atoms(symbols, positions=atoms.positions - 0.5 * (low + high) + 0.5 * width, cell=[width] * 3)


def _orientation(atoms: Atoms) -> int:
    """-1 where the initial moments sum to less than 0: CP2K wants a multiplicity, so it gets all of them reversed."""
    return -1 if atoms.get_initial_magnetic_moments().sum() < 0 else 1


def _check_electrons(job: Job) -> None:
    moment = 0 if job.moments is None else round(float(job.moments.sum()))
    if job.moments is not None and moment >= job.n_electrons:
        logger.warning("one spin is empty: CP2K's gradient functionals give it meaningless matrix elements")
    if (job.n_electrons - moment) % 2 and not (job.moments is not None and job.width):
        raise ValueError(
            f"{job.n_electrons} electrons cannot have a total moment of {moment}; "
            "give spin='collinear' and initial magnetic moments whose sum has the right parity"
        )


def _prepare(home: Path, job: Job, sets: dict[str, KindSets]) -> None:
    """Write BASIS, POTENTIAL and the input; refuse a folder that holds matrices already."""
    home.mkdir(parents=True, exist_ok=True)
    if any(home.glob("*.csr")):
        raise ValueError(f"folder: {home} holds matrices of another run; give an empty folder")
    (home / "BASIS").write_text("\n".join(line for kind in sets.values() for line in kind.basis) + "\n")
    (home / "POTENTIAL").write_text("\n".join(line for kind in sets.values() for line in kind.pseudo) + "\n")
    names = {symbol: kind.basis[0].split()[1] for symbol, kind in sets.items()}
    potentials = {symbol: kind.pseudo[0].split()[1] for symbol, kind in sets.items()}
    (home / _INPUT).write_text(input_text(job, names, potentials))


def _execute(program: str, home: Path, threads: int | None) -> None:
    """Run CP2K in a folder; RuntimeError with one clear line, and the end of the log when it just stopped."""
    environment = dict(os.environ)
    if threads is not None:
        environment["OMP_NUM_THREADS"] = str(threads)
    log = home / _LOG
    done = subprocess.run(
        [program, "-i", _INPUT, "-o", _LOG],
        cwd=home,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    text = log.read_text(errors="replace") if log.is_file() else ""
    if "SCF run NOT converged" in text:
        raise RuntimeError("CP2K: the self-consistency did not converge in 100 cycles; try a larger width")
    if done.returncode or "PROGRAM ENDED AT" not in text:
        tail = "\n".join((text or done.stderr or done.stdout).rstrip().splitlines()[-25:])
        raise RuntimeError(
            f"CP2K failed (exit status {done.returncode}): {abort_reason(text)}; its log ends with\n{tail}"
        )


def _collected(atoms: Atoms, job: Job, data: ReferenceData, settings: dict[str, Any]) -> ReferenceData:
    """The result on the user's structure: R along open axes and negligible blocks are dropped, openly."""
    assert data.hamiltonian is not None
    assert data.overlap is not None
    clean = atoms.copy()
    clean.calc = None
    pairs = data.overlap.pairs
    across = np.any(pairs.R[:, ~atoms.pbc] != 0, axis=1)
    h_size, s_size = data.hamiltonian.block_norms(), data.overlap.block_norms()
    lost = float(s_size[across].max(initial=0.0))
    if lost > _ACROSS_WARNING:
        logger.warning("S reaches %.1e across the vacuum, which is dropped; give more", lost)
    if lost > _ACROSS:
        raise ValueError(f"vacuum: S reaches {lost:.1e} across it; give more, or None")
    kept = ~across & ((h_size > HAMILTONIAN_THRESHOLD) | (s_size > OVERLAP_THRESHOLD) | pairs.on_site)
    kept &= kept[pairs.reverse]
    chosen = pairs.select(kept)

    def on_atoms(matrix: RealSpaceMatrix) -> RealSpaceMatrix:
        return replace(matrix.restricted_to(chosen), atoms=clean)

    H = on_atoms(data.hamiltonian)
    if job.moments is not None and _orientation(atoms) < 0:
        H = replace(H, entries=H.entries[::-1])
    distance = np.linalg.norm(chosen.displacements(clean), axis=1)
    outermost = distance > 0.9 * distance.max()
    info = {
        **data.info,
        **settings,
        "spin": H.spin,
        "cutoff_Ry": job.cutoff,
        "outermost_hamiltonian_eV": float(H.block_norms()[outermost].max(initial=0.0))
        if atoms.pbc.any()
        else 0.0,
        "dropped_hamiltonian_eV": float(h_size[~kept].max(initial=0.0)),
        "dropped_overlap": float(s_size[~kept].max(initial=0.0)),
    }
    if job.moments is not None:
        info["moments"] = _moments(job, H, on_atoms(data.overlap), _orientation(atoms))
    if job.xc == "pbe0" and atoms.pbc.any():
        info["exchange_truncation_A"] = exchange_radius(job.atoms)
    return replace(data, atoms=clean, hamiltonian=H, overlap=on_atoms(data.overlap), info=info)


def _moments(
    job: Job, hamiltonian: RealSpaceMatrix, overlap: RealSpaceMatrix, orientation: int
) -> list[float]:
    """Mulliken moments in μB; crystals share one Fermi level, molecules keep the sum they started with."""
    assert job.moments is not None
    points = np.array([[0.0, 0.0, 0.0, 1.0]]) if job.kpoints is None else job.kpoints
    n, moment = job.n_electrons, orientation * round(float(job.moments.sum()))
    electrons: tuple[float, float] | float = (
        float(n) if job.width else (0.5 * (n + moment), 0.5 * (n - moment))
    )
    return moments_of_matrices(hamiltonian, overlap, points, electrons, job.width)
