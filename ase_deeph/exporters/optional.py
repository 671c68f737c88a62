"""Optional packages, imported when an exporter is called; absent ones are named with what installs them."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType


def optional_package(name: str, caller: str, install: str = "pip install 'ase-deeph[export]'") -> ModuleType:
    """The package `name` for the function `caller`.

    Raises
    ------
    ModuleNotFoundError : it is not installed; the message says how to install it.
    """
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise ModuleNotFoundError(
            f"{caller} needs {name}, which is not installed; install it with: {install}", name=error.name
        ) from error
