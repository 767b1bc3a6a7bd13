"""Histograms of density and decoder cosines."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.charts import charts_of, marks, run
from helpers.made_stories import write_evaluation, write_geometry
from saepipe.evaluate.report.charts import latents
from saepipe.evaluate.report.story import Story


def test_histograms_show_shares_of_their_counts(tmp_path: Path) -> None:
    runs = [
        write_geometry(run(tmp_path, "a"), {20: 3, 21: 1}, {30: 10}),
        write_geometry(run(tmp_path, "b", weight=2.0), {23: 7}, {20: 5}),
    ]
    section = latents.section(Story.read(runs))
    chart = charts_of(section)["latents-density"]
    edges = [row[0] for row in chart.rows]
    assert edges == pytest.approx([-7 + 0.25 * bin_ for bin_ in range(19, 26)])  # one more bin on each side
    assert [row[1] for row in chart.rows] == [0.0, 0.75, 0.25, 0.0, 0.0, 0.0, 0.0]
    assert [row[2] for row in chart.rows] == [0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0]
    assert "never active are not included: a 25.0%, b 25.0%." in chart.description
    assert marks(chart) == ["area", "rule", "line", "point"]  # small multiples
    assert section.absent == ()


def test_core_has_the_histograms_if_geometry_is_missing(tmp_path: Path) -> None:
    latent = {"feature_density": 0.02, "max_decoder_cosine_sim": 0.5}
    runs = [write_evaluation(run(tmp_path, "a"), "core", {"l0": 3.0}, [latent] * 4), run(tmp_path, "b", weight=2.0)]
    section = latents.section(Story.read(runs))
    assert list(charts_of(section)) == ["latents-density", "latents-nearest-cosine"]
    assert max(row[1] for row in section.charts[0].rows) == 1.0
    assert section.absent == (
        "Not measured for b/seed-0: density of latents; cosine with the nearest decoder row (evaluate geometry).",
        "Not measured for a/seed-0, b/seed-0: cosine of all pairs of decoder rows (evaluate geometry).",
    )
