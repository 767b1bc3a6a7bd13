"""Outcome of a study as a paragraph for a paper: what was compared, what changed, what could not have been seen."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from saepipe.evaluate.compare.difference import Change
from saepipe.evaluate.compare.table import Table
from saepipe.evaluate.compare.verdict import Verdict
from saepipe.evaluate.report.conclusions import listed
from saepipe.evaluate.results.figures import catalogue
from saepipe.evaluate.study.arm_configs import arms_of
from saepipe.evaluate.study.config import StudyConfig
from saepipe.evaluate.study.record import Record


def paragraph(config: StudyConfig, record: Record, tables: Sequence[Table]) -> str:
    """Returns one paragraph on all comparisons of a study, one table per L0."""
    sentences = [config.question, *_caveats(config, record)]
    for table in tables:
        sentences += [_compared(config, table), *(sentence for each in table.verdicts for sentence in _outcome(each))]
    return " ".join(sentence if sentence.endswith(("?", ".")) else f"{sentence}." for sentence in sentences)


def _caveats(config: StudyConfig, record: Record) -> Iterator[str]:
    """Yields what weakens the study as a whole: what was changed once results could be read."""
    first = record.primary_metrics or {}
    if later := [key for metrics in record.asked_later for key in metrics if key not in first]:
        yield (
            f"The study is exploratory: after first results could be read, {_labels(dict.fromkeys(later))} became "
            f"primary metrics; the verdicts are on those declared before, {_labels(first)}"
        )
    elif record.asked_later:
        yield (
            "The study is exploratory: after first results could be read, other primary metrics or effects of interest "
            f"were asked for; those declared before stay, for {_labels(first)}"
        )
    if (judged := record.judged) is None:
        return
    if judged.question != config.question:
        yield f"The first verdict was on another question: {judged.question}"
    if added := {*config.all_seeds} - {*judged.seeds}:
        yield (
            f"{len(added)} of {len(config.all_seeds)} seeds were added after a verdict over {len(judged.seeds)} had "
            "been read, so p is smaller than it should be"
        )
    if dropped := {*judged.seeds} - {*config.all_seeds}:
        yield f"{len(dropped)} seeds of the first verdict are left out: {listed([*map(str, sorted(dropped))])}"
    if gone := [arm for arm in judged.arms if arm not in {each.label for each in arms_of(config)}]:
        yield f"Arms of the first verdict that are left out: {listed(gone)}"


def _labels(keys: Iterable[str]) -> str:
    shown = catalogue()
    return listed([shown[key].label if key in shown else key for key in keys])


def _compared(config: StudyConfig, table: Table) -> str:
    """Returns what was compared: arms, L0, place, seeds and tokens."""
    first = table.variants[0].rows[0]
    l0s = [mean.value for variant in table.variants if (mean := variant.mean("l0")).value is not None]
    trained = [row.run.trained for variant in table.variants for row in variant.rows if row.run.trained]
    tokens = [settings.steps * settings.batch_size for settings in trained]
    num_primary = sum(change.primary for change in table.verdicts[0].changes)
    baseline, *others = (variant.name for variant in table.variants)
    were = "was" if len(others) == 1 else "were"
    return (
        f"{listed(others)} {were} compared with {baseline} at L0 {_span(l0s, '.3g')}, at {first.run.sites}, over "
        f"{len(config.all_seeds)} seeds each, paired by seed, trained on {_span(tokens, ',')} tokens (paired t tests, "
        f"Holm's correction over {num_primary} primary metrics)"
    )


def _span(values: Sequence[float], form: str) -> str:
    """Returns `least to most` of some values, or the one that all have."""
    ends = dict.fromkeys(format(value, form) for value in (min(values), max(values))) if values else ["unknown"]
    return " to ".join(ends)


def _outcome(verdict: Verdict) -> Iterator[str]:
    """Yields the sentences on one arm."""
    if not verdict.may_judge:
        yield str(verdict)
        return
    primary = [change for change in verdict.changes if change.primary]
    yield f"{verdict.variant}: {'; '.join(map(_changed, primary))}"
    yield from (f"{verdict.variant}: {test}" for test in verdict.controls)


def _changed(change: Change) -> str:
    label, paired = change.shown.label, change.paired
    if change.word not in ("better", "worse", "higher", "lower", "within noise"):
        why = f" ({listed(list(dict.fromkeys(f.rule for f in change.blocked_by)))})" if change.blocked_by else ""
        return f"{label}: {change.word}{why}"
    assert paired is not None
    interval = f"95 % interval {paired.mean.low:+.2g} to {paired.mean.high:+.2g}, p {change.p:.2g}"
    if change.word == "within noise":
        unseen = (
            f"; only {paired.detectable:.3g} or more could have been seen, not {change.interesting:g}"
            if change.is_underpowered
            else ""
        )
        return f"{label} within noise ({change.difference:+.2g}, {interval}{unseen})"
    small = f", less than the effect of interest ({change.interesting:g})" if change.is_small else ""
    return f"{label} {change.word} by {abs(change.difference):.2g} ({interval}){small}"
