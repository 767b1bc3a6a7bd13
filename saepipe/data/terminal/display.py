"""Display of objects: one line per fact in a terminal, a table in a notebook."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any


class Displayed:
    """An object displayed by its `facts()` instead of its fields."""

    def facts(self) -> Mapping[str, Any]:
        """The most useful facts about the object, by name."""
        raise AssertionError(f"{type(self).__name__} has no facts")

    def __repr__(self) -> str:
        facts = self.facts()
        width = max(map(len, facts))
        return "\n".join(
            [type(self).__name__, *(f"  {name:{width}}  {readable(fact)}" for name, fact in facts.items())]
        )

    def _repr_html_(self) -> str:
        rows = ([name, readable(fact)] for name, fact in self.facts().items())
        return f"<b>{type(self).__name__}</b>{html_table((), rows)}"


def readable(value: Any) -> str:
    """Formats a value for people: `yes`, `300,000`, `a, b`."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, list | tuple):
        return ", ".join(map(readable, value))
    return str(value)


def aligned(page: Mapping[str, str]) -> list[str]:
    """Returns a line per heading, the texts below each other."""
    width = max(map(len, page))
    return [f"{heading:{width}}  {text}" for heading, text in page.items()]


def readable_bytes(num_bytes: float) -> str:
    """Formats a size for people: `640 bytes`, `3.4 MB`, `139 GB`."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if num_bytes >= size:
            return f"{num_bytes / size:.3g} {unit}"
    return f"{num_bytes:.0f} bytes"


def readable_time(seconds: float) -> str:
    """Formats a duration for people: `less than a second`, `40 s`, `12 min`, `3.5 h`."""
    if seconds < 1:
        return "less than a second"
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def html_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Plain HTML table with escaped cells; the first cell of a row is its heading."""
    head = "".join(f'<th scope="col">{escape(column)}</th>' for column in columns)
    body = "".join(
        f'<tr><th scope="row">{escape(str(first))}</th>{"".join(f"<td>{escape(str(cell))}</td>" for cell in rest)}</tr>'
        for first, *rest in rows
    )
    return f"<table>{f'<thead><tr>{head}</tr></thead>' if columns else ''}<tbody>{body}</tbody></table>"
