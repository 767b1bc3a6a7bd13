"""All sections together: of a large study with every evaluation, and of a bare run."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.made_caches import structured_rows, write_cache
from helpers.made_results import write_core, write_run
from helpers.made_stories import (
    write_absorption,
    write_geometry,
    write_imported,
    write_log,
    write_probing,
    write_run_on,
)
from saepipe.evaluate.report.chart import Chart
from saepipe.evaluate.report.sections import sections
from saepipe.evaluate.report.story import Story

HOOK = "blocks.1.hook_resid_post"
NUM_LINES = 1000
THEMED = {"config", "background", "labelColor", "titleColor", "gridColor", "domainColor", "tickColor", "font"}
"""Keys that only the page's theme sets."""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Nine runs of five variants with long logs, a cache and every evaluation, and an imported run with core alone."""
    folder = tmp_path_factory.mktemp("study")
    cache = write_cache(folder / "cache", {HOOK: structured_rows(3000, 24)})
    line = {"host": "h", "pid": 1, "split": "train", "rows": 100}
    log = "".join(json.dumps(line | {"time": time}) + "\n" for time in (0.0, 4.0, 5.0))
    (cache / "log" / "harvest.jsonl").write_text(log)
    rng = np.random.default_rng(0)
    study = []
    for index in range(9):
        penalties = [{"name": "l1", "weight": 1.0 + index // 2}, {"name": "ortsae", "weight": 0.1}]
        run = folder / f"ortsae={index // 2}" / f"seed-{index % 2}"
        write_run_on(run, cache, penalties=penalties)
        shares = {name: [(float(rng.random()), float(rng.random())) for _ in range(NUM_LINES)] for name in ("l1", "x")}
        write_log(run, shares | {"ortsae": [(0.0, 0.0)] * NUM_LINES})
        write_core(run, l0=10.0 + 20 * index, ev=0.8 + 0.01 * index)
        write_geometry(run, {18 + index: 3, 19: 1}, {20: 5, 21 + index: 5})
        write_absorption(run, dict.fromkeys("abcdefghijklmnopqrstuvwxyz", (index % 3, 20)))
        study.append(write_probing(run, 0.7 + 0.01 * index))
    return [*study, write_core(write_imported(folder / "scope" / "seed-0"))]


@pytest.fixture(scope="module")
def charts(runs: list[Path]) -> list[Chart]:
    return [chart for section in sections(Story.read(runs)) for chart in section.charts]


def keys(spec: Any) -> set[str]:
    if isinstance(spec, Mapping):
        return set(spec).union(*map(keys, spec.values()))
    return set().union(*map(keys, spec)) if isinstance(spec, list) else set()


def test_every_section_has_its_charts(runs: list[Path]) -> None:
    ids = {section.id: [chart.id for chart in section.charts] for section in sections(Story.read(runs))}
    assert ids == {
        "pareto": [
            "pareto-explained-variance",
            "pareto-dead-share",
            "pareto-full-absorption",
            "pareto-accuracy-of-probes-of-1-latent",
            "pareto-accuracy-of-probes-of-5-latents",
        ],
        "training": [
            "training-share-l1",
            "training-share-x",
            "training-loss-l1",
            "training-loss-x",
            "training-l0",
            "training-fvu",
        ],
        "latents": ["latents-density", "latents-nearest-cosine", "latents-decoder-cosine"],
        "absorption": ["absorption-full", "absorption-fraction"],
        "probing": ["probing-accuracy", "probing-datasets"],
        "roles": ["roles-counts"],
        "harvest": ["harvest-throughput", "harvest-norms", "harvest-channels"],
    }


def test_charts_have_ids_for_urls_and_descriptions(charts: list[Chart]) -> None:
    assert len({chart.id for chart in charts}) == len(charts)
    for chart in charts:
        assert re.fullmatch(r"[a-z][a-z0-9-]*", chart.id)
        assert chart.title
        assert chart.description.endswith(".")
        assert chart.spec["description"] == chart.description
        assert chart.spec["width"] == "container"
        assert chart.rows
        assert {len(row) for row in chart.rows} == {len(chart.columns)}


def test_charts_leave_the_theme_to_the_page(charts: list[Chart]) -> None:
    for chart in charts:
        assert not keys(chart.spec) & THEMED, chart.id


def test_every_chart_can_be_rendered(charts: list[Chart]) -> None:
    vl_convert = pytest.importorskip("vl_convert", reason="the extra [report] is not installed")
    for chart in charts:
        svg = vl_convert.vegalite_to_svg({**chart.spec, "width": 360})
        assert "<svg" in svg
        assert "mark-" in svg
        assert "NaN" not in svg, chart.id


def test_charts_of_ten_runs_are_small(charts: list[Chart]) -> None:
    specs = sum(len(json.dumps(chart.spec, separators=(",", ":"), allow_nan=False)) for chart in charts)
    tables = sum(len(json.dumps(chart.rows, allow_nan=False)) for chart in charts)
    assert specs < 1_500_000
    assert tables < 500_000


def test_equal_runs_give_equal_charts(runs: list[Path], charts: list[Chart]) -> None:
    again = [chart for section in sections(Story.read(runs)) for chart in section.charts]
    assert [json.dumps(chart.spec) for chart in again] == [json.dumps(chart.spec) for chart in charts]


def test_a_bare_run_gives_reasons_instead_of_charts(tmp_path: Path) -> None:
    bare = sections(Story.read([write_run(tmp_path / "a" / "seed-0")]))
    assert [section.id for section in bare] == [
        "pareto",
        "latents",
        "absorption",
        "probing",
        "roles",
        "training",
        "harvest",
    ]
    for section in bare:
        assert section.charts == ()
        assert section.text == ""
        assert section.absent
        assert all(why.endswith(".") for why in section.absent)
