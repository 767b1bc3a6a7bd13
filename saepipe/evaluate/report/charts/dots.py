"""A row for each thing (a letter, a data set), and in it a dot with its interval for each variant."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from saepipe.evaluate.report.chart import Chart
from saepipe.evaluate.report.charts.drawing import GREY, Record, Series, Tables, altair, significant, tooltip
from saepipe.evaluate.report.story import Story
from saepipe.evaluate.report.variant_means import Mean

_STEP, _CLOSE_STEP, _ROW, _TALL = 7.0, 3.5, 22.0, 900.0
"""Pixels: of a variant in a row, at most and at least; of a row at least; and of a chart, if it can be."""


@dataclass(frozen=True)
class Dot:
    """A figure of a variant in one row; without a value, why."""

    row: str
    variant: str
    figure: Mean


@dataclass(frozen=True)
class Mark:
    """What a row is to be seen against: a tick over all of its dots."""

    row: str
    value: float


def dots(
    id_: str,
    title: str,
    description: str,
    story: Story,
    found: Sequence[Dot],
    axes: tuple[str, str],
    marks: Sequence[Mark] = (),
    *,
    zero: bool = True,
) -> Chart:
    """A chart whose table has a row for each dot, drawn or not; `axes` are what rows and values are called.

    Args:
        marks: one a row at most.
        zero: whether values begin at 0.
    """
    rows = tuple(
        (dot.variant, dot.row, *map(significant, (dot.figure.value, dot.figure.low, dot.figure.high)), dot.figure.why)
        for dot in found
    )
    columns = ("variant", *axes, "low", "high", "why not")
    drawn = _drawn(story, found, axes, marks, zero, description)
    return Chart(id_, title, description, drawn, columns, rows)


def _drawn(
    story: Story, found: Sequence[Dot], axes: tuple[str, str], marks: Sequence[Mark], zero: bool, description: str
) -> dict[str, Any]:
    alt, tables = altair(), Tables()
    records: list[Record] = [
        {"row": dot.row, "variant": dot.variant, "x": dot.figure.value, "low": dot.figure.low, "high": dot.figure.high}
        for dot in found
        if dot.figure.value is not None
    ]
    order = list(dict.fromkeys(record["row"] for record in records))
    here = [variant.name for variant in story.variants if any(record["variant"] == variant.name for record in records)]
    series = Series("variant", tuple(variant.name for variant in story.variants), legend=tuple(here))
    x = alt.X("x:Q", title=axes[1], axis=alt.Axis(tickCount=5), scale=alt.Scale(zero=zero))
    y = alt.Y("row:N", title=axes[0], sort=order, axis=alt.Axis(grid=True, tickBand="extent"))
    offset = alt.YOffset("variant:N", sort=here, scale=alt.Scale(paddingOuter=0.5))
    base = alt.Chart(tables.add(records)).encode(y=y, yOffset=offset, color=series.colour)
    shown = tooltip({"row:N": axes[0], "variant:N": "variant", "x:Q": axes[1], "low:Q": "from", "high:Q": "to"})
    places = 1 + len(here)  # of a row: its variants, and what is left free
    step = max(min(_STEP, _TALL / (len(order) * places)), _ROW / places, _CLOSE_STEP)
    layers = [
        base.transform_filter("isValid(datum.low)")
        .mark_rule(strokeWidth=step / 4, opacity=0.6)
        .encode(x=alt.X("low:Q"), x2=alt.X2("high:Q")),
        base.mark_point(filled=True, size=6 * step, opacity=1).encode(x=x, shape=series.shape, tooltip=shown),
    ]
    if marks:
        ticks = tables.add([{"row": mark.row, "x": mark.value} for mark in marks if mark.row in order])
        layers.append(alt.Chart(ticks).mark_tick(color=GREY, thickness=2).encode(y=y, x=alt.X("x:Q")))
    return tables.spec(alt.layer(*layers), description, {"step": step})
