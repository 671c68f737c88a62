"""The training loop: epochs of steps within a budget, validation, best model, checkpoints, exact resume."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ase_deeph.compilation_cache import compilation_cache
from ase_deeph.model import HamiltonianModel
from trainers.checkpoint import Checkpoints
from trainers.config import TrainingConfig
from trainers.experiment import Experiment, prepare
from trainers.log import TrainingLog, plot_learning_curve
from trainers.metrics import MatrixErrors
from trainers.optimizer import schedule
from trainers.step import Steps, TrainState, error_of

log = logging.getLogger(__name__)

Progress = Callable[..., Any]

_SECONDS_BETWEEN_PICTURES = 30.0


@dataclass(frozen=True)
class FitResult:
    """How a training run ended.

    Parameters
    ----------
    model_path : the model file with the best averaged parameters.
    errors : of that model on the validation set, meV.
    final_loss : mean training loss of the last epoch.
    epochs, seconds : used, over all resumes.
    n_compilations : of the training step, in this process.
    reason : why it ended.
    """

    model_path: Path
    errors: MatrixErrors
    final_loss: float
    epochs: int
    seconds: float
    n_compilations: int
    reason: str


@dataclass
class _Standing:
    """Where a run stands between epochs; goes into the checkpoint as numbers."""

    epoch: int = 0
    seconds: float = 0.0
    best: float = math.inf
    best_raw: float = math.inf
    best_fixed: float = math.inf
    stale: int = 0
    last_loss: float = math.nan

    def to_arrays(self) -> dict[str, np.ndarray]:
        return {name: np.array(value, dtype=np.float64) for name, value in vars(self).items()}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> _Standing:
        values = {name: float(value) for name, value in arrays.items()}
        return cls(**{**values, "epoch": int(values["epoch"]), "stale": int(values["stale"])})  # type: ignore[arg-type]


@dataclass
class _Epoch:
    """What the steps of one epoch add up to."""

    losses: list[float] = field(default_factory=list)
    sums: list[np.ndarray] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    rate: float = 0.0


class Trainer:
    """One run of an experiment.

    Parameters
    ----------
    experiment : what is trained on what.
    bar : progress(iterable, label, total, unit) -> iterable, or None for silence.
    """

    def __init__(self, experiment: Experiment, bar: Progress | None = None) -> None:
        self.experiment, self.config, self.bar = experiment, experiment.config, bar
        self.folder = self.config.output_folder
        self.checkpoints = Checkpoints(self.folder / "checkpoints")
        self.steps: Steps = experiment.steps
        self.standing = _Standing()
        self.statistics: Mapping[str, Any] = {}
        self.best: Mapping[str, Any] = {}
        self.state: TrainState | None = None
        self._began = self._drawn = 0.0

    @property
    def model_path(self) -> Path:
        """The model file of this run."""
        return self.folder / "model.h5"

    def run(self, *, resume: bool) -> FitResult:
        """Train until the budget is used, or patience runs out; see FitResult."""
        self._open(resume)
        self.log = TrainingLog(self.folder / "log.csv", self.standing.epoch)
        self._began = time.monotonic() - self.standing.seconds
        reason = self._why_stop()
        while not reason:
            self._epoch()
            reason = self._why_stop()
        self._save_model(finished=reason)
        plot_learning_curve(self.log.path, self.folder / "learning_curve.png")
        return FitResult(
            model_path=self.model_path,
            errors=MatrixErrors(self.standing.best_raw, self.standing.best_fixed),
            final_loss=self.standing.last_loss,
            epochs=self.standing.epoch,
            seconds=self.standing.seconds,
            n_compilations=self.steps.n_compilations,
            reason=reason,
        )

    # -- start and checkpoints

    def _open(self, resume: bool) -> None:
        """A fresh state, or that of the newest checkpoint."""
        there = bool(self.checkpoints.epochs())
        if there and not resume:
            raise ValueError(
                f"output folder {self.folder} holds a run already; pass --resume to continue it, "
                "or give another output"
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        self.state = self.steps.start(self.experiment.initial_params())
        self.best = jax.tree.map(np.array, self.state.average)
        if not there:
            self.statistics = _as_device(self.experiment.statistics())
            return
        self.statistics = _as_device(self.experiment.network.empty_statistics())
        tree = self.checkpoints.restore(self._tree())
        if tree["identity"].tobytes() != self._identity().tobytes():
            raise ValueError(
                f"the run in {self.folder} was made with another config or other data; give another output, "
                "or continue from its model with [training] start_from"
            )
        self.state = _with_leaves(self.state, tree["state"])
        self.statistics, self.best = _as_device(tree["statistics"]), tree["best"]
        self.standing = _Standing.from_arrays(tree["standing"])

    def _identity(self) -> np.ndarray:
        return np.frombuffer(bytes.fromhex(self.experiment.identity()), dtype=np.uint8).astype(np.int32)

    def _tree(self) -> dict[str, Any]:
        """Everything a resumed run needs, as nested dicts of arrays."""
        return {
            "state": {f"{n:05d}": leaf for n, leaf in enumerate(jax.tree.leaves(self.state))},
            "statistics": self.statistics,
            "best": self.best,
            "standing": self.standing.to_arrays(),
            "identity": self._identity(),
        }

    # -- budget

    def _fraction(self, step_of_epoch: int) -> float:
        """Part of the budget used, by epochs or by minutes, whichever is further on."""
        training, used = self.config.training, 0.0
        if training.epochs is not None:
            used = (self.standing.epoch + step_of_epoch / len(self.experiment.train)) / training.epochs
        if training.max_minutes is not None:
            used = max(used, self._elapsed() / (60.0 * training.max_minutes))
        return used

    def _elapsed(self) -> float:
        return time.monotonic() - self._began

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
        """Steps, validation, log, best model, checkpoint."""
        number, training = self.standing.epoch, self.config.training
        seen = self._train(number)
        self.standing.epoch += 1
        self.standing.last_loss = float(np.mean(seen.losses))
        last = self._fraction(0) >= 1.0
        errors = None
        if last or self.standing.epoch % training.validate_every == 0:
            errors = self.validate()
            self._judge(errors)
        self.standing.seconds = self._elapsed()
        self._write_row(number, seen, errors)
        if last or self.standing.epoch % training.checkpoint_every == 0:
            self.checkpoints.save(self.standing.epoch, self._tree())
        if self.standing.seconds - self._drawn > _SECONDS_BETWEEN_PICTURES:
            self._drawn = self.standing.seconds
            plot_learning_curve(self.log.path, self.folder / "learning_curve.png")

    def _train(self, number: int) -> _Epoch:
        seen, train = _Epoch(), self.experiment.train
        batches: Iterable = train.epoch(self.config.training.seed, number)
        if self.bar is not None:
            batches = self.bar(batches, self._label(number), total=len(train))
        for n, (members, batch) in enumerate(batches):
            fraction = self._fraction(n)
            if n and self.config.training.max_minutes is not None and fraction >= 1.0:
                break
            seen.rate = schedule(fraction, self.config.optimizer)
            self.state, loss, sums, norm = self.steps.train(self.state, self.statistics, batch, seen.rate)
            if not (np.isfinite(loss) and np.isfinite(norm)):
                names = ", ".join(train.structures[m].name for m in members)
                raise ValueError(
                    f"training diverged in epoch {number + 1}: loss {float(loss)}, gradient {float(norm)} on "
                    f"structure {names}; check it, or lower [optimizer] learning_rate and resume"
                )
            seen.losses.append(float(loss))
            seen.norms.append(float(norm))
            seen.sums.append(error_of(sums)[: len(members)])
        return seen

    def _label(self, number: int) -> str:
        best = "" if math.isinf(self.standing.best) else f", best {self.standing.best_fixed:.3g} meV"
        total = f"/{self.config.training.epochs}" if self.config.training.epochs else ""
        fraction = self._fraction(0)
        left = f", ETA {_clock(self._elapsed() * (1 - fraction) / fraction)}" if fraction > 1e-3 else ""
        return f"epoch {number + 1}{total}{best}{left}"

    def validate(self) -> MatrixErrors:
        """Errors of the averaged parameters on the validation set."""
        assert self.state is not None
        sums = [
            error_of(self.steps.measure(self.state.average, self.statistics, batch)[1])[: len(members)]
            for members, batch in self.experiment.validation.in_order()
        ]
        return MatrixErrors.from_sums(np.concatenate(sums))

    def _judge(self, errors: MatrixErrors) -> None:
        """Keep the averaged parameters when they are the best so far."""
        assert self.state is not None
        value = errors.gauge_fixed if self.config.loss.gauge == "free" else errors.raw
        if not value < self.standing.best:
            self.standing.stale += 1
            return
        self.standing = replace(
            self.standing, best=value, best_raw=errors.raw, best_fixed=errors.gauge_fixed, stale=0
        )
        self.best = jax.tree.map(np.array, self.state.average)
        self._save_model()

    def _write_row(self, number: int, seen: _Epoch, errors: MatrixErrors | None) -> None:
        assert self.state is not None
        running = MatrixErrors.from_sums(np.concatenate(seen.sums))
        row = {
            "epoch": number,
            "steps": float(self.state.steps),
            "seconds": self.standing.seconds,
            "learning_rate": seen.rate,
            "train_loss": self.standing.last_loss,
            "train_mae_raw_mev": running.raw,
            "train_mae_gauge_fixed_mev": running.gauge_fixed,
            "validation_mae_raw_mev": errors.raw if errors else math.nan,
            "validation_mae_gauge_fixed_mev": errors.gauge_fixed if errors else math.nan,
            "gradient_norm": float(np.median(seen.norms)),
        }
        self.log.append(row)
        log.info(
            "epoch %d: loss %.4e, MAE %.3f meV gauge-fixed (%.3f raw), validation %.3f (%.3f), %.0f s",
            number + 1, row["train_loss"], running.gauge_fixed, running.raw,
            row["validation_mae_gauge_fixed_mev"], row["validation_mae_raw_mev"], self.standing.seconds,
        )  # fmt: skip

    def _save_model(self, finished: str = "") -> None:
        """Write the best averaged parameters as a model file, with their provenance."""
        errors = {
            "mae_raw_meV": self.standing.best_raw,
            "mae_gauge_fixed_meV": self.standing.best_fixed,
            "set": "validation" if self.experiment.held_out else "training",
        }
        HamiltonianModel(
            config=self.config.network_config,
            basis=self.experiment.basis,
            params=self.best,
            statistics=jax.tree.map(np.asarray, self.statistics),
            provenance=self.experiment.provenance(
                errors={name: _json_number(value) for name, value in errors.items()},
                epochs=self.standing.epoch,
                seconds=round(self.standing.seconds, 1),
                finished=finished or "still training",
            ),
        ).save(self.model_path)


def _json_number(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 3600}:{int(seconds) % 3600 // 60:02d}:{int(seconds) % 60:02d}"


def _as_device(tree: Mapping[str, Any]) -> dict[str, Any]:
    return jax.tree.map(lambda leaf: jnp.array(leaf), dict(tree))


def _with_leaves(state: TrainState, leaves: Mapping[str, np.ndarray]) -> TrainState:
    structure = jax.tree.structure(state)
    return jax.tree.unflatten(structure, [jnp.array(leaves[key]) for key in sorted(leaves)])


def fit(config: TrainingConfig, *, resume: bool = False, bar: Progress | None = None) -> FitResult:
    """Train as a config says.

    Parameters
    ----------
    config : see config.py.
    resume : continue the newest checkpoint of the output folder, if there is one.
    bar : progress(iterable, label, total=...) -> iterable, or None.

    Raises
    ------
    ValueError, KeyError : config or data that cannot be used, an output folder that holds another run, or
        a loss that is not finite (the message names the structure).
    """
    with ExitStack() as context:
        context.enter_context(compilation_cache())
        if config.training.precision == "float64":
            context.enter_context(jax.enable_x64(True))
        experiment = prepare(config) if bar is None else prepare(config, bar)
        train = experiment.train
        log.info(
            "%d training and %d validation structures; shapes (atoms, pairs, near) %s, %.0f %% padding",
            len(train.structures), len(experiment.validation.structures), train.shapes, 100 * train.waste,
        )  # fmt: skip
        return Trainer(experiment, bar).run(resume=resume)
