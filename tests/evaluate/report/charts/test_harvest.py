"""Charts of a cache: throughput, norms by position, scales of channels."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from helpers.charts import HOOK, charts_of, run, table
from helpers.made_caches import structured_rows, write_cache
from helpers.made_stories import values, write_run_on
from saepipe.evaluate.report.charts import harvest
from saepipe.evaluate.report.story import Story


@pytest.fixture
def cached(tmp_path: Path) -> tuple[Path, np.ndarray]:
    """A cache with a massive channel, number 7, and its rows (num_rows, d_in)."""
    x = structured_rows(3000, 24)
    x[:, 7] = x[:, 7] * 40 + 100
    return write_cache(tmp_path / "cache", {HOOK: x}), x.double().numpy()


def test_channels_are_sorted_by_scale_and_massive_ones_named(tmp_path: Path, cached) -> None:
    cache, x = cached
    section = harvest.section(Story.read([write_run_on(tmp_path / "a" / "seed-0", cache)]))
    chart = charts_of(section)["harvest-channels"]
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
    ratio = f"{rms[7] / np.median(rms):.0f} times"
    assert f"Massive channels, with an rms above 10 times the median channel's: 7 ({ratio})." in chart.description
    assert [record["channel"] for record in values(chart.spec, -1)] == [7]


def test_norms_are_shown_by_position(tmp_path: Path, cached) -> None:
    cache, x = cached
    chart = charts_of(harvest.section(Story.read([write_run_on(tmp_path / "a" / "seed-0", cache)])))["harvest-norms"]
    first = np.linalg.norm(x[::15], axis=1)
    row = table(chart)[0]
    assert (row["first position"], row["last position"], row["rows"]) == (1, 1, 200)
    assert (row["p5"], row["p50"], row["p95"]) == pytest.approx(tuple(np.quantile(first, (0.05, 0.5, 0.95))), rel=1e-4)


def test_throughput_is_shown_if_the_log_has_it(tmp_path: Path, cached) -> None:
    cache, _ = cached
    story = Story.read([write_run_on(tmp_path / "a" / "seed-0", cache)])
    section = harvest.section(story)
    assert "harvest-throughput" not in charts_of(section)
    assert section.absent == ("No throughput: the harvest's log has no two successive lines of one process.",)
    lines = [{"time": t, "host": "h", "pid": 1, "split": "train", "rows": 100} for t in (0.0, 4.0, 5.0)]
    (cache / "log" / "harvest.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    chart = charts_of(harvest.section(Story.read([tmp_path / "a" / "seed-0"])))["harvest-throughput"]
    assert chart.rows == (("train", 200, 4.0, 25.0), ("train", 300, 1.0, 100.0))
    assert "40 overall" in chart.description


def test_a_missing_cache_is_reported(tmp_path: Path) -> None:
    section = harvest.section(Story.read([run(tmp_path, "a")]))
    assert (section.charts, section.text) == ((), "")
    assert section.absent == ("The cache is no longer at nowhere: no throughput, norms or channels.",)
