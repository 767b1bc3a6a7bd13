"""Small multiples of histograms: one panel per variant, below each other on one x axis, with one line per seed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import fmean
from typing import Any

from saepipe.evaluate.report.chart import Chart
from saepipe.evaluate.report.charts.drawing import GREY, Record, Series, Tables, altair, text_axis, tooltip
from saepipe.evaluate.report.charts.lines import Axes, Line, table_of
from saepipe.evaluate.report.story import Story

_PANEL, _LEAST, _FILLED = 58, 220, 0.85
"""Least pixels per panel and in all, and the part of a panel that the highest bin of all fills."""


def small_multiples(id_: str, title: str, description: str, story: Story, series: Sequence[Line], axes: Axes) -> Chart:
    """Returns a chart whose table has one row per x and one column per run; all lines have the same x.

    Behind each panel is the mean of the first variant, in grey.
    """
    columns, rows = table_of(series, axes)
    return Chart(id_, title, description, _spec(story, series, axes, description), columns, rows)


def _spec(story: Story, lines: Sequence[Line], axes: Axes, description: str) -> dict[str, Any]:
    alt, tables = altair(), Tables()
    panels: dict[str, list[Line]] = {}
    for line in lines:
        panels.setdefault(story.variant_of(line.label).name, []).append(line)
    highest = max(value or 0.0 for line in lines for value in line.y) or 1.0
    first = next(iter(panels))
    records = [
        record for floor, name in enumerate(panels, 1) for record in _records(panels[name], name, floor, highest)
    ]
    reference = _mean(panels[first])
    behind = [record for floor in range(2, len(panels) + 1) for record in _records([reference], first, floor, highest)]
    scale = alt.Scale(domain=[len(panels), 0], nice=False, zero=False)
    names = text_axis("left", [floor - 0.4 for floor in range(1, len(panels) + 1)], [[name] for name in panels])
    y = alt.Y("y:Q", title=None, axis=None, scale=scale)
    x = alt.X("x:Q", title=axes.x, axis=alt.Axis(format=axes.x_format, tickCount=5), scale=alt.Scale(nice=False))
    series = Series("variant", tuple(variant.name for variant in story.variants), legend=())
    hover = tooltip({"run:N": "run", "x:Q": axes.x, "value:Q": axes.y})
    floors = alt.Chart(tables.add([{"y": float(floor)} for floor in range(1, len(panels) + 1)]))
    area = alt.Chart(tables.add(behind)).mark_area(color=GREY, opacity=0.3, interpolate="step-after")
    base = alt.Chart(tables.add(records)).encode(x=x, y=y, detail="run:N")
    chart = alt.layer(
        area.encode(x=x, y=y, y2="floor:Q", detail="floor:N"),
        floors.mark_rule(color=GREY, strokeWidth=0.5).encode(y=y.copy().axis(names)),
        base.mark_line(strokeWidth=1.5, interpolate="step-after").encode(color=series.colour),
        base.mark_point(size=60, filled=True).encode(opacity=alt.value(0), tooltip=hover),
    )
    return tables.spec(
        chart.resolve_axis(y="independent"), description, max(_PANEL, _LEAST // len(panels)) * len(panels)
    )


def _mean(lines: Sequence[Line]) -> Line:
    values = [fmean(value or 0.0 for value in seeds) for seeds in zip(*(line.y for line in lines), strict=True)]
    return Line("", lines[0].x, values)


def _records(lines: Sequence[Line], variant: str, floor: int, highest: float) -> Iterator[Record]:
    """Yields points above the floor of a panel; floors are counted downwards from the top."""
    for line in lines:
        for x, value in zip(line.x, line.y, strict=True):
            y = floor - _FILLED * (value or 0.0) / highest
            yield {"run": line.label, "variant": variant, "x": x, "value": value, "y": y, "floor": floor}
