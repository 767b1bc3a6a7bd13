"""What may be said of a variant against its baseline: by rules that forbid to say anything, then by its seeds."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from saepipe.data.folders.health import RULES, Finding, errors
from saepipe.evaluate.compare.checks import check_matched_l0, check_same_data
from saepipe.evaluate.compare.difference import SEEDS_FOR_A_VERDICT, Change, Sides, changes
from saepipe.evaluate.compare.sweeps import Matched
from saepipe.evaluate.metrics.base import Shown
from saepipe.evaluate.results.run_results import Pair, Row, side_by_side
from saepipe.train.health.twins import check_twins


@dataclass(frozen=True)
class Question:
    """What every verdict of a table is asked with."""

    primary: Mapping[str, float]
    """The least effect of interest, by figure key."""
    shown: Mapping[str, Shown]
    """Every figure that a metric knows."""


@dataclass(frozen=True)
class Verdict:
    """On one variant, or one sweep, all its seeds together."""

    variant: str
    baseline: str
    by_health: tuple[Finding, ...]
    """What forbids it in the health and the evaluations of the runs themselves."""
    by_comparison: tuple[Finding, ...]
    """What forbids it between them."""
    num_seeds: int
    """That both have: pairs."""
    changes: tuple[Change, ...] = ()
    findings: tuple[Finding, ...] = ()
    """H17: what it does not carry."""
    l0: float | None = None
    """At which two sweeps were read."""

    @property
    def forbidden_by(self) -> tuple[Finding, ...]:
        return (*self.by_health, *self.by_comparison)

    @property
    def may_judge(self) -> bool:
        """Whether its changes have words."""
        return not self.forbidden_by and self.num_seeds >= SEEDS_FOR_A_VERDICT

    @property
    def pair(self) -> str:
        at = f" at L0 {self.l0:.3g}" if self.l0 is not None else ""
        return f"{self.variant} against {self.baseline}{at}"

    def __str__(self) -> str:
        if self.forbidden_by:
            rules = sorted({finding.rule for finding in self.forbidden_by}, key=lambda rule: int(rule[1:]))
            why = ", ".join(f"{rule} {RULES[rule]}" for rule in rules)
            details = "".join(f"; {finding.rule}: {finding.message}" for finding in self.by_comparison)
            return f"{self.pair}: NO RESULT, whatever the figures say: {why}{details}"
        if self.num_seeds == 0:
            return f"{self.pair}: no rule forbids to read the differences, but no seed is common to both"
        if self.num_seeds < SEEDS_FOR_A_VERDICT:
            seeds = "1 seed is" if self.num_seeds == 1 else f"{self.num_seeds} seeds are"
            return f"{self.pair}: no rule forbids to read the differences, but {seeds} too few to tell them from chance"
        return f"{self.pair}: no rule forbids to read the differences ({self.num_seeds} seeds)"

    def to_dict(self) -> dict[str, Any]:
        return {
            "variant": self.variant,
            "baseline": self.baseline,
            "l0": self.l0,
            "num_seeds": self.num_seeds,
            "forbidden_by": [asdict(finding) for finding in self.forbidden_by],
            "findings": [asdict(finding) for finding in self.findings],
            "text": str(self),
            "changes": [change.to_dict() for change in self.changes],
        }


def verdict(variant: Sequence[Row], baseline: Sequence[Row], question: Question) -> Verdict:
    """The seeds of a variant against the same seeds of the baseline."""
    mine, its = _by_seed(variant), _by_seed(baseline)
    common = [seed for seed in mine if seed in its]
    keys = dict.fromkeys(key for row in variant for key in row.cells)
    pairs = {key: [side_by_side(mine[seed], its[seed], key) for seed in common] for key in keys}
    sides: dict[str, Sides] = {key: ([a for a, _ in found], [b for _, b in found]) for key, found in pairs.items()}
    forbidden = [*_between(variant, baseline, question.shown), *check_matched_l0(variant, baseline)]
    used = {side[seed].label for side in (mine, its) for seed in common}
    doubts = [*_left_out((*variant, *baseline), used)]
    return _verdict((variant, baseline), forbidden, sides, len(common), question, doubts)


def verdict_on_sweep(
    sweep: Sequence[Sequence[Row]], baseline: Sequence[Sequence[Row]], matched: Matched, question: Question
) -> Verdict:
    """Two sweeps, each a list of variants, read at one L0."""
    ours, theirs = ([row for variant in side for row in variant] for side in (sweep, baseline))
    forbidden = _between(ours, theirs, question.shown)
    found = _verdict((ours, theirs), forbidden, matched.sides, matched.num_seeds, question, [])
    names = [f"sweep of {side[0][0].variant} ({len(side)} variants)" for side in (sweep, baseline)]
    return replace(found, variant=names[0], baseline=names[1], l0=matched.l0)


def _verdict(
    rows: tuple[Sequence[Row], Sequence[Row]],
    by_comparison: Sequence[Finding],
    sides: Mapping[str, Sides],
    num_seeds: int,
    question: Question,
    doubts: Sequence[Finding],
) -> Verdict:
    by_health = [
        replace(finding, message=f"{row.label}: {finding.message}")
        for row in (*rows[1], *rows[0])
        for finding in errors(row.findings)
    ]
    known = {finding.rule for finding in by_health}
    by_comparison = [one for one in by_comparison if one.rule not in known or one.rule not in ("H2", "H3")]
    forbidden = bool(by_health or by_comparison)
    found = changes(sides, question.primary, question.shown, forbidden=forbidden)
    claims = [finding for change in found if change.primary for finding in change.findings]
    return Verdict(
        variant=rows[0][0].variant,
        baseline=rows[1][0].variant,
        by_health=tuple(by_health),
        by_comparison=tuple(by_comparison),
        num_seeds=num_seeds,
        changes=found,
        findings=(*doubts, *([] if forbidden else claims)),
    )


def _between(variant: Sequence[Row], baseline: Sequence[Row], shown: Mapping[str, Shown]) -> list[Finding]:
    """H16, and H2 and H3 once more; of an imported run's training nothing is known."""
    found = check_same_data((*baseline, *variant), shown)
    trained = [row.twin for row in baseline if row.run.trained]
    for row in variant:
        if row.run.trained:
            found += check_twins(row.twin, trained, row.run.trained.health)
    return found


def _by_seed(rows: Sequence[Row]) -> dict[Pair, Row]:
    """The first of each seed: a run made twice is no second seed."""
    found: dict[Pair, Row] = {}
    for row in rows:
        found.setdefault(row.pair, row)
    return found


def _left_out(rows: Sequence[Row], used: Collection[str]) -> Iterator[Finding]:
    """H17: runs that are in no pair, where there are pairs."""
    alone = [row.label for row in rows if row.label not in used]
    if used and alone:
        message = f"{', '.join(alone)}: in no pair of equal seeds, and left out"
        yield Finding("H17", "warning", message)
