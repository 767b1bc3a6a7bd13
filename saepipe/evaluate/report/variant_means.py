"""Runs as charts show them: seeds of one config together, and what their figures come to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from saepipe.evaluate.compare.difference import SEEDS_FOR_A_VERDICT
from saepipe.evaluate.compare.table import by_variant
from saepipe.evaluate.results.run_results import Cell, Row
from saepipe.evaluate.stats import paired_seeds as seeds

Over = Literal["seeds", "evaluation"]


@dataclass(frozen=True)
class Mean:
    """A figure of a variant; without a value, `why`."""

    value: float | None
    low: float | None = None
    high: float | None = None
    """The 95 % interval."""
    over: Over | None = None
    """Of what: training seeds, or the documents, examples or words of the evaluation."""
    why: str | None = None


@dataclass(frozen=True)
class Variant:
    """The runs of one config, which differ in nothing but seeds."""

    name: str
    penalty: str
    """What Pareto plots colour it by: its penalties and transforms, `l1 + ortsae`."""
    rows: tuple[Row, ...]

    @property
    def imported(self) -> bool:
        return self.rows[0].run.trained is None

    def mean(self, key: str) -> Mean:
        """Over seeds, all of them or none."""
        return mean([row.cells.get(key, Cell()) for row in self.rows])


def mean(cells: Sequence[Cell]) -> Mean:
    """Of one figure, a cell a seed.

    The interval is over seeds (Student's t) from three seeds on. With fewer it is of evaluation noise, and its ends
    are the means of the seeds' own: they were all judged on the same text, so two are no less noisy than one.
    """
    known = [cell.value for cell in cells if cell.value is not None]
    if len(known) < len(cells):
        reasons = list(dict.fromkeys(cell.why or "not measured" for cell in cells if cell.value is None))
        some = f"{len(known)} of {len(cells)} seeds have it: " if known else ""
        return Mean(None, why=some + "; ".join(reasons))
    if len(known) >= SEEDS_FOR_A_VERDICT:
        found = seeds.mean(known)
        return Mean(fmean(known), found.low, found.high, over="seeds")
    ends = [(cell.low, cell.high) for cell in cells if cell.low is not None and cell.high is not None]
    if len(ends) < len(cells):
        return Mean(fmean(known))
    lows, highs = zip(*ends, strict=True)
    return Mean(fmean(known), fmean(lows), fmean(highs), over="evaluation")


def variants_of(rows: Sequence[Row]) -> list[Variant]:
    """In the order of the rows."""
    groups = by_variant(rows)
    names = Counter(group[0].variant for group in groups)
    several = len({_architecture(row) for row in rows if row.run.trained}) > 1
    return [
        Variant(
            name=first.variant if names[first.variant] == 1 else first.label,
            penalty=f"{_architecture(first)}: {_acting(first)}" if several and first.run.trained else _acting(first),
            rows=(first, *others),
        )
        for first, *others in groups
    ]


def _acting(row: Row) -> str:
    """The penalties that have a weight, and the transforms."""
    config = row.run.trained
    if config is None:
        return f"imported from {row.run.settings['imported'].partition(':')[0]}"
    weighted = [penalty.name for penalty in config.penalties if getattr(penalty, "weight", 1) != 0]
    return " + ".join([*weighted, *(transform.name for transform in config.transforms)]) or "no penalty"


def _architecture(row: Row) -> str:
    return str(row.settings.get("sae.name", "SAE"))
