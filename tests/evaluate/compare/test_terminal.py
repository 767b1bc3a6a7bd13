"""A comparison as a terminal shows it: whole cells, few lines."""

from __future__ import annotations

import re

import pytest

from helpers.made_results import write_result
from saepipe.data.folders.health import Finding, Health
from saepipe.evaluate.compare.table import Table, compare
from saepipe.evaluate.compare.terminal import text
from saepipe.evaluate.results.figures import SHORT
from saepipe.evaluate.stats.intervals import Estimate

DEAD = Finding("H9", "warning", "48 % of the latents are dead")
CHANCE = Finding("H10", "error", "the probes of 2 of 26 first letters have an F1 above 0.6", "absorption")


@pytest.fixture
def study(make_run) -> Table:
    """Nine runs of three variants with every figure of the short list, noisy enough for long intervals."""
    runs = []
    for number, name in enumerate(("baseline", "orthogonality", "random_pairs")):
        for seed in range(3):
            run = make_run(name, seed, weight=1.0 + number, health=Health((DEAD,) if number == 1 else ()))
            value = 0.7123456 + 0.0123456 * number + 0.00234567 * (seed + 1) * (number + 1)
            absorption = {key: Estimate(value / 7, value / 8, value / 6) for key in SHORT if "absorption" in key}
            figures = {key: Estimate(value, value - 0.01, value + 0.01) for key in SHORT if key not in absorption}
            write_result(run, {**figures, "l0": Estimate(32.0, 31.0, 33.0)})
            write_result(run, absorption, name="absorption", findings=(CHANCE,))
            runs.append(run)
    return compare(runs, baseline=runs[0])


def test_nine_runs_of_three_variants_fit_forty_lines_of_eighty_columns(study: Table) -> None:
    lines = text(study, 80).splitlines()
    assert len(lines) <= 40, "\n".join(lines)
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize("width", [80, 120])
def test_no_cell_is_cut_and_no_interval_lost(study: Table, width: int) -> None:
    shown = text(study, width, seeds=True)
    assert "…" not in shown
    for verdict in study.verdicts:
        for change in verdict.changes:
            if change.key in SHORT and change.key != "l0":
                assert change.paired is not None
                low, high = change.paired.mean.low, change.paired.mean.high
                assert f"{change.difference:+.3g} [{low:+.3g}, {high:+.3g}]" in shown
    for variant in study.variants:
        assert all(str(variant.mean(key)) in shown for key in SHORT)


def test_what_is_blocked_says_by_what(study: Table) -> None:
    shown = text(study, 120)
    assert re.search(r"absorption fraction +[-+\d.]+ \[.*\] +[\d.e-]+ +no result \(H10\)", shown)
    assert re.search(r"explained variance \* +\S+ \[.*\] +\S+ +(better|worse|within noise)", shown)


def test_findings_of_single_runs_are_counted_and_their_command_is_named(study: Table) -> None:
    shown = text(study, 120)
    assert "(H9)" in shown
    assert "48 %" not in shown
    assert "findings and warnings about 9 of these runs: saepipe findings RUN..." in shown


def test_runs_and_settings_are_shown_on_request(study: Table) -> None:
    plain, full = text(study, 120), text(study, 120, seeds=True, settings=True)
    assert "orthogonality/seed-2" not in plain
    assert "orthogonality/seed-2" in full
    assert "orthogonality: penalties.0.weight=2.0" in full


def test_many_variants_are_split_over_tables_that_fit(make_run) -> None:
    runs = [write_result(make_run(f"variant-{n:02}", weight=1.0 + n), {"l0": 10.0 + n / 100}) for n in range(12)]
    lines = text(compare(runs), 80).splitlines()
    assert max(map(len, lines)) <= 80
    assert sum(line.startswith("L0") for line in lines) > 1
    assert all(any(f"variant-{n:02}" in line for line in lines) for n in range(12))
