"""A report of nine runs is one file below 5 MB that renders within seconds.

    python bench/report.py [RUN...]

Without arguments it trains and evaluates the demo's three variants with three seeds each, on the toy (some minutes). It
measures the size; CPU and wall seconds of the first build, which bundles the JavaScript, and of the next; and in
chromium, offline, milliseconds until the first chart and until all charts are rendered. Writes results/report.json.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from record import write_result

import saepipe as sp
from saepipe.data.toy import CONFIGS
from saepipe.evaluate.report.page import javascript
from saepipe.train.config import TrainConfig

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from helpers.chromium import open_browser

CLAIM = __doc__.split("\n\n")[0]
NUM_LOADS = 5
FIRST_CHART = """
new MutationObserver(() => {
  if (!window.first && document.querySelector(".plot svg")) window.first = performance.now();
}).observe(document, { childList: true, subtree: true });
addEventListener("DOMContentLoaded", () => document.querySelector(".chart").scrollIntoView());
"""
ALL_CHARTS = 'Promise.all([...document.querySelectorAll(".chart")].map(once)).then(() => performance.now())'


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        runs = [Path(run) for run in sys.argv[1:]] or make_runs(Path(folder))
        page = Path(folder) / "report.html"
        builds = [seconds_of_build(runs, page) for _ in range(2)]
        figures = {
            "runs": len(runs),
            "bytes": page.stat().st_size,
            "bytes_of_javascript": len(javascript().encode()),
            "build": dict(zip(("first", "next"), builds, strict=True)),
            "in_chromium": times_in_chromium(page),
        }
    print(figures)
    write_result("report", CLAIM, figures)


def make_runs(folder: Path) -> list[Path]:
    cache = sp.harvest(CONFIGS / "harvest.yaml", folder / "cache")
    config = TrainConfig.load(CONFIGS / "train.yaml", [f"cache={cache.path}"])
    runs = sp.train(config, folder / "runs")
    sp.evaluate(runs, {"features": None})
    return runs


def seconds_of_build(runs: Sequence[Path], page: Path) -> dict[str, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    sp.report(runs, page, baseline=runs[0])
    return {"wall_s": round(time.perf_counter() - wall, 2), "cpu_s": round(time.process_time() - cpu, 2)}


def times_in_chromium(page: Path) -> dict[str, Any]:
    first, whole = [], []
    with open_browser() as browser:
        for _ in range(NUM_LOADS):
            context = browser.new_context(viewport={"width": 1280, "height": 900}, offline=True)
            tab = context.new_page()
            tab.add_init_script(FIRST_CHART)
            tab.goto(page.as_uri())
            tab.locator(".plot svg").first.wait_for()
            first.append(tab.evaluate("window.first"))
            whole.append(tab.evaluate(ALL_CHARTS))
            charts = tab.locator(".chart").count()
            context.close()
    return {"charts": charts, "first_chart_ms": spread(first), "all_charts_ms": spread(whole)}


def spread(times: list[float]) -> dict[str, int]:
    return {"median": round(statistics.median(times)), "largest": round(max(times))}


if __name__ == "__main__":
    main()
