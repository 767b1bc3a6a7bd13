"""At 65,536 latents the feature browser starts in under 2 s, and every page loads in under 200 ms, matching included.

    python bench/browse.py [--d-sae 65536] [--d-in 512 2304] [--quick]

Random feature stores of three runs, on disk. Start: from the start of the process to its first response, five times.
Resources: over HTTP, each kind for 50 random latents; the first request of each kind is listed separately, since it may
wait for the disk. Views: in chromium, from the key press or address to the rendered page, ten times each. Files: time
and size of `--static` per latent, over 1,024 latents. Writes results/browse.json.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import tempfile
import time
from http.client import HTTPConnection
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
from record import write_result

from saepipe.evaluate.browse.resources import BLOCKS
from saepipe.evaluate.browse.run import browse

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from helpers.chromium import open_browser
from helpers.made_stores import write_store
from helpers.runs_to_browse import serving

if TYPE_CHECKING:
    from playwright.sync_api import Page

CLAIM = __doc__.split("\n\n")[0].replace("\n", " ")
AIMS = {"start_s": 2.0, "resource_ms": 200.0}
VARIANTS = ("topk", "topk_orthogonal", "jumprelu")
NUM_LATENTS, NUM_STARTS, NUM_VIEWS, NUM_STATIC = 50, 5, 10, 1024


def write_runs(folder: Path, d_sae: int, d_in: int) -> list[Path]:
    return [
        write_store(folder / variant / "seed-0", d_sae, d_in=d_in, seed=seed) for seed, variant in enumerate(VARIANTS)
    ]


def measure(d_sae: int, d_in: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        runs = write_runs(Path(folder), d_sae, d_in)
        starts = [seconds_to_start(runs) for _ in range(NUM_STARTS)]
        with serving(runs) as (url, _):
            resources, views = time_resources(url, d_sae), time_views(url, d_sae)
    worst = max(times["largest_ms"] for times in resources.values())
    return {
        "d_sae": d_sae,
        "d_in": d_in,
        "runs": len(runs),
        "start_s": {"first": round(starts[0], 2), "median": round(statistics.median(starts), 2)},
        "resources": resources,
        "views_in_chromium": views,
        "met": {"start": max(starts) < AIMS["start_s"], "resources": worst < AIMS["resource_ms"]},
    }


def seconds_to_start(runs: list[Path]) -> float:
    """Returns the seconds from the start of the process until it has served its page."""
    started = time.perf_counter()
    with serving(runs) as (url, _):
        Client(url)
        return time.perf_counter() - started


class Client:
    """One HTTP connection, with the cookie that the page sets."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._connection = HTTPConnection(parts.hostname or "", parts.port or 0)
        self._cookie = {}
        _, _, headers = self.get(f"/?{parts.query}")
        self._cookie = {"Cookie": headers["Set-Cookie"].split(";")[0]}

    def get(self, path: str) -> tuple[float, int, Any]:
        """Returns milliseconds, bytes and headers of a response."""
        started = time.perf_counter()
        self._connection.request("GET", path, headers=self._cookie)
        response = self._connection.getresponse()
        size = len(response.read())
        assert response.status == 200, (path, response.status)
        return 1e3 * (time.perf_counter() - started), size, response.headers


def time_resources(url: str, d_sae: int) -> dict[str, dict[str, float]]:
    client, rng = Client(url), random.Random(0)
    latents = [rng.randrange(d_sae) for _ in range(NUM_LATENTS)]
    names: dict[str, list[str]] = {
        "runs": ["runs"] * 5,
        "columns": ["0/columns"] * 5,
        "tokens": [f"0/tokens/{block}" for block in range(-(-d_sae // BLOCKS["tokens"]))],
        "roles": ["0/roles"] * 5,
        "notes": ["0/notes"] * 5,
        "latent": [f"0/latent/{latent}" for latent in latents],
        "match": [f"0/match/{1 + latent % 2}/{latent}" for latent in latents],
    }
    return {kind: summary([client.get(f"/data/{path}") for path in paths]) for kind, paths in names.items()}


def summary(responses: list[tuple[float, int, Any]]) -> dict[str, float]:
    first, *later = [milliseconds for milliseconds, _, _ in responses]
    return {
        "first_ms": round(first, 1),
        "median_ms": round(statistics.median(later or [first]), 1),
        "largest_ms": round(max(first, *later, 0), 1),
        "kilobytes": round(max(size for _, size, _ in responses) / 1e3, 1),
    }


def time_views(url: str, d_sae: int) -> dict[str, float] | str:
    """Returns median milliseconds from a key press or an address to the rendered view, or why there is no browser."""
    try:
        with open_browser() as browser:
            page = browser.new_page(viewport={"width": 1280, "height": 850})
            started = time.perf_counter()
            page.goto(url)
            page.wait_for_selector("tbody a")
            first = 1e3 * (time.perf_counter() - started)
            page.wait_for_function("() => Table.open(0).then((table) => table.whole)")
            page.evaluate(TIMERS)
            rng = random.Random(1)
            latents = [rng.randrange(d_sae) for _ in range(NUM_VIEWS)]
            return {"page_and_list": round(first, 1)} | {
                "search": median(page, [f"searchTime('word{latent % 500}')" for latent in latents]),
                "sort": median(page, ["sortTime()"] * NUM_VIEWS),
                "latent": median(page, [f"openTime('#run=topk/seed-0&latent={latent}')" for latent in latents]),
                "compare": median(
                    page, [f"openTime('#run=topk/seed-0&latent={latent}&with=jumprelu/seed-0')" for latent in latents]
                ),
            }
    except pytest.skip.Exception as reason:
        return str(reason)


TIMERS = """() => {
  const frame = () => new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
  const timed = async (act) => {
    const start = performance.now();
    await act();
    await frame();
    return performance.now() - start;
  };
  window.searchTime = (text) => timed(() => {
    const box = document.getElementById("search");
    box.value = text;
    box.dispatchEvent(new Event("input"));
  });
  window.sortTime = () => timed(() => document.querySelector("th.c-density button").click());
  window.openTime = (address) => timed(() => new Promise((done) => {
    const watch = new MutationObserver(() => { watch.disconnect(); done(); });
    watch.observe(document.getElementById("main"), { childList: true });
    location.hash = address;
  }));
}"""


def median(page: Page, calls: list[str]) -> float:
    return round(statistics.median([page.evaluate(call) for call in calls]), 1)


def measure_static(d_in: int) -> dict[str, float]:
    """Returns the time and size of `--static` per latent, for two runs."""
    with tempfile.TemporaryDirectory() as folder:
        runs = [write_store(Path(folder) / name / "seed-0", NUM_STATIC, d_in=d_in) for name in VARIANTS[:2]]
        started, cpu = time.perf_counter(), time.process_time()
        index = browse(runs, static=Path(folder) / "site")
        seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
        assert index is not None
        size = sum(path.stat().st_size for path in index.parent.rglob("*.js"))
    num_latents = len(runs) * NUM_STATIC
    return {
        "ms": round(1e3 * seconds / num_latents, 2),
        "cpu_ms": round(1e3 * cpu / num_latents, 2),
        "kilobytes": round(size / num_latents / 1e3, 1),
    }


def table(figures: dict[str, Any]) -> str:
    shape = f"{figures['d_sae']:,} latents, d_in {figures['d_in']}, {figures['runs']} runs"
    lines = [f"{shape}: start {figures['start_s']}"]
    lines += [f"  {kind:<8} {times}" for kind, times in figures["resources"].items()]
    return "\n".join([*lines, f"  chromium {figures['views_in_chromium']}", f"  met      {figures['met']}"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--d-sae", type=int, default=65_536)
    parser.add_argument("--d-in", type=int, nargs="+", default=[512, 2304])
    parser.add_argument("--quick", action="store_true", help="4,096 latents, d_in 256; writes no result")
    args = parser.parse_args()
    if args.quick:
        args.d_sae, args.d_in = 4096, [256]
    measured = [measure(args.d_sae, d_in) for d_in in args.d_in]
    static = measure_static(args.d_in[0])
    print(*map(table, measured), f"--static, per latent: {static}", sep="\n")
    if not args.quick:
        write_result("browse", CLAIM, {"aims": AIMS, "measured": measured, "static_a_latent": static})


if __name__ == "__main__":
    main()
