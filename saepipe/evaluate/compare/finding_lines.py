"""Lines that a command prints about the findings of health rules and the warnings of evaluations."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from saepipe.data.folders.finding_groups import grouped
from saepipe.data.folders.health import Finding, Health
from saepipe.data.remote.run_folders import run_folders
from saepipe.evaluate.compare.notes import warnings_of
from saepipe.evaluate.compare.table import read_rows
from saepipe.evaluate.results.result_file import read


def lines_by_run(runs: Path | str | Sequence[Path | str], results: Iterable[Path] = ()) -> list[str]:
    """Returns each finding of each run's training, then the findings and warnings of each result, for machines."""
    of_runs = (f"{run}: {finding}" for run in run_folders(runs) for finding in Health.read(run).findings)
    return [*of_runs, *_lines_of_results(results)]


def lines_by_variant(runs: Path | str | Sequence[Path | str], *, evaluated: bool = True) -> list[str]:
    """Returns the findings of runs, one line per rule and variant, then each warning of their evaluations once.

    Args:
        runs: run folders, or folders of runs.
        evaluated: whether to read the runs' evaluations too; otherwise only what the training found.
    """
    if not evaluated:
        return [*map(str, grouped({"/".join(run.parts[-2:]): Health.read(run).findings for run in run_folders(runs)}))]
    rows = read_rows(runs)
    groups = grouped({row.label: row.findings for row in rows})
    return [*map(str, groups), *(note.text for note in warnings_of(rows))]


def _lines_of_results(results: Iterable[Path]) -> Iterator[str]:
    for path in results:
        ours = read(path)["saepipe"]
        yield from (f"{path}: {Finding(**finding)}" for finding in ours["findings"])
        yield from (f"{path}: {warning}" for warning in ours["warnings"])
