"""What a training run may be asked, and the loss that it minimises.

    loss = E_b reconstruction(x, x_hat) + sum over penalties of weight_now * penalty

`reconstruction` is `squared` (the sum over d_in of (x - x_hat)^2) or `norm` (its square root). With `l1` the loss is
E_b |x - x_hat|^2 + weight * E_b sum_i acts_i |W_dec_i|, on activations scaled so that E_b |x|^2 = d_in.
Lengths of schedules are fractions of the run, so none can be longer than the run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import Field, GetJsonSchemaHandler, model_validator
from pydantic_core import CoreSchema

from saepipe.data.batches.memory import Resident, check_resident
from saepipe.data.config.base import Config, Count, fingerprint
from saepipe.data.config.component import Component, ConfigWithPlugins
from saepipe.data.errors import ConfigError
from saepipe.train.health_config import HealthConfig
from saepipe.train.penalties.base import Penalty
from saepipe.train.sae.base import Architecture
from saepipe.train.setting import Schedule
from saepipe.train.transforms.base import Transform

Fraction = Annotated[float, Field(ge=0, le=1)]
Beta = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[Count, Field(ge=1)]
Effect = Annotated[float, Field(gt=0)]

PRIMARY_METRICS = {"mean_full_absorption_score": 0.05, "explained_variance": 0.01, "delta_ce": 0.02}
"""Figures of evaluations, with the least change of each that would be of interest."""

# Where a run lies and how it is watched, judged or computed does not change what it is.
OUTSIDE_THE_ID = frozenset(
    {
        "cache",
        "plugins",
        "device",
        "resident",
        "sparse_steps",
        "exact",
        "log_every",
        "trackers",
        "checkpoint_every",
        "health",
        "primary_metrics",
        "variants",
        "seeds",
    }
)


class OptimizerConfig(Config):
    """Adam; decoder rows stay of unit norm. `warmup` and `decay` are linear, as fractions of the run."""

    lr: float = Field(3e-4, gt=0)
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    eps: float = Field(1e-8, gt=0)
    warmup: Fraction = 0.05
    decay: Fraction = 0.2
    clip: float | None = Field(1.0, gt=0, description="largest norm of the whole gradient; null: any")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.warmup + self.decay > 1:
            raise ValueError(f"warmup {self.warmup} and decay {self.decay} together are longer than the run")
        return self


class InitConfig(Config):
    """W_dec: random unit rows. W_enc = encoder_scale * W_dec.T. b_enc = 0. b_dec: from the first rows of the stream."""

    b_dec: Literal["geometric_median", "mean", "zeros"] = "geometric_median"
    b_dec_rows: Positive = 16_384
    encoder_scale: float = Field(0.25, gt=0)


class DeadConfig(Config):
    """A latent is dead when it has been silent for `after_tokens` (default: min(10M, 5 % of the run's tokens))."""

    after_tokens: Positive | None = None
    resample_steps: Positive | None = Field(None, description="every so many steps the dead start anew; null: never")
    rewarm: Fraction = Field(0.1, description="of resample_steps: how long lr rises again after each resampling")


class VariantsConfig(Config):
    """Overrides of the config above, in one of three forms; keys are dotted (`penalties.0.weight`).

    A plain list of override mappings, each with an optional `name`; `grid:` lists of values, every combination;
    `zip:` lists of values of equal length, taken together.
    """

    overrides: tuple[dict[str, Any], ...] = ()
    grid: dict[str, tuple[Any, ...]] = Field(default_factory=dict)
    zip: dict[str, tuple[Any, ...]] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _plain_list(cls, value: Any) -> Any:
        return {"overrides": value} if isinstance(value, list | tuple) else value

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """The plain list too."""
        return {"anyOf": [handler(core), {"type": "array", "items": {"type": "object"}}]}

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        if sum(map(bool, (self.overrides, self.grid, self.zip))) > 1:
            raise ValueError("variants are a list, a grid or a zip, not several of them")
        if len({len(values) for values in self.zip.values()}) > 1:
            lengths = ", ".join(f"{key} {len(values)}" for key, values in self.zip.items())
            raise ValueError(f"the lists of a zip have one length, not {lengths}")
        return self


class TrainConfig(ConfigWithPlugins):
    """One training run, or with `variants` and `seeds` several that share a stream of batches."""

    cache: Path
    hook: str | None = Field(None, description="`blocks.19.hook_resid_post`; null where the cache has only one")
    sae: Architecture
    penalties: tuple[Penalty, ...] = ()
    transforms: tuple[Transform, ...] = Field((), description="of the activations, in training only")
    reconstruction: Literal["squared", "norm"] = "squared"
    activation_scale: Literal["rms", "none"] = Field("rms", description="rms: train on s x, where E|s x|^2 = d_in")

    steps: Positive | None = None
    tokens: Positive | None = None
    epochs: float | None = Field(None, gt=0)
    batch_size: Positive = 2048
    optimizer: OptimizerConfig = OptimizerConfig()
    init: InitConfig = InitConfig()
    dead: DeadConfig = DeadConfig()

    seed: int = Field(0, description="of initialisation and resampling")
    data_seed: int = Field(0, ge=0, description="of the order of the data")
    compute_dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="of the matrix products; auto: bfloat16 on CUDA, else float32. All else is float32"
    )
    sparse_steps: Literal["auto", "always", "never"] = Field(
        "auto", description="compute on active entries alone; auto: where few enough are, see train/density.py"
    )
    exact: bool | None = Field(
        None,
        description="each run keeps the bits that it has when it trains alone; false: small runs of one structure are "
        "stacked, which is faster and differs by rounding. null: true on a CPU, false on CUDA",
    )
    device: str = "auto"
    resident: Resident = Field(
        "none",
        description="ram, gpu: decode the cache once into that memory; none: stream it. The batches are the same",
    )
    plugin_sources: dict[str, str] = Field(
        default_factory=dict, description="SHA-256 of each of `plugins`; written when a run is made"
    )

    log_every: Positive = 100
    trackers: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = Field(
        (), description="told each line of metrics.jsonl after it is written there; none of them can stop a run"
    )
    checkpoint_every: Positive = 1000
    health: HealthConfig = HealthConfig()
    primary_metrics: dict[str, Effect] = Field(
        default_factory=PRIMARY_METRICS.copy,
        description="what the study is about, each figure with the least change of interest; all else is exploratory",
    )
    variants: VariantsConfig = VariantsConfig()
    seeds: tuple[int, ...] = ()

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        given = [name for name in ("steps", "tokens", "epochs") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of steps, tokens, epochs (found {', '.join(given) or 'none'})")
        if self.tokens is not None and self.tokens < self.batch_size:
            raise ValueError(
                f"H6: {self.tokens} tokens are less than one batch of {self.batch_size}: it would train for zero steps"
            )
        return self

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        refused = [f"{penalty.name}: {why}" for penalty in self.penalties if (why := penalty.refuses(self.sae))]
        if refused:
            raise ValueError("; ".join(refused))
        if self.sparse_steps == "always" and (not self.sae.sparse or self.transforms):
            why = f"{self.sae.name} has none" if not self.sae.sparse else "transforms act on whole activations"
            raise ValueError(f"sparse_steps: always, but {why}; use auto or never")
        return self

    def components(self) -> list[tuple[str, Penalty | Transform]]:
        """Penalties and transforms by their labels."""
        return [
            *zip(labels(self.penalties), self.penalties, strict=True),
            *zip(labels(self.transforms), self.transforms, strict=True),
        ]

    def num_steps(self, num_rows: int) -> int:
        """Optimisation steps over a cache of `num_rows` training rows.

        Raises:
            ConfigError: if it would not be a single one.
        """
        if self.steps is not None:
            return self.steps
        tokens = self.tokens if self.tokens is not None else int((self.epochs or 0) * num_rows)
        if tokens < self.batch_size:
            raise ConfigError(
                f"H6: {self.epochs} epochs of {num_rows:,} rows are less than a batch of {self.batch_size}: zero steps",
                hint="raise epochs, or lower batch_size",
            )
        return tokens // self.batch_size

    def resolved(self, *, hook: str, num_rows: int, device: torch.device) -> Self:
        """This config with nothing left open: a single run, its steps, hook, dead threshold and dtype written out.

        Raises:
            ConfigError: if there would be no step, a schedule is longer than the run, or `device` cannot be `resident`.
        """
        check_resident(self.resident, device)
        steps = self.num_steps(num_rows)
        for label, component in self.components():
            for name, setting in component.settings().items():
                if isinstance(setting, Schedule):
                    setting.check_fits(f"{label}.{name}", steps)
        dead_after = self.dead.after_tokens or min(10_000_000, max(1, steps * self.batch_size // 20))
        auto_dtype = "bfloat16" if device.type == "cuda" else "float32"
        return self.model_copy(
            update={
                "hook": hook,
                "steps": steps,
                "tokens": None,
                "epochs": None,
                "dead": self.dead.model_copy(update={"after_tokens": dead_after}),
                "exact": device.type == "cpu" if self.exact is None else self.exact,
                "compute_dtype": auto_dtype if self.compute_dtype == "auto" else self.compute_dtype,
                "plugins": tuple(path.resolve() for path in self.plugins),
                "plugin_sources": {path.stem: source_digest(path) for path in self.plugins},
                "variants": VariantsConfig(),
                "seeds": (),
            }
        )

    def identity(self) -> dict[str, Any]:
        """What the run is: the config less paths, logging, machine, and how steps are computed there."""
        return {key: value for key, value in self.to_dict().items() if key not in OUTSIDE_THE_ID}

    def run_id(self, cache_fingerprint: str) -> str:
        """Sixteen hex digits; equal for runs that agree up to rounding, bit for bit on one machine in one way there."""
        return fingerprint({"cache": cache_fingerprint, "config": self.identity()})


def source_digest(path: Path) -> str:
    """Sixteen hex digits of a plugin's text: with other code it is another run."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def labels(components: Sequence[Component]) -> list[str]:
    """The components' names in the loss and its logs; a name that comes again is numbered: l1, l1.2."""
    names = [component.name for component in components]
    seen = [names[: index + 1].count(name) for index, name in enumerate(names)]
    return [name if count == 1 else f"{name}.{count}" for name, count in zip(names, seen, strict=True)]
