"""Findings as lines: each of them for machines, one per rule and variant for people."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from helpers.made_results import write_result
from saepipe.data.folders.health import Finding, Health
from saepipe.evaluate.compare.finding_lines import lines_by_run, lines_by_variant

DEAD = Finding("H9", "warning", "48 % of the latents are dead")
CHANCE = Finding("H10", "error", "no first letter is measurable", "absorption")


@pytest.fixture
def runs(make_run: Callable[..., Path]) -> list[Path]:
    """Returns two seeds of a variant, each with a finding, and an evaluation with another and a warning."""
    runs = [make_run("l1", seed, health=Health((DEAD,))) for seed in range(2)]
    for run in runs:
        write_result(run, {"l0": 3.0}, name="absorption", findings=(CHANCE,), warnings=("few words",))
    return runs


def test_people_read_a_line_per_rule_and_variant(runs: list[Path]) -> None:
    dead, chance = (f"l1, 2 seeds: {finding!s}" for finding in (DEAD, CHANCE))
    assert lines_by_variant(runs) == [chance, dead, "few words"]
    assert lines_by_variant(runs, evaluated=False) == [dead]


def test_machines_read_each_finding_of_each_run_and_result(runs: list[Path]) -> None:
    results = [run / "eval" / "absorption.json" for run in runs]
    assert lines_by_run(runs) == [f"{run}: {DEAD}" for run in runs]
    of_results = [line for path in results for line in (f"{path}: {CHANCE}", f"{path}: few words")]
    assert lines_by_run(runs, results) == [*(f"{run}: {DEAD}" for run in runs), *of_results]
