"""Read CP2K's Hamiltonian and overlap: &KS_CSR_WRITE and &S_CSR_WRITE as text, log, input, basis sets.

CP2K's harmonics are ours, m = -l ... l.  It lists shells in the order of its basis file; ours are sorted by l.  Its R
refer to atoms wrapped to [-1/2, 1/2] along periodic axes, R = R_CP2K + n_i - n_j with n = anint(fractional position).
"""

from __future__ import annotations

import os
from itertools import product
from pathlib import Path

import numpy as np
import scipy.linalg
from ase import Atoms
from ase.units import Hartree

from ase_deeph.basis import GaussianRadial, OrbitalBasis, SpeciesBasis
from ase_deeph.io.cp2k_basis import by_degree, entry_of, plain, shells_of, species_basis, text_of
from ase_deeph.io.cp2k_csr import CSRFiles, csr_files, read_csr
from ase_deeph.io.cp2k_input import Section, basis_names, cell_of, force_section, positions_of, read_input
from ase_deeph.io.cp2k_log import CP2KLog, find_log, read_log
from ase_deeph.io.elements import Elements, house_order, matrices_from_elements, orbital_atoms
from ase_deeph.io.mesh import hamiltonian_from_mesh
from ase_deeph.io.proof import checked_hermitian, prove
from ase_deeph.io.structure_checks import checked
from ase_deeph.matrix import RealSpaceMatrix, Spin
from ase_deeph.occupation import Smearing, fill
from ase_deeph.reference import ReferenceData
from ase_deeph.two_center import overlap as two_center_overlap

_HERMITIAN_EV, _HERMITIAN_S = 1e-6, 1e-8
_SAME_PLACE = 2e-5
_UNDECIDED = 1e-5
_OVERLAP_AGREES = 1e-4
_FOLDED = 1e-2


def read_cp2k(source: str | Path) -> ReferenceData:
    """Read a CP2K single point: H(R) in eV, S(R), basis, electrons, Fermi level, energy, forces, stress.

    Proved against CP2K 2023.1's own bands and against PySCF (2D and 3D crystals with k-points, molecules, collinear
    spin).  CP2K writes what is needed with, in &DFT &PRINT,

        &KS_CSR_WRITE          &S_CSR_WRITE
          REAL_SPACE T           REAL_SPACE T
        &END                   &END

    k-points (SCHEME MONKHORST-PACK 1 1 1 for Γ too) and PRINT_LEVEL MEDIUM, its default.  Without k-points the
    matrices are folded over all images; they are unfolded to the nearest ones, which is right for molecules and wide
    cells and refused elsewhere.

    Parameters
    ----------
    source : the folder with log (.out), input, .csr files and, for radial functions, the file of basis sets (else
        CP2K's own, from CP2K_DATA_DIR or where the log says); or the log itself.

    Returns
    -------
    ReferenceData : S and H on one pair list; positions as the input gives them; info tells version and proof.

    Raises
    ------
    FileNotFoundError : no such file or folder.
    ValueError : nothing to read, a damaged or aborted run, matrices folded in too small a cell, or files that do not
        belong together.
    """
    path = Path(source)
    if not path.exists():
        raise FileNotFoundError(f"no CP2K folder or log {path}")
    log_path = find_log(path) if path.is_dir() else path
    log = read_log(log_path)
    if not log.converged:
        raise ValueError(f"{log_path}: the self-consistency did not converge")
    folder = log_path.parent
    input_path = folder / Path(log.input_name).name
    try:
        force = force_section(input_path, read_input(input_path))
        atoms = _structure(input_path, force, log)
        basis, place = _basis(input_path, force, log)
        files = csr_files(folder, log.project)
        overlap, hamiltonian = _matrices(files, log, atoms, basis, place)
        return _proved(log_path, log, atoms, basis, overlap, hamiltonian)
    except ValueError as error:
        raise error if str(folder) in str(error) else ValueError(f"{log_path}: {error}") from error


def _structure(path: Path, force: Section, log: CP2KLog) -> Atoms:
    """Cell and positions of the input, elements of the log; both must agree."""
    lattice, periodic = cell_of(path, force)
    positions = positions_of(path, force, lattice)
    if positions is None:
        positions = log.positions
    if positions.shape != log.positions.shape or not np.all(np.abs(positions - log.positions) < _SAME_PLACE):
        raise ValueError(f"{path}: its atoms are not those of the log; input and log are of different runs")
    return checked(Atoms(log.symbols, positions=positions, cell=lattice, pbc=periodic))


def _basis(path: Path, force: Section, log: CP2KLog) -> tuple[OrbitalBasis, np.ndarray]:
    """The basis, and the place in it of each orbital of CP2K."""
    names, files = basis_names(path, force)
    radial = {kind: _shells(path.parent, log, names, files, kind) for kind in log.kind_names}
    found: dict[str, SpeciesBasis] = {}
    orders: dict[int, tuple[int, ...]] = {}
    for symbol, kind, charge in zip(log.symbols, log.kinds, log.valence, strict=True):
        if kind not in radial:
            raise ValueError(f"kind {kind} of {symbol} is not described in the log; the log is damaged")
        shells, degrees = radial[kind]
        orders[kind] = degrees
        species = species_basis(shells, charge) if shells else SpeciesBasis(tuple(sorted(degrees)), charge)
        if found.setdefault(symbol, species).key() != species.key():
            raise ValueError(f"{symbol} appears with two different bases, which an OrbitalBasis cannot hold")
    atom: list[int] = []
    shell: list[int] = []
    m: list[int] = []
    for a, kind in enumerate(log.kinds):
        for rank, l in zip(by_degree(orders[kind]), orders[kind], strict=True):
            atom += [a] * (2 * l + 1)
            shell += [rank] * (2 * l + 1)
            m += range(-l, l + 1)
    place = house_order(np.array(atom), np.array(shell), np.array(m), np.zeros(len(m), dtype=bool))[0]
    return OrbitalBasis(found), place


def _shells(
    folder: Path, log: CP2KLog, names: dict[str, str], files: list[str], kind: int
) -> tuple[list[GaussianRadial], tuple[int, ...]]:
    """Radial functions of a kind (none where its file is not at hand), and l of each shell in CP2K's order."""
    label, listed = log.kind_names[kind], log.shells[kind]
    name = names.get(label.upper())
    symbol = next((s for s, k in zip(log.symbols, log.kinds, strict=True) if k == kind), "")
    homes = [folder, *(Path(p) for p in (os.environ.get("CP2K_DATA_DIR", ""), log.data_folder) if p)]
    for file in [home / Path(f).name for f in files for home in homes]:
        entry = entry_of(text_of(file), symbol, [plain(name)]) if name and file.is_file() else None
        if entry is None:
            continue
        shells = shells_of(entry)
        degrees = tuple(shell.l for shell in shells)
        if listed and degrees != listed:
            raise ValueError(
                f"{file}: {name} of {symbol} has shells l = {degrees}, the log {listed}; another file"
            )
        return shells, degrees
    if not listed:
        raise ValueError(
            f"the shells of {label} are not in the log, and {' or '.join(files)} is not beside it"
        )
    return [], listed


def _matrices(
    files: CSRFiles, log: CP2KLog, atoms: Atoms, basis: OrbitalBasis, place: np.ndarray
) -> tuple[RealSpaceMatrix, RealSpaceMatrix | None]:
    spin: Spin = "collinear" if files.n_spins == 2 else "none"
    S = _elements(files, log, ("S",), place)
    H = _elements(files, log, ("KS",) * files.n_spins, place, Hartree) if files.n_spins else None
    if files.folded:
        return _unfolded(atoms, basis, S, H)
    owner = orbital_atoms(atoms, basis)
    if len(owner) <= max(S.rows.max(initial=0), S.columns.max(initial=0)):
        raise ValueError(
            f"{len(owner)} orbitals in the basis, more in the matrices; they do not belong together"
        )
    cells = _whole_cells(atoms, S, owner)
    S = S.relabelled(cells, owner).with_reverse()
    H = None if H is None else H.relabelled(cells, owner).with_reverse()
    return matrices_from_elements(atoms, basis, S, H, spin)


def _elements(
    files: CSRFiles, log: CP2KLog, kinds: tuple[str, ...], place: np.ndarray, unit: float = 1.0
) -> Elements:
    """All images of one operator in the house order; two kinds are its two spins."""
    parts: list[tuple[np.ndarray, ...]] = []
    for spin, kind in enumerate(kinds):
        images = np.zeros((1, 3), dtype=np.int64) if files.folded else log.images[kind]
        if not len(images):
            raise ValueError(f"no list of periodic images of {kind} in the log; print at PRINT_LEVEL MEDIUM")
        held = files.files[kind, spin + 1]
        wanted = {0} if files.folded else set(range(1, len(images) + 1))
        if set(held) != wanted:
            odd = sorted(wanted ^ set(held))[:3]
            raise ValueError(
                f"{kind} of spin {spin + 1}: {len(held)} files for {len(wanted)} images, see {odd}"
            )
        for number in sorted(held):
            rows, columns, values = read_csr(held[number])
            if len(rows) and max(rows.max(), columns.max()) >= len(place):
                raise ValueError(
                    f"{held[number]}: orbital {max(rows.max(), columns.max()) + 1} of {len(place)}"
                )
            cell = np.broadcast_to(images[max(number - 1, 0)], (len(rows), 3))
            parts.append((place[rows], place[columns], cell, values * unit, np.full(len(rows), spin)))
    rows, columns, R, values, channel = (np.concatenate(part) for part in zip(*parts, strict=True))
    if len(kinds) == 1:
        return Elements(rows, columns, R, values[None])
    keys, where = np.unique(np.column_stack([rows, columns, R]), axis=0, return_inverse=True)
    slots = channel * len(keys) + where.ravel()
    if len(np.unique(slots)) != len(slots):
        raise ValueError("an element of H appears twice; the files are damaged")
    both = np.zeros(2 * len(keys))
    both[slots] = values
    return Elements(keys[:, 0], keys[:, 1], keys[:, 2:], both.reshape(2, -1))


def _unfolded(
    atoms: Atoms, basis: OrbitalBasis, S: Elements, H: Elements | None
) -> tuple[RealSpaceMatrix, RealSpaceMatrix | None]:
    """Matrices of Γ alone: each pair's sum over images goes to the nearest image."""

    def dense(elements: Elements) -> np.ndarray:
        full = elements.with_reverse()
        table = np.zeros((len(full.values), n, n))
        flat = full.rows * n + full.columns
        if len(np.unique(flat)) != len(flat):
            raise ValueError("an element appears twice; the files are damaged")
        table.reshape(len(full.values), -1)[:, flat] = full.values
        return table

    n = basis.n_orbitals(atoms.get_chemical_symbols())
    s = dense(S)
    h = s if H is None else dense(H)
    H_k = h[:, None] if len(h) == 2 else h
    hamiltonian, overlap = hamiltonian_from_mesh(atoms, basis, np.zeros((1, 3)), H_k, s, tolerance=np.inf)
    assert overlap is not None
    return overlap, None if H is None else hamiltonian


def _whole_cells(atoms: Atoms, S: Elements, owner: np.ndarray) -> np.ndarray:
    """(n_atoms, 3) cells n by which CP2K moved the atoms home, x_CP2K = x - n·cell.

    Where an atom lies on the border of the cell rounding decides.  The true n minimises Σ |S|² |d|² then, since S
    falls with distance.
    """
    fractional = np.linalg.solve(atoms.cell.complete().array.T, atoms.positions.T).T
    fractional[:, ~atoms.pbc] = 0.0
    n = np.rint(fractional).astype(np.int64)
    on_border = np.abs(np.abs(fractional - np.floor(fractional)) - 0.5) < _UNDECIDED
    waiting = set(np.nonzero(on_border.any(axis=1))[0].tolist())
    if len(waiting) == len(atoms):
        waiting.remove(0)
    i, j, weight = owner[S.rows], owner[S.columns], S.values[0] ** 2
    while waiting:
        known = ~np.isin(i, list(waiting))
        bonds = {a: known & (j == a) for a in waiting}
        atom = max(waiting, key=lambda a: float(weight[bonds[a]].sum()))
        here = bonds[atom]
        low, options = np.floor(fractional[atom]).astype(np.int64), on_border[atom]
        choices = [np.where(options, low + np.array(step), n[atom]) for step in product((0, 1), repeat=3)]

        def spread(choice: np.ndarray, here: np.ndarray = here, atom: int = atom) -> float:
            R = S.R[here] + n[i[here]] - choice
            d = atoms.positions[atom] + R @ atoms.cell.array - atoms.positions[i[here]]
            return float(weight[here] @ np.sum(d * d, axis=1))

        n[atom] = min(choices, key=spread)
        waiting.remove(atom)
    return n


def _proved(
    path: Path,
    log: CP2KLog,
    atoms: Atoms,
    basis: OrbitalBasis,
    overlap: RealSpaceMatrix,
    hamiltonian: RealSpaceMatrix | None,
) -> ReferenceData:
    where = str(path)
    overlap = checked_hermitian(overlap, "S", where, _HERMITIAN_S)
    if hamiltonian is not None:
        hamiltonian = checked_hermitian(hamiltonian, "H", where, _HERMITIAN_EV)
    proof = prove(overlap, where, hamiltonian)
    if basis.has_radial_functions:
        proof["two_center_defect"] = _two_center_defect(overlap, where, folded=log.kpoints is None)
    electrons = log.n_electrons
    if not 0 <= electrons <= 2 * basis.n_orbitals(log.symbols):
        raise ValueError(
            f"{electrons:g} electrons in {basis.n_orbitals(log.symbols)} orbitals; the log is damaged"
        )
    return ReferenceData(
        atoms=atoms,
        hamiltonian=hamiltonian,
        overlap=overlap,
        n_electrons=electrons,
        fermi_level=_fermi_level(log, hamiltonian, overlap),
        energy=log.energy,
        forces=log.forces,
        stress=log.stress,
        basis=basis,
        info={"engine": "cp2k", "version": log.version, **proof},
    )


def _two_center_defect(overlap: RealSpaceMatrix, where: str, *, folded: bool) -> float:
    """max|ΔS| against the integrals of the radial functions; ValueError when basis and matrices disagree."""
    expected = two_center_overlap(overlap.atoms, overlap.basis)
    defect = (overlap - expected).max_abs()
    if defect > (_FOLDED if folded else _OVERLAP_AGREES):
        remedy = (
            "the cell is too small to be run without k-points" if folded else "they are of different runs"
        )
        raise ValueError(
            f"{where}: S is off by {defect:.1e} from the integrals of the basis functions; {remedy}"
        )
    return defect


def _fermi_level(log: CP2KLog, hamiltonian: RealSpaceMatrix | None, overlap: RealSpaceMatrix) -> float | None:
    """The log's; else from the levels at its k-points, mid-gap where there is one."""
    if log.fermi_level is not None or hamiltonian is None:
        return log.fermi_level
    kpoints = np.array([[0.0, 0.0, 0.0, 1.0]]) if log.kpoints is None else log.kpoints
    n_spins = 2 if hamiltonian.spin == "collinear" else 1
    levels = []
    for k in kpoints[:, :3]:
        S = overlap.at_k(k)
        H = np.reshape(hamiltonian.at_k(k), (n_spins, *S.shape))
        try:
            levels.append([scipy.linalg.eigvalsh(h, S) for h in H])
        except np.linalg.LinAlgError as error:
            raise ValueError(
                f"S(k) at {k.tolist()} is not positive definite; the files are damaged"
            ) from error
    energies = np.array(levels).swapaxes(0, 1)
    smearing = Smearing("fermi-dirac", 0.0)
    return fill(energies, kpoints[:, 3], log.n_electrons, smearing, degeneracy=2 // n_spins).fermi_level
