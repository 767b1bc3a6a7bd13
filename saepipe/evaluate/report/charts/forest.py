"""Forest plot: a row per figure, with each variant's difference from the baseline and its interval over seeds."""

from __future__ import annotations

from collections.abc import Mapping

from saepipe.data.folders.health_rules import RULES
from saepipe.evaluate.compare.difference import Change
from saepipe.evaluate.compare.verdict import Verdict
from saepipe.evaluate.report.chart import Chart, Value
from saepipe.evaluate.report.charts.drawing import rounded
from saepipe.evaluate.report.charts.forest_plot import TOP, Entry, ForestRow, plot
from saepipe.evaluate.report.story import Story

_FEW = 4
"""With more comparisons than these, those without any verdict are only named."""
_TEXT = (
    "Difference from {baseline}, mean over seeds, with its 95 % interval. Better is on the right, and every row has "
    "its own scale. Shaded: differences below the smallest effect of interest. Filled points are significant, hollow "
    "points are not; grey crosses cannot be compared."
)
_COLUMNS = ("variant", "figure", "kind", "difference", "low", "high", "effect of interest", "verdict", "reason")


def forest(story: Story) -> Chart | None:
    """Returns the plot; None without a figure that both the baseline and a variant have."""
    verdicts = {name_of(verdict): (index, verdict) for index, verdict in enumerate(story.table.verdicts)}
    judged = {name: entry for name, entry in verdicts.items() if not entry[1].forbidden_by}
    shown = verdicts if len(verdicts) <= _FEW or not judged else judged
    rows = _rows(shown, story.table.short)
    if not rows:
        return None
    blocked = [f"{name} ({titles(entry[1])})" for name, entry in verdicts.items() if name not in judged]
    text = _TEXT.format(baseline=story.table.verdicts[0].baseline)
    text += f" Not comparable in any figure: {'; '.join(blocked)}." if blocked else ""
    cells = tuple(_cells(entry) for row in rows for entry in row.entries)
    return Chart("forest", "Differences from the baseline", text, plot(story, rows, text), _COLUMNS, cells)


def name_of(verdict: Verdict) -> str:
    """Returns the name of the variant, or of a sweep with the L0 at which it was read."""
    return verdict.variant if verdict.l0 is None else f"{verdict.variant} at L0 {verdict.l0:.3g}"


def titles(blocked: Verdict | Change) -> str:
    """Names the rules that forbid all figures of a verdict, or one figure, such as `H10 chance-level probes`."""
    findings = blocked.forbidden_by if isinstance(blocked, Verdict) else blocked.blocked_by
    return ", ".join(f"{rule} {RULES[rule].title}" for rule in dict.fromkeys(finding.rule for finding in findings))


def why_not(change: Change) -> str | None:
    """Returns in a few words why this figure cannot be compared; None if it can."""
    if change.paired is None:
        return "not measured"
    if change.blocked_by:
        return f"not comparable: {titles(change)}"
    if change.word == "no result":
        return f"not comparable: {change.paired.num_seeds} of {change.num_pairs} seeds have a value"
    return None


def _rows(verdicts: Mapping[str, tuple[int, Verdict]], short: frozenset[str]) -> list[ForestRow]:
    """Returns the primary figures, then those of the short list that can be better or worse."""
    by_key: dict[str, list[Entry]] = {}
    for name, (index, verdict) in verdicts.items():
        for change in verdict.changes:
            if change.primary or (change.key in short and change.shown.better):
                by_key.setdefault(change.key, []).append(Entry(name, index, change, why_not(change)))
    measured = [entries for entries in by_key.values() if any(entry.change.paired for entry in entries)]
    rows: list[ForestRow] = []
    for entries in sorted(measured, key=lambda entries: not entries[0].change.primary):
        rows.append(ForestRow(tuple(entries), rows[-1].bottom if rows else TOP))
    return rows


def _cells(entry: Entry) -> tuple[Value, ...]:
    change, numbers = entry.change, (entry.difference, entry.low, entry.high)
    kind = "primary" if change.primary else "exploratory"
    reason = entry.why or change.remark or None
    return (entry.name, change.shown.label, kind, *map(rounded, numbers), change.interesting, change.word, reason)
