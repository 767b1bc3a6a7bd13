"""Settings of `saepipe study`: a question, and all that answers it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from saepipe.data.config.base import Count
from saepipe.data.config.bounds import Seed
from saepipe.data.config.component import ConfigWithPlugins
from saepipe.data.config.place import Place
from saepipe.evaluate.compare.difference import SEEDS_FOR_A_VERDICT
from saepipe.evaluate.config import EvaluateConfig
from saepipe.evaluate.metrics.absorption.metric import Absorption
from saepipe.evaluate.metrics.core.metric import Core
from saepipe.evaluate.results.figures import catalogue, why_unknown
from saepipe.harvest.config import HarvestConfig
from saepipe.train.control_kinds import Control
from saepipe.train.stored_config import Effect
from saepipe.train.variants import SHARED_BY_ALL

BASELINE = "baseline"
"""Name of the arm that the others are compared with."""

OF_THE_STUDY = ("cache", "plugins", "primary_metrics", "seed", "seeds", "variants")
"""Keys of a train config that the study sets itself."""

SHARED_BY_ARMS = frozenset({*OF_THE_STUDY, *SHARED_BY_ALL, "plugin_sources"})
"""Keys of a train config that no arm sets for itself."""

L0 = Annotated[float, Field(gt=0)]


def _kind(value: Any) -> str:
    return "list" if isinstance(value, list | tuple) else "number"


OneOrSeveral = Annotated[Annotated[L0, Tag("number")] | Annotated[tuple[L0, ...], Tag("list")], Discriminator(_kind)]


class StudyConfig(ConfigWithPlugins):
    """One question: a baseline and arms that differ from it, trained over seeds at the same L0, and compared."""

    question: str = Field(min_length=1, description="what the study is to find out, in a sentence; the report opens it")
    harvest: HarvestConfig | None = Field(None, description="settings of the cache, if the study makes it")
    cache: Place | None = Field(None, description="folder of the cache; default: OUT/cache, made by `harvest`")
    train: dict[str, Any] = Field(description="settings of the baseline, which every arm starts from")
    arms: tuple[dict[str, Any], ...] = Field(
        min_length=1, description="each a `name` and the settings in which it differs: keys as in `variants:`"
    )
    controls: tuple[Control, ...] = Field(
        (), description="trained beside every arm, too: with a part frozen, or with random pairs for those it selects"
    )
    seeds: tuple[Seed, ...] = (0, 1, 2)
    more_seeds: Annotated[Count, Field(ge=0)] = Field(0, description="further seeds, after the largest of `seeds`")
    l0: OneOrSeveral = Field(
        (), description="active latents per token that every arm is trained to, or several; none: as configured"
    )
    evaluate: EvaluateConfig = EvaluateConfig(metrics=(Core(), Absorption()), features=None)
    primary_metrics: dict[str, Effect] = Field(
        min_length=1, description="figures that the question is about, with the smallest effects of interest"
    )
    spreads: dict[str, Effect] = Field(
        default_factory=dict,
        description="standard deviation over seeds of the difference in primary metrics, if an earlier study shows it; "
        "a metric without one is measured by a pilot of two seeds",
    )
    underpowered: Literal["stop", "go_on"] = Field(
        "stop", description="what to do if the planned seeds could not show the effect of interest in any metric"
    )

    @model_validator(mode="after")
    def _has_a_cache(self) -> Self:
        if self.cache is None and self.harvest is None:
            raise ValueError("give `harvest`, settings of the cache to make, or `cache`, the folder of one")
        return self

    @model_validator(mode="after")
    def _enough_seeds(self) -> Self:
        if len({*self.seeds}) < len(self.seeds):
            raise ValueError(f"seeds name one twice: {list(self.seeds)}")
        if len(self.seeds) < SEEDS_FOR_A_VERDICT:
            raise ValueError(
                f"{len(self.seeds)} seeds cannot give a verdict, whatever the arms do: "
                f"give at least {SEEDS_FOR_A_VERDICT}"
            )
        return self

    @model_validator(mode="after")
    def _named_arms(self) -> Self:
        names = [BASELINE, *(str(arm.get("name", "")) for arm in self.arms)]
        if "" in names:
            raise ValueError(f"arm {names.index('')} has no `name`")
        if len({*names}) < len(names):
            raise ValueError(f"two arms have one name: {', '.join(names)}")
        if taken := [key for key in OF_THE_STUDY if key in self.train]:
            raise ValueError(f"train has {', '.join(taken)}, which stand beside `train`, for all arms")
        for arm in self.arms:
            if taken := [key for key in arm if key.split(".")[0] in SHARED_BY_ARMS]:
                raise ValueError(f"arm {arm['name']} has {', '.join(taken)}, which all arms share")
        return self

    @model_validator(mode="after")
    def _measured_figures(self) -> Self:
        if problems := [*self._unmeasured()]:
            raise ValueError("; ".join(problems))
        return self

    def _unmeasured(self) -> Iterator[str]:
        """Yields what keeps a primary metric from being measured."""
        shown = catalogue()
        by_figure = {key: metric.name for metric in self.evaluate.metrics for key in metric.shown}
        if "l0" not in by_figure:
            yield "evaluate.metrics lacks core, which measures the L0 that all arms must share"
        for key in self.primary_metrics:
            if key in shown and (shown[key].of_pairs or shown[key].untestable):
                yield f"the primary metric {key} is of several seeds at once, so a pilot cannot tell its spread"
            elif key not in by_figure:
                why = why_unknown(key, shown) or "no metric under evaluate.metrics has it"
                yield f"the primary metric {key} would not be measured: {why}"
        for key in self.spreads:
            if key not in self.primary_metrics:
                yield f"spreads has {key}, which is no primary metric"

    @property
    def l0s(self) -> tuple[float, ...]:
        """Every L0 that the arms are trained to; none: each comes to its own."""
        return self.l0 if isinstance(self.l0, tuple) else (self.l0,)

    def cache_at(self, out: Path) -> Path:
        """Returns the folder of the cache of a study at `out`."""
        return self.cache or out / "cache"

    @property
    def all_seeds(self) -> tuple[int, ...]:
        """Seeds of every arm."""
        first = max(self.seeds) + 1
        return (*self.seeds, *range(first, first + self.more_seeds))

    def overrides(self) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Yields the name and the settings of each arm, the baseline first."""
        yield BASELINE, {}
        for arm in self.arms:
            yield str(arm["name"]), {key: value for key, value in arm.items() if key != "name"}
