"""Findings grouped for people: one sentence per rule and variant, with the range of the measured values over seeds."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from saepipe.data.folders.health import Finding, Severity
from saepipe.data.folders.health_rules import RULES


class Range(NamedTuple):
    """Least and largest of some values; formatted by the same specification as one of them."""

    low: float
    high: float

    def __format__(self, specification: str) -> str:
        low, high = format(self.low, specification), format(self.high, specification)
        return low if low == high else f"{low.removesuffix('%')} to {high}"


@dataclass(frozen=True)
class FindingGroup:
    """A finding that holds for one or more runs of a variant."""

    variant: str
    runs: tuple[str, ...]
    """Labels of the runs it was found in."""
    num_runs: int
    """Runs of the variant, with or without it."""
    rule: str
    severity: Severity
    message: str
    """The finding's message, with ranges over the runs."""

    @property
    def where(self) -> str:
        """`l1, 3 seeds`, `l1, 2 of 3 seeds`, or the label of the only run."""
        if len(self.runs) == 1:
            return self.runs[0]
        counted = f"{self.num_runs}" if len(self.runs) == self.num_runs else f"{len(self.runs)} of {self.num_runs}"
        return f"{self.variant}, {counted} seeds"

    def __str__(self) -> str:
        return f"{self.where}: {self.rule} {self.severity} ({RULES[self.rule].title}): {self.message}"


def grouped(findings_by_run: Mapping[str, Iterable[Finding]]) -> list[FindingGroup]:
    """Returns a group per rule, severity, variant and kind of message: errors first, otherwise in the given order.

    Args:
        findings_by_run: findings of each run by its label, `VARIANT/seed-N`; runs without findings count as seeds.
    """
    groups: dict[tuple[str, str], dict[str, Finding]] = {}
    num_runs: dict[str, int] = {}
    for run, findings in findings_by_run.items():
        variant = variant_of(run)
        num_runs[variant] = num_runs.get(variant, 0) + 1
        for finding in findings:
            groups.setdefault((variant, kind(finding)), {}).setdefault(run, finding)
    merged = [_merged(variant, by_run, num_runs[variant]) for (variant, _), by_run in groups.items()]
    return sorted(merged, key=lambda group: group.severity != "error")


def variant_of(run: str) -> str:
    """Returns a run's label without its seed: `study/l1` of `study/l1/seed-0`."""
    return re.sub(r"/seed-\d+$", "", run)


def kind(finding: Finding) -> str:
    """Returns what findings of several runs have in common if one sentence can tell them all."""
    return f"{finding.rule} {finding.severity}: {finding.pattern or finding.message}"


def _merged(variant: str, by_run: Mapping[str, Finding], num_runs: int) -> FindingGroup:
    first, *others = by_run.values()
    message = first.message
    if others and first.pattern:
        values = zip(*(finding.values for finding in by_run.values()), strict=True)
        ranges = [Range(min(each), max(each)) for each in values]
        message = first.pattern.format(*ranges) if ranges else first.pattern
    return FindingGroup(variant, tuple(by_run), num_runs, first.rule, first.severity, message)
