"""The training loop: epochs of updates within a budget, validation, best model, checkpoints, exact resume."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ase_deeph.compilation_cache import compilation_cache
from trainers import memory
from trainers.allocator import keep_freed_memory
from trainers.config import TrainingConfig
from trainers.devices import from_first_process
from trainers.energy_experiment import prepare_energy
from trainers.experiment import Experiment, prepare
from trainers.fitting import fitting_steps
from trainers.folder import RunFolder
from trainers.optimizer import schedule
from trainers.phases import hamiltonian_phase, head_phase, trains_hamiltonian_first
from trainers.spin_experiment import prepare_spin
from trainers.standing import EpochSums, FitResult, Standing
from trainers.step import Steps, TrainState

__all__ = ["FitResult", "Trainer", "fit", "prepared", "running"]

log = logging.getLogger(__name__)

Progress = Callable[..., Any]

_SECONDS_BETWEEN_PICTURES = 30.0


class Trainer:
    """One run of an experiment.

    Parameters
    ----------
    experiment : what is trained on what.
    bar : progress(iterable, label, total, unit) -> iterable, or None for silence.
    steps : compiled steps to share with another run of the same shapes.
    clock : seconds; max_minutes, the log's seconds and structures per second go by it (the host's wait does not).
    """

    def __init__(
        self,
        experiment: Experiment,
        bar: Progress | None = None,
        *,
        steps: Steps | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.experiment, self.config, self.bar, self.clock = experiment, experiment.config, bar, clock
        self.folder = RunFolder(self.config.output_folder, experiment.log_format)
        self.steps: Steps = steps or experiment.steps
        self.standing = Standing()
        self.statistics: Mapping[str, Any] = {}
        self.best: Mapping[str, Any] = {}
        self.state: TrainState | None = None
        self.structures, self.training_seconds, self.waited = 0, 0.0, 0.0
        self._began = self._drawn = 0.0

    def run(self, *, resume: bool) -> FitResult:
        """Train until the budget is used, or patience runs out; see FitResult."""
        with self.folder.held():
            return self._run(resume)

    def _run(self, resume: bool) -> FitResult:
        self._open(resume)
        self.folder.start(self.standing.epoch)
        reason = self._why_stop()
        if not reason:
            self._check_memory()
        self._began = self.clock() - self.standing.seconds
        while not reason:
            self._epoch()
            reason = self._why_stop()
        unjudged = math.isinf(self.standing.best) and self.standing.epoch > 0
        if unjudged and not self._judge(self.validate()):
            raise ValueError("training ended without a finite validation error; check the validation set")
        self._save_model(finished=reason)
        self.folder.draw()
        seconds = max(self.training_seconds, 1e-9)
        result = FitResult(
            model_path=self.folder.model_path,
            errors=self.experiment.errors_of((self.standing.best_raw, self.standing.best_fixed)),
            final_loss=self.standing.last_loss,
            epochs=self.standing.epoch,
            seconds=self.standing.seconds,
            n_compilations=self.steps.n_compilations,
            reason=reason,
            host_wait=self.waited / seconds,
            structures_per_second=self.structures / seconds,
            peak_memory=memory.peak(self.steps.devices.first),
        )
        log.info(
            "%.3g structures/s, host wait %.1f %%, peak memory %s",
            result.structures_per_second, 100 * result.host_wait, memory.gib(result.peak_memory),
        )  # fmt: skip
        return result

    # -- start and checkpoints

    def _open(self, resume: bool) -> None:
        """A fresh state, or that of the newest checkpoint."""
        there = self.folder.has_checkpoint()
        if there and not resume:
            raise ValueError(
                f"output folder {self.folder.path} holds a run already; pass --resume to continue it, "
                "or give another output"
            )
        self.state = self.steps.start(self.experiment.initial_params())
        self.best = jax.tree.map(np.array, self.state.average)
        replicate = self.steps.devices.replicate
        identity = self.experiment.identity()
        if not there:
            if resume:
                log.warning("--resume: %s holds no checkpoint, this run starts at epoch 0", self.folder.path)
            self.folder.begin(identity)
            self.statistics = replicate(dict(self.experiment.statistics()))
            return
        self._refuse(self.folder.changes_since(identity))
        self.statistics = replicate(dict(self.experiment.empty_statistics()))
        tree = self.folder.restore(self._tree())
        if tree["identity"].tobytes() != self._identity().tobytes():
            self._refuse("something")
        leaves = [jnp.array(tree["state"][key]) for key in sorted(tree["state"])]
        self.state = replicate(jax.tree.unflatten(jax.tree.structure(self.state), leaves))
        self.statistics, self.best = replicate(tree["statistics"]), tree["best"]
        self.standing = Standing.from_arrays(tree["standing"])

    def _refuse(self, changes: str) -> None:
        """ValueError where there are changes since the checkpoint."""
        if changes:
            raise ValueError(
                f"the run in {self.folder.path} was made with another config or other data: {changes} changed; "
                "give another output, or continue from its model with [training] start_from (a longer run: raise "
                "max_minutes, which may change)"
            )

    def _identity(self) -> np.ndarray:
        text = json.dumps(self.experiment.identity(), sort_keys=True)
        return np.frombuffer(hashlib.sha256(text.encode()).digest(), dtype=np.uint8).astype(np.int32)

    def _tree(self) -> dict[str, Any]:
        """Everything a resumed run needs, as nested dicts of arrays."""
        return {
            "state": {f"{n:05d}": leaf for n, leaf in enumerate(jax.tree.leaves(self.state))},
            "statistics": self.statistics,
            "best": self.best,
            "standing": self.standing.to_arrays(),
            "identity": self._identity(),
        }

    def _check_memory(self) -> None:
        """Compile for the largest shape; ValueError when its batches cannot fit, or remat where that is "auto"."""
        assert self.state is not None
        self.steps, complaint = fitting_steps(self.experiment, self.steps, self.state, self.statistics)
        if complaint:
            raise ValueError(complaint)

    # -- budget

    def _fraction(self, update_of_epoch: int) -> float:
        """Part of the budget used, by epochs or by minutes, whichever is further on."""
        training, used = self.config.training, 0.0
        if training.epochs is not None:
            used = (self.standing.epoch + update_of_epoch / len(self.experiment.train)) / training.epochs
        if training.max_minutes is not None:
            elapsed = from_first_process({"seconds": np.array(self._elapsed())})["seconds"]
            used = max(used, float(elapsed) / (60.0 * training.max_minutes))
        return used

    def _elapsed(self) -> float:
        return self.clock() - self._began

    def _why_stop(self) -> str:
        training, standing = self.config.training, self.standing
        if training.epochs is not None and standing.epoch >= training.epochs:
            return f"{training.epochs} epochs done"
        if training.max_minutes is not None and standing.seconds >= 60.0 * training.max_minutes:
            return f"{training.max_minutes:g} minutes used"
        if training.patience is not None and standing.stale >= training.patience:
            return f"no better model in {standing.stale} validations"
        return ""

    # -- one epoch

    def _epoch(self) -> None:
        """Updates, validation, log, best model, checkpoint."""
        number, training = self.standing.epoch, self.config.training
        seen = self._train(number)
        self.standing.epoch += 1
        self.standing.last_loss = float(np.mean(seen.losses))
        last = self._fraction(0) >= 1.0
        errors, better = None, False
        if last or self.standing.epoch % training.validate_every == 0:
            errors = self.validate()
            better = self._judge(errors)
        self.standing.seconds = self._elapsed_everywhere()
        failure = None
        try:
            if better:
                self._save_model()
            self._write_row(number, seen, errors)
            if last or self._why_stop() or self.standing.epoch % training.checkpoint_every == 0:
                self.folder.save(self.standing.epoch, self._tree())
            if self.standing.seconds - self._drawn > _SECONDS_BETWEEN_PICTURES:
                self._drawn = self.standing.seconds
                self.folder.draw()
        except OSError as error:
            failure = error
        self.folder.agree(failure)

    def _elapsed_everywhere(self) -> float:
        """Process 0's clock."""
        return float(from_first_process({"seconds": np.array(self._elapsed())})["seconds"])

    def _train(self, number: int) -> EpochSums:
        """The updates of an epoch, each after one or several batches."""
        training, train = self.config.training, self.experiment.train
        seen = EpochSums([s.name for s in train.structures])
        feed = train.epoch(training.seed, number)
        batches = feed if self.bar is None else self.bar(feed, self._label(number), total=len(feed))
        update, members, sums, carry = 0, [], [], None
        began = self.clock()
        try:
            for (positions, total), batch in batches:
                if carry is None:
                    fraction = self._fraction(update)
                    if update and training.max_minutes is not None and fraction >= 1.0:
                        break
                    seen.rate = schedule(fraction, self.config.optimizer)
                assert self.state is not None
                *part, rows = self.steps.gradient(self.state, self.statistics, batch)
                carry = part if carry is None else self.steps.added(carry, part)
                members.append(positions)
                sums.append(rows)
                if sum(len(m) for m in members) == total:
                    self.state, norm = self.steps.update(self.state, carry[0], np.float32(seen.rate))
                    seen.add(members, carry[1], sums, norm)
                    update, members, sums, carry = update + 1, [], [], None
            seen.finish()
        except FloatingPointError as error:
            raise ValueError(f"training diverged in epoch {number + 1}: {error}") from None
        except jax.errors.JaxRuntimeError as error:
            raise memory.explained(error) from error
        seen.seconds, seen.waited = self.clock() - began, feed.waited
        self.structures += seen.structures
        self.training_seconds += seen.seconds
        self.waited += seen.waited
        return seen

    def _label(self, number: int) -> str:
        best = "" if math.isinf(self.standing.best) else f", best {self.standing.best_fixed:.3g} meV"
        total = f"/{self.config.training.epochs}" if self.config.training.epochs else ""
        fraction = self._fraction(0)
        left = f", ETA {_clock(self._elapsed() * (1 - fraction) / fraction)}" if fraction > 1e-3 else ""
        return f"epoch {number + 1}{total}{best}{left}"

    def validate(self) -> Any:
        """Errors of the averaged parameters on the validation set."""
        assert self.state is not None
        sums = [
            np.asarray(self.steps.measure(self.state.average, self.statistics, batch)[1], dtype=float)
            for _, batch in self.experiment.validation.in_order()
        ]
        return self.experiment.errors(np.concatenate(sums))

    def _judge(self, errors: Any) -> bool:
        """Keep the averaged parameters when they are the best so far."""
        assert self.state is not None
        raw, fixed = errors.numbers
        value = self.experiment.score(errors.numbers)
        if not value < self.standing.best:
            self.standing.stale += 1
            return False
        self.standing = replace(self.standing, best=value, best_raw=raw, best_fixed=fixed, stale=0)
        self.best = jax.tree.map(np.array, self.state.average)
        return True

    def _write_row(self, number: int, seen: EpochSums, errors: Any) -> None:
        assert self.state is not None
        running, names = self.experiment.errors(np.concatenate(seen.sums)), self.folder.kind.errors
        found = errors.numbers if errors else (math.nan, math.nan)
        row = {
            "epoch": number,
            "steps": float(np.asarray(self.state.steps)),
            "seconds": self.standing.seconds,
            "learning_rate": seen.rate,
            "train_loss": self.standing.last_loss,
            **{f"train_{name}": value for name, value in zip(names, running.numbers, strict=True)},
            **{f"validation_{name}": value for name, value in zip(names, found, strict=True)},
            "gradient_norm": float(np.median(seen.norms)),
            "structures_per_second": seen.structures / max(seen.seconds, 1e-9),
            "host_wait_percent": 100.0 * seen.waited / max(seen.seconds, 1e-9),
            "peak_memory_gib": memory.peak(self.steps.devices.first) / 2**30,
        }
        self.folder.append(row)
        log.info(
            "epoch %d: loss %.4e, %s; validation %s, %.0f s",
            number + 1, row["train_loss"], running, errors or "not measured", self.standing.seconds,
        )  # fmt: skip

    def _save_model(self, finished: str = "") -> None:
        """Write the best averaged parameters as a model file, with their provenance."""
        numbers = (self.standing.best_raw, self.standing.best_fixed)
        errors = {
            **dict(zip(self.folder.kind.json_names, map(_json_number, numbers), strict=True)),
            "set": "validation" if self.experiment.held_out else "training",
        }
        model = self.experiment.model(
            self.best,
            jax.tree.map(np.asarray, self.statistics),
            errors=errors,
            epochs=self.standing.epoch,
            seconds=round(self.standing.seconds, 1),
            finished=finished or "still training",
        )
        self.folder.write_model(model)


def _json_number(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 3600}:{int(seconds) % 3600 // 60:02d}:{int(seconds) % 60:02d}"


@contextmanager
def running(config: TrainingConfig) -> Iterator[None]:
    """What holds while a config is worked on: the compilation cache, and double precision where it is asked for.

    On a CPU freed memory stays with the process from here on (see allocator.py).
    """
    if jax.default_backend() == "cpu":
        keep_freed_memory()
    with ExitStack() as context:
        context.enter_context(compilation_cache())
        if config.training.precision == "float64":
            context.enter_context(jax.enable_x64(True))
        yield


def prepared(config: TrainingConfig, bar: Progress | None = None) -> Experiment:
    """The experiment of a config (of its first phase where there are two), described in the log."""
    make: Callable[..., Experiment] = prepare
    if trains_hamiltonian_first(config):
        config = hamiltonian_phase(config)
    elif config.potential is not None:
        make, config = prepare_energy, head_phase(config)
    elif config.spin is not None:
        make = prepare_spin
    experiment = make(config) if bar is None else make(config, bar)
    train = experiment.train
    log.info(
        "%d training and %d validation structures; shapes (atoms, pairs, near) %s, %.0f %% padding",
        len(train.structures), len(experiment.validation.structures), train.shapes, 100 * train.waste,
    )  # fmt: skip
    return experiment


def fit(config: TrainingConfig, *, resume: bool = False, bar: Progress | None = None) -> FitResult:
    """Train as a config says; a committee with fit_committee (see committee.py).

    Parameters
    ----------
    config : see config.py.
    resume : continue the newest checkpoint of the output folder, if there is one.
    bar : progress(iterable, label, total=...) -> iterable, or None.

    Raises
    ------
    ValueError, KeyError : config or data that cannot be used, an output folder that holds another run, a batch
        that does not fit into memory, or a loss that is not finite (the message names the structure).
    OSError : the output folder cannot be written; the last checkpoint stays.
    """
    if config.training.committee > 1:
        raise ValueError(
            f"[training] committee = {config.training.committee}: fit trains one model; call fit_committee"
        )
    with running(config):
        result = Trainer(prepared(config, bar), bar).run(resume=resume)
        if not trains_hamiltonian_first(config):
            return result
        log.info("%s; %s", result.model_path, result.errors)
        return Trainer(prepared(head_phase(config), bar), bar).run(resume=resume)
