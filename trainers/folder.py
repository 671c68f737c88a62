"""RunFolder: all that a training run writes, by the first process alone; a full disk is one clear line."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from ase_deeph.model import HamiltonianModel
from ase_deeph.processes import is_first_process
from trainers.checkpoint import Checkpoints
from trainers.devices import from_first_process
from trainers.log import HAMILTONIAN_LOG, LogFormat, TrainingLog, plot_learning_curve

_IDENTITY = "run.json"
_LONGEST = 600


class RunFolder:
    """The output folder: checkpoints, log.csv, model.h5, learning_curve.png, and run.json, which a resume compares.

    Parameters
    ----------
    path : made when the run starts.
    kind : what the log holds.
    """

    def __init__(self, path: Path, kind: LogFormat = HAMILTONIAN_LOG) -> None:
        self.path, self.kind = path, kind
        self.checkpoints = Checkpoints(path / "checkpoints")
        self.log: TrainingLog | None = None

    @property
    def model_path(self) -> Path:
        """The model file."""
        return self.path / "model.h5"

    @contextmanager
    def held(self) -> Iterator[None]:
        """Within the block no other run can have the folder; the system frees it however the process ends.

        Raises
        ------
        ValueError : another run has it (on every process).
        """
        descriptor, busy = -1, False
        if is_first_process():
            with self.writing("the output folder"):
                self.path.mkdir(parents=True, exist_ok=True)
                descriptor = os.open(self.path, os.O_RDONLY)
            with suppress(OSError):  # some network file systems have no locks: then there is none
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    busy = True
        try:
            if from_first_process({"busy": np.array(busy)})["busy"]:
                raise ValueError(
                    f"output folder {self.path}: another run is training into it; wait until it ends, or give "
                    "another output"
                )
            yield
        finally:
            if descriptor >= 0:
                os.close(descriptor)

    def has_checkpoint(self) -> bool:
        """Whether process 0 sees a complete checkpoint."""
        there = bool(self.checkpoints.epochs()) if is_first_process() else False
        return bool(from_first_process({"there": np.array(there)})["there"])

    def begin(self, identity: Mapping[str, Any]) -> None:
        """Write what a later resume must find unchanged."""
        if is_first_process():
            with self.writing("the output folder"):
                self.path.mkdir(parents=True, exist_ok=True)
                partial = self.path / f".{_IDENTITY}.part"
                partial.write_text(json.dumps(identity, indent=1, sort_keys=True) + "\n", encoding="utf-8")
                os.replace(partial, self.path / _IDENTITY)

    def changes_since(self, identity: Mapping[str, Any]) -> str:
        """What of an identity differs from that of the run which is here, on every process; "" for nothing."""
        text, file = "", self.path / _IDENTITY
        if is_first_process() and file.is_file():
            with suppress(ValueError):  # a damaged file tells nothing; the checkpoint has a hash of the same
                before = json.loads(file.read_text(encoding="utf-8"))
                text = ", ".join(_differences(before, json.loads(json.dumps(identity))))
        encoded = text.encode()[:_LONGEST].ljust(_LONGEST, b" ")
        received = from_first_process({"text": np.frombuffer(encoded, dtype=np.uint8)})["text"]
        return received.tobytes().decode(errors="ignore").strip()

    def restore(self, template: dict[str, Any]) -> dict[str, Any]:
        """The newest checkpoint of process 0, on every process."""
        tree = self.checkpoints.restore(template) if is_first_process() else template
        return _unflattened(from_first_process(_flattened(tree)))

    def start(self, epoch: int) -> None:
        """Make the folder and the log, whose rows from this epoch on are taken out."""
        if is_first_process():
            with self.writing("the output folder"):
                self.path.mkdir(parents=True, exist_ok=True)
                for unfinished in self.path.glob(".model.h5.*.part"):
                    unfinished.unlink()
                self.log = TrainingLog(self.path / "log.csv", epoch, self.kind.columns)

    def append(self, row: Mapping[str, float]) -> None:
        """A row of the log."""
        if self.log is not None:
            with self.writing("log.csv"):
                self.log.append(row)

    def save(self, epoch: int, tree: dict[str, Any]) -> None:
        """A checkpoint."""
        if is_first_process():
            with self.writing(f"the checkpoint of epoch {epoch}"):
                self.checkpoints.save(epoch, tree)

    def write_model(self, model: HamiltonianModel) -> None:
        """The model file."""
        if is_first_process():
            with self.writing("model.h5"):
                model.save(self.model_path)

    def draw(self) -> None:
        """The learning curve."""
        if self.log is not None:
            with self.writing("learning_curve.png"):
                plot_learning_curve(self.log.path, self.path / "learning_curve.png", self.kind)

    @contextmanager
    def writing(self, what: str) -> Iterator[None]:
        """Within the block, a failure to write becomes one line that says what is safe."""
        try:
            yield
        except (OSError, RuntimeError, ValueError) as error:
            complete = self.checkpoints.epochs() if os.access(self.path, os.R_OK) else []
            safe = (
                f"make room there, or copy the folder elsewhere and give that as output, then continue with "
                f"--resume, the checkpoint of epoch {complete[-1]} is complete"
                if complete
                else "make room or give another output, then start again, there is no checkpoint yet"
            )
            raise OSError(f"{what} could not be written to {self.path}: {_reason(error)}; {safe}") from error

    def agree(self, error: OSError | None) -> None:
        """Stop on every process when process 0 could not write."""
        failed = from_first_process({"failed": np.array(error is not None)})["failed"]
        if error is not None:
            raise error
        if failed:
            raise OSError("process 0 could not write its files; its own message says why")


def _differences(before: Any, now: Any, name: str = "") -> list[str]:
    """The entries of nested dicts that differ, each with both values."""
    if isinstance(before, dict) and isinstance(now, dict):
        inner = f"{name}." if name else ""
        keys = sorted(set(before) | set(now))
        return [d for k in keys for d in _differences(before.get(k), now.get(k), f"{inner}{k}")]
    if before == now:
        return []
    texts = [f"{value!r}" for value in (before, now)]
    short = all(len(text) <= 60 for text in texts)
    return [f"{name} ({texts[0]} then, {texts[1]} now)" if short else name]


def _reason(error: Exception) -> str:
    """What the system said, without the layers above it."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = " ".join(str(error).split())
    for known in ("No space left on device", "Permission denied", "Read-only file system", "File too large"):
        if known in text:
            return known
    return text[:200] or type(error).__name__


def _flattened(tree: Mapping[str, Any], prefix: str = "") -> dict[str, np.ndarray]:
    """Nested dicts -> one dict with paths as keys."""
    flat: dict[str, np.ndarray] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= _flattened(value, f"{prefix}{key}\t")
        else:
            flat[prefix + key] = np.asarray(value)
    return flat


def _unflattened(flat: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The inverse of _flattened."""
    tree: dict[str, Any] = {}
    for path, value in flat.items():
        *parents, last = path.split("\t")
        inner = tree
        for key in parents:
            inner = inner.setdefault(key, {})
        inner[last] = value
    return tree
