"""Renders a comparison as tables for people: the runs side by side, then the figures behind each verdict."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table as RichTable

from saepipe.evaluate.compare.difference import Change
from saepipe.evaluate.compare.table import Table
from saepipe.evaluate.compare.verdict import Verdict

HEADINGS = ("figure", "", "baseline", "variant", "difference, 95 % over seeds", "p", "detectable (80 %)", "verdict")


def render(table: Table, fits: Callable[[RichTable], bool]) -> Iterator[RichTable | str]:
    """Yields the runs, the notes, then each verdict with its changes."""
    yield from render_runs(table, fits)
    yield from (f"- {note}" for note in table.notes)
    for verdict in table.verdicts:
        yield str(verdict)
        if verdict.may_judge:
            yield render_changes(verdict, table.short)


def render_runs(table: Table, fits: Callable[[RichTable], bool]) -> Iterator[RichTable]:
    """Yields the runs in as many tables as needed for each to fit; every table begins with the run's name."""
    columns = [0]
    for column in table.short_columns[1:]:
        if len(columns) > 1 and not fits(_render_columns(table, [*columns, column])):
            yield _render_columns(table, columns)
            columns = [0]
        columns.append(column)
    yield _render_columns(table, columns)


def _render_columns(table: Table, columns: Sequence[int]) -> RichTable:
    rendered = RichTable(box=SIMPLE_HEAD, header_style="bold", pad_edge=False)
    for column in columns:
        rendered.add_column(table.columns[column].replace(".", ".\n").replace(" ", "\n"), no_wrap=True)
    for row in table.rows:
        rendered.add_row(*(str(row[column]).replace(" ", "\n") for column in columns))
    return rendered


def render_changes(verdict: Verdict, short: frozenset[str]) -> RichTable:
    """Returns a table of the primary figures, then the exploratory ones of the short list."""
    rendered = RichTable(box=SIMPLE_HEAD, header_style="bold", pad_edge=False)
    for heading in HEADINGS:
        rendered.add_column(heading, no_wrap=heading != "verdict")
    for change in verdict.changes:
        if change.key in short:
            rendered.add_row(*cells_of(change))
    return rendered


def cells_of(change: Change) -> tuple[str, ...]:
    """Returns one text per heading of HEADINGS."""
    kind = "primary" if change.primary else "exploratory"
    name = f"{change.shown.label} (noisy)" if change.shown.noisy else change.shown.label
    if change.paired is None:
        return (name, kind, "-", "-", "-", "-", "-", change.word)
    mean = change.paired.mean
    interval = f" [{mean.low:+.3g}, {mean.high:+.3g}]" if mean.low is not None else ""
    return (
        name,
        kind,
        f"{change.baseline:.4g}",
        f"{change.variant:.4g}",
        f"{change.difference:+.3g}{interval}",
        "-" if change.p is None else f"{change.p:.2g}",
        "-" if change.paired.detectable is None else f"{change.paired.detectable:.2g}",
        f"{change.word}; {change.remark}" if change.remark else change.word,
    )
