"""Sentences that open the page: what was measured, what the seeds show, and what limits it."""

from __future__ import annotations

from collections.abc import Sequence

from saepipe.data.folders.health_rules import RULES
from saepipe.evaluate.compare.checks import unmatched_l0
from saepipe.evaluate.compare.difference import SEEDS_FOR_A_VERDICT, Change
from saepipe.evaluate.compare.verdict import Verdict
from saepipe.evaluate.report.charts.forest import name_of, titles
from saepipe.evaluate.report.story import Story


def conclusions(story: Story) -> tuple[str, str, str]:
    """Returns three sentences: what was measured, the verdicts or what they would need, and the findings."""
    verdicts = story.table.verdicts
    judged = _judged(verdicts, story) if verdicts else f"There is no verdict yet: {_needs(story)}."
    return _measured(story), judged, _findings(story)


def counted(counts: dict[str, int]) -> str:
    """Returns counts in words, such as `2 errors and 1 warning`; an empty string if all are 0."""
    return " and ".join(f"{count} {name}{'s' if count > 1 else ''}" for name, count in counts.items() if count)


def listed(words: Sequence[str]) -> str:
    """Returns `a`, `a and b`, or `a, b and c`."""
    return " and ".join(filter(None, (", ".join(words[:-1]), *words[-1:])))


def _measured(story: Story) -> str:
    hooks = ", ".join(dict.fromkeys(row.run.sites for row in story.rows))
    models = ", ".join(
        dict.fromkeys(link.name for chain in story.provenance.values() for link in chain if link.kind == "model")
    )
    sizes = {len(variant.rows) for variant in story.variants}
    each = f" with {counted({'seed': max(sizes)})} each"
    seeds = each if len(sizes) == 1 else f", {counted({'run': len(story.rows)})},"
    text = f"{counted({'variant': len(story.variants)})}{seeds} at {hooks}{f' of {models}' if models else ''}"
    return f"{text}{f', compared with {story.table.verdicts[0].baseline}' if story.table.verdicts else ''}."


def _needs(story: Story) -> str:
    """Returns what a verdict would need, in words."""
    needs = []
    if story.baseline is None:
        needs.append("name the runs to compare with (--baseline RUN)")
    if len(story.variants) < 2:
        needs.append("add a second variant")
    fewest = min(len(variant.rows) for variant in story.variants)
    if fewest < SEEDS_FOR_A_VERDICT:
        needs.append(f"train at least {SEEDS_FOR_A_VERDICT} seeds of each variant (the fewest is {fewest})")
    l0s = [mean for variant in story.variants if (mean := variant.mean("l0").value) is not None]
    if not l0s:
        needs.append("evaluate the runs")
    elif unmatched_l0(min(l0s), max(l0s)):
        needs.append(f"match L0, which is {min(l0s):.3g} to {max(l0s):.3g}")
    return listed(needs)


def _judged(verdicts: Sequence[Verdict], story: Story) -> str:
    """Returns the outcome of each comparison; comparisons with equal outcomes share their words."""
    primary = any(change.primary and change.paired for verdict in verdicts for change in verdict.changes)
    names: dict[str, list[str]] = {}
    for verdict in sorted(verdicts, key=_num_significant, reverse=True):
        names.setdefault(_outcome(verdict, story, primary=primary), []).append(name_of(verdict))
    outcomes = "; ".join(f"{listed(of)} {'is' if len(of) == 1 else 'are'} {text}" for text, of in names.items())
    return f"{'In the primary metrics, ' if primary and any(v.may_judge for v in verdicts) else ''}{outcomes}."


def _num_significant(verdict: Verdict) -> int:
    return sum(change.primary and change.is_significant and not change.blocked_by for change in verdict.changes)


def _outcome(verdict: Verdict, story: Story, *, primary: bool) -> str:
    """Returns what follows `is`, such as `better in full absorption, within noise in explained variance`."""
    if verdict.forbidden_by:
        return f"not comparable ({titles(verdict)})"
    if verdict.num_seeds < SEEDS_FOR_A_VERDICT:
        return f"without a verdict: {counted({'seed': verdict.num_seeds}) or 'no seed'} in common, not 3"
    changes = [change for change in verdict.changes if (change.primary if primary else _counts(change, story))]
    by_word: dict[str, list[str]] = {}
    for change in changes:
        by_word.setdefault(_words(change), []).append(change.shown.label)
    words = ", ".join(f"{words} in {listed(labels)}" for words, labels in by_word.items()) or "not measured"
    return f"{words}{_matched(verdict)}"


def _matched(verdict: Verdict) -> str:
    """Returns which of the improvements a control reaches too, in words; may be empty."""
    keys = {finding.about for finding in verdict.findings if finding.rule == "H22"}
    labels = [change.shown.label for change in verdict.changes if change.key in keys]
    return f" (matched by a control in {listed(labels)})" if labels else ""


def _counts(change: Change, story: Story) -> bool:
    return change.key in story.table.short and change.shown.better is not None


_AFTER_IS = {
    "no result": "without a result",
    "too few seeds": "without enough seeds",
    "no spread over seeds": "equally different at all seeds",
}


def _words(change: Change) -> str:
    if change.blocked_by:
        return f"not comparable ({titles(change)})"
    small = change.interesting is not None and change.is_significant and abs(change.difference) < change.interesting
    return f"{_AFTER_IS.get(change.word, change.word)}{' by less than the effect of interest' if small else ''}"


def _findings(story: Story) -> str:
    severities = [reported.finding.severity for reported in story.findings]
    counts = counted({"error": severities.count("error"), "warning": severities.count("warning")})
    concerned: dict[str, list[str]] = {}
    for reported in story.findings:
        rule = f"{reported.finding.rule} {RULES[reported.finding.rule].title}"
        concerned.setdefault(rule, []).append(reported.variant or "the comparison")
    rules = "; ".join(f"{rule} ({listed(list(dict.fromkeys(names)))})" for rule, names in concerned.items())
    return f"The health rules found {counts}: {rules}." if counts else "The health rules found nothing."
