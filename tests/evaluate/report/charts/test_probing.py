"""Probe accuracy against k, with the dense probe."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.charts import charts_of, run, table
from helpers.made_stories import values, write_probing
from saepipe.evaluate.report.charts import probing
from saepipe.evaluate.report.story import Story


def test_accuracy_is_shown_against_k_with_the_dense_probe(tmp_path: Path) -> None:
    runs = [write_probing(run(tmp_path, "a"), 0.8), write_probing(run(tmp_path, "b", weight=2.0), 0.7)]
    section = probing.section(Story.read(runs))
    chart = charts_of(section)["probing-accuracy"]
    accuracies = {(row["variant"], row["k"]): (row["accuracy"], row["low"], row["high"]) for row in table(chart)}
    assert accuracies["a", "2"] == pytest.approx((0.81, 0.79, 0.83))
    assert accuracies["b", "5"] == pytest.approx((0.72, 0.70, 0.74))
    assert accuracies["a", "10"] == (None, None, None)
    assert accuracies["model, k channels", "all"][0] == 0.95
    assert chart.spec["layer"][0]["mark"]["type"] == "rule"
    assert values(chart.spec, 0) == [{"variant": "model, dense probe", "y": 0.95}]
    assert chart.spec["layer"][1]["encoding"]["x"]["sort"] == ["1", "2", "5", "all"]

    datasets = charts_of(section)["probing-datasets"]
    assert table(datasets)[0] == {
        "variant": "a",
        "dataset": "news",
        "accuracy": 0.8,
        "low": 0.7,
        "high": 0.9,
        "reason": None,
    }
    assert values(datasets.spec, -1) == [{"row": "news", "x": 0.95}]
    assert section.absent == ()


def test_runs_that_were_not_probed_are_named(tmp_path: Path) -> None:
    section = probing.section(Story.read([run(tmp_path, "a")]))
    assert section.absent == ("Sparse probing was not measured for a/seed-0.",)
