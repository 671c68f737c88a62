"""Radial functions of SIESTA's orbitals from <label>.ion.nc (NetCDF classic or 4) or <label>.ion.xml.

Both hold φ(r) / r^l in Bohr on 500 equidistant points; the last is the cutoff.
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from ase.data import chemical_symbols
from ase.units import Bohr
from scipy.interpolate import CubicSpline

from ase_deeph.basis import GridRadial, SpeciesBasis

_REFINEMENT = 4
_LARGEST = 64 * 2**20


@dataclass(frozen=True, eq=False)
class IonSpecies:
    """Label, element and orbitals of one ion file."""

    label: str
    symbol: str
    basis: SpeciesBasis


def ion_files(folder: Path) -> list[Path]:
    """The ion files of a folder, .ion.nc before .ion.xml, one per label."""
    found = {path.name.removesuffix(".ion.xml"): path for path in sorted(folder.glob("*.ion.xml"))}
    found |= {path.name.removesuffix(".ion.nc"): path for path in sorted(folder.glob("*.ion.nc"))}
    return list(found.values())


def read_ion(path: Path) -> IonSpecies:
    """Read one ion file.

    Raises
    ------
    ValueError : the file is damaged or of another kind.
    """
    if path.stat().st_size > _LARGEST:
        raise ValueError(f"{path}: {path.stat().st_size} bytes are too many for an ion file")
    try:
        return _read_xml(path) if path.suffix == ".xml" else _read_netcdf(path)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, OSError, EOFError) as error:
        raise ValueError(f"{path}: damaged or not an ion file of SIESTA ({_one_line(error)})") from error
    except (ElementTree.ParseError, MemoryError, OverflowError, RuntimeError, AssertionError) as error:
        raise ValueError(f"{path}: damaged or not an ion file of SIESTA ({_one_line(error)})") from error


def _one_line(error: BaseException) -> str:
    return re.sub(r"\s+", " ", str(error))[:200] or type(error).__name__


def _species(
    label: str, number: int, charge: float, degrees: np.ndarray, steps: np.ndarray, values: np.ndarray
) -> IonSpecies:
    if not 1 <= number < len(chemical_symbols):
        raise ValueError(f"atomic number {number}; ghost and mixed species have no element and are not read")
    if (
        not len(degrees)
        or min(degrees) < 0
        or max(degrees) > 8
        or not len(degrees) == len(steps) == len(values)
    ):
        raise ValueError(f"{len(values)} orbitals with l = {list(degrees)}")
    if not np.all(np.isfinite(steps)) or min(steps) < 1e-5 or max(steps) > 1.0 or not np.isfinite(charge):
        raise ValueError(f"grid spacings {list(steps)} and charge {charge}")
    radial = tuple(
        radial_function(int(l), float(h), v) for l, h, v in zip(degrees, steps, values, strict=True)
    )
    return IonSpecies(
        label, chemical_symbols[number], SpeciesBasis(tuple(f.l for f in radial), charge, radial)
    )


def radial_function(l: int, step: float, reduced: np.ndarray) -> GridRadial:
    """φ(r) in Å^(-3/2) from φ / r^l in Bohr, splined as given and refined before r^l is put back."""
    if len(reduced) < 8 or not np.all(np.abs(reduced) < 1e6):
        raise ValueError("a radial function with too few or absurd values")
    knots = step * np.arange(len(reduced))
    fine = np.linspace(0.0, knots[-1], _REFINEMENT * (len(knots) - 1) + 1)
    spline = CubicSpline(knots, reduced, bc_type=((1, 0.0), "not-a-knot"))
    return GridRadial(l, fine * Bohr, spline(fine) * fine**l * Bohr**-1.5)


def _read_netcdf(path: Path) -> IonSpecies:
    content = path.read_bytes()
    if content[:4] == b"\x89HDF":
        return _read_netcdf4(path)
    from scipy.io import netcdf_file

    with netcdf_file(io.BytesIO(content), mmap=False) as file:
        variables = {name: np.array(file.variables[name].data) for name in ("orbnl_l", "delta", "orb")}
        return _species(
            _text(file.Label),
            int(file.Atomic_number),
            float(file.Valence_charge),
            variables["orbnl_l"],
            variables["delta"],
            variables["orb"],
        )


def _read_netcdf4(path: Path) -> IonSpecies:
    import h5py

    with h5py.File(path, "r") as file:
        for name in ("orbnl_l", "delta", "orb"):
            if file[name].size * 8 > _LARGEST:
                raise ValueError(f"{name} has {file[name].size} values")
        return _species(
            _text(file.attrs["Label"]),
            int(np.ravel(file.attrs["Atomic_number"])[0]),
            float(np.ravel(file.attrs["Valence_charge"])[0]),
            file["orbnl_l"][()],
            file["delta"][()],
            file["orb"][()],
        )


def _text(value: object) -> str:
    return (value.decode("ascii", "replace") if isinstance(value, bytes) else str(value)).strip()


def _read_xml(path: Path) -> IonSpecies:
    root = ElementTree.fromstring(_without_free_text(path.read_text(errors="replace")))
    degrees, steps, values = [], [], []
    for orbital in root.iter("orbital"):
        points = int(_child(orbital, "radfunc/npts"))
        table = np.array(_child(orbital, "radfunc/data").split(), dtype=float)
        if len(table) != 2 * points:
            raise ValueError(f"an orbital has {len(table) // 2} points, not {points}")
        degrees.append(int(orbital.attrib["l"]))
        steps.append(float(_child(orbital, "radfunc/delta")))
        if not 0 < steps[-1] <= 1.0:
            raise ValueError(f"a grid spacing of {steps[-1]}")
        values.append(table[1::2])
        if np.abs(table[::2] - steps[-1] * np.arange(points)).max(initial=0.0) > 1e-5:
            raise ValueError("the points of an orbital are not equidistant")
    return _species(
        _child(root, "label"),
        int(_child(root, "z")),
        float(_child(root, "valence")),
        np.array(degrees),
        np.array(steps),
        np.array(values, dtype=object) if len({len(v) for v in values}) > 1 else np.array(values),
    )


def _without_free_text(text: str) -> str:
    """Without the preamble, which copies the pseudopotential's own text and may break XML."""
    return re.sub(r"<preamble>.*?</preamble>", "", text, flags=re.DOTALL)


def _child(node: ElementTree.Element, path: str) -> str:
    found = node.find(path)
    if found is None or found.text is None:
        raise ValueError(f"<{path}> is missing")
    return found.text.strip()
