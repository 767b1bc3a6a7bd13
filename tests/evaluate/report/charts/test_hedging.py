"""Hedging over the sizes of SAEs that were widened."""

from __future__ import annotations

from pathlib import Path

from helpers.charts import charts_of, run
from helpers.made_stories import write_evaluation
from saepipe.evaluate.report.charts import latents
from saepipe.evaluate.report.charts.hedging import hedging_chart
from saepipe.evaluate.report.story import Story


def test_sizes_ascend_and_what_was_not_widened_is_left_out(tmp_path: Path) -> None:
    runs = [
        write_evaluation(run(tmp_path, "b", weight=2.0), "geometry", {"hedging_degree": 0.01}, widening=sizes(2048)),
        write_evaluation(run(tmp_path, "a", weight=3.0), "geometry", {"hedging_degree": 0.08}, widening=sizes(512)),
        write_evaluation(run(tmp_path, "plain"), "geometry", {"frac_dead": 0.1}),
    ]
    chart = charts_of(latents.section(Story.read(runs)))["latents-hedging"]
    assert [row[:3] for row in chart.rows] == [("a", "512 latents", 0.08), ("b", "2,048 latents", 0.01)]
    assert hedging_chart(Story.read(runs[2:])) is None


def sizes(before: int) -> dict[str, int]:
    return {"latents_before": before, "latents_added": 5}
