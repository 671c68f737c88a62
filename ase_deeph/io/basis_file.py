"""An OrbitalBasis in an HDF5 group, lossless: shells, radial functions, PAW projectors and ΔO.

    <group>                        attributes format = "ase_deeph.basis", version = 1
      <symbol>                     attribute valence_electrons
        shells                     (n_shells,) angular momenta
        radial/<n>                 attributes kind = "grid" | "gaussian", l; see below; absent without radial functions
        augmentation/delta_overlap (n_projectors, n_projectors)
        augmentation/projectors/<n>
    grid:      r, values           Å, Å^(-3/2)
    gaussian:  exponents, coefficients
"""

from __future__ import annotations

from collections.abc import Sequence

import h5py
import numpy as np

from ase_deeph.basis import (
    Augmentation,
    GaussianRadial,
    GridRadial,
    OrbitalBasis,
    RadialFunction,
    SpeciesBasis,
)

_FORMAT = "ase_deeph.basis"
_VERSION = 1


def write_basis(group: h5py.Group, basis: OrbitalBasis) -> None:
    """Write a basis into an empty HDF5 group.

    Raises
    ------
    ValueError : the group is not empty.
    """
    if len(group):
        raise ValueError(f"write_basis: expected an empty group, received {group.name} with {sorted(group)}")
    group.attrs["format"] = _FORMAT
    group.attrs["version"] = _VERSION
    for symbol, species in basis.items():
        part = group.create_group(symbol)
        part.attrs["valence_electrons"] = species.valence_electrons
        part["shells"] = np.array(species.shells, dtype=np.int64)
        if species.radial is not None:
            _write_functions(part.create_group("radial"), species.radial)
        if species.augmentation is not None:
            inner = part.create_group("augmentation")
            inner["delta_overlap"] = species.augmentation.delta_overlap
            _write_functions(inner.create_group("projectors"), species.augmentation.projectors)


def read_basis(group: h5py.Group) -> OrbitalBasis:
    """Read what `write_basis` wrote; the result equals the basis written.

    Raises
    ------
    ValueError : the group is no basis, of a newer version, or parts of it are missing or malformed.
    """
    if not isinstance(group, h5py.Group):
        raise ValueError(f"read_basis: expected an HDF5 group, received {type(group).__name__}")
    where = f"basis in {group.file.filename}:{group.name}"
    if group.attrs.get("format") != _FORMAT:
        raise ValueError(f"{where}: expected the format {_FORMAT!r}, received {group.attrs.get('format')!r}")
    version = group.attrs.get("version")
    if not isinstance(version, int | np.integer) or version > _VERSION:
        raise ValueError(f"{where}: expected version <= {_VERSION}, received {version}; update ase-deeph")
    try:
        return OrbitalBasis({str(symbol): _read_species(group[symbol]) for symbol in group})
    except (KeyError, OSError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise ValueError(f"{where} is incomplete or damaged ({error}); write it again") from error


def _write_functions(group: h5py.Group, functions: Sequence[RadialFunction]) -> None:
    for n, function in enumerate(functions):
        part = group.create_group(str(n))
        part.attrs["l"] = function.l
        if isinstance(function, GridRadial):
            part.attrs["kind"] = "grid"
            arrays = {"r": function.r, "values": function.values}
        else:
            part.attrs["kind"] = "gaussian"
            arrays = {"exponents": function.exponents, "coefficients": function.coefficients}
        for name, values in arrays.items():
            part.create_dataset(name, data=values, compression="gzip", shuffle=True)


def _read_species(group: h5py.Group) -> SpeciesBasis:
    radial = _read_functions(group["radial"]) if "radial" in group else None
    augmentation = None
    if "augmentation" in group:
        inner = group["augmentation"]
        augmentation = Augmentation(_read_functions(inner["projectors"]), inner["delta_overlap"][()])
    shells = tuple(int(l) for l in group["shells"][()])
    return SpeciesBasis(shells, float(group.attrs["valence_electrons"]), radial, augmentation)


def _read_functions(group: h5py.Group) -> tuple[RadialFunction, ...]:
    functions: list[RadialFunction] = []
    for n in range(len(group)):
        part = group[str(n)]
        kind, l = part.attrs["kind"], int(part.attrs["l"])
        if kind == "grid":
            functions.append(GridRadial(l, part["r"][()], part["values"][()]))
        elif kind == "gaussian":
            functions.append(GaussianRadial(l, part["exponents"][()], part["coefficients"][()]))
        else:
            raise ValueError(f"radial function {part.name}: expected kind 'grid' or 'gaussian', received {kind!r}")
    return tuple(functions)
