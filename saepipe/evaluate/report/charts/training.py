"""What was logged while the runs trained: terms of the loss, shares of the gradient, L0, FVU, dead latents."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

from saepipe.evaluate.report.chart import Chart, Section, slug
from saepipe.evaluate.report.charts.lines import Axes, Line, lines
from saepipe.evaluate.report.story import LogLine, Story

POINTS_A_LINE, POINTS_A_CHART = 200, 2000
_RECONSTRUCTION = "reconstruction"
_TEXT = (
    "A line is a run, coloured by its variant; click a name in the legend to see it alone. A penalty whose share of "
    "the gradient is exactly 0 (crosses) did nothing: there the run is what it would be without it."
)
_PLAIN = {
    "l0": ("L0", "Active latents a token, mean over the batch", True),
    "fvu": ("FVU", "Share of the batch's variance that is not explained", True),
    "dead": ("Dead latents", "Latents that have been silent for longer than the run's threshold", False),
}


def section(story: Story) -> Section:
    """Of the runs that have a log."""
    most = min(POINTS_A_LINE, POINTS_A_CHART // len(story.rows) + 2)
    logs = {label: thinned(log, most) for label, log in story.logs.items() if log}
    charts = tuple(_charts(story, logs)) if logs else ()
    return Section("training", "Training", _TEXT if charts else "", charts, tuple(_absent(story)))


def thinned(log: Sequence[LogLine], most: int = POINTS_A_LINE) -> list[LogLine]:
    """Of a long log about `most` lines: evenly spread, with the first and the last, and where a term came to be
    exactly 0 or ceased to be."""
    if len(log) <= most:
        return list(log)
    kept = {round(place * (len(log) - 1) / (most - 1)) for place in range(most)}
    zeros = [_zeros(line) for line in log]
    turns = [place for place in range(1, len(log)) if zeros[place] != zeros[place - 1]]
    kept.update(turns[:: 1 + len(turns) // most])  # not all of a term that flickers
    return [log[place] for place in sorted(kept)]


def _zeros(line: LogLine) -> tuple[str, ...]:
    return tuple(name for name, term in line["terms"].items() if term["gradient_share"] == 0)


def _charts(story: Story, logs: dict[str, list[LogLine]]) -> Iterator[Chart]:
    names = list(dict.fromkeys(name for log in logs.values() for line in log for name in line["terms"]))
    for name in names:
        if name != _RECONSTRUCTION:
            yield _share(story, logs, name)
    for name in names:
        text = f"The term {name} of the loss, as weighted, over training steps: means between lines of the log."
        axes = Axes("step", f"{name}, weighted", "~s", mark_zeros=name != _RECONSTRUCTION)
        found = _lines(logs, partial(_of_term, name, "weighted"))
        yield lines(f"training-loss-{slug(name)}", f"Loss: {name}", text, story, found, axes)
    for key, (title, text, may_be_log) in _PLAIN.items():
        axes = Axes("step", title, "~s", may_be_log=may_be_log)
        found = _lines(logs, partial(_of_line, key))
        yield lines(f"training-{key}", f"{title} over steps", f"{text}, over training steps.", story, found, axes)


def _share(story: Story, logs: dict[str, list[LogLine]], name: str) -> Chart:
    found = _lines(logs, partial(_of_term, name, "gradient_share"))
    limit = max(row.run.trained.health.inert_share for row in story.rows if row.run.trained)
    low = any(0 < share < limit for line in found for share in line.y if share is not None)
    text = (
        f"The gradient norm of {name}, as weighted, over the sum of those of all terms, at each line of the log. "
        f"{_silent(story, name)}{'The dashed line is where rule H1 begins to call it inert.' if low else ''}"
    )
    axes = Axes("step", "share of the gradient", "~s", mark_zeros=True, limit=limit if low else None)
    return lines(f"training-share-{slug(name)}", f"Share of the gradient: {name}", text.strip(), story, found, axes)


def _of_term(name: str, field: str, line: LogLine) -> float | None:
    return line["terms"].get(name, {}).get(field)


def _of_line(key: str, line: LogLine) -> float | None:
    return line.get(key)


def _silent(story: Story, name: str) -> str:
    """Of which runs the share is exactly 0, and at how many lines of their logs."""
    told: dict[str, list[str]] = {}
    for label, log in story.logs.items():
        shares = [line["terms"][name]["gradient_share"] for line in log if name in line["terms"]]
        if silent := shares.count(0.0):
            told.setdefault(f"{silent} of {len(shares)}", []).append(label)
    return "".join(f"It is exactly 0 at {times} lines of {', '.join(labels)}. " for times, labels in told.items())


def _lines(logs: dict[str, list[LogLine]], value: Callable[[LogLine], float | None]) -> list[Line]:
    """Of the runs that have the value at all."""
    found = [Line(label, [line["step"] for line in log], [value(line) for line in log]) for label, log in logs.items()]
    return [line for line in found if any(y is not None for y in line.y)]


def _absent(story: Story) -> Iterator[str]:
    for row in story.rows:
        if row.run.trained is None:
            yield f"{row.label} was imported: nothing is known of its training."
        elif not story.logs[row.label]:
            yield f"{row.label} has no metrics.jsonl: its training is not drawn."
