"""The neutral file: H(R), S(R) and what they are of, in plain arrays that any language can read.

HDF5, or NumPy's .npz when the name ends so; no pickle in either. The arrays, by name:

    format, version           "ase_deeph.neutral", 1
    cell (3, 3)               Å, vectors are rows;  pbc (3,) true along periodic axes
    numbers, positions        (n_atoms,) atomic numbers, (n_atoms, 3) Å
    valence_electrons         (n_atoms,) electrons each atom brings, 0 where unknown
    spin                      "none", "collinear" (two channels) or "spinor"
    orbitals (n, 5)           of each row of H: atom, shell of the atom, l, m, spin (1 = down; spinors only)
    R (n_R, 3)                cells, integers; -R is there for each R
    cell_of_entry, row, col   (n_entries,) which R, which row and column each entry below belongs to
    hamiltonian               (n_channels, n_entries) eV: <row in cell 0| H |col in cell R>
    overlap                   (n_entries,) dimensionless; absent for an orthogonal basis
    n_electrons, fermi_level  numbers; NaN where unknown (eV, on the scale of H)

An entry that is not listed is zero, none is listed twice, H(k) = Σ_R exp(+2πi k·R) H(R) with fractional k.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import h5py
import numpy as np
from ase import Atoms

from ase_deeph.basis import OrbitalBasis, SpeciesBasis
from ase_deeph.electronic_structure import ElectronicStructure
from ase_deeph.exporters.cells import on_common_pairs, orbital_list
from ase_deeph.exporters.files import replaced_file
from ase_deeph.matrix import RealSpaceMatrix
from ase_deeph.pairs import AtomPairs
from ase_deeph.reference import ReferenceData

_FORMAT, _VERSION = "ase_deeph.neutral", 1
_OPTIONAL = {"overlap"}
_NAMES = (
    *("format", "version", "cell", "pbc", "numbers", "positions", "valence_electrons", "spin", "orbitals"),
    *("R", "cell_of_entry", "row", "col", "hamiltonian", "overlap", "n_electrons", "fermi_level"),
)


def write_neutral(path: str | Path, es: ElectronicStructure, *, fermi_level: float | None = None) -> None:
    """Write H(R), S(R), orbitals and electrons to one file, atomically; the layout is in this module's text.

    Parameters
    ----------
    path : a name that ends in .npz gives NumPy's archive, any other HDF5.
    es : of any spin.
    fermi_level : eV; None computes it on the mesh of `es` where the electron number is known.

    Raises
    ------
    ValueError : the folder does not exist.
    """
    if fermi_level is None and es.n_electrons is not None:
        fermi_level = es.fermi_level()
    arrays = _arrays(es, np.nan if fermi_level is None else fermi_level)
    with replaced_file(path) as partial:
        if partial.suffix == ".npz":
            np.savez_compressed(partial, **arrays)
            return
        with h5py.File(partial, "w") as file:
            for name, value in arrays.items():
                if np.ndim(value):
                    file.create_dataset(name, data=value, compression="gzip", shuffle=True)
                else:
                    file[name] = value


def _arrays(es: ElectronicStructure, fermi_level: float) -> dict[str, Any]:
    h, s = on_common_pairs(es)
    atoms, basis, pattern, orbitals = h.atoms, h.basis, h.bloch_sum, orbital_list(h)
    arrays = {
        "format": _FORMAT,
        "version": _VERSION,
        "cell": atoms.cell.array,
        "pbc": np.array(atoms.pbc),
        "numbers": atoms.numbers,
        "positions": atoms.positions,
        "valence_electrons": np.array([basis.valence_electrons(x) for x in atoms.get_chemical_symbols()]),
        "spin": h.spin,
        "orbitals": np.column_stack([orbitals.atom, orbitals.shell, orbitals.l, orbitals.m, orbitals.spin]),
        "R": pattern.cells,
        "cell_of_entry": pattern.cell_of_entry,
        "row": pattern.rows,
        "col": pattern.cols,
        "hamiltonian": np.atleast_2d(h.entries),
        "n_electrons": np.nan if es.n_electrons is None else es.n_electrons,
        "fermi_level": fermi_level,
    }
    return arrays if s is None else arrays | {"overlap": s.entries}


def read_neutral(path: str | Path) -> ReferenceData:
    """Read what `write_neutral`, or any program that keeps the layout, wrote.

    The basis knows shells and valence electrons, no radial functions.

    Raises
    ------
    FileNotFoundError : no such file.
    ValueError : another format, a newer version, missing or contradictory arrays.
    """
    path = Path(path)
    arrays = _read_arrays(path)
    if str(arrays.get("format")) != _FORMAT:
        raise ValueError(f"{path}: expected the format {_FORMAT!r}, received {arrays.get('format')!r}")
    if int(arrays.get("version", 0)) > _VERSION:
        raise ValueError(
            f"{path}: expected version <= {_VERSION}, received {arrays['version']}; update ase-deeph"
        )
    missing = [name for name in _NAMES if name not in arrays and name not in _OPTIONAL]
    if missing:
        raise ValueError(f"{path}: arrays {', '.join(missing)} are missing; write the file again")
    try:
        return _reference_data(arrays)
    except (ValueError, IndexError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: its arrays contradict one another ({error})") from error


def _read_arrays(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"no neutral file {path}")
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as archive:
                return {name: archive[name] for name in _NAMES if name in archive}
        with h5py.File(path, "r") as file:
            return {name: _decoded(file[name][()]) for name in _NAMES if name in file}
    except (OSError, KeyError, RuntimeError, ValueError, BadZipFile) as error:
        raise ValueError(f"{path}: not a readable neutral file ({error})") from error


def _decoded(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value


def _reference_data(arrays: Mapping[str, Any]) -> ReferenceData:
    atoms = Atoms(
        arrays["numbers"], positions=arrays["positions"], cell=arrays["cell"], pbc=arrays["pbc"].astype(bool)
    )
    basis = _basis(atoms, arrays["orbitals"], arrays["valence_electrons"])
    spin = str(arrays["spin"])
    entries = arrays["hamiltonian"] if spin == "collinear" else arrays["hamiltonian"][0]
    hamiltonian = _matrix(arrays, basis, atoms, entries, spin)
    overlap = None
    if "overlap" in arrays:
        overlap = _matrix(arrays, basis, atoms, arrays["overlap"], "spinor" if spin == "spinor" else "none")
    n_electrons, fermi_level = float(arrays["n_electrons"]), float(arrays["fermi_level"])
    return ReferenceData(
        atoms=atoms,
        hamiltonian=hamiltonian,
        overlap=overlap,
        n_electrons=None if np.isnan(n_electrons) else n_electrons,
        fermi_level=None if np.isnan(fermi_level) else fermi_level,
        basis=basis,
    )


def _basis(atoms: Atoms, orbitals: np.ndarray, valence_electrons: np.ndarray) -> OrbitalBasis:
    """The shells of each species as the orbital list tells them; atoms of one species must agree."""
    species: dict[str, SpeciesBasis] = {}
    for atom, symbol in enumerate(atoms.get_chemical_symbols()):
        own = orbitals[(orbitals[:, 0] == atom) & (orbitals[:, 4] == 0)]
        shells = tuple(int(l) for l in own[own[:, 3] == -own[:, 2], 2])
        found = SpeciesBasis(shells, float(valence_electrons[atom]))
        if species.setdefault(symbol, found).key() != found.key() or found.n_orbitals != len(own):
            raise ValueError(f"atom {atom} ({symbol}) has shells l = {shells}, unlike others of its species")
    return OrbitalBasis(species)


def _matrix(
    arrays: Mapping[str, Any], basis: OrbitalBasis, atoms: Atoms, values: np.ndarray, spin: str
) -> RealSpaceMatrix:
    """The listed entries on the pairs that they belong to."""
    atom = arrays["orbitals"][:, 0]
    local = np.arange(len(atom)) - np.searchsorted(atom, atom)
    row, col = arrays["row"], arrays["col"]
    keys = np.column_stack([atom[row], atom[col], arrays["R"][arrays["cell_of_entry"]]])
    keys, pair_of_entry = np.unique(keys, axis=0, return_inverse=True)
    pairs = AtomPairs(keys[:, 0], keys[:, 1], keys[:, 2:], len(atoms))
    counts = np.bincount(atom, minlength=len(atoms))
    starts = np.concatenate([[0], np.cumsum(counts[pairs.i] * counts[pairs.j])])
    at = starts[pair_of_entry.ravel()] + local[row] * counts[atom[col]] + local[col]
    entries = np.zeros((*np.shape(values)[:-1], starts[-1]), dtype=values.dtype)
    entries[..., at] = values
    return RealSpaceMatrix(basis, pairs, atoms, entries, spin)  # type: ignore[arg-type]
