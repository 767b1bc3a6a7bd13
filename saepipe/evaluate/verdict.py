"""Whether the differences between a variant and its baseline may be read at all, and which rules forbid it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from statistics import fmean
from typing import Any

from saepipe.data.health import RULES, Finding, errors
from saepipe.evaluate.results import Cell, Row
from saepipe.train.health.twins import check_twins

MATCHED_L0 = 0.05
SEEDS_FOR_A_VERDICT = 3


@dataclass(frozen=True)
class Verdict:
    """On one variant, all its seeds together."""

    variant: str
    baseline: str
    by_health: tuple[Finding, ...]
    """What forbids it in the health and the evaluations of the runs themselves."""
    by_comparison: tuple[Finding, ...]
    """What forbids it between them."""
    num_seeds: int
    """Of the two, the fewer."""

    @property
    def forbidden_by(self) -> tuple[Finding, ...]:
        return (*self.by_health, *self.by_comparison)

    def __str__(self) -> str:
        pair = f"{self.variant} against {self.baseline}"
        if self.forbidden_by:
            rules = sorted({finding.rule for finding in self.forbidden_by}, key=lambda rule: int(rule[1:]))
            why = ", ".join(f"{rule} {RULES[rule]}" for rule in rules)
            details = "".join(f"; {finding.rule}: {finding.message}" for finding in self.by_comparison)
            return f"{pair}: NO RESULT, whatever the figures say: {why}{details}"
        if self.num_seeds < SEEDS_FOR_A_VERDICT:
            seeds = "1 seed is" if self.num_seeds == 1 else f"{self.num_seeds} seeds are"
            return f"{pair}: no rule forbids to read the differences, but {seeds} too few to tell them from chance"
        return f"{pair}: no rule forbids to read the differences ({self.num_seeds} seeds)"

    def to_dict(self) -> dict[str, Any]:
        return {
            "variant": self.variant,
            "baseline": self.baseline,
            "num_seeds": self.num_seeds,
            "forbidden_by": [asdict(finding) for finding in self.forbidden_by],
            "text": str(self),
        }


def verdict(variant: Sequence[Row], baseline: Sequence[Row]) -> Verdict:
    """The seeds of a variant against the baseline's."""
    rows = (*baseline, *variant)
    by_health = [
        replace(finding, message=f"{row.label}: {finding.message}") for row in rows for finding in errors(row.findings)
    ]
    known = {finding.rule for finding in by_health}
    by_comparison = [*check_same_data(rows), *check_matched_l0(variant, baseline)]
    for row in variant:
        if trained := row.run.trained:  # of an imported run's training nothing is known
            twins = check_twins(row.twin, (base.twin for base in baseline), trained.health)
            by_comparison += [finding for finding in twins if finding.rule not in known]
    ours, theirs = (group[0].label.rpartition("/")[0] for group in (variant, baseline))
    return Verdict(ours, theirs, tuple(by_health), tuple(by_comparison), min(len(variant), len(baseline)))


def check_same_data(rows: Sequence[Row]) -> list[Finding]:
    """H16: one hook of one cache, and the same held-out tokens."""
    findings = []
    if len({(row.run.cache_fingerprint, row.run.hook) for row in rows}) > 1:
        findings.append(Finding("H16", "error", "they were trained at different hooks, or from different caches"))
    if len({row.heldout for row in rows if row.heldout}) > 1:
        message = "the runs were evaluated on different held-out tokens: their figures do not compare"
        findings.append(Finding("H16", "error", message))
    return findings


def check_matched_l0(variant: Sequence[Row], baseline: Sequence[Row]) -> list[Finding]:
    """H18: the mean L0 of both is the same within 5 % of the smaller."""
    ours, theirs = (_mean_l0(group) for group in (variant, baseline))
    if ours is None or theirs is None or max(ours, theirs) <= (1 + MATCHED_L0) * min(ours, theirs):
        return []
    message = f"L0 is {ours:.3g} against {theirs:.3g}: not at matched sparsity; steer both there with l0_target"
    return [Finding("H18", "warning", message)]


def check_sources(rows: Sequence[Row]) -> Iterator[Finding]:
    """H13: runs of one config, made by different commits."""
    for one, other in combinations(rows, 2):
        if one.run.run_id == other.run.run_id and one.commit != other.commit:
            message = (
                f"{one.label} and {other.label} have one config, and were trained by different commits, "
                f"{one.commit} and {other.commit}: what differs is the code"
            )
            yield Finding("H13", "warning", message)


def _mean_l0(rows: Sequence[Row]) -> float | None:
    values = [value for row in rows if (value := row.cells.get("l0", Cell()).value) is not None]
    return fmean(values) if values else None
