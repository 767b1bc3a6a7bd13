"""What the page shows: charts, each with the table behind it, and the sections that hold them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Value = str | float | int | None


@dataclass(frozen=True)
class Chart:
    """A picture, and the same in words and in numbers."""

    id: str
    """Stable, and safe in a URL: `pareto-explained-variance`."""
    title: str
    description: str
    """One or two sentences on what is drawn and what it shows; a screen reader says them too."""
    spec: Mapping[str, Any]
    """Vega-Lite, with its data; the page's theme has the colours of text, axes and background."""
    columns: tuple[str, ...]
    """Of the table behind the chart, which is also its CSV."""
    rows: tuple[tuple[Value, ...], ...]


@dataclass(frozen=True)
class Section:
    """A part of the page; it may have words only."""

    id: str
    title: str
    text: str
    charts: tuple[Chart, ...] = ()
    absent: tuple[str, ...] = ()
    """Why a chart is not there, in words."""


def slug(label: str) -> str:
    """A run's name in a URL: that of `l1=4/seed-0` is `l1-4-seed-0`, and its block has the id `run-l1-4-seed-0`."""
    return re.sub(r"[^A-Za-z0-9]+", "-", label).strip("-")
