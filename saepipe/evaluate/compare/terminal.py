"""Renders a comparison for a terminal: means of the variants, the figures behind each verdict, then the notes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from io import StringIO
from typing import Protocol

from rich.console import Console, RenderableType
from rich.table import Table as RichTable

from saepipe.data.folders.health import Finding, errors
from saepipe.evaluate.compare.difference import Change
from saepipe.evaluate.compare.notes import Note
from saepipe.evaluate.compare.variant_means import Variant
from saepipe.evaluate.compare.verdict import Verdict
from saepipe.evaluate.results.run_results import Cell

Fits = Callable[[RichTable], bool]
"""Returns whether a table is no wider than the terminal."""
UNDERPOWERED, SMALL, UNESTABLISHED = "†", "‡", "§"
"""Signs of the remarks on a verdict."""


class Comparison(Protocol):
    """What is rendered of a `Table`, which renders itself by this module."""

    @property
    def columns(self) -> tuple[str, ...]: ...
    @property
    def short_columns(self) -> list[int]: ...
    @property
    def settings(self) -> tuple[str, ...]: ...
    @property
    def rows(self) -> tuple[tuple[str | Cell, ...], ...]: ...
    @property
    def short(self) -> frozenset[str]: ...
    @property
    def shown(self) -> dict[str, str]: ...
    @property
    def variants(self) -> tuple[Variant, ...]: ...
    @property
    def verdicts(self) -> tuple[Verdict, ...]: ...
    @property
    def notes(self) -> tuple[Note, ...]: ...


def render(table: Comparison, fits: Fits, *, seeds: bool = False, settings: bool = False) -> Iterator[RenderableType]:
    """Yields the variants, each verdict with its changes, the notes, and on request single runs and settings."""
    yield from render_variants(table, fits)
    for verdict in table.verdicts:
        yield f"\n{verdict}"
        if verdict.may_judge:
            yield render_changes(verdict, table)
            yield from map(str, verdict.controls)
    if seeds:
        yield from render_runs(table, fits)
    if settings:
        yield from render_settings(table)
    yield from (f"- {note}" for note in _notes(table, seeds=seeds))


def text(table: Comparison, width: int, *, seeds: bool = False, settings: bool = False) -> str:
    """Returns the comparison as text of at most `width` characters, unless a single cell is wider."""
    console = Console(file=StringIO(), width=width, color_system=None)

    def fits(part: RichTable) -> bool:
        return console.measure(part, options=console.options.update(width=10_000)).maximum <= width

    with console.capture() as captured:
        for part in render(table, fits, seeds=seeds, settings=settings):
            console.print(part, markup=False, highlight=False)
    return captured.get().rstrip("\n")


def render_variants(table: Comparison, fits: Fits) -> Iterator[RichTable]:
    """Yields a row per figure and a column per variant, in as many tables as needed for each to fit."""
    columns: list[Variant] = []
    for variant in table.variants:
        if columns and not fits(_variant_columns(table, [*columns, variant])):
            yield _variant_columns(table, columns)
            columns = []
        columns.append(variant)
    yield _variant_columns(table, columns)


def _variant_columns(table: Comparison, variants: Sequence[Variant]) -> RichTable:
    seeds = {len(variant.rows) for variant in table.variants}
    rendered = _new_table(f"mean of {_seeds(*seeds)}" if len(seeds) == 1 else "mean")
    for variant in variants:
        name = variant.name if len(seeds) == 1 else f"{variant.name}\n{_seeds(len(variant.rows))}"
        rendered.add_column(name, no_wrap=True)
    for key, label in table.shown.items():
        rendered.add_row(label, *(str(variant.mean(key)) for variant in variants))
    rendered.add_row("health", *(variant.health for variant in variants))
    return rendered


def _seeds(number: int) -> str:
    return "1 seed" if number == 1 else f"{number} seeds"


def render_changes(verdict: Verdict, table: Comparison) -> RichTable:
    """Returns a row per figure but L0, which must match: the primary figures, then the exploratory ones."""
    rendered = _new_table("figure (* primary)", "difference, 95 % over seeds", "p", "verdict")
    for change in verdict.changes:
        if change.key in table.short and change.key != "l0" and (change.primary or change.paired):
            name = f"{change.shown.label} *" if change.primary else change.shown.label
            p = "-" if change.paired is None or change.p is None else f"{change.p:.2g}"
            rendered.add_row(name, _difference(change), p, f"{_word(change)} {_marks(change)}".rstrip())
    return rendered


def render_runs(table: Comparison, fits: Fits) -> Iterator[RichTable]:
    """Yields the runs in as many tables as needed for each to fit; every table begins with the run's name."""
    figures = [index for index in table.short_columns if index > len(table.settings)]
    columns = [0]
    for column in figures:
        if len(columns) > 1 and not fits(_run_columns(table, [*columns, column])):
            yield _run_columns(table, columns)
            columns = [0]
        columns.append(column)
    yield _run_columns(table, columns)


def _run_columns(table: Comparison, columns: Sequence[int]) -> RichTable:
    rendered = _new_table()
    for column in columns:
        rendered.add_column(table.columns[column].replace(" ", "\n"), no_wrap=True)
    for row in table.rows:
        rendered.add_row(*(str(row[column]).replace(" ", "\n") if column else str(row[0]) for column in columns))
    return rendered


def render_settings(table: Comparison) -> Iterator[str]:
    """Yields a line per variant with the settings in which the variants differ, unless all leave them at a default."""
    columns = {key: index for index, key in enumerate(table.settings, start=1)}
    first_runs = [variant.rows[0].run for variant in table.variants]
    anywhere = frozenset[str]().union(*(run.stated or () for run in first_runs))
    for variant, run in zip(table.variants, first_runs, strict=True):
        row = next(row for row in table.rows if row[0] == variant.rows[0].label)
        keys = columns.keys() if run.stated is None else columns.keys() & anywhere
        settings = (f"{key}={row[at]}" for key, at in columns.items() if row[at] != "-" and key in keys)
        yield f"{variant.name}: {', '.join(settings) or 'the same as the others'}"


def _notes(table: Comparison, *, seeds: bool) -> Iterator[str]:
    """Yields the notes on the comparison, and where the ones on single runs are."""
    claims = [finding for verdict in table.verdicts for finding in verdict.findings]
    about_all = (note for note in table.notes if not note.runs and note.finding not in claims)
    yield from (note.text for note in about_all if seeds or not note.explains_runs)
    yield from _claims(table.verdicts)
    yield from _legend(table)
    yield from pointer_to_findings(table)


def _claims(verdicts: Sequence[Verdict]) -> Iterator[str]:
    """Yields each finding about a claim once, with the variants concerned, unless a table of changes shows it."""
    found: dict[Finding, list[str]] = {}
    for verdict in verdicts:
        shown = {change.key for change in verdict.changes if verdict.may_judge and change.paired}
        for finding in verdict.findings:
            if finding.about not in shown:
                found.setdefault(finding, []).append(verdict.variant)
    yield from (f"{', '.join(variants)}: {finding}" for finding, variants in found.items())


def pointer_to_findings(table: Comparison) -> Iterator[str]:
    """Yields the command that shows the findings and warnings about single runs, if there are any."""
    if num_runs := len({run for note in table.notes for run in note.runs}):
        yield f"findings and warnings about {num_runs} of these runs: saepipe findings RUN..."


def _legend(table: Comparison) -> Iterator[str]:
    """Yields what the words and signs in the tables mean."""
    judged = [verdict for verdict in table.verdicts if verdict.may_judge]
    over = {variant.mean(key).over for variant in table.variants for key in table.shown} - {None}
    correction = "; p: Holm's over each comparison's primary metrics" if len(judged) > 1 else ""
    if over:
        yield f"± and [ ]: 95 % over {' or '.join(sorted(map(str, over)))}{correction}"
    changes = [change for verdict in judged for change in verdict.changes]
    if any(errors(change.findings) for change in changes if change.paired):
        yield "no result (H17): only some of the paired seeds have a value"
    for mark, remark in ((UNDERPOWERED, "underpowered for"), (SMALL, "below the effect of interest")):
        marked = {
            f"{change.interesting:g} in {change.shown.label}": None for change in changes if mark in _marks(change)
        }
        if marked:
            yield f"{mark} {remark} {', '.join(marked)}"
    if any(UNESTABLISHED in _marks(change) for change in changes):
        yield f"{UNESTABLISHED} reaches the effect of interest but is not significant: claim no change (H17)"


def _difference(change: Change) -> str:
    """Returns the difference with its interval over seeds."""
    if change.paired is None:
        return "-"
    mean = change.paired.mean
    return f"{change.difference:+.3g}" + (f" [{mean.low:+.3g}, {mean.high:+.3g}]" if mean.low is not None else "")


def _word(change: Change) -> str:
    """Returns the verdict on a figure, with the rules that block it: `no result (H10)`."""
    rules = dict.fromkeys(finding.rule for finding in (*change.blocked_by, *errors(change.findings)))
    return f"{change.word} ({', '.join(rules)})" if rules else change.word


def _marks(change: Change) -> str:
    """Returns the signs of the remarks on a verdict; empty if there are none."""
    if change.blocked_by or errors(change.findings):
        return ""
    size = UNDERPOWERED if change.is_underpowered else SMALL if change.is_small else ""
    return size + (UNESTABLISHED if change.is_unestablished else "")


def _new_table(*headings: str) -> RichTable:
    rendered = RichTable(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for heading in headings:
        rendered.add_column(heading, no_wrap=True)
    return rendered
