"""Strict numerics for every test: no silent broadcasting of ranks, warnings are errors."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "Agg")
# The matrices here are small: a second BLAS thread mostly waits, and takes the core from the test's own work.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")

_IGNORED_WARNINGS = (
    # spglib, e3nn-jax and orbax announce changes of their own interfaces; not ours to fix.
    "ignore::DeprecationWarning:spglib.*",
    "ignore::DeprecationWarning:e3nn_jax.*",
    "ignore::DeprecationWarning:orbax.*",
    "ignore::DeprecationWarning:flax.*",
    "ignore::DeprecationWarning:jax.*",
    "ignore::DeprecationWarning:gpaw.*",
    "ignore::DeprecationWarning:pyscf.*",
    "ignore:.*Orbax.*",
    # Kwant's plotter says which of its drawing engines are absent.
    "ignore:.*plotly.*:RuntimeWarning",
    # importlib.resources in dependencies built for older Pythons.
    "ignore::ImportWarning",
    # A subprocess's or an h5py file's handle closed by the garbage collector of a dependency.
    "ignore::ResourceWarning",
    # pytest's own: an optional hook that the installed plugins do not know.
    "ignore::pytest.PytestUnknownMarkWarning",
)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("filterwarnings", "error")
    for line in _IGNORED_WARNINGS:
        config.addinivalue_line("filterwarnings", line)


@pytest.fixture(scope="session")
def session_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where this session's compiled networks are kept."""
    folder = tmp_path_factory.mktemp("compiled")
    folder.chmod(0o700)
    return folder


@pytest.fixture(autouse=True)
def _private_cache(session_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled networks go to a folder of this test session, never to the user's cache."""
    monkeypatch.setenv("ASE_DEEPH_CACHE", str(session_cache))


@pytest.fixture(autouse=True)
def _log_levels() -> Iterator[None]:
    """A command run inside a test sets the package's log level; the next test starts with none."""
    yield
    for name in ("ase_deeph", "trainers"):
        logging.getLogger(name).setLevel(logging.NOTSET)


@pytest.fixture
def no_nans():
    """Stop at the first NaN that a JAX function makes (a device sync per call, so not for every test)."""
    with jax.debug_nans(True):
        yield
