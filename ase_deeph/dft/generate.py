"""Data sets from recipes: every sample one DeepH folder, in parallel processes, resumable after a kill."""

from __future__ import annotations

import inspect
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ase_deeph.dft.moments import check_moments
from ase_deeph.dft.recipe import ENGINES, Recipe, Sample
from ase_deeph.io.deeph import BASIS, read_basis_file, read_deeph, write_basis_file, write_deeph
from ase_deeph.reference import ReferenceData
from ase_deeph.workers import workers

logger = logging.getLogger(__name__)

STRUCTURES, FAILURES = "dft", "failed"
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True)
class GenerationReport:
    """What a call of `generate` did: ids computed now, ids found finished, and failures with their reason."""

    computed: tuple[str, ...] = ()
    found: tuple[str, ...] = ()
    failed: Mapping[str, str] = field(default_factory=dict)


def generate(
    recipe: Recipe,
    out: str | Path,
    *,
    engine: str | None = None,
    n_workers: int = 1,
    progress: bool = False,
) -> GenerationReport:
    """Compute every sample of a recipe that is not there yet.

    Each sample becomes `out/dft/<id>` by one rename, so a folder is complete or absent whatever kills the
    process; a second call continues. The orbitals, common to all, are in `out/basis.h5`. A sample that
    fails is noted in `out/failed/<id>.json`, reported, and tried again by the next call.
    One call at a time works on a root.

    Parameters
    ----------
    recipe : what to compute.
    out : root of the data set.
    engine : overrides the recipe's engine ("gpaw", "pyscf" or "cp2k").
    n_workers : processes, one thread each; 1 computes in this process.
    progress : whether to show a progress bar.

    Raises
    ------
    ValueError : unknown engine or setting, no worker, or a finished folder that another recipe wrote.
    ModuleNotFoundError, FileNotFoundError : the engine is not installed.
    """
    if engine is not None:
        if engine not in ENGINES:
            raise ValueError(f"engine: expected {' or '.join(ENGINES)}, received {engine!r}")
        recipe = replace(recipe, engine=engine)
    if n_workers < 1:
        raise ValueError(f"n_workers: expected at least 1, received {n_workers}")
    _check_settings(recipe)
    root = Path(out)
    (root / STRUCTURES).mkdir(parents=True, exist_ok=True)
    for folder in (root, root / STRUCTURES):
        _remove_leftovers(folder)
    finished: list[Sample] = []
    wanted: list[Sample] = []
    for sample in recipe.samples():
        (finished if _is_finished(root, sample) else wanted).append(sample)
    failures: dict[str, str] = {}
    computed: list[str] = []
    with _bar(len(recipe), len(finished), progress) as bar:
        for sample, error in _outcomes(root, wanted, n_workers):
            if error is None:
                computed.append(sample.id)
            else:
                failures[sample.id] = error
                logger.error("%s failed: %s", sample.id, error)
            bar.update(1)
    return GenerationReport(tuple(computed), tuple(s.id for s in finished), failures)


def engine_function(name: str) -> Callable[..., ReferenceData]:
    """run_gpaw, run_pyscf or run_cp2k; ModuleNotFoundError (CP2K: FileNotFoundError) when it is not installed."""
    if name == "gpaw":
        import gpaw  # noqa: F401

        from ase_deeph.dft.gpaw import run_gpaw

        return run_gpaw
    if name == "cp2k":
        from ase_deeph.dft.cp2k import run_cp2k
        from ase_deeph.dft.cp2k_sets import executable

        executable()
        return run_cp2k
    import pyscf  # noqa: F401

    from ase_deeph.dft.pyscf import run_pyscf

    return run_pyscf


def _check_settings(recipe: Recipe) -> None:
    """ValueError when the recipe has a setting that its engine does not take."""
    parameters = inspect.signature(engine_function(recipe.engine)).parameters
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        return
    known = set(parameters) - {"atoms"}
    for sample in recipe.samples():
        unknown = sorted(set(sample.settings) - known)
        if unknown:
            raise ValueError(
                f"recipe {recipe.name!r}: engine {recipe.engine!r} has no setting {unknown[0]!r}; "
                f"it takes {', '.join(sorted(known))}"
            )


def compute_sample(root: Path, sample: Sample) -> None:
    """Run the engine on one sample and write its folder."""
    started = time.perf_counter()
    data = engine_function(sample.recipe.engine)(sample.atoms(), **sample.settings)
    if "moments" in data.info:
        check_moments(data.atoms.get_initial_magnetic_moments(), data.info["moments"])
    seconds = round(time.perf_counter() - started, 2)
    info = {**data.info, "sample": sample.fingerprint, **sample.pair, "seconds": seconds}
    data = replace(data, info=info)
    _share_basis(root, data)
    write_deeph(root / STRUCTURES / sample.id, data, own_basis=False)


def _share_basis(root: Path, data: ReferenceData) -> None:
    """Write or extend the data set's basis.h5; ValueError when a species differs from the one there."""
    from ase_deeph.basis import OrbitalBasis

    if data.basis is None:
        return
    path = root / BASIS
    known = dict(read_basis_file(path)) if path.exists() else {}
    for symbol, species in data.basis.items():
        if symbol in known and known[symbol].key() != species.key():
            raise ValueError(
                f"{path}: the orbitals of {symbol} differ from this calculation's; use another root"
            )
    if set(data.basis) - set(known):
        write_basis_file(path, OrbitalBasis({**known, **data.basis}))


def _attempt(root: Path, sample: Sample) -> str | None:
    """Compute a sample; None, or the reason it failed (also written to the failures folder)."""
    record = root / FAILURES / f"{sample.id}.json"
    try:
        compute_sample(root, sample)
    except Exception as error:  # an engine may raise anything; every failure is recorded
        reason = f"{type(error).__name__}: {error}"
        record.parent.mkdir(exist_ok=True)
        record.write_text(json.dumps({"reason": reason, "sample": sample.fingerprint}, indent=1) + "\n")
        return reason
    record.unlink(missing_ok=True)
    return None


def _outcomes(root: Path, samples: list[Sample], n_workers: int) -> Iterator[tuple[Sample, str | None]]:
    """(sample, reason of failure or None) as they end."""
    if n_workers == 1:
        for sample in samples:
            yield sample, _attempt(root, sample)
        return
    with _single_threaded(), workers(n_workers) as pool:
        futures: dict[Future[str | None], Sample] = {pool.submit(_attempt, root, s): s for s in samples}
        for future in as_completed(futures):
            try:
                yield futures[future], future.result()
            except BrokenProcessPool:
                yield futures[future], "a worker process was killed; run the command again to continue"


@contextmanager
def _single_threaded() -> Iterator[None]:
    """Child processes started inside see one thread per process."""
    before = {name: os.environ.get(name) for name in _THREADS}
    os.environ.update(dict.fromkeys(_THREADS, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _remove_leftovers(folder: Path) -> None:
    """Delete the hidden half-written folders and files that a killed process left."""
    for pattern in (".*.partial-*", ".*.retired-*"):
        for path in folder.glob(pattern):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _is_finished(root: Path, sample: Sample) -> bool:
    """Whether the sample's folder is there, readable and of this recipe; a damaged one is computed again."""
    folder = root / STRUCTURES / sample.id
    if not folder.is_dir():
        return False
    try:
        data = read_deeph(folder)
    except ValueError as error:
        logger.warning("%s is damaged and will be computed again: %s", folder, error)
        return False
    if data.info.get("sample") != sample.fingerprint:
        raise ValueError(
            f"{folder} was computed from another recipe, seed or setting; remove it or use another root"
        )
    same = np.allclose(data.atoms.positions, sample.atoms().positions, atol=1e-6, rtol=0.0)
    if not same:
        raise ValueError(
            f"{folder} holds other positions than the recipe builds; use another folder or remove it"
        )
    return data.hamiltonian is not None


@contextmanager
def _bar(total: int, done: int, progress: bool) -> Iterator[Any]:
    from tqdm import tqdm

    with tqdm(total=total, initial=done, disable=None if progress else True, unit="structure") as bar:
        yield bar
