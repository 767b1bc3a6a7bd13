"""Effects that a study can see: from the spread of the differences over seeds, measured or known, before it trains."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import fmean, stdev

from scipy import stats

from saepipe.evaluate.compare.difference import SEEDS_FOR_A_VERDICT
from saepipe.evaluate.compare.table import Table
from saepipe.evaluate.stats.paired_seeds import detectable

MOST_SEEDS = 200
SURE = 0.9
"""Probability that the true spread exceeds the bound by which a study is called hopeless."""


@dataclass(frozen=True)
class Power:
    """What a number of seeds can see of one primary metric, with 80 % power."""

    key: str
    label: str
    effect: float
    """Smallest effect of interest."""
    spread: float
    """Standard deviation over seeds of an arm's difference from the baseline."""
    num_seeds: int
    num_tests: int = 1
    """Primary metrics, over which Holm's correction goes; its strictest step is counted."""
    degrees: int | None = None
    """Degrees of freedom of the spread; None: it is known."""

    @property
    def detectable(self) -> float:
        """Smallest true difference that the seeds would show."""
        return detectable(self.spread, self.num_seeds, self.num_tests)

    @property
    def enough(self) -> bool:
        return self.detectable <= self.effect

    @property
    def hopeless(self) -> bool:
        """True if the seeds would not show the effect even with the least spread that the pilot leaves credible."""
        least = 1.0 if self.degrees is None else sqrt(self.degrees / float(stats.chi2.ppf(SURE, self.degrees)))
        return least * self.detectable > self.effect

    @property
    def seeds_needed(self) -> int | None:
        """Smallest number of seeds that would show the effect of interest; None if it is beyond any study."""
        sizes = range(SEEDS_FOR_A_VERDICT, MOST_SEEDS + 1)
        return next((size for size in sizes if detectable(self.spread, size, self.num_tests) <= self.effect), None)

    @property
    def sentence(self) -> str:
        """Smallest visible difference beside the effect of interest, in words."""
        rough = "" if self.degrees is None else "about "
        sees = f"{self.num_seeds} seeds show a difference of {rough}{self.detectable:.2g} or more"
        if self.enough:
            return f"{sees} (effect of interest {self.effect:g})"
        needed = self.seeds_needed or f"more than {MOST_SEEDS}"
        return f"{sees}, not the effect of interest, {self.effect:g}: {rough}{needed} seeds are needed"

    def __str__(self) -> str:
        return f"{self.label}: {self.sentence}"


def spreads_over_seeds(tables: Iterable[Table], among: Collection[str]) -> tuple[dict[str, float], int]:
    """Returns the standard deviation over seeds of the differences from the baseline, by primary metric.

    It is pooled over arms, sqrt(mean of their variances), since that of two seeds alone is hardly known. A metric
    without a spread, or measured for one seed, is left out.

    Args:
        tables: comparisons of the pilot's runs.
        among: names of the arms to pool; controls, which may be far worse than any arm, are none.

    Returns:
        The standard deviations, and their degrees of freedom: those of the metric with the fewest.
    """
    samples: dict[str, list[Sequence[float]]] = {}
    for table in tables:
        for verdict in table.verdicts:
            for change in verdict.changes if verdict.variant in among else ():
                if change.primary and change.paired and change.paired.num_seeds > 1:
                    samples.setdefault(change.key, []).append(change.paired.differences)
    pooled = {key: sqrt(fmean(stdev(each) ** 2 for each in of)) for key, of in samples.items()}
    degrees = min((sum(len(each) - 1 for each in of) for of in samples.values()), default=0)
    return {key: spread for key, spread in pooled.items() if spread > 0}, degrees
