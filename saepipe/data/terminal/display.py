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


def html_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Plain HTML table with escaped cells; the first cell of a row is its heading."""
    head = "".join(f'<th scope="col">{escape(column)}</th>' for column in columns)
    body = "".join(
        f'<tr><th scope="row">{escape(str(first))}</th>{"".join(f"<td>{escape(str(cell))}</td>" for cell in rest)}</tr>'
        for first, *rest in rows
    )
    return f"<table>{f'<thead><tr>{head}</tr></thead>' if columns else ''}<tbody>{body}</tbody></table>"
