"""One table of several runs: the config keys in which they differ, what was measured of each, and what may be said."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean

from saepipe.data.health import errors
from saepipe.evaluate.results import Cell, Row, row_of
from saepipe.evaluate.verdict import (
    MATCHED_L0,
    SEEDS_FOR_A_VERDICT,
    Verdict,
    check_same_data,
    check_sources,
    verdict,
)
from saepipe.train.load import open_run

SHOWN = {
    "l0": "L0",
    "explained_variance": "explained variance",
    "delta_ce": "delta CE (nats)",
    "ce_loss_score": "CE score",
    "kl_div_score": "KL score",
    "mse": "MSE",
    "cossim": "cosine",
    "l2_ratio": "l2 ratio",
    "frac_alive": "alive",
}
"""Metric keys of the table and their headings."""

_SEEDS = ("seed", "data_seed")


@dataclass(frozen=True)
class Table:
    """Plain data: a row has a cell a column. Rows are runs, then the mean over seeds of each variant."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str | Cell, ...], ...]
    notes: tuple[str, ...]
    verdicts: tuple[Verdict, ...] = ()
    """On each variant, where there is a baseline."""

    def to_json(self) -> str:
        rows = [[asdict(cell) if isinstance(cell, Cell) else cell for cell in row] for row in self.rows]
        verdicts = [verdict.to_dict() for verdict in self.verdicts]
        plain = {"columns": self.columns, "rows": rows, "notes": self.notes, "verdicts": verdicts}
        return json.dumps(plain, indent=2, allow_nan=False)


def compare(runs: Sequence[Path], baseline: Path | None = None) -> Table:
    """Reads `RUN/eval/*.json` of each run; measures nothing.

    Args:
        runs: run folders.
        baseline: the run that the others are compared with; it comes first in the table.

    Raises:
        CorruptDataError: if a run is unfinished or a result is not one of ours.
    """
    folders = {Path(run).resolve(): Path(run) for run in ((baseline, *runs) if baseline else runs)}
    rows = _told_apart([row_of(open_run(folder)) for folder in folders.values()])
    shown = _with_means(rows)
    if baseline:
        shown = [_less(row, rows[0]) if row is not rows[0] else row for row in shown]
    settings = _differing(rows)
    return Table(
        columns=("run", *settings, "health", *SHOWN.values()),
        rows=tuple(
            (row.label, *(str(row.settings.get(key, "-")) for key in settings), _health(row), *_cells(row))
            for row in shown
        ),
        notes=tuple(_notes(rows, baseline is not None)),
        verdicts=tuple(_verdicts(rows)) if baseline else (),
    )


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


def _verdicts(rows: Sequence[Row]) -> Iterator[Verdict]:
    """Of each variant but the first row's, which is the baseline."""
    baseline, *others = _variants(rows)
    yield from (verdict(variant, baseline) for variant in others)


def _cells(row: Row) -> tuple[Cell, ...]:
    return tuple(row.cells.get(key, Cell()) for key in SHOWN)


def _differing(rows: Sequence[Row]) -> list[str]:
    """The config keys in which the runs differ, as far as an imported run has them; the seed stands in the label."""
    keys = {key: None for row in rows for key in row.settings if key != "seed"}
    seen = {key: [row for row in rows if row.run.trained or key in row.settings] for key in keys}
    return [key for key in keys if len({str(row.settings.get(key, "-")) for row in seen[key]}) > 1]


def _with_means(rows: Sequence[Row]) -> list[Row]:
    """The rows, then the mean over seeds of every variant that has more than one."""
    variants = _variants(rows)
    return [*rows, *(_mean(group) for group in variants if len(group) > 1)]


def _variants(rows: Sequence[Row]) -> list[list[Row]]:
    """Runs whose configs differ in nothing but seeds."""
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        groups[repr([item for item in row.settings.items() if item[0] not in _SEEDS])].append(row)
    return list(groups.values())


def _mean(group: Sequence[Row]) -> Row:
    cells = {}
    for key in SHOWN:
        values = [row.cells[key].value for row in group if key in row.cells]
        known = [value for value in values if value is not None]
        if len(known) == len(group):
            cells[key] = Cell(fmean(known))
    name = group[0].label.rpartition("/")[0]
    findings = tuple(finding for row in group for finding in row.findings)
    return replace(group[0], label=f"{name} (mean, n={len(group)})", cells=cells, findings=findings)


def _less(row: Row, baseline: Row) -> Row:
    """The row with its differences from the baseline."""
    cells = {}
    for key, cell in row.cells.items():
        base = baseline.cells.get(key, Cell()).value
        cells[key] = cell if cell.value is None or base is None else replace(cell, difference=cell.value - base)
    return replace(row, cells=cells)


def _notes(rows: Sequence[Row], has_baseline: bool) -> Iterator[str]:
    yield from dict.fromkeys(f"{row.label}: {finding}" for row in rows for finding in row.findings)
    yield from map(str, check_sources(rows))
    yield from dict.fromkeys(warning for row in rows for warning in row.warnings)
    undefined = {(name, why) for row in rows for key, name in SHOWN.items() if (why := row.cells.get(key, Cell()).why)}
    yield from (f"{name} is undefined: {why}" for name, why in sorted(undefined))
    if any(cell.low is not None for row in rows for cell in row.cells.values()):
        yield "± is a 95 % interval over held-out documents: evaluation noise only, not that of another training seed"
    if has_baseline:
        yield f"in brackets: the difference from {rows[0].label}"
    l0 = [value for row in rows if (value := row.cells.get("l0", Cell()).value) is not None]
    if l0 and max(l0) > (1 + MATCHED_L0) * min(l0):
        yield f"H18: L0 goes from {min(l0):.3g} to {max(l0):.3g}: not a comparison at matched sparsity"
    yield from map(str, check_same_data(rows))
    if min(len(group) for group in _variants(rows)) < SEEDS_FOR_A_VERDICT:
        yield f"fewer than {SEEDS_FOR_A_VERDICT} seeds a variant: no verdict on which is better"
