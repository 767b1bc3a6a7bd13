"""Dot charts: one row per category (a letter, a dataset), with one dot and interval per variant."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from saepipe.evaluate.compare.variant_means import Mean
from saepipe.evaluate.report.chart import Chart
from saepipe.evaluate.report.charts.drawing import GREY, Record, Series, Tables, altair, rounded, tooltip
from saepipe.evaluate.report.story import Story

_STEP, _CLOSE_STEP, _ROW, _TALL = 7.0, 3.5, 22.0, 900.0
"""Pixels: largest and smallest height of a variant in a row, smallest height of a row, preferred height of a chart."""


@dataclass(frozen=True)
class Dot:
    """Figure of a variant in one row."""

    row: str
    variant: str
    figure: Mean


@dataclass(frozen=True)
class Mark:
    """Reference value of a row: a tick across all its dots."""

    row: str
    value: float


def dots(
    id_: str,
    title: str,
    description: str,
    story: Story,
    points: Sequence[Dot],
    axes: tuple[str, str],
    marks: Sequence[Mark] = (),
    *,
    zero: bool = True,
) -> Chart:
    """Returns a chart whose table has one row per dot, with or without a value.

    Args:
        axes: names of the rows and of the values.
        marks: at most one per row.
        zero: whether the value axis starts at 0.
    """
    rows = tuple(
        (dot.variant, dot.row, *map(rounded, (dot.figure.value, dot.figure.low, dot.figure.high)), dot.figure.why)
        for dot in points
    )
    columns = ("variant", *axes, "low", "high", "reason")
    spec = _spec(story, points, axes, marks, zero, description)
    return Chart(id_, title, description, spec, columns, rows)


def _spec(
    story: Story, points: Sequence[Dot], axes: tuple[str, str], marks: Sequence[Mark], zero: bool, description: str
) -> dict[str, Any]:
    alt, tables = altair(), Tables()
    records: list[Record] = [
        {"row": dot.row, "variant": dot.variant, "x": dot.figure.value, "low": dot.figure.low, "high": dot.figure.high}
        for dot in points
        if dot.figure.value is not None
    ]
    order = list(dict.fromkeys(record["row"] for record in records))
    names = [variant.name for variant in story.variants if any(record["variant"] == variant.name for record in records)]
    series = Series("variant", tuple(variant.name for variant in story.variants), legend=tuple(names))
    x = alt.X("x:Q", title=axes[1], axis=alt.Axis(tickCount=5), scale=alt.Scale(zero=zero))
    y = alt.Y("row:N", title=axes[0], sort=order, axis=alt.Axis(grid=True, tickBand="extent"))
    offset = alt.YOffset("variant:N", sort=names, scale=alt.Scale(paddingOuter=0.5))
    base = alt.Chart(tables.add(records)).encode(y=y, yOffset=offset, color=series.colour)
    hover = tooltip({"row:N": axes[0], "variant:N": "variant", "x:Q": axes[1], "low:Q": "from", "high:Q": "to"})
    slots = 1 + len(names)  # per row: one per variant, and one of padding
    step = max(min(_STEP, _TALL / (len(order) * slots)), _ROW / slots, _CLOSE_STEP)
    layers = [
        base.transform_filter("isValid(datum.low)")
        .mark_rule(strokeWidth=step / 4)
        .encode(x=alt.X("low:Q"), x2=alt.X2("high:Q")),
        base.mark_point(filled=True, size=6 * step, opacity=1).encode(x=x, shape=series.shape, tooltip=hover),
    ]
    if marks:
        ticks = tables.add([{"row": mark.row, "x": mark.value} for mark in marks if mark.row in order])
        layers.append(alt.Chart(ticks).mark_tick(color=GREY, thickness=2).encode(y=y, x=alt.X("x:Q")))
    return tables.spec(alt.layer(*layers), description, {"step": step})
