"""Training logs of the runs: terms of the loss, shares of the gradient, L0, FVU and dead latents."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from operator import itemgetter

from saepipe.evaluate.report.chart import Chart, Section, slug
from saepipe.evaluate.report.charts.lines import Axes, Line, lines
from saepipe.evaluate.report.story import LogLine, Story
from saepipe.train.step.sampling import gradients_at

POINTS_PER_LINE, POINTS_PER_CHART = 200, 2000
_RECONSTRUCTION = "reconstruction"
_TEXT = (
    "Each line is a run, coloured by variant; click a name in the legend to see it alone. Where a penalty's share of "
    "the gradient is exactly 0 (crosses), the penalty did nothing: the run is as it would be without it."
)
_PLAIN = {
    "l0": ("L0", "Active latents per token, mean over the batch", True),
    "fvu": ("FVU", "Fraction of the batch's variance that is not explained", True),
    "dead": ("Dead latents", "Latents that have been inactive for longer than the run's threshold", False),
}


def section(story: Story) -> Section:
    """Returns the section, with charts of the runs that have a log."""
    most = min(POINTS_PER_LINE, POINTS_PER_CHART // len(story.rows) + 2)
    logs = {label: thinned(log, most) for label, log in story.logs.items() if log}
    charts, absent = [], list(_absent(story))
    for chart in _charts(story, logs):
        if any(value for row in chart.rows for value in row[1:]):
            charts.append(chart)
        else:
            absent.append(f"{chart.title}: 0 at every line of every log.")
    return Section("training", "Training", _TEXT if charts else "", tuple(charts), tuple(absent))


def thinned(log: Sequence[LogLine], most: int = POINTS_PER_LINE) -> list[LogLine]:
    """Thins a long log to about `most` lines: evenly spread, with the first, the last, and those at which a term starts
    or stops being exactly 0."""
    if len(log) <= most:
        return list(log)
    kept = {round(index * (len(log) - 1) / (most - 1)) for index in range(most)}
    zeros = [_zeros(line) for line in log]
    switches = [index for index in range(1, len(log)) if zeros[index] != zeros[index - 1]]
    kept.update(switches[:: 1 + len(switches) // most])  # not all, if a term flickers
    return [log[index] for index in sorted(kept)]


def _zeros(line: LogLine) -> tuple[str, ...]:
    return tuple(name for name, term in line["terms"].items() if term["gradient_share"] == 0)


def _charts(story: Story, logs: dict[str, list[LogLine]]) -> Iterator[Chart]:
    names = list(dict.fromkeys(name for log in logs.values() for line in log for name in line["terms"]))
    for name in names:
        if name != _RECONSTRUCTION:
            yield _share(story, logs, name)
    for name in names:
        text = f"The term {name} of the loss, weighted, over training steps: means between lines of the log."
        axes = Axes("step", f"{name}, weighted", "~s", mark_zeros=name != _RECONSTRUCTION)
        series = _lines(logs, partial(_of_term, name, "weighted"))
        yield lines(f"training-loss-{slug(name)}", f"Loss: {name}", text, story, series, axes)
    for key, (title, text, may_be_log) in _PLAIN.items():
        axes = Axes("step", title, "~s", may_be_log=may_be_log)
        series = _lines(logs, partial(_of_line, key))
        yield lines(f"training-{key}", f"{title} over steps", f"{text}, over training steps.", story, series, axes)


def _share(story: Story, logs: dict[str, list[LogLine]], name: str) -> Chart:
    series = _lines(logs, partial(_of_term, name, "gradient_share"), gradients_at)
    limit = max(row.run.trained.health.inert_share for row in story.rows if row.run.trained)
    low = any(0 < share < limit for line in series for share in line.y if share is not None)
    text = (
        f"Gradient norm of {name}, weighted, divided by the sum over all terms, at one step per line of the log. "
        f"{_zeros_of(story, name)}{'Below the dashed line, rule H1 counts the penalty as inert.' if low else ''}"
    )
    axes = Axes("step", "share of the gradient", "~s", mark_zeros=True, limit=limit if low else None)
    return lines(f"training-share-{slug(name)}", f"Share of the gradient: {name}", text.strip(), story, series, axes)


def _of_term(name: str, field: str, line: LogLine) -> float | None:
    return line["terms"].get(name, {}).get(field)


def _of_line(key: str, line: LogLine) -> float | None:
    return line.get(key)


def _zeros_of(story: Story, name: str) -> str:
    """Names the runs in which the share is exactly 0, and at how many lines of their logs."""
    runs_by_count: dict[str, list[str]] = {}
    for label, log in story.logs.items():
        shares = [line["terms"][name]["gradient_share"] for line in log if name in line["terms"]]
        if zeros := shares.count(0.0):
            runs_by_count.setdefault(f"{zeros} of {len(shares)}", []).append(label)
    return "".join(f"It is exactly 0 at {n} lines of {', '.join(runs)}. " for n, runs in runs_by_count.items())


def _lines(
    logs: dict[str, list[LogLine]],
    value: Callable[[LogLine], float | None],
    step: Callable[[LogLine], int] = itemgetter("step"),
) -> list[Line]:
    """Returns the lines of the runs that have the value, over the steps at which it was measured."""
    series = [Line(label, list(map(step, log)), list(map(value, log))) for label, log in logs.items()]
    return [line for line in series if any(y is not None for y in line.y)]


def _absent(story: Story) -> Iterator[str]:
    for row in story.rows:
        if row.run.trained is None:
            yield f"{row.label} was imported, so its training is unknown."
        elif not story.logs[row.label]:
            yield f"{row.label} has no metrics.jsonl, so its training is not shown."
