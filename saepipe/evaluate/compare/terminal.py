"""A comparison as tables for people: the runs side by side, then for each verdict the figures that it rests on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table as RichTable

from saepipe.evaluate.compare.difference import Change
from saepipe.evaluate.compare.table import Table
from saepipe.evaluate.compare.verdict import Verdict

HEADINGS = ("figure", "", "baseline", "variant", "difference, 95 % over seeds", "p", "detectable (80 %)", "verdict")


def drawn(table: Table, fits: Callable[[RichTable], bool]) -> Iterator[RichTable | str]:
    """The runs, the notes, then each verdict with the changes that it is about."""
    yield from drawn_runs(table, fits)
    yield from (f"- {note}" for note in table.notes)
    for verdict in table.verdicts:
        yield str(verdict)
        if verdict.may_judge:
            yield drawn_changes(verdict, table.short)


def drawn_runs(table: Table, fits: Callable[[RichTable], bool]) -> Iterator[RichTable]:
    """The runs side by side, in as many tables as it takes for each to fit; the run's name begins every one."""
    num_settings = len(table.columns) - len(table.figures)
    figures = [num_settings + place for place, key in enumerate(table.figures) if key in table.short]
    columns = [0]
    for column in [*range(1, num_settings), *figures]:
        if len(columns) > 1 and not fits(_columns(table, [*columns, column])):
            yield _columns(table, columns)
            columns = [0]
        columns.append(column)
    yield _columns(table, columns)


def _columns(table: Table, columns: Sequence[int]) -> RichTable:
    drawn = RichTable(box=SIMPLE_HEAD, header_style="bold", pad_edge=False)
    for column in columns:
        drawn.add_column(table.columns[column].replace(".", ".\n").replace(" ", "\n"), no_wrap=True)
    for row in table.rows:
        drawn.add_row(*(str(row[column]).replace(" ", "\n") for column in columns))
    return drawn


def drawn_changes(verdict: Verdict, short: frozenset[str]) -> RichTable:
    """The primary figures first, then the exploratory ones of the short list."""
    drawn = RichTable(box=SIMPLE_HEAD, header_style="bold", pad_edge=False)
    for heading in HEADINGS:
        drawn.add_column(heading, no_wrap=heading != "verdict")
    for change in verdict.changes:
        if change.key in short:
            drawn.add_row(*cells_of(change))
    return drawn


def cells_of(change: Change) -> tuple[str, ...]:
    """A text for each of HEADINGS."""
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
