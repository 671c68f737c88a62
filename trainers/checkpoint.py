"""Checkpoints of a training run: one folder per epoch, complete or absent, read back exactly."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

_NAME = re.compile(r"epoch_(\d{6})$")


def _host(tree: Any) -> Any:
    """Copies on the host: a view would change under a donated buffer."""
    return jax.tree.map(lambda leaf: np.array(leaf), tree)


def _filled(tree: Any) -> Any:
    """The tree without its empty arrays, which orbax cannot store."""
    if not isinstance(tree, Mapping):
        return tree
    inner = {key: _filled(value) for key, value in tree.items()}
    return {key: value for key, value in inner.items() if isinstance(value, Mapping) or value.size}


def _completed(tree: Any, template: Any) -> Any:
    """The tree with the empty arrays of the template put back."""
    if not isinstance(template, Mapping):
        return tree
    return {key: _completed(tree[key], value) if key in tree else value for key, value in template.items()}


def _checkpointer() -> Any:
    """Orbax's, for this process alone also where there are several: it must not wait for the others."""
    import orbax.checkpoint as ocp

    if jax.process_count() == 1:
        return ocp.StandardCheckpointer()
    alone = ocp.options.MultiprocessingOptions(
        primary_host=jax.process_index(),
        active_processes={jax.process_index()},
        barrier_sync_key_prefix="ase_deeph",
    )
    return ocp.StandardCheckpointer(multiprocessing_options=alone)


class Checkpoints:
    """The checkpoints in a folder (orbax; nested dicts of arrays with string keys).

    Orbax writes into a temporary folder and renames it, so a name that exists is complete.

    Parameters
    ----------
    folder : made when absent.
    keep : so many newest ones stay.
    """

    def __init__(self, folder: str | Path, keep: int = 2) -> None:
        self.folder, self.keep = Path(folder).absolute(), keep

    def epochs(self) -> list[int]:
        """Epochs with a complete checkpoint, ascending."""
        if not self.folder.is_dir():
            return []
        found = [_NAME.match(p.name) for p in self.folder.iterdir() if p.is_dir()]
        return sorted(int(m.group(1)) for m in found if m)

    def save(self, epoch: int, tree: dict[str, Any]) -> None:
        """Write the checkpoint of an epoch; delete the oldest ones and what a killed run left half done."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with _checkpointer() as checkpointer:
            checkpointer.save(self._path(epoch), _filled(_host(tree)), force=True)
            checkpointer.wait_until_finished()
        complete = self.epochs()
        stay = {self._path(e).name for e in complete[-self.keep :]}
        for entry in self.folder.iterdir():
            if entry.name.startswith("epoch_") and entry.name not in stay:
                shutil.rmtree(entry, ignore_errors=True)

    def restore(self, template: dict[str, Any]) -> dict[str, Any]:
        """The newest checkpoint, as a tree of NumPy arrays like the template.

        Raises
        ------
        ValueError : there is none, or it does not fit the template.
        """
        complete = self.epochs()
        if not complete:
            raise ValueError(f"{self.folder} holds no complete checkpoint; train without --resume")
        try:
            with _checkpointer() as checkpointer:
                tree = checkpointer.restore(self._path(complete[-1]), _filled(_host(template)))
        except (ValueError, KeyError, TypeError, OSError) as error:
            reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
            raise ValueError(
                f"checkpoint {self._path(complete[-1])} does not fit this run: {reason}"
            ) from error
        return _completed(_host(tree), _host(template))

    def _path(self, epoch: int) -> Path:
        return self.folder / f"epoch_{epoch:06d}"
