"""Charts of the page, each with the table behind it, and the sections that hold them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Value = str | float | int | None


@dataclass(frozen=True)
class Chart:
    """A picture, its description in words, and its numbers."""

    id: str
    """Stable and safe in a URL, such as `pareto-explained-variance`."""
    title: str
    description: str
    """One or two sentences on what the chart shows; screen readers read them too."""
    spec: Mapping[str, Any]
    """Vega-Lite spec with its data; colours of text, axes and background come from the page's theme."""
    columns: tuple[str, ...]
    """Columns of the table behind the chart, which is also its CSV."""
    rows: tuple[tuple[Value, ...], ...]


@dataclass(frozen=True)
class Section:
    """Part of the page; may have no charts."""

    id: str
    title: str
    text: str
    charts: tuple[Chart, ...] = ()
    absent: tuple[str, ...] = ()
    """Sentences on why charts are missing."""


def slug(text: str) -> str:
    """Returns the text with letters, digits and hyphens only."""
    return re.sub(r"[^A-Za-z0-9]+", "-", text).strip("-")


def anchor(label: str) -> str:
    """Returns the id of a run's block on the page: `run-l1-seed-0` for `l1/seed-0`.

    If the slug loses more than the slash (`l1=4/seed-0`), a digest of the label follows, so that ids are unique.
    """
    if slug(label) == label.replace("/", "-"):
        return f"run-{slug(label)}"
    return f"run-{slug(label)}-{hashlib.sha256(label.encode()).hexdigest()[:6]}"
