"""An OrbitalBasis in an HDF5 group, lossless: shells, radial functions, PAW projectors and ΔO.

    <group>                        attributes format = "ase_deeph.basis", version = 1
      <symbol>                     attribute valence_electrons
        shells                     (n_shells,) angular momenta
        radial                     a group of radial functions; absent where only the shells are known
        augmentation/delta_overlap (n_projectors, n_projectors)
        augmentation/projectors    a group of radial functions

A group of radial functions holds them one after the other: degrees (n,), kinds (n,) with 0 = grid, 1 = an
equidistant grid of which only the last point is kept, 2 = Gaussians; lengths (n,); abscissae (r in Å, or
exponents in Å^-2) and ordinates (R in Å^(-3/2), or coefficients).
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
_GRID, _EQUIDISTANT, _GAUSSIAN = range(3)


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


def _is_equidistant(r: np.ndarray) -> bool:
    return np.array_equal(r, np.linspace(0.0, r[-1], len(r)))


def _write_functions(group: h5py.Group, functions: Sequence[RadialFunction]) -> None:
    kinds, lengths, abscissae, ordinates = [], [], [np.zeros(0)], [np.zeros(0)]
    for function in functions:
        if isinstance(function, GaussianRadial):
            kind, x, y = _GAUSSIAN, function.exponents, function.coefficients
        elif _is_equidistant(function.r):
            kind, x, y = _EQUIDISTANT, function.r[-1:], function.values
        else:
            kind, x, y = _GRID, function.r, function.values
        kinds.append(kind)
        lengths.append(len(y))
        abscissae.append(x)
        ordinates.append(y)
    for name, values in (("degrees", [f.l for f in functions]), ("kinds", kinds), ("lengths", lengths)):
        group[name] = np.array(values, dtype=np.int64)
    group["abscissae"] = np.concatenate(abscissae)
    group["ordinates"] = np.concatenate(ordinates)


def _read_species(group: h5py.Group) -> SpeciesBasis:
    radial = _read_functions(group["radial"]) if "radial" in group else None
    augmentation = None
    if "augmentation" in group:
        inner = group["augmentation"]
        augmentation = Augmentation(_read_functions(inner["projectors"]), inner["delta_overlap"][()])
    shells = tuple(int(l) for l in group["shells"][()])
    return SpeciesBasis(shells, float(group.attrs["valence_electrons"]), radial, augmentation)


def _read_functions(group: h5py.Group) -> tuple[RadialFunction, ...]:
    abscissae, ordinates = group["abscissae"][()], group["ordinates"][()]
    functions: list[RadialFunction] = []
    x_start = y_start = 0
    for l, kind, length in zip(group["degrees"][()], group["kinds"][()], group["lengths"][()], strict=True):
        x = abscissae[x_start : x_start + (1 if kind == _EQUIDISTANT else length)]
        y = ordinates[y_start : y_start + length]
        x_start, y_start = x_start + len(x), y_start + len(y)
        if kind == _GAUSSIAN:
            functions.append(GaussianRadial(int(l), x, y))
        elif kind == _EQUIDISTANT and len(x):
            functions.append(GridRadial(int(l), np.linspace(0.0, x[0], length), y))
        elif kind == _GRID:
            functions.append(GridRadial(int(l), x, y))
        else:
            raise ValueError(
                f"radial functions {group.name}: unknown kind {kind}, or abscissae that end too early"
            )
    if (x_start, y_start) != (len(abscissae), len(ordinates)):
        raise ValueError(
            f"radial functions {group.name}: {len(ordinates) - y_start} values belong to no function"
        )
    return tuple(functions)
