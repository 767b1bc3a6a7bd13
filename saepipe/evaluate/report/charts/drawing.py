"""What all charts have in common: colours, legends, axes, numbers, and how a spec is made of them.

Text, axes and background have no colours here: the page's theme has them, one for light and one for dark.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from saepipe.data.errors import MachineError

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Okabe and Ito's (2008), which people of all colour visions tell apart; black and yellow would vanish in one theme."""
GREY = "#888888"
"""What is no run of ours: the model's own probes, imported SAEs, limits."""
_DASHES: tuple[Sequence[int], ...] = ((1, 0), (6, 3), (2, 2), (8, 2, 2, 2))
_SHAPES = ("circle", "square", "triangle-up", "cross")
_REFERENCE_DASHES: tuple[Sequence[int], ...] = ((1, 0), (4, 3), (2, 3))
_REFERENCE_SHAPES = ("diamond", "triangle-down", "stroke")
WIDE = 10.0
"""An axis whose values span more than this factor is logarithmic."""
_FEW_DECADES, _MANY_DECADES = 3, 8
HEIGHT = 260

Record = dict[str, Any]


def altair() -> Any:
    """The library, imported when something is drawn.

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
    """Names that are told apart by colour; beyond six also by dash or shape. References are grey."""

    field: str
    names: tuple[str, ...]
    references: tuple[str, ...] = ()
    legend: tuple[str, ...] | None = None
    """The names that it shows; None: all."""
    strokes: bool = False
    """The legend shows strokes, with their dashes, instead of points."""

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
        """Equal field, domain and title in all channels, so that they share one legend."""
        alt = altair()
        scale = alt.Scale(domain=[*self.names, *self.references], range=values)
        asked: dict[str, Any] = {"values": list(self.legend)} if self.legend is not None else {}
        asked |= {"symbolType": "stroke"} if self.strokes else {}
        legend = alt.Legend(title=None, symbolOpacity=1, **asked)  # a layer's faint marks would make it faint
        return getattr(alt, channel)(f"{self.field}:N", scale=scale, legend=legend)


def quantity(channel: str, field: str, title: str, values: Iterable[float | None], *, zero: bool = False) -> Any:
    """The x or y of a number: logarithmic where its values, all positive, span more than `WIDE`.

    `zero`: from 0 on, and linear.
    """
    alt = altair()
    known = [value for value in values if value is not None]
    scale, axis = alt.Scale(zero=zero), alt.Axis(tickCount=5)
    if zero and not any(known):
        scale = alt.Scale(domain=[0, 1])
    elif not zero and spans_decades(known):
        scale = alt.Scale(type="log", nice=False, padding=12)
        axis = alt.Axis(values=ticks(min(known), max(known)), format="~g")
    return getattr(alt, channel)(f"{field}:Q", title=title, scale=scale, axis=axis)


def spans_decades(values: Sequence[float]) -> bool:
    """Whether a logarithmic axis would show them better."""
    return bool(values) and min(values) > 0 and max(values) > WIDE * min(values)


def ticks(low: float, high: float) -> list[float]:
    """Of a logarithmic axis: powers of ten, with 2 and 5 of each where there are few, and not all where many."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    if last - first <= _FEW_DECADES:
        return [digit * 10.0**power for power in range(first, last + 1) for digit in (1, 2, 5)]
    every = math.ceil((last - first) / _MANY_DECADES)
    return [10.0**power for power in range(first, last + 1, every)]


def tooltip(fields: Mapping[str, str]) -> list[Any]:
    """What hovering shows, titles by field: numbers where it ends in `:Q`, words where in `:N`."""
    alt = altair()
    number = {"format": ".4~g"}
    return [
        alt.Tooltip(field, title=title, **(number if field.endswith(":Q") else {})) for field, title in fields.items()
    ]


class Tables:
    """The data of a chart. They come into its spec at the end: altair would copy and validate every record."""

    def __init__(self) -> None:
        self._records: dict[str, list[Record]] = {}

    def add(self, records: Iterable[Record]) -> Any:
        """The data of a layer, numbers to five digits."""
        name = f"table{len(self._records)}"
        self._records[name] = [{key: significant(value) for key, value in record.items()} for record in records]
        return altair().NamedData(name=name)

    def spec(self, chart: Any, description: str, height: Any) -> dict[str, Any]:
        """Vega-Lite, as wide as its place on the page, whose theme is its config."""
        plain = chart.properties(width="container", height=height, description=description).to_dict()
        return {**{key: value for key, value in plain.items() if key != "config"}, "datasets": self._records}


def significant(value: Any) -> Any:
    """A number to five significant digits, so that pages stay small; anything else as it is."""
    if not isinstance(value, float):
        return value
    return float(f"{value:.5g}") if math.isfinite(value) else None
