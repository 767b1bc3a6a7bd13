"""Difference of one figure between a variant and its baseline, and the verdict that the seeds support."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import fmean
from typing import Any, Literal

from saepipe.data.folders.health import Finding, errors
from saepipe.evaluate.figure_specs import FigureSpec
from saepipe.evaluate.results.figures import why_unknown
from saepipe.evaluate.stats.intervals import LEVEL
from saepipe.evaluate.stats.paired_seeds import Paired, holm, paired

SEEDS_FOR_A_VERDICT = 3

Sides = tuple[Sequence[float | None], Sequence[float | None]]
"""Values of a figure for variant and baseline, (num_pairs,) each, in the same order of seeds; None if undefined."""

Direction = Literal["better", "worse", "higher", "lower"]
Word = Direction | Literal["within noise", "too few seeds", "no spread over seeds", "no result", "not measured"]
"""Verdict on one figure, or the reason why there is none."""


@dataclass(frozen=True)
class Change:
    """Difference of one figure between variant and baseline."""

    key: str
    shown: FigureSpec
    interesting: float | None
    """Smallest effect of interest, as declared; None for an exploratory figure."""
    num_pairs: int
    """Number of seeds that both sides have."""
    variant: float | None
    baseline: float | None
    """Means over the pairs in which both sides have a value."""
    paired: Paired | None
    """None if there is no such pair."""
    p_holm: float | None = None
    """p after Holm's correction over the primary metrics of this comparison."""
    blocked_by: tuple[Finding, ...] = ()
    """Findings that forbid a verdict on this figure."""
    findings: tuple[Finding, ...] = ()
    """Findings of H17."""

    @property
    def primary(self) -> bool:
        return self.interesting is not None

    @property
    def p(self) -> float | None:
        """The p that decides the word: after Holm's correction if the figure is primary."""
        return self.p_holm if self.primary or self.paired is None else self.paired.p

    @property
    def word(self) -> Word:
        """`better` or `worse` (`higher` or `lower` if neither is better), `within noise`, or why there is none."""
        if self.paired is None:
            return "not measured"
        if self.blocked_by or errors(self.findings):
            return "no result"
        if self.paired.num_seeds < SEEDS_FOR_A_VERDICT:
            return "too few seeds"
        if self.paired.p is None:
            return "no spread over seeds"
        return self._direction if self.is_significant else "within noise"

    @property
    def is_significant(self) -> bool:
        """True if there are enough seeds and the difference from 0 is significant."""
        enough = self.paired is not None and self.paired.num_seeds >= SEEDS_FOR_A_VERDICT
        return enough and self.p is not None and self.p <= 1 - LEVEL

    @property
    def _direction(self) -> Direction:
        side: Literal["higher", "lower"] = "higher" if self.difference > 0 else "lower"
        return side if self.shown.better is None else "better" if side == self.shown.better else "worse"

    @property
    def difference(self) -> float:
        """Mean difference over seeds; needs at least one pair."""
        assert self.paired is not None
        assert self.paired.mean.value is not None
        return self.paired.mean.value

    @property
    def is_underpowered(self) -> bool:
        """True if these seeds would probably not have shown the effect of interest."""
        if self.paired is None or self.interesting is None or self.paired.detectable is None:
            return False
        return self.paired.detectable > self.interesting

    @property
    def is_small(self) -> bool:
        """True if the difference is significant but smaller than the effect of interest."""
        if self.interesting is None or self.is_underpowered or not self.is_significant:
            return False
        return abs(self.difference) < self.interesting

    @property
    def is_unestablished(self) -> bool:
        """True if the difference reaches the effect of interest but is not significant (H17)."""
        if self.paired is None or self.interesting is None or self.paired.num_seeds < self.num_pairs:
            return False
        return abs(self.difference) >= self.interesting and not self.is_significant

    @property
    def remark(self) -> str:
        """Comparison with the effect of interest, to be shown after the word; may be empty."""
        if self.is_underpowered:
            return f"underpowered for {self.interesting:g}"
        return f"below the effect of interest ({self.interesting:g})" if self.is_small else ""

    def to_dict(self) -> dict[str, Any]:
        paired = self.paired
        return {
            "key": self.key,
            "label": self.shown.label,
            "kind": "primary" if self.primary else "exploratory",
            "noisy": self.shown.noisy,
            "num_seeds": paired.num_seeds if paired else 0,
            "variant": self.variant,
            "baseline": self.baseline,
            "differences": paired.differences if paired else (),
            "difference": paired.mean.value if paired else None,
            "interval": [paired.mean.low, paired.mean.high] if paired and paired.mean.low is not None else None,
            "p": paired.p if paired else None,
            "p_holm": self.p_holm,
            "detectable": paired.detectable if paired else None,
            "interesting": self.interesting,
            "word": self.word,
            "remark": self.remark,
            "blocked_by": list(dict.fromkeys(finding.rule for finding in self.blocked_by)),
            "findings": [asdict(finding) for finding in self.findings],
        }


def changes(
    sides: Mapping[str, Sides],
    primary: Mapping[str, float],
    shown: Mapping[str, FigureSpec],
    blocked_by: Callable[[str], tuple[Finding, ...]] = lambda key: (),
) -> tuple[Change, ...]:
    """Returns the changes of all primary metrics, then of all other figures that were measured.

    Holm's correction covers every primary metric, including those that were not measured or have no spread (their p
    counts as 1), so that leaving one out afterwards makes none of the others easier.

    Args:
        sides: values by figure key; figures that were not measured are missing.
        primary: smallest effect of interest by figure key.
        shown: every figure that a metric knows, by key.
        blocked_by: returns the findings that forbid a verdict on a figure, by its key.
    """
    sides = {key: values for key, values in sides.items() if key not in shown or not shown[key].untestable}
    keys = [*primary, *(key for key in shown if key in sides and key not in primary and not shown[key].of_model)]
    uncorrected = [
        replace(_change(key, sides.get(key, ((), ())), primary.get(key), shown), blocked_by=blocked_by(key))
        for key in keys
    ]
    p_values = [change.paired.p if change.paired else None for change in uncorrected if change.primary]
    adjusted = holm([1.0 if p is None else p for p in p_values])
    corrected = [replace(change, p_holm=p) for change, p in zip(uncorrected, adjusted, strict=False)]
    return tuple(
        replace(change, findings=tuple(check_claim(change, why_unknown(change.key, shown))))
        for change in (*corrected, *uncorrected[len(corrected) :])
    )


def _change(key: str, sides: Sides, interesting: float | None, shown: Mapping[str, FigureSpec]) -> Change:
    pairs = [(a, b) for a, b in zip(*sides, strict=True) if a is not None and b is not None]
    ours, theirs = [a for a, _ in pairs], [b for _, b in pairs]
    how = shown.get(key, FigureSpec(key))
    return Change(
        key=key,
        shown=how,
        interesting=interesting,
        num_pairs=len(sides[0]),
        variant=fmean(ours) if pairs else None,
        baseline=fmean(theirs) if pairs else None,
        paired=paired(ours, theirs, of_pairs=how.of_pairs) if pairs else None,
    )


def check_claim(change: Change, why_absent: str | None = None) -> Iterator[Finding]:
    """Checks H17: a claim about this figure that the runs do not support.

    Error: the figure has a value for only some of the paired seeds, so the seeds were in effect chosen. Warning: the
    figure is primary but was not measured; or its difference reaches the effect of interest but is not significant.
    """
    name = change.shown.label
    if change.paired is None:
        if change.primary:
            why = why_absent or "evaluate it before claiming anything about it"
            problem = "cannot be tested" if change.shown.untestable else "was not measured"
            yield Finding("H17", "warning", f"{name} is a primary metric but {problem}: {why}", change.key)
        return
    if change.paired.num_seeds < change.num_pairs:
        message = f"{name} has a value for only {change.paired.num_seeds} of {change.num_pairs} paired seeds"
        yield Finding("H17", "error", f"{message}: evaluate the others, or find out why they have none", change.key)
    elif change.is_unestablished:
        message = (
            f"{name} differs by {change.difference:+.3g}, which reaches the effect of interest "
            f"({change.interesting:g}), but {_why_not_significant(change)}: do not claim a change"
        )
        yield Finding("H17", "warning", message, change.key)


def _why_not_significant(change: Change) -> str:
    assert change.paired is not None
    seeds = change.paired.num_seeds
    if seeds < SEEDS_FOR_A_VERDICT:
        return f"{seeds} {'seed is' if seeds == 1 else 'seeds are'} too few to rule out chance"
    if change.paired.p is None:
        return "all seeds differ by the same amount, so there is no spread to test it against"
    mean = change.paired.mean
    return f"its interval over {seeds} seeds is [{mean.low:+.3g}, {mean.high:+.3g}] (p {change.p:.2g} after Holm)"
