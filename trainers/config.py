"""TrainingConfig: what a config.toml may say, checked before any work starts."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from ase_deeph.network.config import NetworkConfig
from ase_deeph.network.energy_config import EnergyConfig
from ase_deeph.network.products import Products
from ase_deeph.network.spin_config import SpinConfig


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def _listed(values: Any) -> Any:
    """Where one path may stand for a list of one."""
    if not isinstance(values, Mapping):
        return values
    return {k: (v,) if k in ("train", "validation") and isinstance(v, str) else v for k, v in values.items()}


class DataConfig(_Section):
    """[data]: where the structures are, and which of them are held out.

    Paths are relative to the folder of the config file.
    """

    train: tuple[str, ...] = Field(min_length=1)
    validation: tuple[str, ...] = ()
    validation_fraction: float = Field(0.1, ge=0, lt=1)
    drop_beyond_cutoff_below: float = Field(0.0, ge=0)
    """eV; blocks beyond the network's cutoff are dropped when all entries are below it, else an error."""
    statistics_structures: int = Field(200, ge=1)
    """At most so many training structures, evenly spaced by name, fit the target statistics."""
    max_shapes: int = Field(4, ge=1)
    """Bound on the padded shapes, hence on the compilations of the training step."""

    @model_validator(mode="before")
    @classmethod
    def _one_or_many(cls, values: Any) -> Any:
        """`train = "folder"` is short for `train = ["folder"]`."""
        return _listed(values)


class LossConfig(_Section):
    """[loss]: what is minimised, in eV."""

    kind: Literal["mae", "mse", "huber"] = "mae"
    gauge: Literal["free", "fixed"] = "free"
    """"free": the best multiple of S is taken out of each structure's residual (H -> H + μS is no error)."""
    mse_weight: float = Field(0.0, ge=0)
    """Weight (1/eV) of the mean square added to the MAE or Huber loss."""
    on_site_weight: float = Field(1.0, gt=0)
    """Factor on the entries of on-site blocks: few among all, they move every level together."""
    level_weight: float = Field(0.0, ge=0)
    """Weight of the mean first-order error of levels near the Fermi level (see levels.py); 0 leaves it out."""
    level_window: float = Field(4.0, gt=0)
    """eV; levels closer than this to the Fermi level count."""
    level_kpts: int = Field(4, ge=1)
    """Random k-points of each structure whose eigenvectors are kept."""
    levels_per_step: int = Field(24, ge=1)
    """At most so many levels of one k-point are drawn for each structure and step."""
    derivative_weight: float = Field(0.0, ge=0)
    """Weight (Å) of the mean error of dH/dR, learnt from the displaced pairs of the training set (see slopes.py);
    above 0 each pair counts as one structure, in its middle; 0 leaves it out and takes both as they are."""
    huber_delta: float = Field(0.01, gt=0)
    """eV; the Huber loss is quadratic below it."""


MuonProducts = Literal["float32", "bfloat16"]


class OptimizerConfig(_Section):
    """[optimizer]: which one, warm-up and decay, clipping, exponential moving average of the parameters."""

    kind: Literal["adamw", "muon", "schedule_free"] = "adamw"
    """"muon": orthogonalised momentum for matrices, AdamW for the rest; "schedule_free": AdamW that averages."""
    learning_rate: float = Field(2e-3, gt=0)
    schedule: Literal["cosine", "linear", "trapezoid", "constant"] | None = None
    """How the learning rate falls; by default "cosine", for schedule_free "constant"."""
    warm_up: float = Field(0.02, ge=0, lt=1)
    """Fraction of the budget (epochs or minutes) over which the learning rate rises linearly."""
    final_fraction: float = Field(0.01, ge=0, le=1)
    """The decay ends at this fraction of the learning rate."""
    weight_decay: float = Field(1e-3, ge=0)
    clip: float = Field(10.0, gt=0)
    """Largest global norm of the gradient; a longer one is scaled back to it."""
    ema: float = Field(0.999, ge=0, lt=1)
    """Memory of the parameter average; schedule_free has its own average and ignores it."""
    b1: float = Field(0.9, gt=0, lt=1)
    """Adam's memory of the gradient; for schedule_free the share of the average in the point of the gradient."""
    b2: float = Field(0.999, gt=0, lt=1)
    momentum: float = Field(0.95, ge=0, lt=1)
    """Muon's memory of the gradient."""
    products: MuonProducts = "float32"
    """How exactly Muon's Newton-Schulz steps multiply; "bfloat16", as in its first publication, is faster on a CPU
    with AMX; GPUs were not tried."""

    @model_validator(mode="after")
    def _products_are_muons(self) -> OptimizerConfig:
        if self.products != "float32" and self.kind != "muon":
            raise ValueError(
                f'products = "{self.products}" acts on kind "muon" alone, received kind "{self.kind}"; set it to '
                '"float32"'
            )
        return self

    @property
    def decay_shape(self) -> str:
        """The schedule in force."""
        return self.schedule or ("constant" if self.kind == "schedule_free" else "cosine")


class RunConfig(_Section):
    """[training]: budget, batches and checkpoints."""

    epochs: int | None = Field(None, ge=1)
    max_minutes: float | None = Field(None, gt=0)
    """Wall time of the training loop, kept over resumes; the schedule follows the fraction used."""
    batch: int = Field(1, ge=1)
    seed: int = Field(0, ge=0)
    precision: Literal["float32", "float64"] = "float32"
    products: Products = "float32"
    """How exactly H's gradient multiplies features by weights: "tf32" for GPUs that have it (not tried), "bfloat16" is
    faster on a CPU with AMX (products.py)."""
    checkpoint_every: int = Field(1, ge=1)
    validate_every: int = Field(1, ge=1)
    patience: int | None = Field(None, ge=1)
    """Stop after so many validations without a new best."""
    start_from: str | None = None
    """A model file to continue from: its parameters and statistics; see transfer.py where the basis differs."""
    accumulate: int = Field(1, ge=1)
    """Batches whose gradients make one update: the update of a batch so many times larger, in less memory."""
    devices: int | Literal["all"] | None = Field(None)
    """Devices of each process that share a batch; by default all accelerators that it feeds, one on a CPU."""
    remat: bool | Literal["auto"] = False
    """Compute intermediate values twice instead of keeping them; "auto": where a batch does not fit otherwise."""
    committee: int = Field(1, ge=1)
    """Models trained one after the other, with seeds seed, seed + 1, ..., into output/member-0, ..."""
    committee_fraction: float = Field(1.0, gt=0, le=1)
    """Share of the training structures, drawn by its seed, that each model of a committee sees."""

    @field_validator("devices")
    @classmethod
    def _some_devices(cls, value: Any) -> Any:
        if isinstance(value, int) and value < 1:
            raise ValueError('expected a positive number or "all"')
        return value

    @model_validator(mode="after")
    def _has_a_budget(self) -> RunConfig:
        if self.epochs is None and self.max_minutes is None:
            raise ValueError("expected epochs or max_minutes, received neither")
        return self


class PotentialConfig(_Section):
    """[potential]: an energy head on the Hamiltonian network; energies, forces and stresses it learns from.

    H is never changed by it.  What is None is taken from [data], [optimizer] and [training].
    """

    hamiltonian: Literal["frozen", "first"] = "frozen"
    """"frozen": that of [training] start_from; "first": trained before the head, by the rest of this config."""
    energy_weight: float = Field(1.0, ge=0)
    force_weight: float = Field(1.0, ge=0)
    stress_weight: float = Field(0.1, ge=0)
    """Weights of the terms of the loss (see energy_step.py); all are in units of the training set's RMS force."""
    cutoff: float = EnergyConfig.cutoff
    backbone_blocks: int = EnergyConfig.backbone_blocks
    l_max: int = EnergyConfig.l_max
    channels: int = EnergyConfig.channels
    n_blocks: int = EnergyConfig.n_blocks
    n_radial: int = EnergyConfig.n_radial
    hidden: int = EnergyConfig.hidden
    train: tuple[str, ...] | None = Field(None, min_length=1)
    validation: tuple[str, ...] | None = None
    learning_rate: float | None = Field(None, gt=0)
    epochs: int | None = Field(None, ge=1)
    max_minutes: float | None = Field(None, gt=0)
    batch: int | None = Field(None, ge=1)

    @model_validator(mode="before")
    @classmethod
    def _one_or_many(cls, values: Any) -> Any:
        """`train = "folder"` is short for `train = ["folder"]`."""
        return _listed(values)

    @model_validator(mode="after")
    def _has_a_loss(self) -> PotentialConfig:
        if not self.energy_weight + self.force_weight > 0:
            raise ValueError("expected energy_weight or force_weight above 0, received 0 for both")
        _ = self.energy_config
        return self

    @property
    def energy_config(self) -> EnergyConfig:
        """The architecture."""
        return EnergyConfig(**{f.name: getattr(self, f.name) for f in fields(EnergyConfig)})


class SpinSection(_Section):
    """[spin]: H of spin up and down, or of spinors; moments and spin-orbit coupling (see SpinConfig)."""

    backbone: Literal["trained", "frozen"] = "trained"
    """"frozen": the Hamiltonian network stays that of [training] start_from, a spin head alone is trained."""
    spin_weight: float = Field(1.0, gt=0)
    """Factor on the entries of A_x, A_y, A_z and of what is odd in the moments; spinors only."""
    kind: Literal["collinear", "spinor"] = SpinConfig.kind
    magnetic_cutoff: float | None = SpinConfig.magnetic_cutoff
    channels: int = SpinConfig.channels
    pseudo_channels: int = SpinConfig.pseudo_channels
    n_heads: int = SpinConfig.n_heads
    n_radial: int = SpinConfig.n_radial
    hidden: int = SpinConfig.hidden

    @model_validator(mode="after")
    def _is_a_head(self) -> SpinSection:
        _ = self.spin_config
        return self

    @property
    def spin_config(self) -> SpinConfig:
        """The architecture."""
        return SpinConfig(**{f.name: getattr(self, f.name) for f in fields(SpinConfig)})


class TrainingConfig(_Section):
    """A whole config.toml."""

    output: str = "run"
    name: str = "unnamed"
    data: DataConfig
    network: dict[str, Any] = Field(default_factory=dict)
    loss: LossConfig = Field(default_factory=lambda: LossConfig.model_validate({}))
    optimizer: OptimizerConfig = Field(default_factory=lambda: OptimizerConfig.model_validate({}))
    training: RunConfig
    potential: PotentialConfig | None = None
    spin: SpinSection | None = None
    folder: str = Field(".", exclude=True)
    """Folder of the config file."""

    @model_validator(mode="after")
    def _fits_together(self) -> TrainingConfig:
        if self.spin is not None and self.potential is not None:
            raise ValueError(
                "[spin] and [potential] are two runs: train H first, then the head with start_from"
            )
        if self.spin is not None and (self.loss.level_weight or getattr(self.loss, "derivative_weight", 0.0)):
            raise ValueError(
                "[loss] level_weight and derivative_weight are for H without spin; set them to 0"
            )
        if self.training.products != "float32" and self.network.get("kind") == "e3":
            raise ValueError(
                f'[training] products = "{self.training.products}" acts on networks of kind "elct" alone, '
                'received kind "e3"; set it to "float32"'
            )
        if self.training.products == "bfloat16" and self.training.precision == "float64":
            raise ValueError(
                '[training] products = "bfloat16" sums in float32, precision = "float64" asks for more; set one of '
                'them back to "float32"'
            )
        if self.training.products == "bfloat16" and self.loss.derivative_weight:
            raise ValueError(
                '[training] products = "bfloat16" has no forward-mode derivative, which [loss] derivative_weight '
                'asks for; set one of them back ("float32", 0)'
            )
        return self

    @property
    def network_config(self) -> NetworkConfig:
        """The architecture."""
        return NetworkConfig.from_dict(self.network)

    def path(self, relative: str) -> Path:
        """A path of the config, seen from here."""
        return Path(self.folder) / Path(relative).expanduser()

    @property
    def output_folder(self) -> Path:
        """Where checkpoints, logs and the model go."""
        return self.path(self.output)


_SECTIONS: dict[str, type[BaseModel]] = {
    "data": DataConfig,
    "loss": LossConfig,
    "optimizer": OptimizerConfig,
    "training": RunConfig,
    "potential": PotentialConfig,
    "spin": SpinSection,
}


def _nearest(key: str, known: Iterable[str]) -> str:
    known = sorted(known)
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.4)
    return f"did you mean {close[0]!r}?" if close else f"known keys are {', '.join(known)}"


def _known_keys(section: str) -> list[str]:
    if section == "network":
        return [f.name for f in fields(NetworkConfig)]
    model = _SECTIONS.get(section, TrainingConfig)
    return [name for name in model.model_fields if name != "folder"]


def _explained(error: ValidationError) -> str:
    """The first complaint of pydantic in one line with a remedy."""
    first = sorted(error.errors(), key=lambda e: e["type"] != "extra_forbidden")[0]
    where = [str(part) for part in first["loc"]]
    section, key = (where[0] if len(where) > 1 else ""), (where[-1] if where else "")
    place = f"[{section}] " if section else ""
    if first["type"] == "extra_forbidden":
        return f"unknown key {place}{key!r}: {_nearest(key, _known_keys(section))}"
    if first["type"] == "missing":
        return f"{place}{key!r} is missing; add it"
    received = "" if isinstance(first["input"], Mapping) else f", received {first['input']!r}"
    name = f"[{key}]" if key in _SECTIONS and not section else f"{place}{key}"
    return f"{name}: {first['msg'].removeprefix('Value error, ')}{received}"


def parse_config(
    values: Mapping[str, Any], folder: str | Path = ".", source: str = "config"
) -> TrainingConfig:
    """A checked config from nested plain values.

    Raises
    ------
    ValueError : in one line, naming the key and, for an unknown one, the nearest that exists.
    """
    values = dict(values)
    if "folder" in values:
        raise ValueError(f"{source}: unknown key 'folder': {_nearest('folder', _known_keys(''))}")
    try:
        config = TrainingConfig(**values, folder=str(folder))
    except ValidationError as error:
        raise ValueError(f"{source}: {_explained(error)}") from None
    for key in config.network:
        if key not in _known_keys("network"):
            raise ValueError(
                f"{source}: unknown key [network] {key!r}: {_nearest(key, _known_keys('network'))}"
            )
    try:
        _ = config.network_config
    except (TypeError, ValueError) as error:
        raise ValueError(f"{source}: [network] {error}") from None
    return config


def load_config(path: str | Path) -> TrainingConfig:
    """Read and check a config.toml.

    Raises
    ------
    ValueError : the file is missing, no TOML, or says something that is not understood.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"config file {path} does not exist; give the path of a config.toml")
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no valid TOML: {error}") from None
    return parse_config(values, path.parent, str(path))
