"""DeepH-E3 on our split: trained within a budget of CPU minutes at its own settings, then its test predictions.

    python benchmarks/peer/deephe3_run.py CHECKOUT WORK [--minutes 25] [--wall-minutes 60] [--epochs N]

Needs a checkout of the public GitHub repository Xiaoxun-Gong/DeepH-E3 (commit f011d5f) as CHECKOUT and an
environment of its own, not ours: torch, e3nn, torch-geometric, h5py, pymatgen, pathos, tensorboard, tqdm, sympy
(run with torch 2.13.0 CPU, e3nn 0.6.0, torch-geometric 2.8.1; the repository names 1.9, 0.3.5, 1.7). Where
torch-scatter is absent, torch-geometric's own `scatter` stands in for it. WORK is what `exchange.py convert` made.

Everything is the repository's default (irreps 64x0e+32x1o+16x2e+8x3o+8x4e, 3 blocks, Adam, 2e-3, batch 1, MSE,
float32, best checkpoint by validation) but: the radius is that of the data, and its "slippery slope" (first
halving at 1400 of 3000 epochs, then every 200 until 3e-5) is laid over the budget instead of over epochs.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] = (
    "1"  # the graphs and checkpoints it reads are those it just wrote
)

RATE, LEAST_RATE = 2e-3, 3e-5
FIRST_HALVING, BETWEEN_HALVINGS = 1400 / 3000, 200 / 3000


class Budget:
    """The share of the CPU and wall minutes that is used, whichever is larger; a log of the epochs."""

    def __init__(self, cpu_minutes: float, wall_minutes: float) -> None:
        self.cpu_limit, self.wall_limit = 60 * cpu_minutes, 60 * wall_minutes
        self.epochs: list[dict[str, float]] = []
        self.start()

    def start(self) -> None:
        """Count from here."""
        self.cpu, self.wall = time.process_time(), time.time()

    @property
    def spent(self) -> tuple[float, float]:
        """CPU and wall seconds."""
        return time.process_time() - self.cpu, time.time() - self.wall

    @property
    def share(self) -> float:
        """0 at the start, 1 when it is used up."""
        cpu, wall = self.spent
        return max(cpu / self.cpu_limit, wall / self.wall_limit)

    @property
    def rate(self) -> float:
        """The learning rate that is due now."""
        late = self.share - FIRST_HALVING
        halvings = 0 if late < 0 else 1 + int(late / BETWEEN_HALVINGS)
        return max(RATE * 0.5**halvings, LEAST_RATE)


def stand_in_for_scatter() -> None:
    """torch-geometric's scatter under the name the peer imports, when torch-scatter is not installed."""
    try:
        import torch_scatter  # noqa: F401
    except ImportError:
        from torch_geometric.utils import scatter

        module = ModuleType("torch_scatter")
        module.scatter = scatter  # type: ignore[attr-defined]
        sys.modules["torch_scatter"] = module


def training_file(work: Path, cutoff: float, epochs: int) -> Path:
    """The peer's configuration: what differs from its defaults."""
    held_out = sorted(p.name for p in (work / "fit").iterdir() if p.name.startswith("validation_"))
    n_train = sum(p.name.startswith("train_") for p in (work / "fit").iterdir())
    path = work / "train.ini"
    path.write_text(
        f"[basic]\nsave_dir = {work}/runs\ndtype = float\nseed = 42\n"
        f"[data]\nprocessed_data_dir = {work}/fit\nsave_graph_dir = {work}/graphs\ndataset_name = fit\n"
        f"[train]\nnum_epoch = {epochs}\nbatch_size = 1\nmin_lr = -1\ntrain_size = {n_train}\n"
        f"val_ratio = 0\ntest_size = 0\nextra_validation = {held_out}\nextra_val_test_only = False\n"
        f"[hyperparameters]\nlearning_rate = {RATE}\nscheduler_type = 0\nscheduler_params =\n"
        f"[network]\ncutoff_radius = {cutoff}\n"
    )
    return path


def budgeted_kernel(budget: Budget) -> Any:
    """The peer's kernel; the validation set is passed once per epoch, and the budget ends the training."""
    from deephe3 import DeepHE3Kernel

    class Kernel(DeepHE3Kernel):
        def get_loader(self) -> tuple[Any, Any, Any, Any]:
            train, validation, _, test = super().get_loader()
            budget.start()
            return train, validation, [], test

        def record_train(self) -> None:
            super().record_train()
            cpu, wall = budget.spent
            info = self.train_info
            budget.epochs.append(
                {
                    "cpu": cpu,
                    "wall": wall,
                    "rate": info.lr,
                    "train": info.train_losses.avg,
                    "validation": info.val_losses.avg,
                }
            )
            (Path(self.train_config.save_dir) / "epochs.json").write_text(json.dumps(budget.epochs))

    return Kernel()


@contextmanager
def scheduled(budget: Budget) -> Iterator[None]:
    """Every step of any optimiser takes the rate that is due; past the budget the training is asked to end."""
    from torch.optim.optimizer import register_optimizer_step_pre_hook

    def before_step(optimizer: Any, *_: Any) -> None:
        if budget.share >= 1 and budget.epochs:
            raise KeyboardInterrupt  # the peer's own way to end early: it goes on with its best model
        for group in optimizer.param_groups:
            group["lr"] = budget.rate

    handle = register_optimizer_step_pre_hook(before_step)
    try:
        yield
    finally:
        handle.remove()


def predict(work: Path, run: Path) -> float:
    """Write WORK/predictions from the run's best model; CPU seconds of it with reading and writing."""
    from deephe3 import DeepHE3Kernel

    path = work / "eval.ini"
    path.write_text(
        f"[basic]\ntrained_model_dir = {run}\noutput_dir = {work}/predictions\ninference = True\ndtype = float\n"
        f"[data]\nprocessed_data_dir = {work}/test\nsave_graph_dir = {work}/graphs\ndataset_name = test\n"
    )
    start = time.process_time()
    DeepHE3Kernel().eval(str(path))
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkout", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--minutes", type=float, default=25.0, help="CPU minutes of training with validation")
    parser.add_argument(
        "--wall-minutes", type=float, default=60.0, help="never longer than this by the clock"
    )
    parser.add_argument("--epochs", type=int, default=100000)
    parser.add_argument("--cutoff", type=float, default=6.6)
    args = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    sys.path.insert(0, str(args.checkout.absolute()))
    stand_in_for_scatter()
    work = args.work.absolute()
    budget = Budget(args.minutes, args.wall_minutes)
    kernel = budgeted_kernel(budget)
    with scheduled(budget):
        kernel.train(str(training_file(work, args.cutoff, args.epochs)))
    seconds = predict(work, Path(kernel.train_config.save_dir))
    cpu, wall = (budget.epochs[-1][name] / len(budget.epochs) for name in ("cpu", "wall"))
    sys.stdout.write(
        f"{sum(p.numel() for p in kernel.net.parameters())} parameters, {len(budget.epochs)} epochs, "
        f"{cpu:.1f} CPU s and {wall:.1f} s per epoch, test predictions in {seconds:.1f} CPU s\n"
    )


if __name__ == "__main__":
    main()
