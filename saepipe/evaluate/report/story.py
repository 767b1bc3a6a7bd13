"""Data behind the page, read from the runs' folders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saepipe.data.folders.finding_groups import grouped
from saepipe.data.folders.health import Finding
from saepipe.data.folders.health_rules import RULES
from saepipe.evaluate.compare.checks import check_parts, check_same_data, check_sources
from saepipe.evaluate.compare.table import Table, read_rows, tabulate
from saepipe.evaluate.compare.variant_means import Variant, variants_of
from saepipe.evaluate.features.roles import Role, roles
from saepipe.evaluate.figure_specs import FigureSpec
from saepipe.evaluate.report.cached import CacheFacts, read_cache
from saepipe.evaluate.report.evaluations import read_results
from saepipe.evaluate.report.provenance import Link, chain
from saepipe.evaluate.results.figures import catalogue
from saepipe.evaluate.results.run_results import Row
from saepipe.train.rundir.sealed_log import read_log

LogLine = Mapping[str, Any]


@dataclass(frozen=True)
class ReportedFinding:
    """A finding of a variant's runs, or of their comparison: then without labels, variant and where."""

    finding: Finding
    labels: tuple[str, ...]
    """Runs concerned."""
    variant: str = ""
    where: str = ""
    """`l1, 3 seeds`, or the label of the only run."""

    def __str__(self) -> str:
        rule = f"{RULES[self.finding.rule].title} ({self.finding.rule}, {self.finding.severity})"
        return f"{self.where or 'the comparison'}: {rule}: {self.finding.message}"


@dataclass(frozen=True)
class Story:
    """Data of several runs, by the labels of the rows (`l1=4/seed-0`)."""

    rows: tuple[Row, ...]
    """One per run, the baseline first if there is one."""
    variants: tuple[Variant, ...]
    shown: Mapping[str, FigureSpec]
    """Label and better direction of each figure, by key."""
    table: Table
    logs: Mapping[str, Sequence[LogLine]]
    """Lines of each run's metrics.jsonl; empty for an imported run."""
    results: Mapping[str, Mapping[str, Mapping[str, Any]]]
    """Evaluations by run and name, as `read_results` returns them."""
    roles: Mapping[str, Mapping[int, Sequence[Role]]]
    """Roles of latents in the evaluations, by run and latent."""
    findings: tuple[ReportedFinding, ...]
    """Errors before warnings, without those of the verdicts."""
    configs: Mapping[str, Mapping[str, Any]]
    """Each run's complete resolved config as plain data."""
    provenance: Mapping[str, tuple[Link, ...]]
    """Links of each run, from the run down to the data."""
    caches: Mapping[str, CacheFacts | str]
    """Caches by fingerprint, or why one cannot be read."""
    baseline: str | None = None

    @classmethod
    def read(cls, runs: Path | str | Sequence[Path | str], baseline: Path | str | None = None) -> Story:
        """Reads finished runs, with any evaluations; their caches may be missing.

        Raises:
            ConfigError: if a run does not exist.
            CorruptDataError: if a run is unfinished or damaged, or a result is not one of saepipe.
        """
        rows = read_rows(runs, baseline)
        table, shown = tabulate(rows, judged=baseline is not None), catalogue()
        caches = {row.run.cache_fingerprint: row.run for row in reversed(rows)}
        results = {row.label: read_results(row.run) for row in rows}
        facts = {fingerprint: read_cache(run) for fingerprint, run in caches.items()}
        return cls(
            rows=tuple(rows),
            variants=tuple(variants_of(rows)),
            shown=shown,
            table=table,
            logs={row.label: read_log(row.run.path) for row in rows},
            results=results,
            roles={row.label: _roles(row, results[row.label]) for row in rows},
            findings=tuple(_findings(rows, shown)),
            configs={row.label: dict(row.run.plain) for row in rows},
            provenance={row.label: chain(row.run, facts[row.run.cache_fingerprint]) for row in rows},
            caches=facts,
            baseline=rows[0].label if baseline else None,
        )

    def differences(self, row: Row) -> dict[str, str]:
        """Returns a run's settings for the keys in which the runs differ."""
        return {key: str(row.settings.get(key, "-")) for key in self.table.settings}

    def variant_of(self, label: str) -> Variant:
        """Returns the variant of a run's label."""
        return next(variant for variant in self.variants if any(row.label == label for row in variant.rows))


def _roles(row: Row, results: Mapping[str, Any]) -> dict[int, list[Role]]:
    """Reads the roles of a run's latents, without those in results of other runs."""
    if not results:
        return {}
    of_run = {latent: [role for role in all_ if role.metric in results] for latent, all_ in roles(row.run.path).items()}
    return {latent: some for latent, some in of_run.items() if some}


def _findings(rows: Sequence[Row], shown: Mapping[str, FigureSpec]) -> list[ReportedFinding]:
    """Returns the findings about runs, grouped over seeds, then about all of them together, errors first.

    Findings about the comparison with the baseline belong to its verdict.
    """
    groups = grouped({row.label: row.findings for row in rows})
    findings = [
        ReportedFinding(Finding(group.rule, group.severity, group.message), group.runs, group.variant, group.where)
        for group in groups
    ]
    of_comparison = [*check_sources(rows), *check_same_data(rows, shown), *check_parts(rows, shown)]
    findings += [ReportedFinding(finding, ()) for finding in of_comparison]
    return sorted(findings, key=lambda reported: reported.finding.severity != "error")
