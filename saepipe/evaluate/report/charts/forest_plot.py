"""Vega-Lite spec of a forest plot.

Each row has its own scale, since figures have different units, and all zeros are aligned. Better is on the right: the
axis of a figure for which lower is better runs from right to left.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from saepipe.evaluate.compare.difference import Change
from saepipe.evaluate.report.charts.drawing import GREY, Record, Series, Tables, altair, text_axis, tooltip
from saepipe.evaluate.report.story import Story

MINUS = "\N{MINUS SIGN}"
TOP = 1.2
"""Height of the header. Heights are in units of the slot of one variant."""
_AXIS, _SLOT = 1.3, 16
"""Height of a row's axis; pixels per unit."""
_EDGE, _FARTHEST_TICK = 1.06, 0.8
"""Ends of the plot, and the farthest tick of a row, relative to the row's scale."""
_NARROW = 560
"""Width in pixels below which the numbers beside the rows would leave no room for the plot."""


@dataclass(frozen=True)
class Entry:
    """One figure of one comparison."""

    name: str
    """Variant or sweep that is compared with the baseline."""
    verdict: int
    """Index of its verdict on the page."""
    change: Change
    why: str | None
    """Why it cannot be compared; None if it can."""

    @property
    def difference(self) -> float | None:
        return None if self.change.paired is None else self.change.difference

    @property
    def low(self) -> float | None:
        return self._interval[0]

    @property
    def high(self) -> float | None:
        return self._interval[1]

    @property
    def _interval(self) -> tuple[float | None, float | None]:
        """Interval over seeds; none with two seeds, for which it is some ten times as wide as with more."""
        if self.change.paired is None or self.change.word == "too few seeds":
            return None, None
        return self.change.paired.mean.low, self.change.paired.mean.high

    @property
    def text(self) -> str:
        """`+0.0310 ± 0.0042 better`: the difference and the word of the verdict; or why there is none."""
        return self.why or f"{self.amount} {self.change.word}"

    @property
    def amount(self) -> str:
        """`+0.0310 ± 0.0042`: the difference, to the digits that its interval leaves."""
        if self.difference is None:
            return ""
        if self.low is None or self.high is None:
            return f"{self.difference:+.3g}".replace("-", MINUS)
        half = (self.high - self.low) / 2
        digits = max(0, 1 - math.floor(math.log10(half)))
        return f"{self.difference:+.{digits}f} ± {half:.{digits}f}".replace("-", MINUS)


@dataclass(frozen=True)
class ForestRow:
    """One figure in all comparisons that have it; at least one."""

    entries: tuple[Entry, ...]
    top: float

    @property
    def axis(self) -> float:
        """Height at which the row's axis begins."""
        return self.top + len(self.entries)

    @property
    def bottom(self) -> float:
        return self.axis + _AXIS

    @property
    def interesting(self) -> float | None:
        return self.entries[0].change.interesting

    @property
    def reversed(self) -> bool:
        return self.entries[0].change.shown.better == "lower"

    @property
    def scale(self) -> float:
        """Largest distance from 0 in the row; what cannot be compared counts only if nothing can."""
        comparable = [entry for entry in self.entries if not entry.why] or self.entries
        ends = [end for entry in comparable for end in (entry.difference, entry.low, entry.high) if end is not None]
        return max((*map(abs, ends), self.interesting or 0.0)) or 1.0

    @property
    def tick(self) -> float:
        """Largest 1, 2 or 5 times a power of ten that fits."""
        power = 10.0 ** math.floor(math.log10(_FARTHEST_TICK * self.scale))
        return max(digit * power for digit in (1, 2, 5) if digit * power <= _FARTHEST_TICK * self.scale)

    @property
    def label(self) -> list[str]:
        change = self.entries[0].change
        better = {"lower": "lower is better", "higher": "", None: "neither is better"}[change.shown.better]
        about = ", ".join(filter(None, ("primary" if change.primary else "", better)))
        return [*textwrap.wrap(change.shown.label, 22), *([about] if about else [])]

    def place(self, value: float | None) -> float | None:
        """Returns where a difference is, from worse to better; what is beyond the plot is at its edge."""
        if value is None:
            return None
        return max(-_EDGE, min(_EDGE, (-value if self.reversed else value) / self.scale))


def plot(story: Story, rows: Sequence[ForestRow], description: str) -> dict[str, Any]:
    """Returns the spec of the rows, of which there must be at least one."""
    alt, tables = altair(), Tables()
    bottom = rows[-1].bottom
    x = alt.X("x:Q", axis=None, scale=alt.Scale(domain=[-_EDGE, _EDGE], nice=False))
    y = alt.Y("y:Q", title=None, axis=None, scale=alt.Scale(domain=[bottom, 0], nice=False, zero=False))
    labels = text_axis("left", [(row.top + row.axis) / 2 for row in rows], [row.label for row in rows])
    shade = alt.Chart(tables.add(_shades(rows))).mark_rect(color=GREY, opacity=0.25)
    zero = alt.Chart(tables.add([{"x": 0.0, "y": TOP, "y2": bottom}])).mark_rule(color=GREY, strokeWidth=1.5)
    axes = alt.Chart(tables.add(_axes(rows))).mark_rule(color=GREY, strokeWidth=0.5)
    words = alt.Chart(tables.add(_words(rows, story.table.verdicts[0].baseline))).encode(x=x, y=y, text="text:N")
    layers = [
        shade.encode(x=x, x2="x2:Q", y=y, y2="y2:Q"),
        axes.encode(x=x, x2="x2:Q", y=y, y2="y2:Q"),
        zero.encode(x=x, y=y.copy().axis(labels), y2="y2:Q"),
        *(
            words.transform_filter(f"datum.align === '{align}'").mark_text(align=align, fontSize=10, baseline="middle")
            for align in ("left", "center", "right")
        ),
        *_entries(story, tables, rows, x, y),
    ]
    chart = alt.layer(*layers).resolve_axis(y="independent")
    return tables.spec(chart, description, math.ceil(bottom * _SLOT))


def _entries(story: Story, tables: Tables, rows: Sequence[ForestRow], x: Any, y: Any) -> Iterator[Any]:
    """Yields intervals and points: in the variant's colour, or grey if they cannot be compared."""
    alt = altair()
    records = [record for row in rows for record in _records(row)]
    names = tuple(dict.fromkeys(record["variant"] for record in records))
    variants = tuple(variant.name for variant in story.variants)
    series = Series("variant", (*variants, *(name for name in names if name not in variants)), legend=names, top=True)
    hover = tooltip(
        {"variant:N": "variant", "figure:N": "figure", "text:N": "difference", "verdict:N": "verdict", "why:N": "why"}
    )
    base = alt.Chart(tables.add(records))
    numbers = text_axis("right", [record["y"] for record in records], [[record["text"]] for record in records], _NARROW)
    yield base.mark_point(opacity=0).encode(x=x, y=y.copy().axis(numbers))
    for why, colour, shape in (("!", series.colour, series.shape), ("", alt.value(GREY), alt.value("cross"))):
        some = base.transform_filter(f"{why}datum.why").encode(y=y, color=colour)
        ends = some.transform_filter("isValid(datum.low)").encode(x=alt.X("low:Q", axis=None), x2=alt.X2("high:Q"))
        yield ends.mark_rule(strokeWidth=2.5)
        points = some.encode(x=x, shape=shape, tooltip=hover, href="url:N")
        for filled in (True, False):
            mark = points.transform_filter(f"datum.filled === {str(filled).lower()} && isValid(datum.x)")
            yield mark.mark_point(filled=filled, size=70, strokeWidth=2, opacity=1)


def _words(rows: Sequence[ForestRow], baseline: str) -> Iterator[Record]:
    """Yields the header, and the ticks of each row."""
    yield {"x": -_EDGE, "y": TOP / 2, "text": "← worse", "align": "left"}
    yield {"x": 0.0, "y": TOP / 2, "text": baseline, "align": "center"}
    yield {"x": _EDGE, "y": TOP / 2, "text": "better →", "align": "right"}
    for row in rows:
        for value in (-row.tick, row.tick):
            text = f"{value:+g}".replace("-", MINUS)
            yield {"x": row.place(value), "y": row.axis + 0.55, "text": text, "align": "center"}


def _axes(rows: Sequence[ForestRow]) -> Iterator[Record]:
    """Yields the line of each row's axis, then its ticks."""
    for row in rows:
        yield {"x": -_EDGE, "x2": _EDGE, "y": row.axis, "y2": row.axis}
        for place in map(row.place, (-row.tick, row.tick)):
            yield {"x": place, "x2": place, "y": row.axis, "y2": row.axis + 0.2}


def _shades(rows: Sequence[ForestRow]) -> Iterator[Record]:
    for row in rows:
        if row.interesting:
            ends = {"x": row.place(-row.interesting), "x2": row.place(row.interesting)}
            yield {**ends, "y": row.top, "y2": row.axis}


def _records(row: ForestRow) -> Iterator[Record]:
    for index, entry in enumerate(row.entries):
        yield {
            "variant": entry.name,
            "figure": entry.change.shown.label,
            "x": row.place(entry.difference),
            "low": row.place(entry.low),
            "high": row.place(entry.high),
            "y": row.top + index + 0.5,
            "filled": entry.change.is_significant or bool(entry.why),
            "text": entry.text,
            "verdict": entry.change.word,
            "why": entry.why or "",
            "url": f"#verdict-{entry.verdict}",
        }
