"""Everything that the page tells, read from the runs' folders; nothing is drawn here.

The page puts the findings first, then what `sections` draws, then the table, the configs and where it all comes from.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from saepipe.data.folders.health import RULES, Finding
from saepipe.evaluate.compare.checks import check_same_data, check_same_parts, check_sources
from saepipe.evaluate.compare.table import Table, read_rows, tabulate
from saepipe.evaluate.metrics.base import Shown
from saepipe.evaluate.report.cached import CacheFacts, read_cache
from saepipe.evaluate.report.evaluations import read_results
from saepipe.evaluate.report.provenance import Link, chain
from saepipe.evaluate.report.variant_means import Variant, variants_of
from saepipe.evaluate.results.figures import catalogue
from saepipe.evaluate.results.run_results import Row
from saepipe.train.rundir import folder

LogLine = Mapping[str, Any]


@dataclass(frozen=True)
class Told:
    """A finding, and the labels of the runs that it is of; none where it is of their comparison."""

    finding: Finding
    labels: tuple[str, ...]

    def __str__(self) -> str:
        what = f"{RULES[self.finding.rule]} ({self.finding.rule}, {self.finding.severity})"
        return f"{', '.join(self.labels) or 'the comparison'}: {what}: {self.finding.message}"


@dataclass(frozen=True)
class Story:
    """Of several runs; labels are those of the rows, `l1=4/seed-0`."""

    rows: tuple[Row, ...]
    """One a run; the baseline's first, where there is one."""
    variants: tuple[Variant, ...]
    shown: Mapping[str, Shown]
    """How each figure is called, and which way is better."""
    table: Table
    logs: Mapping[str, Sequence[LogLine]]
    """The lines of each run's metrics.jsonl; none of an imported run."""
    results: Mapping[str, Mapping[str, Mapping[str, Any]]]
    """By run and name of the evaluation, as `read_results` leaves them."""
    findings: tuple[Told, ...]
    """Errors before warnings."""
    differing: tuple[str, ...]
    """The config keys in which the runs differ."""
    configs: Mapping[str, Mapping[str, Any]]
    """Each run's whole resolved config, as plain data."""
    provenance: Mapping[str, tuple[Link, ...]]
    """Of each run, from it down to the data."""
    caches: Mapping[str, CacheFacts | str]
    """By fingerprint; or why that cache cannot be read."""
    baseline: str | None = None

    @classmethod
    def read(cls, runs: Sequence[Path | str], baseline: Path | str | None = None) -> Story:
        """Of finished runs, whatever was evaluated of them, and whether or not their caches are still there.

        Raises:
            ConfigError: if a run does not exist.
            CorruptDataError: if a run is unfinished or damaged, or a result is not one of ours.
        """
        rows = read_rows(runs, baseline)
        table, shown = tabulate(rows, judged=baseline is not None), catalogue()
        caches = {row.run.cache_fingerprint: row.run for row in reversed(rows)}
        facts = {fingerprint: read_cache(run) for fingerprint, run in caches.items()}
        return cls(
            rows=tuple(rows),
            variants=tuple(variants_of(rows)),
            shown=shown,
            table=table,
            logs={row.label: _log(row.run.path) for row in rows},
            results={row.label: read_results(row.run) for row in rows},
            findings=tuple(_told(rows, table, shown)),
            differing=table.columns[1 : table.columns.index("health")],
            configs={row.label: row.run.config.to_dict() for row in rows},
            provenance={row.label: chain(row.run, facts[row.run.cache_fingerprint]) for row in rows},
            caches=facts,
            baseline=rows[0].label if baseline else None,
        )

    def differences(self, row: Row) -> dict[str, str]:
        """What a run has for each key in which the runs differ."""
        return {key: str(row.settings.get(key, "-")) for key in self.differing}

    def variant_of(self, label: str) -> Variant:
        """Of a run's label."""
        return next(variant for variant in self.variants if any(row.label == label for row in variant.rows))


def _log(run: Path) -> tuple[LogLine, ...]:
    path = run / folder.METRICS
    return tuple(map(json.loads, path.read_text().splitlines())) if path.exists() else ()


def _told(rows: Sequence[Row], table: Table, shown: Mapping[str, Shown]) -> list[Told]:
    """What rules say of the runs, then of their comparison; the same words once, with all runs that they are of."""
    of_runs: dict[Finding, list[str]] = {}
    for row in rows:
        for finding in row.findings:
            of_runs.setdefault(finding, []).append(row.label)
    between: Iterable[Finding] = dict.fromkeys(
        [*check_sources(rows), *check_same_data(rows, shown), *check_same_parts(rows, shown), *_judged(table)]
    )
    told = [*(Told(finding, tuple(runs)) for finding, runs in of_runs.items()), *(Told(one, ()) for one in between)]
    return sorted(told, key=lambda one: one.finding.severity != "error")


def _judged(table: Table) -> Iterator[Finding]:
    for verdict in table.verdicts:
        for finding in (*verdict.by_comparison, *verdict.findings):
            yield replace(finding, message=f"{verdict.pair}: {finding.message}")
