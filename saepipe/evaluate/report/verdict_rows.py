"""Verdicts as rows of text for the page's tables."""

from __future__ import annotations

from saepipe.evaluate.compare.difference import Change
from saepipe.evaluate.compare.verdict import Verdict
from saepipe.evaluate.report.charts.forest import titles

HEADINGS = ("figure", "verdict", "difference, 95 % over seeds", "baseline", "variant", "p", "detectable (80 %)")


def changes_of(verdict: Verdict, short: frozenset[str]) -> list[Change]:
    """Returns the primary figures, then those of the short list."""
    return [change for change in verdict.changes if change.primary or change.key in short]


def cells_of(change: Change) -> tuple[str, ...]:
    """Returns one text per heading."""
    name = f"{change.shown.label}{' (noisy)' if change.shown.noisy else ''}{', primary' if change.primary else ''}"
    if change.paired is None:
        return (name, change.word, *("-" for _ in HEADINGS[2:]))
    mean = change.paired.mean
    interval = f" [{mean.low:+.3g}, {mean.high:+.3g}]" if mean.low is not None else ""
    return (
        name,
        word(change),
        f"{change.difference:+.3g}{interval}",
        f"{change.baseline:.4g}",
        f"{change.variant:.4g}",
        "-" if change.p is None else f"{change.p:.2g}",
        "-" if change.paired.detectable is None else f"{change.paired.detectable:.2g}",
    )


def word(change: Change) -> str:
    """Returns the verdict on a figure with its remark, or what blocks it."""
    if change.paired is not None and change.blocked_by:
        return f"not comparable: {titles(change)}"
    return f"{change.word}; {change.remark}" if change.remark else change.word
