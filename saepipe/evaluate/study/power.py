"""Effects that a study can see: from the spread of the differences over seeds, measured or known, before it trains."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import fmean, stdev

from saepipe.evaluate.compare.difference import SEEDS_FOR_A_VERDICT
from saepipe.evaluate.compare.table import Table
from saepipe.evaluate.stats.paired_seeds import detectable

MOST_SEEDS = 200


@dataclass(frozen=True)
class Power:
    """What a number of seeds can see of one primary metric, with 80 % power at the level 0.05."""

    key: str
    label: str
    effect: float
    """Smallest effect of interest."""
    spread: float
    """Standard deviation over seeds of an arm's difference from the baseline."""
    num_seeds: int

    @property
    def detectable(self) -> float:
        """Smallest true difference that the seeds would show."""
        return detectable(self.spread, self.num_seeds)

    @property
    def enough(self) -> bool:
        return self.detectable <= self.effect

    @property
    def seeds_needed(self) -> int | None:
        """Smallest number of seeds that would show the effect of interest; None if it is beyond any study."""
        sizes = range(SEEDS_FOR_A_VERDICT, MOST_SEEDS + 1)
        return next((size for size in sizes if detectable(self.spread, size) <= self.effect), None)

    @property
    def sentence(self) -> str:
        """What the seeds can see, beside the effect of interest."""
        sees = f"{self.num_seeds} seeds show a difference of {self.detectable:.2g} or more"
        if self.enough:
            return f"{sees} (effect of interest {self.effect:g})"
        needed = self.seeds_needed or f"more than {MOST_SEEDS}"
        return f"{sees}, not the effect of interest, {self.effect:g}: {needed} seeds are needed"

    def __str__(self) -> str:
        return f"{self.label}: {self.sentence}"


def powers(
    effects: Mapping[str, float], spreads: Mapping[str, float], num_seeds: int, labels: Mapping[str, str]
) -> list[Power]:
    """Returns the power of each primary metric whose spread is known."""
    return [
        Power(key, labels.get(key, key), effect, spreads[key], num_seeds)
        for key, effect in effects.items()
        if key in spreads
    ]


def spreads_over_seeds(tables: Iterable[Table]) -> dict[str, float]:
    """Returns the standard deviation over seeds of the differences from the baseline, by primary metric.

    It is pooled over the arms, sqrt(mean of their variances), since that of two seeds alone is hardly known. A metric
    without a spread, or measured for one seed, is left out.
    """
    samples: dict[str, list[Sequence[float]]] = {}
    for table in tables:
        for verdict in table.verdicts:
            for change in verdict.changes:
                if change.primary and change.paired and change.paired.num_seeds > 1:
                    samples.setdefault(change.key, []).append(change.paired.differences)
    pooled = {key: sqrt(fmean(stdev(each) ** 2 for each in of)) for key, of in samples.items()}
    return {key: spread for key, spread in pooled.items() if spread > 0}
