"""Pareto plots: points, faint seeds, colours, intervals, and points that cannot be shown."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

from helpers.charts import charts_of, marks, run, table
from helpers.made_results import write_core, write_result
from helpers.made_stories import values, write_imported
from saepipe.evaluate.compare.proxy_l0 import PROXY
from saepipe.evaluate.report.browser_links import BrowserLinks
from saepipe.evaluate.report.chart import anchor
from saepipe.evaluate.report.charts import pareto
from saepipe.evaluate.report.charts.drawing import COLOURS, GREY
from saepipe.evaluate.report.story import Story
from saepipe.evaluate.stats.intervals import Estimate

WEIGHTS = (("a", 1.0), ("b", 2.0))


def test_a_large_point_is_a_variant_and_its_seeds_are_small(tmp_path: Path) -> None:
    runs = [write_core(run(tmp_path, "a", seed), l0=10.0 + seed, ev=0.8 + 0.01 * seed) for seed in range(3)]
    runs.append(write_core(run(tmp_path, "b", weight=2.0), l0=5.0, ev=0.7))
    chart = charts_of(pareto.section(Story.read(runs)))["pareto-explained-variance"]
    mean, other, *seeds = table(chart)
    half = 4.30265 * 0.01 / math.sqrt(3)
    assert mean["run"] == "a (mean, n=3)"
    assert (mean["L0"], mean["value"]) == pytest.approx((11.0, 0.81))
    assert (mean["low"], mean["high"], mean["interval"]) == (
        pytest.approx(0.81 - half, abs=1e-5),
        pytest.approx(0.81 + half, abs=1e-5),
        "seeds",
    )
    assert (other["run"], other["low"], other["high"], other["interval"]) == ("b/seed-0", 0.69, 0.71, "evaluation")
    assert [seed["run"] for seed in seeds] == ["a/seed-0", "a/seed-1", "a/seed-2"]

    *_, small, large = range(len(chart.spec["layer"]))
    assert [record["run"] for record in values(chart.spec, large)] == ["a (mean, n=3)", "b/seed-0"]
    assert [record["y"] for record in values(chart.spec, small)] == [0.8, 0.81, 0.82]
    assert [chart.spec["layer"][layer]["mark"]["filled"] for layer in (small, large)] == [False, True]
    assert chart.spec["layer"][small]["mark"]["size"] < chart.spec["layer"][large]["mark"]["size"]


def test_a_point_shows_its_settings_and_opens_its_run(tmp_path: Path) -> None:
    runs = [write_core(run(tmp_path, f"w={weight}", weight=weight), l0=10 * weight) for weight in (1.0, 2.5)]
    chart = charts_of(pareto.section(Story.read(runs)))["pareto-explained-variance"]
    points = chart.spec["layer"][-1]["encoding"]
    assert points["href"]["field"] == "url"
    titles = {entry["field"]: entry["title"] for entry in points["tooltip"]}
    (setting,) = [field for field, title in titles.items() if title == "penalties.0.weight"]
    settings = {record["url"]: record[setting] for record in values(chart.spec, -1)}
    assert settings == {f"#{anchor('w=1.0/seed-0')}": "1.0", f"#{anchor('w=2.5/seed-0')}": "2.5"}


def test_with_a_feature_browser_a_point_opens_its_run_there(tmp_path: Path) -> None:
    runs = [write_core(run(tmp_path, "a", seed), l0=10.0 + seed) for seed in range(2)]
    section = pareto.section(Story.read(runs), BrowserLinks("site/index.html"))
    spec = charts_of(section)["pareto-explained-variance"].spec
    mean, seeds = "site/index.html#run=a/seed-0", [f"site/index.html#run=a/seed-{seed}" for seed in range(2)]
    assert [record["url"] for record in values(spec, -1)] == [mean]
    assert [record["url"] for record in values(spec, -2)] == seeds
    assert section.text.endswith("click it to open its run in the feature browser.")


def test_anchors_are_unique() -> None:
    names = ["w/seed-0", "w=2.5/seed-0", "w=2-5/seed-0", "w-2.5/seed-0", "é/seed-0", "ü/seed-0", "w-/seed-0"]
    assert anchor(names[0]) == "run-w-seed-0"
    assert anchor(names[1]).startswith("run-w-2-5-seed-0-")
    assert len({anchor(name) for name in names}) == len(names)
    assert all(re.fullmatch("[A-Za-z0-9-]+", anchor(name)) for name in names)


def test_a_colour_is_a_variant_without_sweeps(tmp_path: Path) -> None:
    ortsae = [{"name": "l1", "weight": 1}, {"name": "ortsae", "weight": 1}]
    runs = [write_core(run(tmp_path, "a"), l0=10.0), write_core(run(tmp_path, "b", penalties=ortsae), l0=20.0)]
    chart = charts_of(pareto.section(Story.read(runs)))["pareto-explained-variance"]
    scale = chart.spec["layer"][-1]["encoding"]["color"]["scale"]
    assert dict(zip(scale["domain"], scale["range"], strict=True)) == {"a": COLOURS[0], "b": COLOURS[1]}


def test_in_a_sweep_a_colour_is_a_penalty_and_imported_runs_are_grey_diamonds(tmp_path: Path) -> None:
    runs = [write_core(run(tmp_path, f"w{weight:g}", weight=weight), l0=weight) for weight in (8.0, 9.0)]
    runs += [
        write_core(run(tmp_path, "both", penalties=[{"name": "l1", "weight": 1}, {"name": "ortsae", "weight": 1}]))
    ]
    runs += [write_core(write_imported(tmp_path / "scope" / "seed-0"), l0=12.0)]
    chart = charts_of(pareto.section(Story.read(runs)))["pareto-explained-variance"]
    encoding = chart.spec["layer"][-1]["encoding"]
    assert encoding["color"]["field"] == encoding["shape"]["field"] == "penalty"
    colours = dict(zip(*(encoding["color"]["scale"][key] for key in ("domain", "range")), strict=True))
    assert colours == {"l1": COLOURS[0], "l1 + ortsae": COLOURS[1], "imported from gemma-scope": GREY}
    assert encoding["shape"]["scale"]["range"] == ["circle", "circle", "diamond"]
    lines = values(chart.spec, marks(chart).index("line"))
    assert [record["x"] for record in lines] == [8.0, 9.0]  # only variants that differ in the weight alone


def test_l0_is_logarithmic_if_it_spans_a_decade(tmp_path: Path) -> None:
    runs = [write_core(run(tmp_path, f"w{l0:g}", weight=l0), l0=l0) for l0 in (8.0, 200.0)]
    chart = charts_of(pareto.section(Story.read(runs)))["pareto-explained-variance"]
    assert chart.spec["layer"][-1]["encoding"]["x"]["scale"]["type"] == "log"


def test_a_small_difference_in_l0_does_not_fill_the_axis(tmp_path: Path) -> None:
    runs = [write_core(run(tmp_path, f"w{l0:g}", weight=l0), l0=l0) for l0 in (20.0, 22.0)]
    chart = charts_of(pareto.section(Story.read(runs)))["pareto-explained-variance"]
    low, high = chart.spec["layer"][-1]["encoding"]["x"]["scale"]["domain"]
    assert high == pytest.approx(1.5 * low)
    assert low < 19
    assert high > 23


def test_variants_at_matched_l0_are_placed_side_by_side_without_a_legend(tmp_path: Path) -> None:
    ortsae = [{"name": "l1", "weight": 1}, {"name": "ortsae", "weight": 1}]
    runs = [write_core(run(tmp_path, "a"), l0=20.0), write_core(run(tmp_path, "b", penalties=ortsae), l0=20.9)]
    chart = charts_of(pareto.section(Story.read(runs)))["pareto-explained-variance"]
    encoding = chart.spec["layer"][-1]["encoding"]
    assert encoding["x"]["title"] == "variant, all at L0 20 to 20.9"
    assert encoding["color"]["legend"] is None


def test_the_dead_share_is_what_core_does_not_count_as_alive(tmp_path: Path) -> None:
    runs = [write_result(run(tmp_path, name, weight=w), {"l0": 9 * w, "frac_alive": 1 - w / 8}) for name, w in WEIGHTS]
    chart = charts_of(pareto.section(Story.read(runs)))["pareto-dead-share"]
    assert [row["value"] for row in table(chart)] == [0.125, 0.25]
    runs = [write_result(run(tmp_path, name, weight=w), {"l0": 9 * w, "frac_alive": 1.0}) for name, w in WEIGHTS]
    section = pareto.section(Story.read(runs))
    assert "pareto-dead-share" not in charts_of(section)
    assert "No plot of L0 against dead share: it is 0 in every run." in section.absent


def test_the_proxy_of_the_right_l0_has_a_plot_over_a_sweep_with_a_rule_at_its_minimum(tmp_path: Path) -> None:
    """In log L0 the points lie on a parabola around 20."""
    runs = [
        write_result(run(tmp_path, f"w{l0:g}", weight=l0), {"l0": l0, PROXY: 0.1 + math.log(l0 / 20) ** 2})
        for l0 in (5.0, 16.0, 32.0)
    ]
    chart = charts_of(pareto.section(Story.read(runs)))["pareto-mean-cosine-of-decoder-rows"]
    assert "In the sweep of w5 (3 variants): decoder rows overlap least at L0 20 (1 seed)" in chart.description
    (rule,) = (layer for layer in range(len(chart.spec["layer"])) if [*values(chart.spec, layer)] == [{"x": 20.0}])
    assert chart.spec["layer"][rule]["mark"]["type"] == "rule"
    fewer = pareto.section(Story.read(runs[:2]))
    assert "pareto-mean-cosine-of-decoder-rows" not in charts_of(fewer)
    assert not any("cosine" in sentence for sentence in fewer.absent)


def test_without_a_minimum_inside_the_plot_has_no_rule(tmp_path: Path) -> None:
    runs = [
        write_result(run(tmp_path, f"w{l0:g}", weight=l0), {"l0": l0, PROXY: 0.1 + math.log(l0 / 20) ** 2})
        for l0 in (20.0, 32.0, 64.0)
    ]
    chart = charts_of(pareto.section(Story.read(runs)))["pareto-mean-cosine-of-decoder-rows"]
    assert "it is lowest at an end of L0 20 to 64 in 1 of 1 seeds" in chart.description
    assert not any({"x"} == record.keys() for data in chart.spec["datasets"].values() for record in data)


def test_variants_at_one_l0_are_placed_side_by_side(tmp_path: Path) -> None:
    runs = [write_core(run(tmp_path, name, weight=weight), l0=10.0) for name, weight in (("a", 1.0), ("b", 2.0))]
    chart = charts_of(pareto.section(Story.read(runs)))["pareto-explained-variance"]
    x = chart.spec["layer"][-1]["encoding"]["x"]
    assert (x["type"], x["sort"], x["title"]) == ("nominal", ["a", "b"], "variant, all at L0 10")
    assert "line" not in marks(chart)


def test_undefined_points_are_named_and_not_shown(tmp_path: Path) -> None:
    runs = [write_core(run(tmp_path, "a")), write_core(run(tmp_path, "b", weight=2.0), ev=None)]
    section = pareto.section(Story.read(runs))
    chart = charts_of(section)["pareto-explained-variance"]
    assert "Not shown: b (nothing varies)." in chart.description
    assert [(row["value"], row["reason"]) for row in table(chart)] == [(0.9, None), (None, "nothing varies")]
    assert [record["run"] for record in values(chart.spec, -1)] == ["a/seed-0"]
    assert "No plot of L0 against loss recovered: not measured." in section.absent


def test_an_undefined_l0_is_the_reason(tmp_path: Path) -> None:
    figures = {"l0": Estimate(None, reason="no token"), "explained_variance": 0.5}
    section = pareto.section(Story.read([write_result(run(tmp_path, "a"), figures)]))
    assert section.charts == ()
    assert section.absent[0] == "No plot of L0 against explained variance: L0: no token."
