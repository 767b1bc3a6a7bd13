"""Sentences below a comparison: findings of health rules, warnings of evaluations, and undefined figures."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from saepipe.data.folders.health import Finding
from saepipe.evaluate.compare.checks import check_parts, check_same_data, check_sources, unmatched_l0
from saepipe.evaluate.compare.difference import SEEDS_FOR_A_VERDICT
from saepipe.evaluate.compare.proxy_l0 import proxy_l0s
from saepipe.evaluate.compare.variant_means import by_variant
from saepipe.evaluate.figure_specs import FigureSpec
from saepipe.evaluate.results.run_results import Cell, Row


@dataclass(frozen=True)
class Note:
    """Sentence that qualifies a table."""

    text: str
    finding: Finding | None = None
    """Finding of a health rule that the text reports; None for a remark."""
    runs: tuple[str, ...] = ()
    """Labels of the runs concerned; empty if the note is about the whole comparison."""
    explains_runs: bool = False
    """True if the note explains how the rows of single runs are to be read."""

    def __str__(self) -> str:
        return self.text


def notes_on(rows: Sequence[Row], figures: Mapping[str, FigureSpec], short: Collection[str]) -> Iterator[Note]:
    """Yields the notes on runs, then those on their figures and their comparison.

    Args:
        rows: one per run.
        figures: all figures of these runs, by key.
        short: keys of those that are shown, and so explained where they are undefined; each cell has its own reason.
    """
    of_runs = [Note(f"{row.label}: {finding}", finding, (row.label,)) for row in rows for finding in row.findings]
    yield from {note.text: note for note in of_runs}.values()
    yield from (Note(str(finding), finding) for finding in (*check_sources(rows), *check_parts(rows, figures)))
    yield from warnings_of(rows)
    if num_unchecked := sum(len(row.unchecked) for row in rows):
        yield Note(f"results of an earlier version, without a digest, so not checked for damage: {num_unchecked}")
    yield from _undefined(rows, {key: how for key, how in figures.items() if key in short})
    yield from (Note(f"{how.label}: {how.noisy}") for how in figures.values() if how.noisy)
    if any(cell.low is not None for row in rows for cell in row.cells.values()):
        yield Note(
            "± is a 95 % interval over held-out documents, examples or words: it covers evaluation noise, not the "
            "variation between training seeds",
            explains_runs=True,
        )
    l0s = [value for row in rows if (value := row.value("l0")) is not None]
    if l0s and (message := unmatched_l0(min(l0s), max(l0s))):
        yield Note(f"H18: {message}")
    yield from (Note(str(proxy)) for proxy in proxy_l0s(by_variant(rows)))
    yield from (Note(str(finding), finding) for finding in check_same_data(rows, figures))
    if min(len(group) for group in by_variant(rows)) < SEEDS_FOR_A_VERDICT:
        yield Note(f"fewer than {SEEDS_FOR_A_VERDICT} seeds per variant: no verdict on which is better")


def _undefined(rows: Sequence[Row], figures: Mapping[str, FigureSpec]) -> Iterator[Note]:
    """Yields a note per reason why figures are undefined."""
    names: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        for key, how in figures.items():
            if why := row.cells.get(key, Cell()).why:
                names[why].add(how.label)
    for why, labels in sorted(names.items()):
        yield Note(f"{', '.join(sorted(labels))} {'is' if len(labels) == 1 else 'are'} undefined: {why}")


def warnings_of(rows: Sequence[Row]) -> Iterator[Note]:
    """Yields each warning of the evaluations once; it names the runs unless all have it."""
    warned: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        for warning in row.warnings:
            warned[warning].append(row.label)
    for warning, labels in warned.items():
        text = warning if len(labels) == len(rows) else f"{', '.join(labels)}: {warning}"
        yield Note(text, runs=tuple(labels))
