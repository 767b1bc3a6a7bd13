"""Runs grouped by variant, with means of their figures over seeds."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from saepipe.data.folders.health import Finding, errors
from saepipe.evaluate.compare.difference import SEEDS_FOR_A_VERDICT
from saepipe.evaluate.figure_specs import FigureSpec
from saepipe.evaluate.results.figures import catalogue
from saepipe.evaluate.results.run_results import Cell, Row
from saepipe.evaluate.sae.siblings import variant_key
from saepipe.evaluate.stats import paired_seeds as seeds

Over = Literal["seeds", "evaluation"]


@dataclass(frozen=True)
class Mean:
    """Mean of a figure over a variant's seeds; without a value, `why` has the reason."""

    value: float | None
    low: float | None = None
    high: float | None = None
    """Ends of the 95 % interval."""
    over: Over | None = None
    """Source of the interval: training seeds, or documents, examples or words of the evaluation."""
    why: str | None = None

    def __str__(self) -> str:
        if self.value is None:
            return "not measured" if self.why == "not measured" else "undefined"
        if self.low is None or self.high is None:
            return f"{self.value:.4g}"
        return f"{self.value:.4g} ±{(self.high - self.low) / 2:.1g}"


@dataclass(frozen=True)
class Variant:
    """Runs of one config, which differ in seeds alone."""

    name: str
    penalty: str
    """Penalties and transforms, such as `l1 + ortsae`: its colour in Pareto plots."""
    rows: tuple[Row, ...]

    @property
    def health(self) -> str:
        """Rules that were found in any of its runs, as `rules_found` writes them."""
        return rules_found((finding for row in self.rows for finding in row.findings), trained=not self.imported)

    @property
    def imported(self) -> bool:
        return self.rows[0].run.trained is None

    def mean(self, key: str) -> Mean:
        """Returns the mean of a figure over all seeds; without a value if a seed has none."""
        how = catalogue().get(key, FigureSpec(key))
        means = mean([row.cells.get(key, Cell()) for row in self.rows], of_pairs=how.of_pairs)
        return Mean(means.value, why=means.why) if how.untestable else means


def rules_found(findings: Iterable[Finding], *, trained: bool) -> str:
    """Returns the rules with errors, and in brackets those with warnings only; `ok` if there are no findings.

    For imported runs without findings it is `not known`, since no rule checked their training.
    """
    findings = tuple(findings)
    wrong = {finding.rule for finding in errors(findings)}
    rules = dict.fromkeys(finding.rule for finding in findings)
    return ", ".join(rule if rule in wrong else f"({rule})" for rule in rules) or ("ok" if trained else "not known")


def mean(cells: Sequence[Cell], *, of_pairs: bool = False) -> Mean:
    """Averages one figure over its cells, one per seed; `of_pairs` as for `paired_seeds.mean`.

    From three seeds on, the interval is over seeds (Student's t). With fewer it covers evaluation noise, and its ends
    are the means of the seeds' ends: all were evaluated on the same text, so two are no less noisy than one.
    """
    values = [cell.value for cell in cells if cell.value is not None]
    if len(values) < len(cells):
        reasons = list(dict.fromkeys(cell.why or "not measured" for cell in cells if cell.value is None))
        some = f"{len(values)} of {len(cells)} seeds have a value: " if values else ""
        return Mean(None, why=some + "; ".join(reasons))
    if len(values) >= SEEDS_FOR_A_VERDICT:
        interval = seeds.mean(values, of_pairs=of_pairs)
        return Mean(fmean(values), interval.low, interval.high, over="seeds")
    ends = [(cell.low, cell.high) for cell in cells if cell.low is not None and cell.high is not None]
    if len(ends) < len(cells):
        return Mean(fmean(values))
    lows, highs = zip(*ends, strict=True)
    return Mean(fmean(values), fmean(lows), fmean(highs), over="evaluation")


def by_variant(rows: Sequence[Row]) -> list[list[Row]]:
    """Groups runs whose configs differ in seeds alone."""
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        groups[repr(variant_key(row.settings, row.variant))].append(row)
    return list(groups.values())


def variants_of(rows: Sequence[Row]) -> list[Variant]:
    """Groups the rows into variants, in their order."""
    groups = by_variant(rows)
    names = Counter(group[0].variant for group in groups)
    several = len({_architecture(row) for row in rows if row.run.trained}) > 1
    return [
        Variant(
            name=first.variant if names[first.variant] == 1 else first.label,
            penalty=f"{_architecture(first)}: {_terms(first)}" if several and first.run.trained else _terms(first),
            rows=(first, *others),
        )
        for first, *others in groups
    ]


def _terms(row: Row) -> str:
    """Returns the names of the penalties with a weight and of the transforms, and which part is frozen."""
    config = row.run.trained
    if config is None:
        return f"imported from {row.run.settings['imported'].partition(':')[0]}"
    weighted = [penalty["name"] for penalty in config.penalties if penalty.get("weight", 1) != 0]
    terms = " + ".join([*weighted, *(transform["name"] for transform in config.transforms)]) or "no penalty"
    return f"{terms}, {freeze} frozen" if (freeze := row.settings.get("freeze")) else terms


def _architecture(row: Row) -> str:
    return str(row.settings.get("sae.name", "SAE"))
