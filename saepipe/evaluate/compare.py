"""One table of several runs: the config keys in which they differ, and what was measured of each."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from saepipe.data.config import flatten
from saepipe.evaluate.envelope import read
from saepipe.train.load import Run, open_run

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
_MATCHED_L0 = 0.05
_SEEDS_FOR_A_VERDICT = 3


@dataclass(frozen=True)
class Cell:
    """A figure of the table; without a value it was not measured, or has none."""

    value: float | None = None
    low: float | None = None
    high: float | None = None
    """The 95 % interval over held-out documents."""
    difference: float | None = None
    """From the baseline."""
    why: str | None = None
    """The reason for there being no value."""

    def __str__(self) -> str:
        if self.value is None:
            return "undefined" if self.why else "not measured"
        text = f"{self.value:.4g}"
        if self.low is not None and self.high is not None:
            text += f" ±{(self.high - self.low) / 2:.1g}"
        return text if self.difference is None else f"{text} ({self.difference:+.3g})"


@dataclass(frozen=True)
class Table:
    """Plain data: a row has a cell a column. Rows are runs, then the mean over seeds of each variant."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str | Cell, ...], ...]
    notes: tuple[str, ...]

    def to_json(self) -> str:
        rows = [[asdict(cell) if isinstance(cell, Cell) else cell for cell in row] for row in self.rows]
        plain = {"columns": self.columns, "rows": rows, "notes": self.notes}
        return json.dumps(plain, indent=2, allow_nan=False)


@dataclass(frozen=True)
class _Row:
    label: str
    path: Path
    settings: Mapping[str, Any]
    """The config's leaves."""
    cells: Mapping[str, Cell]
    """By metric key; those that were measured."""
    heldout: tuple[str, int] | None
    """The cache and how many of its held-out tokens were used."""
    warnings: tuple[str, ...] = ()
    """What keeps its figures from showing anything."""


def compare(runs: Sequence[Path], baseline: Path | None = None) -> Table:
    """Reads `RUN/eval/*.json` of each run; measures nothing.

    Args:
        runs: run folders.
        baseline: the run that the others are compared with; it comes first in the table.

    Raises:
        CorruptDataError: if a run is unfinished or a result is not one of ours.
    """
    folders = {Path(run).resolve(): Path(run) for run in ((baseline, *runs) if baseline else runs)}
    rows = _told_apart([_row_of(open_run(folder)) for folder in folders.values()])
    shown = _with_means(rows)
    if baseline:
        shown = [_less(row, rows[0]) if row is not rows[0] else row for row in shown]
    settings = _differing(rows)
    return Table(
        columns=("run", *settings, *SHOWN.values()),
        rows=tuple((row.label, *(str(row.settings.get(key, "-")) for key in settings), *_cells(row)) for row in shown),
        notes=tuple(_notes(rows, baseline is not None)),
    )


def _row_of(run: Run) -> _Row:
    cells: dict[str, Cell] = {}
    heldout = None
    warnings: list[str] = []
    for path in sorted((run.path / "eval").glob("*.json")):
        result = read(path)
        ours = result["saepipe"]
        if ours["fingerprints"]["run"] != run.fingerprint:
            continue  # left by a run that lay here before; evaluate measures again
        cells |= dict(_figures(result))
        warnings += ours["warnings"]
        if result["eval_type_id"] == "core":
            heldout = (ours["fingerprints"]["cache"], ours["counts"]["tokens"])
    label = f"{run.variant}/seed-{run.seed}"
    return _Row(label, run.path, dict(flatten(run.config.identity())), cells, heldout, tuple(warnings))


def _told_apart(rows: Sequence[_Row]) -> list[_Row]:
    """Rows of one label (the same variant, trained twice) are called by their folders."""
    count = Counter(row.label for row in rows)
    return [replace(row, label=str(row.path)) if count[row.label] > 1 else row for row in rows]


def _figures(result: Mapping[str, Any]) -> Iterator[tuple[str, Cell]]:
    ours = result["saepipe"]
    for group in (*result["eval_result_metrics"].values(), ours["metrics"]):
        for key, value in group.items():
            low, high = ours["intervals"].get(key, (None, None))
            yield key, Cell(value, low, high, why=ours["undefined"].get(key))


def _cells(row: _Row) -> tuple[Cell, ...]:
    return tuple(row.cells.get(key, Cell()) for key in SHOWN)


def _differing(rows: Sequence[_Row]) -> list[str]:
    """The config keys in which the runs differ; the seed stands in the label."""
    keys = {key: None for row in rows for key in row.settings if key != "seed"}
    return [key for key in keys if len({str(row.settings.get(key, "-")) for row in rows}) > 1]


def _with_means(rows: Sequence[_Row]) -> list[_Row]:
    """The rows, then the mean over seeds of every variant that has more than one."""
    variants = _variants(rows)
    return [*rows, *(_mean(group) for group in variants if len(group) > 1)]


def _variants(rows: Sequence[_Row]) -> list[list[_Row]]:
    """Runs whose configs differ in nothing but seeds."""
    groups: dict[str, list[_Row]] = defaultdict(list)
    for row in rows:
        groups[repr([item for item in row.settings.items() if item[0] not in _SEEDS])].append(row)
    return list(groups.values())


def _mean(group: Sequence[_Row]) -> _Row:
    cells = {}
    for key in SHOWN:
        values = [row.cells[key].value for row in group if key in row.cells]
        known = [value for value in values if value is not None]
        if len(known) == len(group):
            cells[key] = Cell(fmean(known))
    name = group[0].label.rpartition("/")[0]
    return replace(group[0], label=f"{name} (mean, n={len(group)})", cells=cells)


def _less(row: _Row, baseline: _Row) -> _Row:
    """The row with its differences from the baseline."""
    cells = {}
    for key, cell in row.cells.items():
        base = baseline.cells.get(key, Cell()).value
        cells[key] = cell if cell.value is None or base is None else replace(cell, difference=cell.value - base)
    return replace(row, cells=cells)


def _notes(rows: Sequence[_Row], has_baseline: bool) -> Iterator[str]:
    yield from dict.fromkeys(warning for row in rows for warning in row.warnings)
    undefined = {(name, why) for row in rows for key, name in SHOWN.items() if (why := row.cells.get(key, Cell()).why)}
    yield from (f"{name} is undefined: {why}" for name, why in sorted(undefined))
    if any(cell.low is not None for row in rows for cell in row.cells.values()):
        yield "± is a 95 % interval over held-out documents: evaluation noise only, not that of another training seed"
    if has_baseline:
        yield f"in brackets: the difference from {rows[0].label}"
    l0 = [value for row in rows if (value := row.cells.get("l0", Cell()).value) is not None]
    if l0 and max(l0) > (1 + _MATCHED_L0) * min(l0):
        yield f"L0 goes from {min(l0):.3g} to {max(l0):.3g}: not a comparison at matched sparsity"
    if len({row.heldout for row in rows if row.heldout}) > 1:
        yield "the runs were evaluated on different held-out tokens: their figures do not compare"
    if min(len(group) for group in _variants(rows)) < _SEEDS_FOR_A_VERDICT:
        yield f"fewer than {_SEEDS_FOR_A_VERDICT} seeds a variant: no verdict on which is better"
