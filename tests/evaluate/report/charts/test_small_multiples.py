"""Panels of histograms below each other."""

from __future__ import annotations

import pytest

from saepipe.evaluate.report.charts.lines import Axes, Line
from saepipe.evaluate.report.charts.small_multiples import small_multiples
from saepipe.evaluate.report.story import Story


def test_each_variant_has_a_panel_with_the_first_variant_behind(judged: Story) -> None:
    labels = ("l1/seed-0", "l1/seed-1", "ortsae/seed-0")
    heights = ([0.0, 0.5, 0.5], [0.0, 0.7, 0.3], [1.0, 0.0, 0.0])
    series = [Line(label, [1.0, 2.0, 3.0], y) for label, y in zip(labels, heights, strict=True)]
    chart = small_multiples("id", "title", "text.", judged, series, Axes("x", "share", steps=True))
    assert chart.columns == ("x", *labels)
    assert chart.rows[1] == (2.0, 0.5, 0.7, 0.0)
    behind, lines = (chart.spec["datasets"][chart.spec["layer"][layer]["data"]["name"]] for layer in (0, 2))
    tops = {(record["run"], record["x"]): record["floor"] - record["y"] for record in lines}
    assert tops["ortsae/seed-0", 1.0] == pytest.approx(0.85)  # the highest bin of all, below the panel above it
    assert tops["l1/seed-1", 2.0] == pytest.approx(0.7 * 0.85)  # on the same scale
    assert {record["floor"] for record in lines if record["variant"] == "ortsae"} == {2}
    assert {record["floor"] for record in behind} == {2}
    assert [record["value"] for record in behind] == pytest.approx([0.0, 0.6, 0.4])
