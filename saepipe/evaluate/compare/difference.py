"""One figure of a variant against its baseline, and the word that its seeds carry."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import fmean
from typing import Any

from saepipe.data.folders.health import Finding, errors
from saepipe.evaluate.metrics.base import Shown
from saepipe.evaluate.results.figures import unknown
from saepipe.evaluate.stats.intervals import LEVEL
from saepipe.evaluate.stats.paired_seeds import Paired, holm, paired

SEEDS_FOR_A_VERDICT = 3

Sides = tuple[Sequence[float | None], Sequence[float | None]]
"""The figure of the variant and of the baseline, (num_pairs,) each, seed by seed; None where it has no number."""


@dataclass(frozen=True)
class Change:
    """What may be said of one figure."""

    key: str
    shown: Shown
    interesting: float | None
    """The least effect of interest, as declared; None for an exploratory figure."""
    num_pairs: int
    """Seeds that both sides have."""
    variant: float | None
    baseline: float | None
    """Means over the pairs in which both have a number."""
    paired: Paired | None
    """None where there is no such pair."""
    p_holm: float | None = None
    """Among the primary metrics of this comparison."""
    forbidden: bool = False
    """By a rule of health, for all figures of this comparison."""
    findings: tuple[Finding, ...] = ()
    """H17."""

    @property
    def primary(self) -> bool:
        return self.interesting is not None

    @property
    def p(self) -> float | None:
        """What the word goes by: after Holm's correction where the figure is primary."""
        return self.p_holm if self.primary or self.paired is None else self.paired.p

    @property
    def word(self) -> str:
        """`better`, `worse` (`higher`, `lower` where neither is better), `within noise`, or why there is none."""
        if self.paired is None:
            return "not measured"
        if self.forbidden or errors(self.findings):
            return "no result"
        if self.paired.num_seeds < SEEDS_FOR_A_VERDICT:
            return "too few seeds"
        if self.paired.p is None:
            return "no spread over seeds"
        return self._side if self.carried else "within noise"

    @property
    def carried(self) -> bool:
        """Whether the seeds tell the difference from 0."""
        enough = self.paired is not None and self.paired.num_seeds >= SEEDS_FOR_A_VERDICT
        return enough and self.p is not None and self.p <= 1 - LEVEL

    @property
    def _side(self) -> str:
        side = "higher" if self.difference > 0 else "lower"
        return side if self.shown.better is None else "better" if side == self.shown.better else "worse"

    @property
    def difference(self) -> float:
        """The mean over seeds; only where there is a pair."""
        assert self.paired is not None
        assert self.paired.mean.value is not None
        return self.paired.mean.value

    @property
    def remark(self) -> str:
        """What the effect declared as interesting adds to the word."""
        if self.paired is None or self.interesting is None or self.paired.detectable is None:
            return ""
        if self.paired.detectable > self.interesting:
            return f"could not have shown {self.interesting:g}"
        small = self.carried and abs(self.difference) < self.interesting
        return f"below the {self.interesting:g} of interest" if small else ""

    def to_dict(self) -> dict[str, Any]:
        seen = self.paired
        return {
            "key": self.key,
            "label": self.shown.label,
            "kind": "primary" if self.primary else "exploratory",
            "noisy": self.shown.noisy,
            "num_seeds": seen.num_seeds if seen else 0,
            "variant": self.variant,
            "baseline": self.baseline,
            "differences": seen.differences if seen else (),
            "difference": seen.mean.value if seen else None,
            "interval": [seen.mean.low, seen.mean.high] if seen and seen.mean.low is not None else None,
            "p": seen.p if seen else None,
            "p_holm": self.p_holm,
            "detectable": seen.detectable if seen else None,
            "interesting": self.interesting,
            "word": self.word,
            "remark": self.remark,
            "findings": [asdict(finding) for finding in self.findings],
        }


def changes(
    sides: Mapping[str, Sides], primary: Mapping[str, float], shown: Mapping[str, Shown], *, forbidden: bool
) -> tuple[Change, ...]:
    """Every figure that has been measured, and every primary one, which come first.

    Holm's correction runs over all primary metrics, those too that were not measured or have no spread (their p
    counts as 1): leaving one out afterwards makes none of the others easier.

    Args:
        sides: by figure key; of a figure that is not there nothing was measured.
        primary: the least effect of interest, by figure key.
        shown: of every figure that a metric knows.
        forbidden: whether a rule of health forbids a result.
    """
    keys = [*primary, *(key for key in shown if key in sides and key not in primary and not shown[key].of_model)]
    found = [
        replace(_change(key, sides.get(key, ((), ())), primary.get(key), shown), forbidden=forbidden) for key in keys
    ]
    p_values = [change.paired.p if change.paired else None for change in found if change.primary]
    adjusted = holm([1.0 if p is None else p for p in p_values])
    first = [replace(change, p_holm=p) for change, p in zip(found, adjusted, strict=False)]
    return tuple(
        replace(change, findings=tuple(check_claim(change, unknown(change.key, shown))))
        for change in (*first, *found[len(first) :])
    )


def _change(key: str, sides: Sides, interesting: float | None, shown: Mapping[str, Shown]) -> Change:
    known = [(a, b) for a, b in zip(*sides, strict=True) if a is not None and b is not None]
    ours, theirs = [a for a, _ in known], [b for _, b in known]
    return Change(
        key=key,
        shown=shown.get(key, Shown(key)),
        interesting=interesting,
        num_pairs=len(sides[0]),
        variant=fmean(ours) if known else None,
        baseline=fmean(theirs) if known else None,
        paired=paired(ours, theirs) if known else None,
    )


def check_claim(change: Change, unknown: str | None = None) -> Iterator[Finding]:
    """H17: what somebody could claim of a figure, and the runs at hand do not carry.

    Error: it has a number for some of the paired seeds only, so that the seeds were in effect chosen. Warning: it was
    declared primary, and was not measured; or its difference is as large as was declared to be of interest, and not
    told from 0.
    """
    name = change.shown.label
    if change.paired is None:
        if change.primary:
            why = unknown or "evaluate it before anything is claimed of it"
            yield Finding("H17", "warning", f"{name} was declared primary, and was not measured: {why}", change.key)
        return
    if change.paired.num_seeds < change.num_pairs:
        message = f"{name} has a number for {change.paired.num_seeds} of {change.num_pairs} paired seeds"
        yield Finding("H17", "error", f"{message}: evaluate the others, or see why they have none", change.key)
    elif change.interesting is not None and abs(change.difference) >= change.interesting and not change.carried:
        message = (
            f"{name} differs by {change.difference:+.3g}, no less than the {change.interesting:g} of interest, "
            f"but {_why_not(change)}: no change may be claimed"
        )
        yield Finding("H17", "warning", message, change.key)


def _why_not(change: Change) -> str:
    assert change.paired is not None
    seeds = change.paired.num_seeds
    if seeds < SEEDS_FOR_A_VERDICT:
        return f"{seeds} {'seed is' if seeds == 1 else 'seeds are'} too few to tell it from chance"
    if change.paired.p is None:
        return "all seeds differ alike, so that there is no spread to judge it by"
    mean = change.paired.mean
    return f"its interval over {seeds} seeds is [{mean.low:+.3g}, {mean.high:+.3g}] (p {change.p:.2g} after Holm)"
