"""Table of several runs: the config keys in which they differ, their figures, notes, and verdicts."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from html import escape
from math import nan
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from saepipe.data.errors import MachineError
from saepipe.data.remote.run_folders import first_run, run_folders
from saepipe.data.terminal.display import html_table
from saepipe.evaluate.compare.against_controls import with_controls
from saepipe.evaluate.compare.checks import check_matched_l0
from saepipe.evaluate.compare.notes import Note, notes_on
from saepipe.evaluate.compare.proxy_l0 import ProxyL0, proxy_l0s
from saepipe.evaluate.compare.sweeps import read_at_common_l0, sweeps_of
from saepipe.evaluate.compare.terminal import text
from saepipe.evaluate.compare.variant_means import Variant, by_variant, rules_found, variants_of
from saepipe.evaluate.compare.verdict import Figures, Verdict, verdict, verdict_on_sweep
from saepipe.evaluate.figure_specs import FigureSpec
from saepipe.evaluate.results.figures import SHORT, catalogue, primary_metrics
from saepipe.evaluate.results.run_results import Cell, Row, comparable_values, read_row
from saepipe.train.rundir.finished_run import open_run

if TYPE_CHECKING:  # installed with `datasets`, and slow to import
    from pandas import DataFrame


@dataclass(frozen=True)
class Table:
    """Comparison as plain data, one cell per row and column. Rows are runs, then each variant's mean over seeds.

    Example:
        >>> frame = sp.compare(["runs/l1/seed-0", "runs/topk/seed-0"]).to_pandas()
        >>> frame[["l0", "explained_variance"]]
    """

    columns: tuple[str, ...]
    """`run`, `settings`, `health`, then the labels of `figures`."""
    settings: tuple[str, ...]
    """Config keys in which the runs differ."""
    rows: tuple[tuple[str | Cell, ...], ...]
    figures: tuple[str, ...]
    """Figure keys, as the evaluations name them."""
    short: frozenset[str]
    """Keys of the figures that a table for people shows."""
    notes: tuple[Note, ...]
    variants: tuple[Variant, ...]
    """The runs by variant, with means over their seeds."""
    verdicts: tuple[Verdict, ...] = ()
    """One per variant if there is a baseline, then one per sweep with enough runs."""

    @property
    def shown(self) -> dict[str, str]:
        """Labels of the figures that a table for people shows, by key."""
        labels = self.columns[len(self.columns) - len(self.figures) :]
        return {key: label for key, label in zip(self.figures, labels, strict=True) if key in self.short}

    @property
    def short_columns(self) -> list[int]:
        """Indices of the columns that a table for people shows."""
        first = len(self.columns) - len(self.figures)
        return [*range(first), *(first + index for index, key in enumerate(self.figures) if key in self.short)]

    def _repr_html_(self) -> str:
        """Returns the table for people, as a notebook shows it: the short columns, the verdicts and the notes."""
        columns = self.short_columns
        table = html_table([self.columns[at] for at in columns], ([row[at] for at in columns] for row in self.rows))
        controls = [test for verdict in self.verdicts for test in verdict.controls]
        sentences = "".join(f"<li>{escape(str(line))}</li>" for line in (*self.verdicts, *controls, *self.notes))
        return f"{table}<ul>{sentences}</ul>"

    def to_json(self) -> str:
        rows = [[asdict(cell) if isinstance(cell, Cell) else cell for cell in row] for row in self.rows]
        notes, verdicts = [note.text for note in self.notes], [verdict.to_dict() for verdict in self.verdicts]
        plain = {"columns": self.columns, "figures": self.figures, "rows": rows, "notes": notes, "verdicts": verdicts}
        return json.dumps(plain, indent=2, allow_nan=False)

    def to_dict(self) -> dict[str, Any]:
        """Returns all columns, rows, notes and verdicts as plain data, as `compare --format json` prints them."""
        return json.loads(self.to_json())

    def to_pandas(self) -> DataFrame:
        """Returns a row per run and mean, indexed by its label, with the settings and each figure by its key.

        A figure with 95 % intervals also has the columns `KEY_low` and `KEY_high`, and one with differences from the
        baseline `KEY_difference`. What is undefined or not measured is NaN.

        Raises:
            MachineError: if pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise MachineError("to_pandas needs pandas, which is not installed", hint="pip install pandas") from error
        first = len(self.columns) - len(self.figures)
        texts = [dict(zip(self.columns[:first], map(str, row), strict=False)) for row in self.rows]
        figures = [_flat(dict(zip(self.figures, row[first:], strict=True))) for row in self.rows]
        frame = pandas.DataFrame([text | values for text, values in zip(texts, figures, strict=True)])
        ends = [key for key in frame.columns if key not in self.figures and frame[key].isna().all()]
        return frame.drop(columns=ends).set_index("run")

    def __repr__(self) -> str:
        """Returns what `saepipe compare` prints, at most 80 characters wide."""
        return text(self, width=80)


def _number(value: float | None) -> float:
    return nan if value is None else value


def _flat(cells: Mapping[str, str | Cell]) -> dict[str, float]:
    """Returns `KEY`, `KEY_low`, `KEY_high` and `KEY_difference` of each cell."""
    flat: dict[str, float] = {}
    for key, cell in cells.items():
        assert isinstance(cell, Cell)
        flat |= {key: _number(cell.value), f"{key}_low": _number(cell.low), f"{key}_high": _number(cell.high)}
        flat[f"{key}_difference"] = _number(cell.difference)
    return flat


def compare(runs: Path | str | Sequence[Path | str], baseline: Path | str | None = None) -> Table:
    """Compares runs by their `RUN/eval/*.json`; measures nothing.

    Args:
        runs: run folders; the folder of a variant or study means all runs below it.
        baseline: run, or variant, that the others are compared with; it comes first in the table.

    Raises:
        CorruptDataError: if a run is unfinished or a result file is not one of saepipe.

    Example:
        >>> table = sp.compare("runs", baseline="runs/l1")
        >>> print(table)
    """
    return tabulate(read_rows(runs, baseline), judged=baseline is not None)


def table_of_results(runs: Path | str | Sequence[Path | str], results: Sequence[Path]) -> Table:
    """Builds the table of what an evaluation has measured; without verdicts.

    Args:
        runs: run folders, or folders of runs, as for `compare`.
        results: folder of each run's results.
    """
    rows = [read_row(open_run(run), folder) for run, folder in zip(run_folders(runs), results, strict=True)]
    return tabulate(_with_unique_labels(rows), judged=False)


def read_rows(runs: Path | str | Sequence[Path | str], baseline: Path | str | None = None) -> list[Row]:
    """Reads one row per run, the baseline's first; raises as `compare`."""
    first = [first_run(baseline)] if baseline else []
    folders = run_folders([*first, *run_folders(runs)])
    return _with_unique_labels([read_row(open_run(folder)) for folder in folders])


def tabulate(rows: Sequence[Row], *, judged: bool) -> Table:
    """Builds the table of these runs; if `judged`, with verdicts against the first of them."""
    primary, disagreement = primary_metrics(row.run.trained for row in rows if row.run.trained)
    known = Figures(primary, catalogue())
    figures = _figures(rows, known)
    verdicts, caveats = _judge(rows, known) if judged else ([], [])
    means = [_mean(group, figures) for group in by_variant(rows) if len(group) > 1]
    all_rows = [*rows, *means]
    if judged:
        first = by_variant(rows)[0]
        all_rows = [*_with_differences(rows, first), *_with_differences(means, means[:1] if len(first) > 1 else first)]
    settings = _differing(rows)
    short = frozenset(figures) & {*SHORT, *primary}
    notes = [*notes_on(rows, figures, short), *([Note(disagreement)] if disagreement else [])]
    if judged:
        reference = f"the {rows[0].variant} run of the same seed, or from {rows[0].label} if there is none"
        brackets = f"in brackets: the difference from {reference}; for a mean, from the mean"
        notes += [Note(brackets, explains_runs=True), *caveats]
    return Table(
        columns=("run", *settings, "health", *(how.label for how in figures.values())),
        settings=tuple(settings),
        rows=tuple(
            (
                row.label,
                *(str(row.settings.get(key, "-")) for key in settings),
                rules_found(row.findings, trained=row.run.trained is not None),
                *_cells(row, figures),
            )
            for row in all_rows
        ),
        figures=tuple(figures),
        short=short,
        notes=tuple(notes),
        variants=tuple(variants_of(rows)),
        verdicts=tuple(verdicts),
    )


def _figures(rows: Sequence[Row], known: Figures) -> dict[str, FigureSpec]:
    """Returns the figures that a run has or that are primary; labels of noisy ones say so."""
    measured = (key for key in known.shown if key in known.primary or any(key in row.cells for row in rows))
    shown = {key: known.shown.get(key, FigureSpec(key)) for key in (*measured, *known.primary)}
    return {key: replace(how, label=f"{how.label} (noisy)") if how.noisy else how for key, how in shown.items()}


def _with_unique_labels(rows: Sequence[Row]) -> list[Row]:
    """Labels rows by their folders if they share a label (the same variant, trained twice)."""
    count = Counter(row.label for row in rows)
    return [replace(row, label=str(row.run.path)) if count[row.label] > 1 else row for row in rows]


def _judge(rows: Sequence[Row], figures: Figures) -> tuple[list[Verdict], list[Note]]:
    """Returns verdicts on every variant but the baseline (the first) and on every sweep, and their caveats."""
    baseline, *others = by_variant(rows)
    proxies = list(proxy_l0s([baseline, *others]))
    verdicts = [verdict(variant, baseline, figures, proxies) for variant in others]
    verdicts = with_controls(verdicts, others, figures)
    unmatched = [variant for variant in others if check_matched_l0(variant, baseline)]
    sweeps, caveats = _judge_sweeps([baseline, *others], unmatched, figures, proxies)
    verdicts += sweeps
    caveats += [Note(f"{judged.pair}: {finding}", finding) for judged in verdicts for finding in judged.findings]
    return verdicts, caveats


def _judge_sweeps(
    variants: Sequence[Sequence[Row]],
    unmatched: Sequence[Sequence[Row]],
    figures: Figures,
    proxies: Sequence[ProxyL0],
) -> tuple[list[Verdict], list[Note]]:
    """Judges each sweep that has variants at unmatched L0 against the baseline's sweep, or notes why it cannot."""
    baseline, *others = sweeps_of(variants)
    verdicts, caveats = [], []
    for sweep in others:
        if not any(variant in unmatched for variant in sweep):
            continue
        common = read_at_common_l0(sweep, baseline)
        if isinstance(common, str):
            names = f"{sweep[0][0].variant} and {baseline[0][0].variant}"
            caveats.append(Note(f"{names} cannot be compared at a common L0: {common}"))
        else:
            verdicts.append(verdict_on_sweep(sweep, baseline, common, figures, proxies))
    return verdicts, caveats


def _cells(row: Row, figures: Mapping[str, FigureSpec]) -> tuple[Cell, ...]:
    return tuple(row.cells.get(key, Cell()) for key in figures)


def _differing(rows: Sequence[Row]) -> list[str]:
    """Returns the config keys in which the runs differ, but for the seed, which is in the label.

    An imported run counts only for the keys that it has.
    """
    keys = {key: None for row in rows for key in row.settings if key != "seed"}
    counted = {key: [row for row in rows if row.run.trained or key in row.settings] for key in keys}
    return [key for key in keys if len({str(row.settings.get(key, "-")) for row in counted[key]}) > 1]


def _mean(group: Sequence[Row], figures: Mapping[str, FigureSpec]) -> Row:
    cells = {}
    for key in figures:
        values = [value for row in group if (value := row.value(key)) is not None]
        if len(values) == len(group):
            cells[key] = Cell(fmean(values))
        elif any(key in row.cells for row in group):
            cells[key] = Cell(why=f"{len(values)} of {len(group)} seeds have a value")
    findings = tuple(finding for row in group for finding in row.findings)
    label = f"{group[0].variant} (mean, n={len(group)})"
    return replace(group[0], label=label, cells=cells, findings=findings, parts={})


def _with_differences(rows: Sequence[Row], baseline: Sequence[Row]) -> Iterator[Row]:
    """Adds the differences from the baseline's run of the same seed, or from its first run if there is none."""
    by_seed = {row.pair: row for row in reversed(baseline)}
    labels = {row.label for row in baseline}
    for row in rows:
        yield row if row.label in labels else _with_difference(row, by_seed.get(row.pair, baseline[0]))


def _with_difference(row: Row, baseline: Row) -> Row:
    cells = {}
    for key, cell in row.cells.items():
        ours, theirs = comparable_values(row, baseline, key)
        cells[key] = cell if ours is None or theirs is None else replace(cell, difference=ours - theirs)
    return replace(row, cells=cells)
