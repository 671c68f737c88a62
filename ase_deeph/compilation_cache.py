"""Compiled networks kept on disk between processes, without touching the user's JAX configuration.

JAX reads its persistent cache directory from a process-wide setting.  `compilation_cache()` sets it for the
duration of one call and puts it back; a directory that the user has configured is left in charge.

The directory is `$XDG_CACHE_HOME/ase_deeph/xla` (mode 0700: whoever can write there can run code as you).
The environment variable ASE_DEEPH_CACHE names another directory, or switches the cache off with "off".
"""

from __future__ import annotations

import logging
import os
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

ENVIRONMENT_VARIABLE = "ASE_DEEPH_CACHE"
_MIN_COMPILE_SECONDS = 0.3
_MAX_BYTES = 512 * 2**20
_SECONDS_BETWEEN_LOOKS = 60.0
_lock = threading.Lock()
_users = 0
_before: dict[str, Any] = {}
_looked_at: dict[Path, float] = {}


def cache_directory() -> Path | None:
    """The directory of compiled networks, made when absent; None when switched off or not ours alone."""
    chosen = os.environ.get(ENVIRONMENT_VARIABLE, "")
    if chosen.lower() in ("off", "0", "none"):
        return None
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    directory = Path(chosen) if chosen else base / "ase_deeph" / "xla"
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not chosen:
            directory.chmod(0o700)
        status = directory.stat()
    except OSError as error:
        log.info("no compilation cache in %s: %s", directory, error)
        return None
    foreign = hasattr(os, "getuid") and status.st_uid != os.getuid()
    if foreign or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        log.warning("no compilation cache in %s: others may write there; chmod go-w it", directory)
        return None
    return directory


def _prune(directory: Path) -> None:
    """Delete the entries longest unused until the directory holds less than 512 MiB; looks once a minute."""
    now = time.monotonic()
    if now - _looked_at.get(directory, -_SECONDS_BETWEEN_LOOKS) < _SECONDS_BETWEEN_LOOKS:
        return
    _looked_at[directory] = now
    entries = []
    for file in directory.iterdir():
        with suppress(OSError):
            status = file.stat()
            entries.append((max(status.st_atime, status.st_mtime), status.st_size, file))
    excess = sum(size for _, size, _ in entries) - _MAX_BYTES
    for _, size, file in sorted(entries):
        if excess <= 0:
            break
        with suppress(OSError):
            file.unlink()
        excess -= size


def _enter() -> None:
    """Point JAX at our directory, unless it has one already or ours is unusable."""
    global _users
    import jax

    with _lock:
        _users += 1
        if _users > 1 or jax.config.values["jax_compilation_cache_dir"] is not None:
            return
        directory = cache_directory()
        if directory is None:
            return
        _prune(directory)
        wanted = {
            "jax_compilation_cache_dir": str(directory),
            "jax_persistent_cache_min_compile_time_secs": _MIN_COMPILE_SECONDS,
        }
        for name, value in wanted.items():
            _before[name] = getattr(jax.config, name)
            jax.config.update(name, value)


def _leave() -> None:
    """Put the settings back when the last block ends."""
    global _users
    import jax

    with _lock:
        _users -= 1
        if _users or not _before:
            return
        from jax.experimental.compilation_cache.compilation_cache import reset_cache

        for name, value in _before.items():
            jax.config.update(name, value)
        _before.clear()
        reset_cache()


@contextmanager
def compilation_cache() -> Iterator[None]:
    """Within the block, JAX keeps what it compiles on disk; afterwards its settings are as before."""
    _enter()
    try:
        yield
    finally:
        _leave()
