"""Sections of a train config, each a config of its own: optimiser, start, dead latents, stream, variants and more."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, GetJsonSchemaHandler, Tag, model_validator
from pydantic_core import CoreSchema

from saepipe.data.config.base import Config, Count
from saepipe.data.config.place import Place

Fraction = Annotated[float, Field(ge=0, le=1)]
Beta = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[Count, Field(ge=1)]


class OptimizerConfig(Config):
    """Adam, with decoder rows kept at unit norm. `warmup` and `decay` are linear, as fractions of the run."""

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
    """W_dec: random unit rows. W_enc = encoder_scale * W_dec.T. b_enc = 0. b_dec: from the first rows of the stream.

    With `from`, all parameters are those of another run's SAE instead; latents that it lacks begin as above.
    """

    source: Place | None = Field(
        None,
        alias="from",
        description="finished run, trained or imported, from whose SAE training starts; {seed} stands for the run's "
        "seed",
    )
    model: str | None = Field(None, description="model of the SAE in `from`, if it is not the cache's by name")
    weights: str | None = Field(None, description="digest of the weights in `from`; written by saepipe")
    b_dec: Literal["geometric_median", "mean", "zeros"] = "geometric_median"
    b_dec_rows: Annotated[Count, Field(ge=1, le=2**22)] = 16_384
    encoder_scale: float = Field(0.25, gt=0)

    @model_validator(mode="after")
    def _one_start(self) -> Self:
        fields, own = type(self).model_fields, ("b_dec", "b_dec_rows", "encoder_scale")
        if self.source is None:
            unused = [name for name in ("model", "weights") if getattr(self, name) is not None]
            if unused:
                raise ValueError(f"{unused[0]} is about the SAE in `from`, which is not given")
        elif unused := [name for name in own if getattr(self, name) != fields[name].default]:
            raise ValueError(f"{unused[0]} has no effect with `from`, which sets all parameters; leave it out")
        return self


class SkipConfig(Config):
    """How a transcoder's skip learns: by Adam with decoupled weight decay (AdamW, arXiv 1711.05101)."""

    lr: float = Field(1.0, gt=0, description="multiple of the run's learning rate")
    weight_decay: float = Field(0.0, ge=0, description="share of W_skip taken away per step and unit of learning rate")


def _kind(value: Any) -> str:
    return "settings" if isinstance(value, SkipConfig | Mapping) else "switch"


Skip = Annotated[Annotated[bool, Tag("switch")] | Annotated[SkipConfig, Tag("settings")], Discriminator(_kind)]
"""Whether a transcoder has a skip, or how it learns."""


class DeadConfig(Config):
    """A latent is dead when it has been silent for `after_tokens` (default: min(10M, 5 % of the run's tokens))."""

    after_tokens: Positive | None = None
    resample_steps: Positive | None = Field(None, description="steps between resamplings of dead latents; null: never")
    rewarm: Fraction = Field(0.1, description="share of resample_steps over which lr rises again after a resampling")


class KLTailConfig(Config):
    """The last `share` of the steps, whose loss has one more term: the KL divergence of the model that reads x_hat.

    A plain number is the share. Karvonen 2025 (arXiv 2503.17272) scales the divergence at each step so that its value
    is the reconstruction error's, without a gradient through the factor; here it is `weight` times that error's.
    """

    share: Fraction = 0.0
    weight: float = Field(1.0, gt=0, description="size of the weighted term, as a multiple of the reconstruction's")
    windows: Annotated[Count, Field(ge=1)] | None = Field(
        None, description="training windows through the model per step; null: as many tokens as a batch has, about"
    )

    @model_validator(mode="before")
    @classmethod
    def _plain_number(cls, value: Any) -> Any:
        return {"share": value} if isinstance(value, int | float) and not isinstance(value, bool) else value

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """Also allows the plain number."""
        return {"anyOf": [handler(core), {"type": "number", "minimum": 0, "maximum": 1}]}

    @model_validator(mode="after")
    def _is_on(self) -> Self:
        if not self.share and (self.weight != 1 or self.windows is not None):
            raise ValueError("weight and windows have no effect with share 0; for a run without a tail, set kl_tail: 0")
        return self

    def num_steps(self, run_steps: int) -> int:
        """Returns the number of the tail's steps: at least one, if there is a tail."""
        return max(1, round(self.share * run_steps)) if self.share else 0

    def resolved(self, batch_size: int, context_size: int) -> Self:
        """Returns the section with `windows` set, if there is a tail."""
        windows = self.windows or max(1, batch_size // context_size)
        return self.model_copy(update={"windows": windows}) if self.share else self


class ParallelConfig(Config):
    """How one run is split over the ranks that torchrun starts: `latents` x `data` of them."""

    latents: Positive = Field(1, description="ranks among which the latents are split")
    data: Positive = Field(1, description="ranks among which the tokens of each batch are split")
    timeout: float = Field(600, gt=0, description="seconds that a rank waits for the others")

    @property
    def num_ranks(self) -> int:
        return self.latents * self.data


class StreamConfig(Config):
    """A harvest that feeds the training while it runs, pool by pool, instead of a cache that is there already."""

    harvest: Path = Field(description="YAML file of the harvest; its num_tokens are the length of the stream")
    gb: float = Field(20.0, gt=0, description="most space for pools that wait to be read, in GB")
    pools: Path | None = Field(
        None, description="folder in which they wait, such as /dev/shm; null: the folder of the stream, OUT/stream"
    )
    ranks: Positive = Field(1, description="processes that harvest, each with a model")
    num_tokens: Positive | None = Field(None, description="length of the stream; written by saepipe")


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
        """Also allows the plain list."""
        return {"anyOf": [handler(core), {"type": "array", "items": {"type": "object"}}]}

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        if sum(map(bool, (self.overrides, self.grid, self.zip))) > 1:
            raise ValueError("variants are a list, a grid or a zip, not several of them")
        if len({len(values) for values in self.zip.values()}) > 1:
            lengths = ", ".join(f"{key} {len(values)}" for key, values in self.zip.items())
            raise ValueError(f"the lists of a zip must have the same length; they have {lengths}")
        return self
