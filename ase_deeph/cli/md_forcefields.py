"""Force fields by name for the command line: NAME or NAME:parameter=value,..."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def force_field(text: str) -> Any:
    """An ASE calculator: "emt", "lj:sigma=2.0,epsilon=0.3,rc=6", "tblite:method=GFN1-xTB".

    Raises
    ------
    ValueError : an unknown name or parameter.
    ModuleNotFoundError : its package is not installed.
    """
    name, _, rest = text.partition(":")
    if name.lower() not in _MAKERS:
        raise ValueError(f"--forcefield: expected one of {', '.join(_MAKERS)}, received {name!r}")
    parameters: dict[str, Any] = {}
    for part in filter(None, rest.split(",")):
        key, equals, value = part.partition("=")
        if not equals or not key.strip():
            raise ValueError(f"--forcefield {name}: expected parameter=value, received {part!r}")
        parameters[key.strip()] = _number(value.strip())
    return _MAKERS[name.lower()](parameters)


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def _emt(parameters: dict[str, Any]) -> Any:
    from ase.calculators.emt import EMT

    _check("emt", parameters, set())
    return EMT()


def _lennard_jones(parameters: dict[str, Any]) -> Any:
    from ase.calculators.lj import LennardJones

    _check("lj", parameters, {"sigma", "epsilon", "rc", "ro"})
    if not {"sigma", "epsilon"} <= parameters.keys():
        raise ValueError(
            "--forcefield lj: expected sigma (Å) and epsilon (eV), as in lj:sigma=2.0,epsilon=0.3"
        )
    if not all(isinstance(value, float) for value in parameters.values()):
        raise ValueError(f"--forcefield lj: expected numbers, received {parameters}")
    return LennardJones(**parameters, smooth=True)


def _tblite(parameters: dict[str, Any]) -> Any:
    from tblite.ase import TBLite

    _check("tblite", parameters, {"method", "accuracy", "electronic_temperature", "max_iterations"})
    whole = {"max_iterations": int(parameters["max_iterations"])} if "max_iterations" in parameters else {}
    return TBLite(**{"method": "GFN1-xTB", "verbosity": 0, **parameters, **whole})


def _check(name: str, parameters: dict[str, Any], known: set[str]) -> None:
    unknown = sorted(parameters.keys() - known)
    if unknown:
        known_text = ", ".join(sorted(known)) or "none"
        raise ValueError(f"--forcefield {name}: unknown parameter {unknown[0]!r}; known are {known_text}")


_MAKERS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "emt": _emt,
    "lj": _lennard_jones,
    "tblite": _tblite,
}
