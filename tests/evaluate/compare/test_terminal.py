"""A comparison as a terminal shows it: whole cells, few lines."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from helpers.made_results import write_core, write_result, write_run
from saepipe.data.folders.health import Finding, Health
from saepipe.evaluate.compare.table import Table, compare
from saepipe.evaluate.compare.terminal import text
from saepipe.evaluate.figure_specs import STABILITY_FIGURES
from saepipe.evaluate.results.figures import SHORT
from saepipe.evaluate.stats.intervals import Estimate

DEAD = Finding("H9", "warning", "48 % of the latents are dead")
CHANCE = Finding("H10", "error", "the probes of 2 of 26 first letters have an F1 above 0.6", "absorption")

DEFAULT = [key for key in SHORT if key not in STABILITY_FIGURES]
"""Short figures of the default metrics."""


@pytest.fixture
def study(make_run) -> Table:
    """Nine runs of three variants with every short figure of the default metrics, noisy enough for long intervals."""
    runs = []
    for number, name in enumerate(("baseline", "orthogonality", "random_pairs")):
        for seed in range(3):
            run = make_run(name, seed, weight=1.0 + number, health=Health((DEAD,) if number == 1 else ()))
            value = 0.7123456 + 0.0123456 * number + 0.00234567 * (seed + 1) * (number + 1)
            absorption = {key: Estimate(value / 7, value / 8, value / 6) for key in DEFAULT if "absorption" in key}
            figures = {key: Estimate(value, value - 0.01, value + 0.01) for key in DEFAULT if key not in absorption}
            write_result(run, {**figures, "l0": Estimate(32.0, 31.0, 33.0)})
            write_result(run, absorption, name="absorption", findings=(CHANCE,))
            runs.append(run)
    return compare(runs, baseline=runs[0])


NO_HARM = Estimate(None, reason="with zeros at the hook the model does no worse")
NO_LETTER = Estimate(None, reason="no letter is measurable")
UP_TO_NOISE = (-0.05, 0.02, 0.06)


@pytest.fixture
def weak_study(make_run) -> Table:
    """Nine runs with a remark of every kind: figures undefined in all runs or some, large but noisy differences."""
    runs = []
    for number, name in enumerate(("l1", "ortsae", "tanh")):
        for seed in range(3):
            run = make_run(name, seed, weight=1.0 + number, health=Health((DEAD,)))
            value = 0.7 + number * UP_TO_NOISE[seed]
            figures = {key: Estimate(value, value - 0.01, value + 0.01) for key in DEFAULT if "absorption" not in key}
            write_result(run, {**figures, "l0": Estimate(32.0, 31.0, 33.0), "ce_loss_score": NO_HARM})
            keys = [key for key in DEFAULT if "absorption" in key]
            absorption = dict.fromkeys(keys, Estimate(0.0, 0.0, 0.0) if seed else NO_LETTER)
            parts = {key: {"e": 0.0, "t" if number else "s": 0.0} for key in keys} if seed else {}
            write_result(run, absorption, name="absorption", parts=parts)
            runs.append(run)
    return compare(runs, baseline=runs[0])


@pytest.mark.parametrize("name", ["study", "weak_study"])
def test_nine_runs_of_three_variants_fit_forty_lines_of_eighty_columns(name: str, request) -> None:
    lines = text(request.getfixturevalue(name), 80).splitlines()
    assert len(lines) <= 40, "\n".join(lines)
    assert max(map(len, lines)) <= 80


def test_every_remark_is_explained_once(weak_study: Table) -> None:
    shown = text(weak_study, 120)
    assert re.search(r"explained variance \* .* within noise †§", shown)
    assert re.search(r"full absorption \* .* no result \(H17\)", shown)
    assert "† underpowered for 0.01 in explained variance, 0.02 in delta CE (nats)" in shown
    for explanation in ("claim no change (H17)", "only some of the paired seeds", "no letter is measurable", "H16"):
        assert shown.count(explanation) == 1, explanation
    assert "absorption fraction, full absorption are undefined: no letter is measurable" in shown


def test_a_primary_metric_that_nobody_measured_is_named_once(make_run) -> None:
    names = {"a": 1.0, "b": 2.0, "c": 3.0}
    runs = [write_core(make_run(name, seed, weight=names[name])) for name in names for seed in range(3)]
    shown = text(compare(runs, baseline=runs[0]), 120)
    assert shown.count("full absorption is a primary metric but was not measured") == 1
    assert "b, c: H17 warning" in shown


@pytest.mark.parametrize("width", [80, 120])
def test_no_cell_is_cut_and_no_interval_lost(study: Table, width: int) -> None:
    shown = text(study, width, seeds=True)
    assert "…" not in shown
    for verdict in study.verdicts:
        for change in verdict.changes:
            if change.key in DEFAULT and change.key != "l0":
                assert change.paired is not None
                low, high = change.paired.mean.low, change.paired.mean.high
                assert f"{change.difference:+.3g} [{low:+.3g}, {high:+.3g}]" in shown
    for variant in study.variants:
        assert all(str(variant.mean(key)) in shown for key in DEFAULT)


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


def test_settings_that_all_leave_at_their_default_are_not_shown(tmp_path: Path) -> None:
    target = {"name": "l0_target", "l0": 3.0, "weight": 1.0, "penalty": {"name": "tanh", "weight": 1.0}}
    penalties = {"plain": {"name": "l1", "weight": 1.0}, "target": target}
    penalties["sharp"] = {"name": "tanh", "weight": 2.0}
    runs = [write_run(tmp_path / name / "seed-0", penalties=[penalty]) for name, penalty in penalties.items()]
    lines = text(compare(runs), 200, settings=True).splitlines()
    assert "plain: penalties.0.name=l1, penalties.0.weight=1.0" in lines
    assert "sharp: penalties.0.name=tanh, penalties.0.weight=2.0" in lines
    (shown,) = [line for line in lines if line.startswith("target:")]
    assert "penalties.0.weight=1.0" in shown, "its default, which the others do not have"
    assert shown.endswith("penalties.0.l0=3.0, penalties.0.penalty.name=tanh, penalties.0.penalty.weight=1.0")


def test_many_variants_are_split_over_tables_that_fit(make_run) -> None:
    runs = [write_result(make_run(f"variant-{n:02}", weight=1.0 + n), {"l0": 10.0 + n / 100}) for n in range(12)]
    lines = text(compare(runs), 80).splitlines()
    assert max(map(len, lines)) <= 80
    assert sum(line.startswith("L0") for line in lines) > 1
    assert all(any(f"variant-{n:02}" in line for line in lines) for n in range(12))
