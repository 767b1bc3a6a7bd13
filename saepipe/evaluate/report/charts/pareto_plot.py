"""Vega-Lite spec of a Pareto plot: sweeps, intervals, seeds and means, from back to front."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from saepipe.evaluate.compare.checks import MATCHED_L0
from saepipe.evaluate.compare.sweeps import method_key
from saepipe.evaluate.compare.variant_means import Mean, Variant
from saepipe.evaluate.report.charts.drawing import GREY, HEIGHT, Record, Series, Tables, altair, quantity, tooltip
from saepipe.evaluate.report.story import Story
from saepipe.evaluate.results.run_results import Row

_ONE_L0 = 1 + MATCHED_L0
"""If the largest mean L0 is at most this multiple of the smallest, sparsity is matched: variants are side by side."""
_LEAST_SPAN = 1.5
"""Least ratio of the ends of the L0 axis, so that it does not stretch a small difference."""
_OVER = {"seeds": "training seeds", "evaluation": "evaluation noise", None: "-"}


@dataclass(frozen=True)
class Point:
    """Mean of a variant, or one of its seeds."""

    label: str
    variant: Variant
    row: Row
    """Run that a click opens."""
    url: str
    """Where a click leads."""
    l0: Mean
    figure: Mean

    @property
    def plottable(self) -> bool:
        return self.l0.value is not None and self.figure.value is not None

    @property
    def why(self) -> str | None:
        """Reason why the point is not shown."""
        reasons = [f"L0: {self.l0.why}"] if self.l0.value is None else []
        return "; ".join([*reasons, *([self.figure.why] if self.figure.why else [])]) or None


def plot(
    story: Story,
    means: Sequence[Point],
    seeds: Sequence[Point],
    key: str,
    name: str,
    description: str,
    minima: Sequence[float],
) -> dict[str, Any]:
    """Returns the spec of the plottable points, of which there must be at least one.

    The L0s of `minima` get a rule each, unless all sparsities match.
    """
    alt, tables = altair(), Tables()
    strong, faint = ([_record(point, story) for point in points if point.plottable] for points in (means, seeds))
    records = [*strong, *faint]
    l0s = [record["x"] for record in strong or faint]
    one_l0 = len(records) > 1 and max(l0s) <= _ONE_L0 * min(l0s)
    x = _side_by_side(records) if one_l0 else _l0_axis(_with_ends(records, "x"))
    y = quantity("Y", "y", name, _with_ends(records, "y"), zero=story.shown[key].better == "lower")
    series = _colours(story, named=one_l0)
    points = alt.Chart().encode(x=x, y=y, color=series.colour, shape=series.shape, href="url:N")
    points = points.encode(tooltip=_tooltip(story, name))
    of_means, of_seeds, of_sweeps = tables.add(strong), tables.add(faint), tables.add(_sweeps(means))
    layers = [
        *(() if one_l0 or not minima else (_rules(tables.add({"x": l0} for l0 in minima), x),)),
        *(() if one_l0 else (_lines(of_sweeps, x, y, series), _bars(of_means, "x", "y", y, series))),
        _bars(of_means, "y", "x", x, series),
        points.properties(data=of_seeds).mark_point(filled=False, size=26, opacity=1, strokeWidth=1.25),
        points.properties(data=of_means).mark_point(filled=True, size=110, opacity=1),
    ]
    return tables.spec(alt.layer(*layers), description, HEIGHT)


def _with_ends(records: Sequence[Record], axis: str) -> list[float | None]:
    return [record[key] for record in records for key in (axis, f"{axis}_low", f"{axis}_high")]


def _l0_axis(l0s: Sequence[float | None]) -> Any:
    low, high = (end(value for value in l0s if value is not None) for end in (min, max))
    x = quantity("X", "x", "L0", l0s)
    if low <= 0 or high >= _LEAST_SPAN * low:
        return x
    middle, factor = math.sqrt(low * high), math.sqrt(_LEAST_SPAN)
    return x.scale(domain=[middle / factor, middle * factor], nice=False)


def _side_by_side(records: Sequence[Record]) -> Any:
    alt = altair()
    names = list(dict.fromkeys(record["variant"] for record in records))
    ends = [f"{end(record['x'] for record in records):.3g}" for end in (min, max)]
    l0s = " to ".join(dict.fromkeys(ends))
    axis = alt.Axis(labelAngle=-30 if len(names) > 3 else 0, labelLimit=160)
    return alt.X("variant:N", title=f"variant, all at L0 {l0s}", sort=names, axis=axis)


def _bars(data: Any, along: str, across: str, position: Any, series: Series) -> Any:
    """Encodes the intervals along one axis; `position` is their encoding on the other."""
    alt = altair()
    first, second = (alt.X, alt.X2) if along == "x" else (alt.Y, alt.Y2)
    ends = {along: first(f"{along}_low:Q"), f"{along}2": second(f"{along}_high:Q"), across: position}
    bar = alt.Chart(data).mark_rule(strokeWidth=1.5)
    return bar.transform_filter(f"isValid(datum.{along}_low)").encode(color=series.colour, **ends)


def _rules(data: Any, x: Any) -> Any:
    """Encodes a vertical line at each L0."""
    return altair().Chart(data).mark_rule(color=GREY, strokeDash=[4, 3]).encode(x=x)


def _lines(data: Any, x: Any, y: Any, series: Series) -> Any:
    """Encodes a faint line through each sweep."""
    alt = altair()
    line = alt.Chart(data).mark_line(strokeWidth=1)
    return line.encode(x=x, y=y, color=series.colour, detail="sweep:N", order="x:Q")


def _sweeps(means: Sequence[Point]) -> Iterator[Record]:
    """Yields the points of each method that was trained at several sparsities."""
    by_method: dict[str, list[Point]] = {}
    for point in means:
        if point.plottable and not point.variant.imported:
            by_method.setdefault(method_key(point.variant.rows), []).append(point)
    for sweep, points in enumerate(by_method.values()):
        if len(points) > 1:
            for point in points:
                position = {"x": point.l0.value, "y": point.figure.value}
                about = {"variant": point.variant.name, "penalty": point.variant.penalty}
                yield {**position, **about, "sweep": sweep}


def _colours(story: Story, *, named: bool) -> Series:
    """Returns a colour per variant, as in all other charts; per method if some method has several sparsities.

    Without a legend of variants if they are `named` on an axis.
    """
    methods = [method_key(variant.rows) for variant in story.variants if not variant.imported]
    if len(set(methods)) == len(methods):
        return Series("variant", tuple(variant.name for variant in story.variants), legend=() if named else None)
    ours = dict.fromkeys(variant.penalty for variant in story.variants if not variant.imported)
    theirs = dict.fromkeys(variant.penalty for variant in story.variants if variant.imported)
    return Series("penalty", tuple(ours), tuple(theirs))


def _tooltip(story: Story, name: str) -> list[Any]:
    """Returns the tooltip: the point's figures, and the settings in which its run differs from others."""
    figures = {"x:Q": "L0", "y:Q": name, "interval:N": "95 % interval", "over:N": "over"}
    settings = {f"setting_{index}:N": key for index, key in enumerate(story.table.settings)}
    return tooltip({"run:N": "run", "penalty:N": "penalty", **figures, **settings})


def _record(point: Point, story: Story) -> Record:
    l0, figure = point.l0, point.figure
    has_interval = figure.low is not None and figure.high is not None
    settings: Mapping[str, str] = story.differences(point.row)
    return {
        "run": point.label,
        "variant": point.variant.name,
        "penalty": point.variant.penalty,
        "x": l0.value,
        "x_low": l0.low,
        "x_high": l0.high,
        "y": figure.value,
        "y_low": figure.low,
        "y_high": figure.high,
        "interval": f"{figure.low:.4g} to {figure.high:.4g}" if has_interval else "none",
        "over": _OVER[figure.over],
        "url": point.url,
        **{f"setting_{index}": value for index, value in enumerate(settings.values())},
    }
