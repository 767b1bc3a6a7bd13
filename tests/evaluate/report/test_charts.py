"""Each chart against figures that a test chose: what is drawn, what is said where nothing can be, and the table."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from caches import structured_rows, write_cache
from evaluations import write_core, write_result, write_run
from saepipe.data.errors import MachineError
from saepipe.evaluate.report.chart import Chart, Section, slug
from saepipe.evaluate.report.charts import absorption, harvest, latents, pareto, probing, training
from saepipe.evaluate.report.charts.drawing import COLOURS, GREY, Series, altair, quantity, significant, ticks
from saepipe.evaluate.report.story import Story
from saepipe.evaluate.stats import Estimate, proportion
from stories import (
    values,
    write_absorption,
    write_evaluation,
    write_geometry,
    write_imported,
    write_log,
    write_probing,
    write_run_on,
)

HOOK = "blocks.1.hook_resid_post"


def run(folder: Path, name: str, seed: int = 0, weight: float = 1.0, **changes) -> Path:
    changes = {"penalties": [{"name": "l1", "weight": weight}]} | changes
    return write_run(folder / name / f"seed-{seed}", **changes)


def told(section: Section) -> dict[str, Chart]:
    return {chart.id: chart for chart in section.charts}


def table(chart: Chart) -> list[dict[str, Any]]:
    return [dict(zip(chart.columns, row, strict=True)) for row in chart.rows]


def marks(chart: Chart) -> list[str]:
    return [layer["mark"]["type"] for layer in chart.spec["layer"]]


def found(spec: Any, key: str) -> Iterator[Any]:
    """Every value under `key`, at any depth."""
    if isinstance(spec, Mapping):
        yield from (value for name, value in spec.items() if name == key)
        for value in spec.values():
            yield from found(value, key)
    elif isinstance(spec, list):
        for value in spec:
            yield from found(value, key)


# --- what all have in common


def test_names_beyond_the_palette_differ_in_dash_and_shape() -> None:
    names = tuple(f"v{place}" for place in range(20))
    series = Series("variant", names, ("theirs",))
    looks = [series.colour.to_dict()["scale"]["range"], series.dash.to_dict()["scale"]["range"]]
    assert len({(colour, tuple(dash)) for colour, dash in zip(*looks, strict=True)}) == 21
    assert looks[0][-1] == GREY
    assert set(looks[0][:-1]) == set(COLOURS)
    shapes = series.shape.to_dict()["scale"]
    assert shapes["domain"] == [*names, "theirs"]
    assert len({*zip(looks[0], shapes["range"], strict=True)}) == 21


def test_an_axis_is_logarithmic_where_its_values_span_a_decade() -> None:
    def scale(*given: float, zero: bool = False) -> dict[str, Any]:
        return quantity("X", "x", "x", given, zero=zero).to_dict()["scale"]

    assert scale(2.0, 21.0)["type"] == "log"
    assert scale(2.0, 19.0) == {"zero": False}
    assert scale(0.0, 19.0, 1.0) == {"zero": False}
    assert scale(2.0, 21.0, zero=True) == {"zero": True}
    assert scale(0.0, 0.0, zero=True) == {"domain": [0, 1]}


@pytest.mark.parametrize(("low", "high"), [(0.3, 40.0), (2.0, 21.0), (1e-7, 1.0), (1e-12, 1e9)])
def test_ticks_are_few_and_in_sight(low: float, high: float) -> None:
    seen = [tick for tick in ticks(low, high) if low <= tick <= high]
    assert 2 <= len(seen) <= 12
    assert all(f"{tick:.0e}"[0] in "125" for tick in seen)


def test_numbers_have_five_digits() -> None:
    assert significant(0.123456789) == 0.12346
    assert significant(123456.789) == 123460.0
    assert significant(math.nan) is None
    assert [significant(value) for value in (7, "a", None)] == [7, "a", None]


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "altair", None)
    with pytest.raises(MachineError, match="a report needs altair") as error:
        altair()
    assert error.value.hint == "pip install 'saepipe[report]'"


# --- Pareto plots


def test_a_point_is_a_variant_and_its_seeds_are_faint(tmp_path: Path) -> None:
    runs = [write_core(run(tmp_path, "a", seed), l0=10.0 + seed, ev=0.8 + 0.01 * seed) for seed in range(3)]
    runs.append(write_core(run(tmp_path, "b", weight=2.0), l0=5.0, ev=0.7))
    chart = told(pareto.section(Story.read(runs)))["pareto-explained-variance"]
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

    *_, faint, strong = range(len(chart.spec["layer"]))
    assert [record["run"] for record in values(chart.spec, strong)] == ["a (mean, n=3)", "b/seed-0"]
    assert [record["y"] for record in values(chart.spec, faint)] == [0.8, 0.81, 0.82]
    opacity = [chart.spec["layer"][place]["encoding"]["opacity"]["value"] for place in (faint, strong)]
    assert opacity[0] < opacity[1] == 1


def test_a_point_tells_what_differs_and_opens_its_run(tmp_path: Path) -> None:
    runs = [write_core(run(tmp_path, f"w={weight}", weight=weight), l0=10 * weight) for weight in (1.0, 2.5)]
    chart = told(pareto.section(Story.read(runs)))["pareto-explained-variance"]
    points = chart.spec["layer"][-1]["encoding"]
    assert points["href"]["field"] == "url"
    titles = {entry["field"]: entry["title"] for entry in points["tooltip"]}
    (setting,) = [field for field, title in titles.items() if title == "penalties.0.weight"]
    seen = {record["url"]: record[setting] for record in values(chart.spec, -1)}
    assert seen == {"#run-w-1-0-seed-0": "1.0", "#run-w-2-5-seed-0": "2.5"}
    assert slug("w=2.5/seed-0") == "w-2-5-seed-0"


def test_a_colour_is_a_penalty_and_imported_runs_are_grey_diamonds(tmp_path: Path) -> None:
    runs = [write_core(run(tmp_path, f"w{weight:g}", weight=weight), l0=weight) for weight in (8.0, 9.0)]
    runs += [
        write_core(run(tmp_path, "both", penalties=[{"name": "l1", "weight": 1}, {"name": "ortsae", "weight": 1}]))
    ]
    runs += [write_core(write_imported(tmp_path / "scope" / "seed-0"), l0=12.0)]
    chart = told(pareto.section(Story.read(runs)))["pareto-explained-variance"]
    encoding = chart.spec["layer"][-1]["encoding"]
    assert encoding["color"]["field"] == encoding["shape"]["field"] == "penalty"
    colours = dict(zip(*(encoding["color"]["scale"][key] for key in ("domain", "range")), strict=True))
    assert colours == {"l1": COLOURS[0], "l1 + ortsae": COLOURS[1], "imported from gemma-scope": GREY}
    assert encoding["shape"]["scale"]["range"] == ["circle", "circle", "diamond"]
    lines = values(chart.spec, marks(chart).index("line"))
    assert [record["x"] for record in lines] == [8.0, 9.0]  # what differs in its weight alone, and nothing else


def test_l0_is_logarithmic_over_a_decade(tmp_path: Path) -> None:
    runs = [write_core(run(tmp_path, f"w{l0:g}", weight=l0), l0=l0) for l0 in (8.0, 200.0)]
    chart = told(pareto.section(Story.read(runs)))["pareto-explained-variance"]
    assert chart.spec["layer"][-1]["encoding"]["x"]["scale"]["type"] == "log"


def test_at_one_l0_variants_stand_side_by_side(tmp_path: Path) -> None:
    runs = [write_core(run(tmp_path, name, weight=weight), l0=10.0) for name, weight in (("a", 1.0), ("b", 2.0))]
    chart = told(pareto.section(Story.read(runs)))["pareto-explained-variance"]
    x = chart.spec["layer"][-1]["encoding"]["x"]
    assert (x["type"], x["sort"], x["title"]) == ("nominal", ["a", "b"], "variant, all at L0 10")
    assert "line" not in marks(chart)


def test_what_is_undefined_is_told_and_not_drawn(tmp_path: Path) -> None:
    runs = [write_core(run(tmp_path, "a")), write_core(run(tmp_path, "b", weight=2.0), ev=None)]
    section = pareto.section(Story.read(runs))
    chart = told(section)["pareto-explained-variance"]
    assert "Not drawn: b/seed-0 (nothing varies)." in chart.description
    assert [(row["value"], row["why not"]) for row in table(chart)] == [(0.9, None), (None, "nothing varies")]
    assert [record["run"] for record in values(chart.spec, -1)] == ["a/seed-0"]
    assert "L0 against loss recovered is not drawn: not measured." in section.absent


# --- training


def shares(*given: float) -> list[tuple[float, float]]:
    return [(2.0 * share, share) for share in given]


def test_a_penalty_that_is_zero_is_crossed_and_said(tmp_path: Path) -> None:
    dead, alive = shares(0.0, 0.0, 0.0), shares(0.5, 0.01, 1e-3)
    runs = [write_log(run(tmp_path, "a", weight=2.0), {"l1": alive}), write_log(run(tmp_path, "b"), {"l1": dead})]
    chart = told(training.section(Story.read(runs)))["training-share-l1"]
    assert "It is exactly 0 at 3 of 3 lines of b/seed-0." in chart.description
    cross = chart.spec["layer"][marks(chart).index("point", 2)]
    assert cross["mark"]["shape"] == "cross"
    assert {"filter": "datum.y === 0"} in cross["transform"]
    y = cross["encoding"]["y"]
    floor = y["scale"]["domainMin"]
    assert y["scale"]["type"] == "log"
    assert floor == pytest.approx(1e-4)  # a decade below all that is not 0
    assert y["axis"]["values"][0] == floor
    assert y["axis"]["labelExpr"].startswith("datum.value < 0.0002 ? '0'")
    drawn = [record["y"] for record in values(chart.spec)]
    assert drawn == [0.5, 0.01, 1e-3, 0.0, 0.0, 0.0]  # the true ones
    assert chart.columns == ("step", "a/seed-0", "b/seed-0")
    assert chart.rows[1] == (20, 0.01, 0.0)


def test_without_zeros_nothing_is_crossed(tmp_path: Path) -> None:
    chart = told(training.section(Story.read([write_log(run(tmp_path, "a"), {"l1": shares(0.5, 0.4)})])))[
        "training-share-l1"
    ]
    assert "exactly" not in chart.description
    assert marks(chart) == ["line", "point"]
    assert "log" not in list(found(chart.spec, "type"))


def test_the_limit_of_h1_is_ruled_where_something_is_below_it(tmp_path: Path) -> None:
    chart = told(training.section(Story.read([write_log(run(tmp_path, "a"), {"l1": shares(0.5, 1e-8)})])))[
        "training-share-l1"
    ]
    (rule,) = [layer for layer in chart.spec["layer"] if layer["mark"]["type"] == "rule"]
    assert rule["encoding"]["y"]["datum"] == 1e-6
    assert "dashed line" in chart.description


def test_every_term_and_figure_is_drawn_for_the_runs_that_have_it(tmp_path: Path) -> None:
    first = write_log(run(tmp_path, "a"), {"reconstruction": shares(0.5, 0.5), "l1": shares(0.5, 0.5)})
    second = write_log(run(tmp_path, "b", penalties=[]), {"reconstruction": shares(1.0, 1.0)})
    bare, imported = run(tmp_path, "c", weight=3.0), write_imported(tmp_path / "d" / "seed-0")
    section = training.section(Story.read([first, second, bare, imported]))
    charts = told(section)
    assert list(charts) == [
        "training-share-l1",
        "training-loss-reconstruction",
        "training-loss-l1",
        "training-l0",
        "training-fvu",
        "training-dead",
    ]
    assert charts["training-loss-l1"].columns == ("step", "a/seed-0")
    assert charts["training-loss-reconstruction"].rows == ((10, 1.0, 2.0), (20, 1.0, 2.0))
    assert charts["training-l0"].rows == ((10, 120.0, 120.0), (20, 70.0, 70.0))
    assert marks(charts["training-dead"]) == ["line", "point"]  # that nothing is dead is no cause for crosses
    assert next(found(charts["training-loss-l1"].spec, "legend"))["values"] == ["a"]
    assert section.absent == (
        "c/seed-0 has no metrics.jsonl: its training is not drawn.",
        "d/seed-0 was imported: nothing is known of its training.",
    )


def log_of(given: list[float]) -> list[dict[str, Any]]:
    return [{"step": step, "terms": {"l1": {"gradient_share": share}}} for step, share in enumerate(given)]


def test_a_long_log_keeps_its_ends_and_where_zeros_begin() -> None:
    given = [0.5] * 5000
    given[1234:1237] = [0.0] * 3
    kept = [line["step"] for line in training.thinned(log_of(given))]
    assert len(kept) <= training.POINTS_A_LINE + 2
    assert kept == sorted(set(kept))
    assert {0, 1234, 1237, 4999} <= set(kept)
    assert max(np.diff(kept)) <= math.ceil(4999 / 199)


def test_a_log_that_flickers_is_thinned_all_the_same() -> None:
    kept = training.thinned(log_of([0.0, 0.5] * 5000))
    assert training.POINTS_A_LINE <= len(kept) <= 2 * training.POINTS_A_LINE


def test_a_short_log_is_whole() -> None:
    log = log_of([0.1] * training.POINTS_A_LINE)
    assert training.thinned(log) == log


def test_seeds_share_a_colour(tmp_path: Path) -> None:
    runs = [write_log(run(tmp_path, "a", seed), {"l1": shares(0.5, 0.5)}) for seed in (0, 1)]
    chart = told(training.section(Story.read(runs)))["training-l0"]
    assert {record["variant"] for record in values(chart.spec)} == {"a"}
    assert {record["run"] for record in values(chart.spec)} == {"a/seed-0", "a/seed-1"}
    assert chart.spec["layer"][0]["encoding"]["detail"]["field"] == "run"


# --- latents


def test_histograms_are_shares_of_what_is_in_them(tmp_path: Path) -> None:
    runs = [
        write_geometry(run(tmp_path, "a"), {20: 3, 21: 1}, {30: 10}),
        write_geometry(run(tmp_path, "b", weight=2.0), {23: 7}, {20: 5}),
    ]
    section = latents.section(Story.read(runs))
    chart = told(section)["latents-density"]
    edges = [row[0] for row in chart.rows]
    assert edges == pytest.approx([-7 + 0.25 * place for place in range(19, 26)])  # one bin more to each side
    assert [row[1] for row in chart.rows] == [0.0, 0.75, 0.25, 0.0, 0.0, 0.0, 0.0]
    assert [row[2] for row in chart.rows] == [0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0]
    assert "never fire are not in it: a/seed-0 25.00%, b/seed-0 25.00%." in chart.description
    assert chart.spec["layer"][0]["mark"]["interpolate"] == "step-after"
    assert section.absent == ()


def test_core_gives_the_histograms_that_geometry_did_not(tmp_path: Path) -> None:
    latent = {"feature_density": 0.02, "max_decoder_cosine_sim": 0.5}
    runs = [write_evaluation(run(tmp_path, "a"), "core", {"l0": 3.0}, [latent] * 4), run(tmp_path, "b", weight=2.0)]
    section = latents.section(Story.read(runs))
    assert list(told(section)) == ["latents-density", "latents-nearest-cosine"]
    assert max(row[1] for row in section.charts[0].rows) == 1.0
    assert section.absent == (
        "Not measured of b/seed-0: density of latents; cosine with the nearest decoder row (evaluate geometry).",
        "Not measured of a/seed-0, b/seed-0: cosine of all pairs of decoder rows (evaluate geometry).",
    )


# --- absorption


def test_letters_have_wilsons_intervals_over_words(tmp_path: Path) -> None:
    runs = [
        write_absorption(run(tmp_path, "a", 0), {"b": (2, 10), "c": "too few words"}),
        write_absorption(run(tmp_path, "a", 1), {"b": (4, 10), "c": (0, 5)}),
        write_absorption(run(tmp_path, "d", weight=2.0), {"b": (0, 10), "c": "too few words"}),
    ]
    section = absorption.section(Story.read(runs))
    both, other, half, why = table(told(section)["absorption-full"])
    expected = proportion(np.arange(10) < 3)  # the seeds were asked the same words, so ten, not twenty
    assert (both["variant"], both["letter"]) == ("a", "b")
    assert (both["full absorption"], both["low"], both["high"]) == pytest.approx(
        (0.3, expected.low, expected.high), abs=1e-5
    )
    assert (other["variant"], other["full absorption"], other["low"]) == ("d", 0.0, 0.0)
    assert half["full absorption"] == 0.0  # of the one seed that has it
    assert (why["letter"], why["full absorption"], why["why not"]) == ("c", None, "too few words")
    fraction = table(told(section)["absorption-fraction"])[0]
    assert fraction["absorption fraction"] == pytest.approx(0.15)
    assert fraction["low"] < 0.15 < fraction["high"]
    assert section.absent == (
        "Letters at which absorption cannot be measured: a/seed-0 1 of 2, d/seed-0 1 of 2; the tables say why.",
    )


def test_letters_that_nobody_can_measure_are_not_drawn(tmp_path: Path) -> None:
    runs = [write_absorption(run(tmp_path, "a"), {"b": "too few words"}), run(tmp_path, "b", weight=2.0)]
    section = absorption.section(Story.read(runs))
    assert section.charts == ()
    assert section.absent[0] == "Absorption was not measured of b/seed-0."


# --- probing


def test_accuracy_is_drawn_against_k_with_the_dense_probe(tmp_path: Path) -> None:
    runs = [write_probing(run(tmp_path, "a"), 0.8), write_probing(run(tmp_path, "b", weight=2.0), 0.7)]
    section = probing.section(Story.read(runs))
    chart = told(section)["probing-accuracy"]
    seen = {(row["variant"], row["k"]): (row["accuracy"], row["low"], row["high"]) for row in table(chart)}
    assert seen["a", "2"] == pytest.approx((0.81, 0.79, 0.83))
    assert seen["b", "5"] == pytest.approx((0.72, 0.70, 0.74))
    assert seen["a", "10"] == (None, None, None)
    assert seen["model, k channels", "all"][0] == 0.95
    assert chart.spec["layer"][0]["mark"]["type"] == "rule"
    assert values(chart.spec, 0) == [{"variant": "model, dense probe", "y": 0.95}]
    assert chart.spec["layer"][1]["encoding"]["x"]["sort"] == ["1", "2", "5", "all"]

    datasets = told(section)["probing-datasets"]
    assert table(datasets)[0] == {
        "variant": "a",
        "data set": "news",
        "accuracy": 0.8,
        "low": 0.7,
        "high": 0.9,
        "why not": None,
    }
    assert values(datasets.spec, -1) == [{"row": "news", "x": 0.95}]
    assert section.absent == ()


def test_runs_that_were_not_probed_are_named(tmp_path: Path) -> None:
    assert probing.section(Story.read([run(tmp_path, "a")])).absent == ("Sparse probing was not measured of a/seed-0.",)


# --- harvest


@pytest.fixture
def cached(tmp_path: Path) -> tuple[Path, np.ndarray]:
    """A cache with a massive channel, number 7, and its rows (num_rows, d_in)."""
    x = structured_rows(3000, 24)
    x[:, 7] = x[:, 7] * 40 + 100
    return write_cache(tmp_path / "cache", {HOOK: x}), x.double().numpy()


def test_channels_are_sorted_by_scale_and_massive_ones_named(tmp_path: Path, cached) -> None:
    cache, x = cached
    section = harvest.section(Story.read([write_run_on(tmp_path / "a" / "seed-0", cache)]))
    chart = told(section)["harvest-channels"]
    rms = np.sqrt((x**2).mean(0))
    assert [row["channel"] for row in table(chart)] == np.argsort(-rms).tolist()
    assert table(chart)[0] == {
        "rank": 1,
        "channel": 7,
        "rms": pytest.approx(rms[7], rel=1e-4),
        "std": pytest.approx(x[:, 7].std(), rel=1e-4),
        "mean": pytest.approx(x[:, 7].mean(), rel=1e-4),
        "absmax": pytest.approx(np.abs(x[:, 7]).max(), rel=1e-4),
    }
    assert f"Massive, with an rms above 10 times the median channel's: 7 ({rms[7] / np.median(rms):.0f} times)." in (
        chart.description
    )
    assert [record["channel"] for record in values(chart.spec, -1)] == [7]


def test_norms_go_by_position(tmp_path: Path, cached) -> None:
    cache, x = cached
    chart = told(harvest.section(Story.read([write_run_on(tmp_path / "a" / "seed-0", cache)])))["harvest-norms"]
    first = np.linalg.norm(x[::15], axis=1)
    row = table(chart)[0]
    assert (row["first position"], row["last position"], row["rows"]) == (1, 1, 200)
    assert (row["p5"], row["p50"], row["p95"]) == pytest.approx(tuple(np.quantile(first, (0.05, 0.5, 0.95))), rel=1e-4)


def test_throughput_is_drawn_where_the_log_has_it(tmp_path: Path, cached) -> None:
    cache, _ = cached
    story = Story.read([write_run_on(tmp_path / "a" / "seed-0", cache)])
    section = harvest.section(story)
    assert "harvest-throughput" not in told(section)
    assert section.absent == ("Throughput is not drawn: the harvest's log has no two pools in a row by one process.",)
    lines = [{"time": t, "host": "h", "pid": 1, "split": "train", "rows": 100} for t in (0.0, 4.0, 5.0)]
    (cache / "log" / "harvest.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    chart = told(harvest.section(Story.read([tmp_path / "a" / "seed-0"])))["harvest-throughput"]
    assert chart.rows == (("train", 200, 4.0, 25.0), ("train", 300, 1.0, 100.0))
    assert "40 on the whole" in chart.description


def test_a_cache_that_is_gone_leaves_words(tmp_path: Path) -> None:
    section = harvest.section(Story.read([run(tmp_path, "a")]))
    assert (section.charts, section.text) == ((), "")
    assert section.absent == ("The cache is no longer at nowhere: no throughput, norms or channels.",)


def test_an_undefined_l0_says_so(tmp_path: Path) -> None:
    figures = {"l0": Estimate(None, reason="no token"), "explained_variance": 0.5}
    section = pareto.section(Story.read([write_result(run(tmp_path, "a"), figures)]))
    assert section.charts == ()
    assert section.absent[0] == "L0 against explained variance is not drawn: L0: no token."
