"""What may be asked of a validation."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from saepipe.data.config.base import Config, Count
from saepipe.data.config.component import ConfigWithPlugins
from saepipe.data.synthetic import World
from saepipe.train.config import InitConfig, OptimizerConfig

Positive = Annotated[Count, Field(ge=1)]
Whole = Annotated[Count, Field(ge=0)]
Baseline = Literal["relu", "batch_topk"]

WORLDS = {
    "orthogonal": World(),
    "overlapping": World(child_cosine=0.6),
    "siblings": World(num_parents=6, num_sibling_sets=6),
}
"""The reference world; children that share their parent's direction; exclusive siblings that share theirs."""


class Matched(Config):
    """Where one baseline is swept, and the L0 at which its arms are compared."""

    sweep: tuple[float, ...] = Field(min_length=4, description="weights of L1 (relu), or k (batch_topk)")
    l0: float = Field(gt=0)


class ValidateConfig(ConfigWithPlugins):
    """Worlds, seeds, sparsities, and how each of the small SAEs is trained."""

    worlds: dict[str, World] = Field(default=WORLDS, min_length=1, description="by name; in place of all of these")
    baselines: dict[Baseline, Matched] = Field(
        default={
            "relu": Matched(sweep=(0.5, 1.1, 2.2, 4.2), l0=4.0),
            "batch_topk": Matched(sweep=(2.5, 3.0, 3.6, 4.5), l0=3.15),
        },
        min_length=1,
        description="relu with L1, and batch_topk",
    )
    num_seeds: Annotated[Count, Field(ge=2)] = Field(5, description="worlds and initialisations that are reported")
    num_choice_seeds: Positive = Field(1, description="others, on which settings are chosen")
    choice_worlds: tuple[str, ...] = Field((), description="on which settings are chosen; by default the first two")

    d_sae: Positive = 80
    steps: Positive = 2000
    batch_size: Positive = 256
    pool: Positive = Field(65_536, description="tokens of a seed, trained on again and again")
    heldout: Positive = 8192
    measure_every: Positive = Field(100, description="steps between two looks at the gradients")
    optimizer: OptimizerConfig = OptimizerConfig(lr=6e-3, warmup=0.0, decay=0.0, clip=None)
    init: InitConfig = InitConfig(encoder_scale=1.0)

    stack: Positive = Field(30, description="SAEs trained side by side, at most")
    processes: Whole = Field(0, description="each of one thread; 0: as many as there are cores")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if unknown := set(self.choice_worlds) - set(self.worlds):
            raise ValueError(f"choice_worlds has {', '.join(sorted(unknown))}; worlds are {', '.join(self.worlds)}")
        if len({world.d_in for world in self.worlds.values()}) > 1:
            raise ValueError("all worlds have one d_in: their SAEs are trained side by side")
        return self

    @property
    def chosen_on(self) -> tuple[str, ...]:
        return self.choice_worlds or tuple(self.worlds)[:2]

    @property
    def seeds(self) -> range:
        """Of the worlds that are reported."""
        return range(self.num_seeds)

    @property
    def choice_seeds(self) -> range:
        """Of the worlds on which settings are chosen: never one that is reported."""
        return range(1000, 1000 + self.num_choice_seeds)
