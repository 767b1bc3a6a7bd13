"""One table of several runs: the config keys in which they differ, what was measured of each, and what may be said."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from html import escape
from pathlib import Path
from statistics import fmean

from saepipe.data.folders.health import errors
from saepipe.data.terminal.display import html_table
from saepipe.evaluate.compare.checks import MATCHED_L0, check_same_data, check_same_parts, check_sources
from saepipe.evaluate.compare.difference import SEEDS_FOR_A_VERDICT
from saepipe.evaluate.compare.sweeps import match, method
from saepipe.evaluate.compare.verdict import Question, Verdict, verdict, verdict_on_sweep
from saepipe.evaluate.metrics.base import Shown
from saepipe.evaluate.results.figures import SHORT, catalogue, primary_metrics
from saepipe.evaluate.results.run_results import Cell, Row, row_of, side_by_side
from saepipe.train.rundir.load import open_run

_SEEDS = ("seed", "data_seed")


@dataclass(frozen=True)
class Table:
    """Plain data: a row has a cell a column. Rows are runs, then the mean over seeds of each variant."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str | Cell, ...], ...]
    figures: tuple[str, ...]
    """The keys of the last columns, as the evaluations have them."""
    short: frozenset[str]
    """Those of them that a table for people shows."""
    notes: tuple[str, ...]
    verdicts: tuple[Verdict, ...] = ()
    """On each variant, where there is a baseline; then on each sweep of which there are enough runs."""

    def _repr_html_(self) -> str:
        """The table for people, as a notebook shows it: the short figures, the verdicts' words, the notes."""
        few = len(self.columns) - len(self.figures)
        shown = [*range(few), *(few + place for place, key in enumerate(self.figures) if key in self.short)]
        table = html_table([self.columns[at] for at in shown], ([row[at] for at in shown] for row in self.rows))
        told = "".join(f"<li>{escape(str(line))}</li>" for line in (*self.verdicts, *self.notes))
        return f"{table}<ul>{told}</ul>"

    def to_json(self) -> str:
        rows = [[asdict(cell) if isinstance(cell, Cell) else cell for cell in row] for row in self.rows]
        verdicts = [verdict.to_dict() for verdict in self.verdicts]
        plain = {"columns": self.columns, "figures": self.figures, "rows": rows}
        return json.dumps({**plain, "notes": self.notes, "verdicts": verdicts}, indent=2, allow_nan=False)


def compare(runs: Sequence[Path | str], baseline: Path | str | None = None) -> Table:
    """Reads `RUN/eval/*.json` of each run; measures nothing.

    Args:
        runs: run folders.
        baseline: the run that the others are compared with; it comes first in the table.

    Raises:
        CorruptDataError: if a run is unfinished or a result is not one of ours.
    """
    return tabulate(read_rows(runs, baseline), judged=baseline is not None)


def read_rows(runs: Sequence[Path | str], baseline: Path | str | None = None) -> list[Row]:
    """One a run, the baseline's first; raises as `compare`."""
    folders = {Path(run).resolve(): Path(run) for run in ((baseline, *runs) if baseline else runs)}
    return _told_apart([row_of(open_run(folder)) for folder in folders.values()])


def tabulate(rows: Sequence[Row], *, judged: bool) -> Table:
    """The table of these runs; `judged`: against the first of them."""
    known = catalogue()
    primary, disagreement = primary_metrics(row.run.trained for row in rows if row.run.trained)
    figures = _figures(rows, known, primary)
    verdicts, doubts = _judged(rows, Question(primary, known)) if judged else ([], [])
    means = _means(rows, figures)
    shown = [*rows, *means]
    if judged:
        first = by_variant(rows)[0]
        shown = [*_less(rows, first), *_less(means, means[:1] if len(first) > 1 else first)]
    settings = _differing(rows)
    notes = [*_notes(rows, figures), *([disagreement] if disagreement else [])]
    if judged:
        own = f"{rows[0].variant} of the same seed, or from {rows[0].label} where that has no such run"
        notes += [f"in brackets: the difference from {own}; of a mean, from the mean", *doubts]
    return Table(
        columns=("run", *settings, "health", *(how.label for how in figures.values())),
        rows=tuple(
            (row.label, *(str(row.settings.get(key, "-")) for key in settings), _health(row), *_cells(row, figures))
            for row in shown
        ),
        figures=tuple(figures),
        short=frozenset(figures) & {*SHORT, *primary},
        notes=tuple(notes),
        verdicts=tuple(verdicts),
    )


def _figures(rows: Sequence[Row], known: Mapping[str, Shown], primary: Mapping[str, float]) -> dict[str, Shown]:
    """What at least one run has, and what was declared primary; noisy figures are marked."""
    keys = [*(key for key in known if key in primary or any(key in row.cells for row in rows)), *primary]
    named = {key: known.get(key, Shown(key)) for key in keys}
    return {key: replace(how, label=f"{how.label} (noisy)") if how.noisy else how for key, how in named.items()}


def _told_apart(rows: Sequence[Row]) -> list[Row]:
    """Rows of one label (the same variant, trained twice) are called by their folders."""
    count = Counter(row.label for row in rows)
    return [replace(row, label=str(row.run.path)) if count[row.label] > 1 else row for row in rows]


def _health(row: Row) -> str:
    """The rules that found errors, those that found warnings in brackets; `ok` where none has anything to say.

    An imported run's training was seen by no rule: `not known`.
    """
    wrong = {finding.rule for finding in errors(row.findings)}
    rules = dict.fromkeys(finding.rule for finding in row.findings)
    return ", ".join(rule if rule in wrong else f"({rule})" for rule in rules) or (
        "ok" if row.run.trained else "not known"
    )


def _judged(rows: Sequence[Row], question: Question) -> tuple[list[Verdict], list[str]]:
    """On each variant but the first row's, which is the baseline; on each sweep; and what is to be said of them."""
    baseline, *others = by_variant(rows)
    verdicts = [verdict(variant, baseline, question) for variant in others]
    unmatched = [
        variant
        for variant, found in zip(others, verdicts, strict=True)
        if any(finding.rule == "H18" for finding in found.by_comparison)
    ]
    sweeps, doubts = _swept([baseline, *others], unmatched, question)
    verdicts += sweeps
    doubts += [f"{found.pair}: {finding}" for found in verdicts for finding in found.findings]
    if len(verdicts) > 1 and any(found.may_judge for found in verdicts):
        doubts.append(
            f"Holm's correction is over the primary metrics of one comparison; here are {len(verdicts)} comparisons, "
            "and with each one more word by chance is likelier"
        )
    return verdicts, doubts


def _swept(
    variants: Sequence[Sequence[Row]], unmatched: Sequence[Sequence[Row]], question: Question
) -> tuple[list[Verdict], list[str]]:
    """The sweeps of all variants at unequal L0, each against the baseline's, at one L0; and why one cannot be."""
    methods: dict[str, list[Sequence[Row]]] = defaultdict(list)
    for variant in variants:
        methods[method(variant)].append(variant)
    baseline, *others = methods.values()
    verdicts, doubts = [], []
    for sweep in others:
        if not any(variant in unmatched for variant in sweep):
            continue
        matched = match(sweep, baseline)
        if isinstance(matched, str):
            doubts.append(f"{sweep[0][0].variant} is not read at the L0 of {baseline[0][0].variant}: {matched}")
        else:
            verdicts.append(verdict_on_sweep(sweep, baseline, matched, question))
    return verdicts, doubts


def _cells(row: Row, figures: Mapping[str, Shown]) -> tuple[Cell, ...]:
    return tuple(row.cells.get(key, Cell()) for key in figures)


def _differing(rows: Sequence[Row]) -> list[str]:
    """The config keys in which the runs differ, as far as an imported run has them; the seed stands in the label."""
    keys = {key: None for row in rows for key in row.settings if key != "seed"}
    seen = {key: [row for row in rows if row.run.trained or key in row.settings] for key in keys}
    return [key for key in keys if len({str(row.settings.get(key, "-")) for row in seen[key]}) > 1]


def _means(rows: Sequence[Row], figures: Mapping[str, Shown]) -> list[Row]:
    """Over seeds, of every variant that has more than one."""
    return [_mean(group, figures) for group in by_variant(rows) if len(group) > 1]


def by_variant(rows: Sequence[Row]) -> list[list[Row]]:
    """Runs whose configs differ in nothing but seeds."""
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        groups[repr([item for item in row.settings.items() if item[0] not in _SEEDS])].append(row)
    return list(groups.values())


def _mean(group: Sequence[Row], figures: Mapping[str, Shown]) -> Row:
    cells = {}
    for key in figures:
        known = [value for row in group if (value := row.value(key)) is not None]
        if len(known) == len(group):
            cells[key] = Cell(fmean(known))
        elif any(key in row.cells for row in group):
            cells[key] = Cell(why=f"{len(known)} of {len(group)} seeds have it")
    findings = tuple(finding for row in group for finding in row.findings)
    label = f"{group[0].variant} (mean, n={len(group)})"
    return replace(group[0], label=label, cells=cells, findings=findings, parts={})


def _less(rows: Sequence[Row], baseline: Sequence[Row]) -> Iterator[Row]:
    """The rows with their differences from the baseline's run of the same seed, else from its first."""
    by_seed = {row.pair: row for row in reversed(baseline)}
    own = {row.label for row in baseline}
    for row in rows:
        yield row if row.label in own else _minus(row, by_seed.get(row.pair, baseline[0]))


def _minus(row: Row, baseline: Row) -> Row:
    cells = {}
    for key, cell in row.cells.items():
        ours, theirs = side_by_side(row, baseline, key)
        cells[key] = cell if ours is None or theirs is None else replace(cell, difference=ours - theirs)
    return replace(row, cells=cells)


def _warnings(rows: Sequence[Row]) -> Iterator[str]:
    """What the evaluations warn of, and of which runs where it is not all of them."""
    warned: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        for warning in row.warnings:
            warned[warning].append(row.label)
    for warning, labels in warned.items():
        yield warning if len(labels) == len(rows) else f"{', '.join(labels)}: {warning}"


def _notes(rows: Sequence[Row], figures: Mapping[str, Shown]) -> Iterator[str]:
    yield from dict.fromkeys(f"{row.label}: {finding}" for row in rows for finding in row.findings)
    yield from map(str, (*check_sources(rows), *check_same_parts(rows, figures)))
    yield from _warnings(rows)
    undefined = {
        (how.label, why) for row in rows for key, how in figures.items() if (why := row.cells.get(key, Cell()).why)
    }
    yield from (f"{name} is undefined: {why}" for name, why in sorted(undefined))
    yield from (f"{how.label}: {how.noisy}" for how in figures.values() if how.noisy)
    if any(cell.low is not None for row in rows for cell in row.cells.values()):
        yield (
            "± is a 95 % interval over held-out documents, examples or words: evaluation noise only, not that of "
            "another training seed"
        )
    l0 = [value for row in rows if (value := row.value("l0")) is not None]
    if l0 and max(l0) > (1 + MATCHED_L0) * min(l0):
        yield f"H18: L0 goes from {min(l0):.3g} to {max(l0):.3g}: not a comparison at matched sparsity"
    yield from map(str, check_same_data(rows, figures))
    if min(len(group) for group in by_variant(rows)) < SEEDS_FOR_A_VERDICT:
        yield f"fewer than {SEEDS_FOR_A_VERDICT} seeds a variant: no verdict on which is better"
