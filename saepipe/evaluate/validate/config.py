"""Settings of `saepipe validate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from saepipe.data.config.base import Config, Count
from saepipe.data.config.bounds import Device
from saepipe.data.config.component import ConfigWithPlugins
from saepipe.data.synthetic import World
from saepipe.train.config_sections import InitConfig, OptimizerConfig

Positive = Annotated[Count, Field(ge=1)]
Size = Annotated[Count, Field(ge=1, le=2**20)]
Tokens = Annotated[Count, Field(ge=1, le=2**26)]
NonNegative = Annotated[Count, Field(ge=0, le=1000)]
Few = Annotated[Count, Field(ge=1, le=1000)]
Baseline = Literal["relu", "batch_topk"]

WORLDS = {
    "orthogonal": World(),
    "overlapping": World(child_cosine=0.6),
    "siblings": World(num_parents=6, num_sibling_sets=6),
}
"""The reference world; one with children that overlap their parent; one with exclusive siblings that overlap."""


class BaselineSweep(Config):
    """Sparsities over which a baseline is swept, and the L0 at which its arms are compared."""

    sweep: tuple[float, ...] = Field(min_length=4, description="weights of L1 (relu), or k (batch_topk)")
    l0: float = Field(gt=0)


class ValidateConfig(ConfigWithPlugins):
    """Settings of `saepipe validate`: worlds, seeds, sparsities, and the training of the small SAEs."""

    worlds: dict[str, World] = Field(default=WORLDS, min_length=1, description="by name; replaces all default worlds")
    baselines: dict[Baseline, BaselineSweep] = Field(
        default={
            "relu": BaselineSweep(sweep=(0.5, 1.1, 2.2, 4.2), l0=4.0),
            "batch_topk": BaselineSweep(sweep=(2.5, 3.0, 3.6, 4.5), l0=3.15),
        },
        min_length=1,
        description="relu with L1, and batch_topk",
    )
    num_seeds: Annotated[Count, Field(ge=2, le=1000)] = Field(5, description="reported worlds and initialisations")
    num_choice_seeds: Few = Field(1, description="separate seeds on which weights are chosen")
    choice_worlds: tuple[str, ...] = Field((), description="worlds on which weights are chosen; default: the first two")

    d_sae: Size = 80
    steps: Positive = 2000
    batch_size: Size = 256
    pool: Tokens = Field(65_536, description="tokens per seed, reused throughout training")
    heldout: Tokens = 8192
    measure_every: Positive = Field(100, description="steps between two measurements of the gradients")
    optimizer: OptimizerConfig = OptimizerConfig(lr=6e-3, warmup=0.0, decay=0.0, clip=None)
    init: InitConfig = InitConfig(encoder_scale=1.0)

    stack: Few = Field(30, description="maximum number of SAEs trained side by side")
    processes: NonNegative = Field(0, description="single-threaded worker processes; 0: one per core")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if unknown := set(self.choice_worlds) - set(self.worlds):
            raise ValueError(f"choice_worlds has {', '.join(sorted(unknown))}; worlds are {', '.join(self.worlds)}")
        if len({world.d_in for world in self.worlds.values()}) > 1:
            raise ValueError("all worlds must have the same d_in, because their SAEs are trained side by side")
        return self

    @property
    def worlds_of_choice(self) -> tuple[str, ...]:
        return self.choice_worlds or tuple(self.worlds)[:2]

    @property
    def seeds(self) -> range:
        """Seeds of the reported worlds."""
        return range(self.num_seeds)

    @property
    def choice_seeds(self) -> range:
        """Seeds of the worlds on which weights are chosen; none of them is reported."""
        return range(1000, 1000 + self.num_choice_seeds)


class SynthBenchConfig(ConfigWithPlugins):
    """Settings of `saepipe validate --world synthbench-v2`."""

    size: Literal["cpu", "full"] = Field(
        "cpu", description="cpu: a smaller world by the same recipe, 1M samples per SAE; full: the benchmark, 200M"
    )
    num_seeds: Annotated[Count, Field(ge=2, le=1000)] = Field(3, description="SAEs per row")
    files: Path | None = Field(None, description="folder of SAELens' files of the world; null: it is made here")
    device: Device = "auto"
