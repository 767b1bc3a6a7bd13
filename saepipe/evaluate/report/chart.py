"""What the page shows: charts, each with the table behind it, and the sections that hold them."""

from __future__ import annotations

import hashlib
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


def slug(text: str) -> str:
    """Letters, digits and strokes alone."""
    return re.sub(r"[^A-Za-z0-9]+", "-", text).strip("-")


def anchor(label: str) -> str:
    """The id of a run's block on the page: `run-l1-seed-0` of `l1/seed-0`.

    Where more than the stroke is lost (`l1=4/seed-0`), a digest of the name follows, so that no two names have one.
    """
    if slug(label) == label.replace("/", "-"):
        return f"run-{slug(label)}"
    return f"run-{slug(label)}-{hashlib.sha256(label.encode()).hexdigest()[:6]}"
