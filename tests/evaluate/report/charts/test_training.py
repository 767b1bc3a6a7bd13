"""Lines over training steps: shares of the gradient, loss terms, and long logs."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.charts import charts_of, marks, run, values_under
from helpers.made_stories import values, write_imported, write_log
from saepipe.evaluate.report.charts import training
from saepipe.evaluate.report.story import Story


def shares(*values: float) -> list[tuple[float, float]]:
    return [(2.0 * share, share) for share in values]


def test_zeros_of_a_penalty_get_crosses_and_a_sentence(tmp_path: Path) -> None:
    dead, alive = shares(0.0, 0.0, 0.0), shares(0.5, 0.01, 1e-3)
    runs = [write_log(run(tmp_path, "a", weight=2.0), {"l1": alive}), write_log(run(tmp_path, "b"), {"l1": dead})]
    chart = charts_of(training.section(Story.read(runs)))["training-share-l1"]
    assert "It is exactly 0 at 3 of 3 lines of b/seed-0." in chart.description
    cross = chart.spec["layer"][marks(chart).index("point", 2)]
    assert cross["mark"]["shape"] == "cross"
    assert {"filter": "datum.y === 0"} in cross["transform"]
    y = cross["encoding"]["y"]
    floor = y["scale"]["domainMin"]
    assert y["scale"]["type"] == "log"
    assert floor == pytest.approx(1e-4)  # a decade below the smallest positive value
    assert y["axis"]["values"][0] == floor
    assert y["axis"]["labelExpr"].startswith("datum.value < 0.0002 ? '0'")
    data = [record["y"] for record in values(chart.spec)]
    assert data == [0.5, 0.01, 1e-3, 0.0, 0.0, 0.0]  # the true values
    assert chart.columns == ("step", "a/seed-0", "b/seed-0")
    assert chart.rows[1] == (20, 0.01, 0.0)


def test_without_zeros_there_are_no_crosses(tmp_path: Path) -> None:
    chart = charts_of(training.section(Story.read([write_log(run(tmp_path, "a"), {"l1": shares(0.5, 0.4)})])))[
        "training-share-l1"
    ]
    assert "exactly" not in chart.description
    assert marks(chart) == ["line", "point"]
    assert "log" not in list(values_under(chart.spec, "type"))


def test_the_limit_of_h1_is_shown_if_a_share_is_below_it(tmp_path: Path) -> None:
    chart = charts_of(training.section(Story.read([write_log(run(tmp_path, "a"), {"l1": shares(0.5, 1e-8)})])))[
        "training-share-l1"
    ]
    (rule,) = [layer for layer in chart.spec["layer"] if layer["mark"]["type"] == "rule"]
    assert rule["encoding"]["y"]["datum"] == 1e-6
    assert "dashed line" in chart.description


def test_every_term_and_figure_is_shown_for_the_runs_that_have_it(tmp_path: Path) -> None:
    first = write_log(run(tmp_path, "a"), {"reconstruction": shares(0.5, 0.5), "l1": shares(0.5, 0.5)})
    second = write_log(run(tmp_path, "b", penalties=[]), {"reconstruction": shares(1.0, 1.0)})
    bare, imported = run(tmp_path, "c", weight=3.0), write_imported(tmp_path / "d" / "seed-0")
    section = training.section(Story.read([first, second, bare, imported]))
    charts = charts_of(section)
    assert list(charts) == [
        "training-share-l1",
        "training-loss-reconstruction",
        "training-loss-l1",
        "training-l0",
        "training-fvu",
    ]
    assert charts["training-loss-l1"].columns == ("step", "a/seed-0")
    assert charts["training-loss-reconstruction"].rows == ((10, 1.0, 2.0), (20, 1.0, 2.0))
    assert charts["training-l0"].rows == ((10, 120.0, 120.0), (20, 70.0, 70.0))
    assert next(values_under(charts["training-loss-l1"].spec, "legend"))["values"] == ["a"]
    assert section.absent == (
        "c/seed-0 has no metrics.jsonl, so its training is not shown.",
        "d/seed-0 was imported, so its training is unknown.",
        "Dead latents over steps: 0 at every line of every log.",
    )


def test_a_share_is_shown_at_the_step_where_it_was_sampled(tmp_path: Path) -> None:
    sampled = write_log(run(tmp_path, "a"), {"l1": shares(0.5, 0.4, 0.3)}, gradients_at=[3, 17, 30])
    earlier = write_log(run(tmp_path, "b"), {"l1": shares(0.2, 0.2, 0.2)})
    charts = charts_of(training.section(Story.read([sampled, earlier])))
    data = [(record["x"], record["y"]) for record in values(charts["training-share-l1"].spec)]
    assert data == [(3, 0.5), (17, 0.4), (30, 0.3), (10, 0.2), (20, 0.2), (30, 0.2)]
    assert [row[0] for row in charts["training-loss-l1"].rows] == [10, 20, 30]


def log_of(shares: list[float]) -> list[dict[str, Any]]:
    return [{"step": step, "terms": {"l1": {"gradient_share": share}}} for step, share in enumerate(shares)]


def test_a_long_log_keeps_its_ends_and_the_edges_of_zeros() -> None:
    values = [0.5] * 5000
    values[1234:1237] = [0.0] * 3
    kept = [line["step"] for line in training.thinned(log_of(values))]
    assert len(kept) <= training.POINTS_PER_LINE + 2
    assert kept == sorted(set(kept))
    assert {0, 1234, 1237, 4999} <= set(kept)
    assert max(np.diff(kept)) <= math.ceil(4999 / 199)


def test_a_flickering_log_is_thinned_too() -> None:
    kept = training.thinned(log_of([0.0, 0.5] * 5000))
    assert training.POINTS_PER_LINE <= len(kept) <= 2 * training.POINTS_PER_LINE


def test_a_short_log_is_kept_whole() -> None:
    log = log_of([0.1] * training.POINTS_PER_LINE)
    assert training.thinned(log) == log


def test_seeds_share_a_colour(tmp_path: Path) -> None:
    runs = [write_log(run(tmp_path, "a", seed), {"l1": shares(0.5, 0.5)}) for seed in (0, 1)]
    chart = charts_of(training.section(Story.read(runs)))["training-l0"]
    assert {record["variant"] for record in values(chart.spec)} == {"a"}
    assert {record["run"] for record in values(chart.spec)} == {"a/seed-0", "a/seed-1"}
    assert chart.spec["layer"][0]["encoding"]["detail"]["field"] == "run"
