"""Line charts, one line per run, coloured by variant: figures over training steps, and overlaid histograms.

On a logarithmic axis, values that are exactly 0 are shown below all others, at a tick labelled 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from saepipe.evaluate.report.chart import Chart, Value
from saepipe.evaluate.report.charts.drawing import (
    GREY,
    Record,
    Series,
    Tables,
    altair,
    rounded,
    spans_decades,
    ticks,
    tooltip,
)
from saepipe.evaluate.report.story import Story

_HEIGHT = 220


@dataclass(frozen=True)
class Line:
    """Line of one run."""

    label: str
    x: Sequence[float]
    """(num_points,), ascending"""
    y: Sequence[float | None]
    """(num_points,); None leaves a gap"""


@dataclass(frozen=True)
class Axes:
    """Names and scales of both axes."""

    x: str
    y: str
    x_format: str = "~g"
    steps: bool = False
    """True if a value holds from its x to the next."""
    may_be_log: bool = True
    """True if y is logarithmic when its values span decades."""
    mark_zeros: bool = False
    """True if zeros get crosses, so that none is overlooked."""
    limit: float | None = None
    """Value of y at which a rule is shown, if it is in view."""


def lines(id_: str, title: str, description: str, story: Story, series: Sequence[Line], axes: Axes) -> Chart:
    """Returns a chart whose table has one row per x and one column per run."""
    columns, rows = table_of(series, axes)
    return Chart(id_, title, description, _spec(story, series, axes, description), columns, rows)


def table_of(series: Sequence[Line], axes: Axes) -> tuple[tuple[str, ...], tuple[tuple[Value, ...], ...]]:
    """Returns the table's columns, and one row per x."""
    points = {line.label: dict(zip(line.x, line.y, strict=True)) for line in series}
    xs = sorted({x for line in series for x in line.x})
    rows = tuple((rounded(x), *(rounded(points[line.label].get(x)) for line in series)) for x in xs)
    return (axes.x, *(line.label for line in series)), rows


def _spec(story: Story, lines: Sequence[Line], axes: Axes, description: str) -> dict[str, Any]:
    alt, tables = altair(), Tables()
    records = [record for line in lines for record in _records(line, story.variant_of(line.label).name)]
    values = [record["y"] for record in records if record["y"] is not None]
    positive = [value for value in values if value > 0]
    log = axes.may_be_log and spans_decades(positive) and min(values) >= 0
    floor = 10.0 ** math.floor(math.log10(min(positive)) - 1) if log and min(values) == 0 else None
    names = dict.fromkeys(record["variant"] for record in records)
    series = Series("variant", tuple(variant.name for variant in story.variants), legend=tuple(names), strokes=True)

    x = alt.X("x:Q", title=axes.x, axis=alt.Axis(format=axes.x_format, tickCount=5), scale=alt.Scale(nice=False))
    y = _log_y(axes.y, positive, floor) if log else _linear_y(axes.y, positive)
    base = alt.Chart(tables.add(records)).encode(x=x, color=series.colour, detail="run:N")
    if floor is not None:  # in the browser, so that the data keep their true values
        base = base.transform_calculate(place=f"datum.y === 0 ? {floor!r} : datum.y")
    several = any(len(variant.rows) > 1 for variant in story.variants)
    layers = list(_layers(base.encode(y=y), series, axes, crossed=axes.mark_zeros and 0 in values, thin=several))
    if axes.limit is not None and positive and min(floor or math.inf, *positive) < axes.limit < max(positive):
        rule = alt.Chart(tables.add([{}])).mark_rule(color=GREY, strokeDash=[4, 3])
        layers.append(rule.encode(y=alt.datum(axes.limit)))
    return tables.spec(alt.layer(*layers), description, _HEIGHT)


def _layers(base: Any, series: Series, axes: Axes, *, crossed: bool, thin: bool) -> Iterator[Any]:
    """Yields lines, invisible points for the tooltip, and crosses at zeros; a click in the legend picks one variant."""
    alt = altair()
    picked = alt.selection_point(name="picked", fields=["variant"], bind="legend")
    shown = alt.condition(picked, alt.value(1.0), alt.value(0.08))
    line = base.mark_line(strokeWidth=1.25 if thin else 2, interpolate="step-after" if axes.steps else "linear")
    yield line.encode(strokeDash=series.dash, opacity=shown).add_params(picked)
    hover = tooltip({"run:N": "run", "x:Q": axes.x, "y:Q": axes.y})
    yield base.mark_point(size=60, filled=True).encode(opacity=alt.value(0), tooltip=hover)
    if crossed:
        cross = base.transform_filter("datum.y === 0").mark_point(shape="cross", size=55, filled=True, angle=45)
        yield cross.encode(opacity=shown)


def _records(line: Line, variant: str) -> Iterator[Record]:
    for x, y in zip(line.x, line.y, strict=True):
        yield {"run": line.label, "variant": variant, "x": x, "y": rounded(y)}


def _linear_y(title: str, positive: Sequence[float]) -> Any:
    """Encodes y from 0; 0 is at the bottom even if no value is above it."""
    alt = altair()
    scale = alt.Scale(zero=True) if positive else alt.Scale(domainMin=0, domainMax=1)
    return alt.Y("y:Q", title=title, scale=scale, axis=alt.Axis(tickCount=5))


def _log_y(title: str, positive: Sequence[float], floor: float | None) -> Any:
    """Encodes y on a logarithmic axis, with zeros shown at `floor` unless it is None."""
    alt = altair()
    low, high = min(positive), max(positive)
    if floor is None:
        scale, axis = alt.Scale(type="log", nice=False, padding=8), alt.Axis(values=ticks(low, high), format="~g")
        return alt.Y("y:Q", title=title, scale=scale, axis=axis)
    label = f"datum.value < {2 * floor!r} ? '0' : format(datum.value, '~g')"
    axis = alt.Axis(values=[floor, *(tick for tick in ticks(low, high) if tick > 2 * floor)], labelExpr=label)
    scale = alt.Scale(type="log", domainMin=floor, nice=False, padding=8)
    return alt.Y("place:Q", title=title, scale=scale, axis=axis)
