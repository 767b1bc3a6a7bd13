"""Common parts of all charts: colours, legends, axes, numbers, and their Vega-Lite spec.

Colours of text, axes and background are not set here but by the page's theme, which is light or dark.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from saepipe.data.errors import MachineError

COLOURS = ("#0072B2", "#B84A00", "#009E73", "#BF5A93", "#C28800", "#5B93F0")
"""Six hues of Okabe and Ito (2008), changed so that each has a contrast of 3 to the cards of both themes and all stay
as distinct as theirs for all kinds of colour vision."""
GREY = "#888888"
"""References: probes of the model, imported SAEs, limits."""
_DASHES: tuple[Sequence[int], ...] = ((1, 0), (6, 3), (2, 2), (8, 2, 2, 2))
_SHAPES = ("circle", "square", "triangle-up", "cross")
_REFERENCE_DASHES: tuple[Sequence[int], ...] = ((1, 0), (4, 3), (2, 3))
_REFERENCE_SHAPES = ("diamond", "triangle-down", "stroke")
WIDE = 10.0
"""An axis is logarithmic if its values span more than this factor."""
_FEW_DECADES, _MANY_DECADES = 3, 8
HEIGHT = 260

Record = dict[str, Any]


def altair() -> Any:
    """Imports altair when a chart is made.

    Raises:
        MachineError: if the extra `report` is not installed.
    """
    try:
        import altair
    except ImportError:
        raise MachineError("a report needs altair", hint="pip install 'saepipe[report]'") from None
    return altair


@dataclass(frozen=True)
class Series:
    """Names distinguished by colour, and beyond six also by dash or shape. References are grey."""

    field: str
    names: tuple[str, ...]
    references: tuple[str, ...] = ()
    legend: tuple[str, ...] | None = None
    """Names in the legend; None for all, an empty tuple for no legend."""
    strokes: bool = False
    """True if the legend shows strokes, with their dashes, instead of points."""
    top: bool = False
    """True if the legend is above the chart, in a line if there is room, at all widths."""

    @property
    def colour(self) -> Any:
        num = len(self.names)
        return self._scaled("Color", [COLOURS[i % len(COLOURS)] for i in range(num)] + [GREY] * len(self.references))

    @property
    def dash(self) -> Any:
        return self._scaled("StrokeDash", self._cycled(_DASHES, _REFERENCE_DASHES))

    @property
    def shape(self) -> Any:
        return self._scaled("Shape", self._cycled(_SHAPES, _REFERENCE_SHAPES))

    def _cycled(self, ours: Sequence[Any], theirs: Sequence[Any]) -> list[Any]:
        rounds = [ours[i // len(COLOURS) % len(ours)] for i in range(len(self.names))]
        return rounds + [theirs[i % len(theirs)] for i in range(len(self.references))]

    def _scaled(self, channel: str, values: Sequence[Any]) -> Any:
        """Encodes a channel; equal field, domain and title make all channels share one legend."""
        alt = altair()
        scale = alt.Scale(domain=[*self.names, *self.references], range=values)
        if self.legend == ():
            return getattr(alt, channel)(f"{self.field}:N", scale=scale, legend=None)
        settings: dict[str, Any] = {"values": list(self.legend)} if self.legend is not None else {}
        settings |= {"symbolType": "stroke"} if self.strokes else {}
        if self.top:
            settings |= {"orient": "top", "columns": alt.ExprRef("width < 400 ? 1 : 3"), "labelLimit": 260}
        legend = alt.Legend(title=None, symbolOpacity=1, **settings)  # otherwise as faint as a faint layer
        return getattr(alt, channel)(f"{self.field}:N", scale=scale, legend=legend)


def quantity(channel: str, field: str, title: str, values: Iterable[float | None], *, zero: bool = False) -> Any:
    """Encodes a number as x or y: logarithmic if its values are positive and span more than `WIDE`.

    With `zero` the axis is linear and starts at 0.
    """
    alt = altair()
    numbers = [value for value in values if value is not None]
    scale, axis = alt.Scale(zero=zero), alt.Axis(tickCount=5)
    if zero and not any(numbers):
        scale = alt.Scale(domain=[0, 1])
    elif not zero and spans_decades(numbers):
        scale = alt.Scale(type="log", nice=False, padding=12)
        axis = alt.Axis(values=ticks(min(numbers), max(numbers)), format="~g")
    return getattr(alt, channel)(f"{field}:Q", title=title, scale=scale, axis=axis)


def spans_decades(values: Sequence[float]) -> bool:
    """Returns whether the values need a logarithmic axis."""
    return bool(values) and min(values) > 0 and max(values) > WIDE * min(values)


def ticks(low: float, high: float) -> list[float]:
    """Returns ticks of a logarithmic axis: powers of ten, with their 2 and 5 if few, and thinned if many."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    if last - first <= _FEW_DECADES:
        return [digit * 10.0**power for power in range(first, last + 1) for digit in (1, 2, 5)]
    every = math.ceil((last - first) / _MANY_DECADES)
    return [10.0**power for power in range(first, last + 1, every)]


def text_axis(orient: str, places: Sequence[float], lines: Sequence[Sequence[str]], hidden_below: int = 0) -> Any:
    """Returns a y axis with nothing but lines of text at some places.

    It has no text on pages on which the chart is narrower than `hidden_below` pixels.
    """
    expression = f"{json.dumps(lines)}[indexof({json.dumps(places)}, datum.value)]"
    if hidden_below:
        expression = f"containerSize()[0] < {hidden_below} ? '' : {expression}"
    plain = {"grid": False, "ticks": False, "domain": False, "labelLimit": 260, "labelOverlap": False}
    return altair().Axis(orient=orient, values=places, labelExpr=expression, **plain)


def tooltip(fields: Mapping[str, str]) -> list[Any]:
    """Returns the tooltip of these fields, given by title: `:Q` fields as numbers, `:N` fields as text."""
    alt = altair()
    number = {"format": ".4~g"}
    return [
        alt.Tooltip(field, title=title, **(number if field.endswith(":Q") else {})) for field, title in fields.items()
    ]


class Tables:
    """Data of a chart. They enter its spec last, since altair would copy and validate every record."""

    def __init__(self) -> None:
        self._records: dict[str, list[Record]] = {}

    def add(self, records: Iterable[Record]) -> Any:
        """Adds the data of a layer, with numbers to five digits."""
        name = f"table{len(self._records)}"
        self._records[name] = [{key: rounded(value) for key, value in record.items()} for record in records]
        return altair().NamedData(name=name)

    def spec(self, chart: Any, description: str, height: Any) -> dict[str, Any]:
        """Returns the Vega-Lite spec, as wide as its container; its config is the page's theme."""
        plain = chart.properties(width="container", height=height, description=description).to_dict()
        return {**{key: value for key, value in plain.items() if key != "config"}, "datasets": self._records}


def rounded(value: Any) -> Any:
    """Rounds a float to five significant digits, so that pages stay small; NaN and infinities become None."""
    if not isinstance(value, float):
        return value
    return float(f"{value:.5g}") if math.isfinite(value) else None
