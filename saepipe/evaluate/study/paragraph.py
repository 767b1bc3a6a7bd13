"""Outcome of a study as a paragraph for a paper: what was compared, what changed, what could not have been seen."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from saepipe.evaluate.compare.difference import Change
from saepipe.evaluate.compare.table import Table
from saepipe.evaluate.compare.verdict import Verdict
from saepipe.evaluate.report.conclusions import listed
from saepipe.evaluate.results.figures import catalogue
from saepipe.evaluate.study.config import StudyConfig
from saepipe.evaluate.study.record import Record


def paragraph(config: StudyConfig, record: Record, tables: Sequence[Table]) -> str:
    """Returns one paragraph on all comparisons of a study, one table per L0."""
    sentences = [config.question, *_caveats(config, record)]
    for table in tables:
        sentences += [_compared(config, table), *(sentence for each in table.verdicts for sentence in _outcome(each))]
    return " ".join(sentence if sentence.endswith(("?", ".")) else f"{sentence}." for sentence in sentences)


def _caveats(config: StudyConfig, record: Record) -> Iterator[str]:
    """Yields what weakens the study as a whole."""
    if record.exploratory:
        assert record.primary_metrics is not None
        later = listed([_labels(metrics) for metrics in record.asked_later])
        yield (
            f"The study is exploratory: after first results had been read, {later} became primary metrics; the "
            f"verdicts are on those declared before, {_labels(record.primary_metrics)}"
        )
    if record.judged_seeds and (added := [seed for seed in config.seeds if seed not in record.judged_seeds]):
        yield (
            f"{len(added)} of {len(config.seeds)} seeds were added after a verdict over {len(record.judged_seeds)} had "
            "been read, so p is smaller than it should be"
        )


def _labels(keys: Iterable[str]) -> str:
    shown = catalogue()
    return listed([shown[key].label if key in shown else key for key in keys])


def _compared(config: StudyConfig, table: Table) -> str:
    """Returns what was compared: arms, L0, place, seeds and tokens."""
    first = table.variants[0].rows[0]
    settings = first.run.trained
    assert settings is not None
    l0s = [mean.value for variant in table.variants if (mean := variant.mean("l0")).value is not None]
    ends = list(dict.fromkeys(f"{l0:.3g}" for l0 in (min(l0s), max(l0s)))) if l0s else ["unknown"]
    arms = listed([variant.name for variant in table.variants[1:]])
    tokens = settings.steps * settings.batch_size
    were = "was" if len(table.variants) == 2 else "were"
    return (
        f"{arms} {were} compared with {table.variants[0].name} at L0 {' to '.join(ends)}, at {first.run.sites}, over "
        f"{len(config.seeds)} seeds each, paired by seed, trained on {tokens:,} tokens (paired t tests, Holm's "
        f"correction over {len(config.primary_metrics)} primary metrics)"
    )


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
            f"; only {paired.detectable:.2g} or more could have been seen, not {change.interesting:g}"
            if change.is_underpowered
            else ""
        )
        return f"{label} within noise ({change.difference:+.2g}, {interval}{unseen})"
    small = f", less than the effect of interest ({change.interesting:g})" if change.is_small else ""
    return f"{label} {change.word} by {abs(change.difference):.2g} ({interval}){small}"
